//! `meshctl routes`

use anyhow::Result;
use proto::control::routing_client::RoutingClient;
use proto::control::{DeleteRouteRequest, ListRequest, PutRouteRequest};
use serde_json::json;

use crate::cli::{Pages, PutRoute, Read, Routes, Write};
use crate::connect::{LIST_BYTES_MAX, Mesh, options};
use crate::docs::{self, CandidateDoc, RouteDoc};
use crate::table::Printer;

/// Entries of one page.
const PAGE: u32 = 1_000;

pub(crate) async fn run(command: Routes, mesh: &Mesh, printer: &Printer) -> Result<()> {
    match command {
        Routes::List { pages, read } => list(pages, read, mesh, printer).await,
        Routes::Put(put) => store(&put, mesh, printer).await,
        Routes::Delete { id, write } => delete(id, &write, mesh, printer).await,
    }
}

async fn list(pages: Pages, read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let (mut routes, mut page_token) = (Vec::<RouteDoc>::new(), String::new());
    while routes.len() < pages.limit() {
        let page_size = pages.next(routes.len(), PAGE);
        let request = ListRequest { read: read.options(), page_size, page_token, ..<_>::default() };
        let ask = async |channel, request| {
            let client = RoutingClient::new(channel);
            client.max_decoding_message_size(LIST_BYTES_MAX).list_routes(request).await
        };
        let answer = mesh.call(request, ask).await?;
        routes.extend(answer.routes.into_iter().map(RouteDoc::from));
        page_token = answer.next_page_token;
        // A node of the version before sends all at once, and no token.
        if page_token.is_empty() {
            break;
        }
    }
    routes.truncate(pages.limit());
    let rows: Vec<Vec<String>> = routes.iter().map(row).collect();
    printer.list(&routes, &["ROUTE", "PREFIX", "TRUNK:PRIORITY:WEIGHT"], &rows)
}

fn row(route: &RouteDoc) -> Vec<String> {
    let prefix = match route.prefix.as_str() {
        "" => "(default)".to_owned(),
        prefix => format!("+{prefix}"),
    };
    vec![route.id.clone(), prefix, docs::describe(&route.candidates)]
}

async fn store(put: &PutRoute, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let doc: RouteDoc = match &put.file {
        Some(path) => docs::read(path)?,
        None => RouteDoc {
            id: put.id.clone().unwrap_or_default(),
            prefix: put.prefix.trim_start_matches('+').to_owned(),
            candidates: put.to.iter().map(|to| CandidateDoc::parse(to)).collect::<Result<_>>()?,
        },
    };
    let request = PutRouteRequest { options: options(&put.write), route: Some(doc.clone().into()) };
    let ask = async |channel, request| RoutingClient::new(channel).put_route(request).await;
    let answer = mesh.call(request, ask).await?;
    let revision = answer.header.unwrap_or_default().revision;
    let sentence = format!("route {} stored at revision {revision}", doc.id);
    printer.done(&json!({ "route": doc, "revision": revision }), &sentence)
}

async fn delete(id: String, write: &Write, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let request = DeleteRouteRequest { options: options(write), route_id: id.clone() };
    let ask = async |channel, request| RoutingClient::new(channel).delete_route(request).await;
    let answer = mesh.call(request, ask).await?;
    let revision = answer.header.unwrap_or_default().revision;
    let sentence = format!("route {id} deleted at revision {revision}");
    printer.done(&json!({ "deleted": id, "revision": revision }), &sentence)
}
