//! `meshctl pops`

use anyhow::Result;
use proto::control::ListPopsRequest;
use proto::control::pops_client::PopsClient;

use crate::cli::Read;
use crate::connect::{LIST_BYTES_MAX, Mesh};
use crate::docs::PopDoc;
use crate::table::{Printer, or_dash};

pub(crate) async fn list(read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let request = ListPopsRequest { read: read.options(), consistency: 0 };
    let ask = async |channel, request| {
        let client = PopsClient::new(channel);
        client.max_decoding_message_size(LIST_BYTES_MAX).list(request).await
    };
    let answer = mesh.call(request, ask).await?;
    let pops: Vec<PopDoc> = answer.pops.into_iter().map(Into::into).collect();
    let rows: Vec<Vec<String>> = pops.iter().map(row).collect();
    let head = ["POP", "REGION", "STATE", "CALLS", "EPOCH", "VIEW", "OVERLAY", "SIP", "VERSION"];
    printer.list(&pops, &head, &rows)
}

fn row(pop: &PopDoc) -> Vec<String> {
    let state = match (pop.alive, pop.silent_ms) {
        (true, _) => "alive".to_owned(),
        (false, Some(ms)) => format!("gone, silent here {} s", ms / 1_000),
        (false, None) => "gone, never heard here".to_owned(),
    };
    vec![
        pop.id.clone(),
        pop.region.clone(),
        state,
        pop.calls.to_string(),
        pop.epoch.to_string(),
        pop.view_revision.to_string(),
        or_dash(&pop.overlay_address),
        or_dash(pop.sip_addresses.join(" ")),
        or_dash(&pop.version),
    ]
}
