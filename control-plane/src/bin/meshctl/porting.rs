//! `meshctl porting`

use anyhow::Result;
use clap::{Args, Subcommand};
use proto::control::porting_client::PortingClient;
use proto::control::{
    CreatePortOrderRequest, GetPortOrderRequest, ListPortOrdersRequest, PortDirection, PortOrder,
    RecordPortEventRequest,
};
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::Write;
use crate::connect::{LIST_BYTES_MAX, Mesh, options};
use crate::docs::{self, CandidateDoc};
use crate::table::{Printer, or_dash};
use crate::values::{
    Expected, Filter, Pages, PortEventWord, PortStateWord, Read, moment, moment_ms,
};

#[derive(Subcommand)]
pub(crate) enum Porting {
    /// Begin to take numbers over from another carrier
    In(In),
    /// Begin to hand numbers over to another carrier
    Out(Out),
    /// Record what the carriers said
    Event(Event),
    /// Show one order
    Get {
        /// Its id
        id: String,
        #[command(flatten)]
        read: Read,
    },
    /// List orders
    List {
        /// Only of this tenant
        #[arg(long, default_value = "", hide_default_value = true)]
        tenant: String,
        /// Only in this state
        #[arg(long, value_enum)]
        state: Option<PortStateWord>,
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
}

#[derive(Args)]
#[command(after_help = "Example:
  meshctl porting in +4930123456 --tenant acme --from oldtel --pool ported --to carrier-de
  meshctl porting event port-1 submitted
  meshctl porting event port-1 foc-confirmed --foc 2027-01-31T10:00:00Z")]
pub(crate) struct In {
    /// "+" and digits
    #[arg(required = true)]
    pub(crate) numbers: Vec<String>,
    /// Whose they become
    #[arg(long)]
    pub(crate) tenant: String,
    /// The carrier they come from
    #[arg(long, value_name = "CARRIER")]
    pub(crate) from: String,
    #[command(flatten)]
    pub(crate) shelf: Filter,
    /// Trunks their calls leave through
    #[arg(long, value_delimiter = ',', value_name = "TRUNK[:PRIORITY[:WEIGHT]],…")]
    pub(crate) to: Vec<String>,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Args)]
pub(crate) struct Out {
    /// "+" and digits
    #[arg(required = true)]
    pub(crate) numbers: Vec<String>,
    /// Whose they are
    #[arg(long)]
    pub(crate) tenant: String,
    /// The carrier they go to
    #[arg(long, value_name = "CARRIER")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Args)]
pub(crate) struct Event {
    /// The order
    pub(crate) id: String,
    /// What happened
    #[arg(value_enum)]
    pub(crate) event: PortEventWord,
    /// The agreed date, with foc-confirmed: RFC 3339, or +3d
    #[arg(long, value_name = "TIME", value_parser = moment_ms)]
    pub(crate) foc: Option<u64>,
    /// Why
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) expected: Expected,
    #[command(flatten)]
    pub(crate) write: Write,
}

fn client(channel: Channel) -> PortingClient<Channel> {
    PortingClient::new(channel).max_decoding_message_size(LIST_BYTES_MAX)
}

pub(crate) async fn run(command: Porting, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let order = match command {
        Porting::In(asked) => {
            let request = CreatePortOrderRequest {
                options: options(&asked.write),
                direction: PortDirection::In.into(),
                tenant: asked.tenant,
                e164: asked.numbers,
                other_carrier: asked.from,
                shelf: Some(asked.shelf.shelf()),
                candidates: docs::candidates(&asked.to)?,
            };
            mesh.call(request, async |channel, r| client(channel).create(r).await).await?.order
        }
        Porting::Out(asked) => {
            let request = CreatePortOrderRequest {
                options: options(&asked.write),
                direction: PortDirection::Out.into(),
                tenant: asked.tenant,
                e164: asked.numbers,
                other_carrier: asked.to,
                ..<_>::default()
            };
            mesh.call(request, async |channel, r| client(channel).create(r).await).await?.order
        }
        Porting::Event(asked) => {
            let request = RecordPortEventRequest {
                options: options(&asked.write),
                port_order_id: asked.id,
                event: PortEventWord::of(Some(asked.event)),
                foc_ms: asked.foc.unwrap_or_default(),
                reason: asked.reason,
                expect: asked.expected.expect(),
            };
            let ask = async |channel, request| client(channel).record_event(request).await;
            mesh.call(request, ask).await?.order
        }
        Porting::Get { id: port_order_id, read } => {
            let request =
                GetPortOrderRequest { read: read.options(), port_order_id, consistency: 0 };
            mesh.call(request, async |channel, r| client(channel).get(r).await).await?.order
        }
        Porting::List { tenant, state, pages, read } => {
            let state = PortStateWord::of(state);
            return list((&tenant, state), pages, read, mesh, printer).await;
        }
    };
    let order = order.unwrap_or_default();
    printer.list(&document(&order), &HEAD, &[row(&order)])
}

async fn list(
    (tenant, state): (&str, i32),
    pages: Pages,
    read: Read,
    mesh: &Mesh,
    printer: &Printer,
) -> Result<()> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    while found.len() < pages.limit() {
        let request = ListPortOrdersRequest {
            read: read.options(),
            tenant: tenant.to_owned(),
            state,
            page_size: pages.next(found.len(), 100),
            page_token,
            consistency: 0,
        };
        let answer = mesh.call(request, async |channel, r| client(channel).list(r).await).await?;
        found.extend(answer.orders);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    let documents: Vec<_> = found.iter().map(document).collect();
    printer.list(&documents, &HEAD, &rows)
}

const HEAD: [&str; 8] =
    ["ORDER", "DIRECTION", "STATE", "TENANT", "CARRIER", "DATE", "NUMBERS", "LAST EVENT"];

fn direction(order: &PortOrder) -> &'static str {
    match order.direction() {
        PortDirection::In => "in",
        PortDirection::Out => "out",
        PortDirection::Unspecified => "-",
    }
}

fn row(order: &PortOrder) -> Vec<String> {
    let numbers = match order.e164.as_slice() {
        [first, _, ..] => format!("{first} and {} more", order.e164.len() - 1),
        few => few.join(" "),
    };
    let last = order.history.last().map(|entry| {
        let (event, at) = (PortEventWord::word(entry.event), moment(entry.log_time_ms));
        [event, &at, &entry.reason].join(" ").trim_end().to_owned()
    });
    vec![
        order.port_order_id.clone(),
        direction(order).into(),
        PortStateWord::word(order.state).into(),
        order.tenant.clone(),
        or_dash(&order.other_carrier),
        moment(order.foc_ms),
        or_dash(numbers),
        or_dash(last.unwrap_or_default()),
    ]
}

fn document(order: &PortOrder) -> serde_json::Value {
    let candidates: Vec<CandidateDoc> = order.candidates.iter().cloned().map(Into::into).collect();
    let history = order.history.iter().map(|entry| {
        json!({
            "log_time_ms": entry.log_time_ms, "event": PortEventWord::word(entry.event),
            "reason": entry.reason,
        })
    });
    json!({
        "id": order.port_order_id, "direction": direction(order),
        "state": PortStateWord::word(order.state), "tenant": order.tenant,
        "numbers": order.e164, "other_carrier": order.other_carrier, "foc_ms": order.foc_ms,
        "candidates": candidates, "history": history.collect::<Vec<_>>(), "etag": order.etag,
    })
}
