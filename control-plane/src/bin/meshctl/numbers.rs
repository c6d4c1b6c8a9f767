//! `meshctl numbers`

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use proto::control::allocate_number_request::Which;
use proto::control::numbers_client::NumbersClient;
use proto::control::{
    AllocateNumberRequest, GetNumberRequest, ImportNumbersRequest, ListNumbersRequest, NumberState,
    ReleaseNumberRequest,
};
use serde_json::json;

use crate::cli::{Numbers, Read, State, Write};
use crate::connect::{LIST_BYTES_MAX, Mesh, consistency, options};
use crate::docs::{self, NumberDoc};
use crate::table::{Printer, or_dash};

/// Numbers of one import request.
const BATCH: usize = 10_000;
/// Numbers of one page.
const PAGE: usize = 1_000;

pub(crate) async fn run(command: Numbers, mesh: &Mesh, printer: &Printer) -> Result<()> {
    match command {
        Numbers::Import { numbers, file, pool, write } => {
            let numbers = gather(numbers, file.as_deref())?;
            import(&numbers, &pool, &write, mesh, printer).await
        }
        Numbers::Allocate { number, any, tenant, to, write } => {
            let which = number.map(Which::E164).or(any.map(Which::AnyOfPool));
            let candidates = docs::candidates(&to)?;
            let options = options(&write);
            let request =
                AllocateNumberRequest { options, tenant, which, candidates, ..<_>::default() };
            let ask = async |channel, request| NumbersClient::new(channel).allocate(request).await;
            show(mesh.call(request, ask).await?.number, printer)
        }
        Numbers::Release { number, tenant, write } => {
            let request = ReleaseNumberRequest {
                options: options(&write),
                e164: number,
                tenant,
                expect: None,
            };
            let ask = async |channel, request| NumbersClient::new(channel).release(request).await;
            show(mesh.call(request, ask).await?.number, printer)
        }
        Numbers::Get { number, read } => {
            let request =
                GetNumberRequest { consistency: consistency(read), e164: number, read: None };
            let ask = async |channel, request| NumbersClient::new(channel).get(request).await;
            show(mesh.call(request, ask).await?.number, printer)
        }
        Numbers::List { pool, state, limit, read } => {
            list(&pool, state, limit, read, (mesh, printer)).await
        }
    }
}

fn gather(mut numbers: Vec<String>, file: Option<&Path>) -> Result<Vec<String>> {
    if let Some(path) = file {
        let mut text = String::new();
        if path == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
        } else {
            text = std::fs::read_to_string(path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
        }
        numbers.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned));
    }
    if numbers.is_empty() {
        bail!("no numbers are given: name some, or a --file with one a line");
    }
    Ok(numbers)
}

async fn import(
    numbers: &[String],
    pool: &str,
    write: &Write,
    mesh: &Mesh,
    printer: &Printer,
) -> Result<()> {
    if write.request_id.is_some() && numbers.len() > BATCH {
        bail!("--request-id names one request, and these are more than {BATCH} numbers");
    }
    let mut imported = 0;
    for batch in numbers.chunks(BATCH) {
        let request = ImportNumbersRequest {
            options: options(write),
            pool: pool.to_owned(),
            e164: batch.to_vec(),
            ..<_>::default()
        };
        let ask = async |channel, request| NumbersClient::new(channel).import(request).await;
        let answer = mesh.call(request, ask).await;
        let answer = answer.with_context(|| format!("{imported} numbers are imported, then"))?;
        imported += answer.imported;
    }
    let sentence = format!("{imported} numbers imported into pool {pool}");
    printer.done(&json!({ "imported": imported, "pool": pool }), &sentence)
}

async fn list(
    pool: &str,
    state: Option<State>,
    limit: usize,
    read: Read,
    (mesh, printer): (&Mesh, &Printer),
) -> Result<()> {
    let state = match state {
        None => NumberState::Unspecified,
        Some(State::Active) => NumberState::Active,
        Some(State::Available) => NumberState::Available,
        Some(State::Quarantine) => NumberState::Quarantine,
    };
    let (mut found, mut page_token) = (Vec::<NumberDoc>::new(), String::new());
    while found.len() < limit {
        let page = PAGE.min(limit - found.len());
        let request = ListNumbersRequest {
            consistency: consistency(read),
            pool: pool.to_owned(),
            state: state.into(),
            page_size: u32::try_from(page)?,
            page_token,
            ..<_>::default()
        };
        let ask = async |channel, request| {
            let client = NumbersClient::new(channel);
            client.max_decoding_message_size(LIST_BYTES_MAX).list(request).await
        };
        let answer = mesh.call(request, ask).await?;
        found.extend(answer.numbers.into_iter().map(NumberDoc::from));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    print(&found, &found, printer)
}

fn show(number: Option<proto::control::Number>, printer: &Printer) -> Result<()> {
    let number = NumberDoc::from(number.unwrap_or_default());
    print(&number.clone(), &[number], printer)
}

fn print(document: &impl serde::Serialize, numbers: &[NumberDoc], printer: &Printer) -> Result<()> {
    let rows: Vec<Vec<String>> = numbers.iter().map(row).collect();
    let head = ["NUMBER", "STATE", "TENANT", "POOL", "GENERATION", "TRUNK:PRIORITY:WEIGHT"];
    printer.list(document, &head, &rows)
}

fn row(number: &NumberDoc) -> Vec<String> {
    vec![
        number.e164.clone(),
        number.state.clone(),
        or_dash(&number.tenant),
        or_dash(&number.pool),
        number.generation.to_string(),
        or_dash(docs::describe(&number.candidates)),
    ]
}
