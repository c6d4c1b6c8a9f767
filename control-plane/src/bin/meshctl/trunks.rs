//! `meshctl trunks`

use anyhow::Result;
use proto::control::routing_client::RoutingClient;
use proto::control::{DeleteTrunkRequest, ListRequest, PutTrunkRequest, Trunk};
use serde_json::json;

use crate::cli::{Pages, PutTrunk, Read, Srtp, Transport, Trunks, Write};
use crate::connect::{LIST_BYTES_MAX, Mesh, options};
use crate::docs::{self, AuthDoc, TrunkDoc};
use crate::table::{Printer, or_dash};

/// Entries of one page.
const PAGE: u32 = 1_000;

pub(crate) async fn run(command: Trunks, mesh: &Mesh, printer: &Printer) -> Result<()> {
    match command {
        Trunks::List { pages, read } => list(pages, read, mesh, printer).await,
        Trunks::Put(put) => store(&put, mesh, printer).await,
        Trunks::Delete { id, write } => delete(id, &write, mesh, printer).await,
    }
}

async fn list(pages: Pages, read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let (mut trunks, mut page_token) = (Vec::<TrunkDoc>::new(), String::new());
    while trunks.len() < pages.limit() {
        let page_size = pages.next(trunks.len(), PAGE);
        let request = ListRequest { read: read.options(), page_size, page_token, ..<_>::default() };
        let ask = async |channel, request| {
            let client = RoutingClient::new(channel);
            client.max_decoding_message_size(LIST_BYTES_MAX).list_trunks(request).await
        };
        let answer = mesh.call(request, ask).await?;
        trunks.extend(answer.trunks.into_iter().map(TrunkDoc::from));
        page_token = answer.next_page_token;
        // A node of the version before sends all at once, and no token.
        if page_token.is_empty() {
            break;
        }
    }
    trunks.truncate(pages.limit());
    let rows: Vec<Vec<String>> = trunks.iter().map(row).collect();
    let head = ["TRUNK", "POPS", "TO", "SOURCES", "CODECS", "SRTP", "MEDIA", "AUTH", "MAX CALLS"];
    printer.list(&trunks, &head, &rows)
}

fn row(trunk: &TrunkDoc) -> Vec<String> {
    let to = match (trunk.host.as_str(), trunk.port) {
        ("", _) => "(inbound only)".to_owned(),
        (host, 0) => format!("{}:{host}", trunk.transport),
        (host, port) => format!("{}:{host}:{port}", trunk.transport),
    };
    let auth: Vec<&str> = [("in", &trunk.inbound_auth), ("out", &trunk.outbound_auth)]
        .into_iter()
        .filter_map(|(name, auth)| auth.as_ref().map(|_| name))
        .collect();
    let codecs = if trunk.codecs.is_empty() { "all".to_owned() } else { trunk.codecs.join(" ") };
    let media =
        [("low bandwidth", trunk.low_bandwidth), ("noise suppression", trunk.noise_suppression)];
    let media: Vec<&str> = media.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    let max_calls = if trunk.max_calls == 0 { "-".to_owned() } else { trunk.max_calls.to_string() };
    vec![
        trunk.id.clone(),
        or_dash(trunk.pops.join(" ")),
        to,
        or_dash(trunk.sources.join(" ")),
        codecs,
        trunk.media_encryption.clone(),
        or_dash(media.join(", ")),
        or_dash(auth.join(" ")),
        max_calls,
    ]
}

async fn store(put: &PutTrunk, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let doc = match &put.file {
        Some(path) => docs::read(path)?,
        None => from_flags(put)?,
    };
    let trunk = Trunk::try_from(doc.clone())?;
    let request = PutTrunkRequest { options: options(&put.write), trunk: Some(trunk) };
    let ask = async |channel, request| RoutingClient::new(channel).put_trunk(request).await;
    let answer = mesh.call(request, ask).await?;
    let revision = answer.header.unwrap_or_default().revision;
    let sentence = format!("trunk {} stored at revision {revision}", doc.id);
    printer.done(&json!({ "trunk": doc, "revision": revision }), &sentence)
}

fn from_flags(put: &PutTrunk) -> Result<TrunkDoc> {
    let auth = |text: &Option<String>| text.as_deref().map(AuthDoc::parse).transpose();
    Ok(TrunkDoc {
        id: put.id.clone().unwrap_or_default(),
        pops: put.pop.clone(),
        host: put.host.clone(),
        port: put.port.into(),
        transport: match put.transport {
            Transport::Tcp => "tcp".into(),
            Transport::Udp => "udp".into(),
        },
        sources: put.source.clone(),
        codecs: put.codec.clone(),
        media_encryption: match put.srtp {
            Srtp::Accepted => "accepted".into(),
            Srtp::Offered => "offered".into(),
            Srtp::Required => "required".into(),
        },
        low_bandwidth: put.low_bandwidth,
        noise_suppression: put.noise_suppression,
        max_calls: put.max_calls,
        default_region: put.default_region.clone(),
        outbound_auth: auth(&put.outbound_auth)?,
        inbound_auth: auth(&put.inbound_auth)?,
    })
}

async fn delete(id: String, write: &Write, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let request = DeleteTrunkRequest { options: options(write), trunk_id: id.clone() };
    let ask = async |channel, request| RoutingClient::new(channel).delete_trunk(request).await;
    let answer = mesh.call(request, ask).await?;
    let revision = answer.header.unwrap_or_default().revision;
    let sentence = format!("trunk {id} deleted at revision {revision}");
    printer.done(&json!({ "deleted": id, "revision": revision }), &sentence)
}
