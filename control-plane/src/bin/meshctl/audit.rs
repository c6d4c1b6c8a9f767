//! `meshctl audit`: who changed what, as a chain that can be checked without the mesh.
//!
//! An export is NDJSON, one row a line, in order. `verify` works on such a file alone; rows cut
//! off at its end are only seen when the last row is known from elsewhere (`--expect-last`).

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use control_core::state::audit::Verifier;
use control_plane::audit::{self, Row, hex};
use proto::control::audit_client::AuditClient;
use proto::control::{AuditRow, ListAuditRequest, ListAuditResponse, ReadOptions};
use serde_json::json;

use crate::cli::Read;
use crate::connect::{LIST_BYTES_MAX, Mesh};
use crate::table::{Printer, or_dash};

/// Rows of one page.
const PAGE: u32 = 5_000;

#[derive(Subcommand)]
pub(crate) enum Audit {
    /// Show the last rows
    List {
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u64,
        #[command(flatten)]
        read: Read,
    },
    /// Append the rows that are not in FILE yet, one JSON object a line
    Export {
        /// The file; "-" for all rows to standard output
        file: PathBuf,
    },
    /// Check that no row was changed, left out or moved: of an export, or of the mesh
    Verify {
        /// An export, or the directory of a node's [audit] export [default: ask the mesh]
        file: Option<PathBuf>,
        /// What the last row must be: "SEQUENCE:HASH", as an earlier verify printed it
        #[arg(long, value_name = "SEQUENCE:HASH")]
        expect_last: Option<String>,
    },
}

/// What needs the mesh.
pub(crate) async fn run(command: Audit, mesh: &Mesh, printer: &Printer) -> Result<()> {
    match command {
        Audit::List { limit, read } => list(limit, read, mesh, printer).await,
        Audit::Export { file } if file == Path::new("-") => {
            let mut out = std::io::stdout().lock();
            follow(0, mesh, |row| write(&mut out, row)).await.map(drop)
        }
        Audit::Export { file } => export(&file, mesh, printer).await,
        Audit::Verify { file: Some(file), expect_last } => {
            verify_file(&file, expect_last.as_deref(), printer)
        }
        Audit::Verify { file: None, expect_last } => {
            let mut verifier = Verifier::default();
            let head = follow(0, mesh, |row| Ok(verifier.row(row)?)).await?;
            ensure!(
                verifier.last().is_none_or(|last| last == (head.0, head.1.as_slice())),
                "the last row is not the head of the chain: ask again"
            );
            verdict(&verifier, expect_last.as_deref(), printer)
        }
    }
}

/// Of a file or directory, without the mesh.
pub(crate) fn verify_file(path: &Path, expected: Option<&str>, printer: &Printer) -> Result<()> {
    verdict(&audit::verify(path)?, expected, printer)
}

fn verdict(verifier: &Verifier, expected: Option<&str>, printer: &Printer) -> Result<()> {
    let (sequence, hash) = verifier.last().map_or((0, String::new()), |(n, h)| (n, hex(h)));
    let last = format!("{sequence}:{hash}");
    if let Some(expected) = expected {
        ensure!(last == expected, "the last row is {last}, not {expected}: rows are missing");
    }
    let document = json!({ "valid": true, "last": last });
    printer.done(&document, &format!("the chain holds; last row {last}"))
}

async fn page(
    after: u64,
    limit: u32,
    mesh: &Mesh,
    read: Option<ReadOptions>,
) -> Result<ListAuditResponse> {
    let request = ListAuditRequest { consistency: 0, after, page_size: limit, read };
    let ask = async |channel, request| {
        let client = AuditClient::new(channel);
        client.max_decoding_message_size(LIST_BYTES_MAX).list(request).await
    };
    mesh.call(request, ask).await
}

/// All rows after one, up to the head there was at the end; sequence and hash of that.
async fn follow(
    mut after: u64,
    mesh: &Mesh,
    mut take: impl FnMut(&AuditRow) -> Result<()>,
) -> Result<(u64, Vec<u8>)> {
    loop {
        let answer = page(after, PAGE, mesh, None).await?;
        for row in &answer.rows {
            take(row)?;
            after = row.sequence;
        }
        if answer.rows.is_empty() || after >= answer.head_sequence {
            return Ok((answer.head_sequence, answer.head_hash));
        }
    }
}

async fn list(limit: u64, read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let head = page(u64::MAX, 1, mesh, read.options()).await?.head_sequence;
    let from = head.saturating_sub(limit);
    let size = u32::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE);
    let rows = page(from, size, mesh, read.options()).await?.rows;
    let rows: Vec<Row> = rows.into_iter().map(Row::from).collect();
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let head = ["ROW", "REVISION", "LOG TIME MS", "PRINCIPAL", "ACTION", "RESOURCE", "OUTCOME"];
    printer.list(&rows, &head, &cells)
}

fn cells(row: &Row) -> Vec<String> {
    vec![
        row.sequence.to_string(),
        row.revision.to_string(),
        row.log_time_ms.to_string(),
        row.principal.clone(),
        row.action.clone(),
        or_dash(&row.resource),
        row.outcome.clone(),
    ]
}

fn write(out: &mut impl std::io::Write, row: &AuditRow) -> Result<()> {
    Ok(out.write_all(Row::line(row.clone()).as_bytes())?)
}

/// Goes on where the file ends; the file is checked first.
async fn export(path: &Path, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let mut verifier = if path.exists() { audit::verify(path)? } else { Verifier::default() };
    let known = verifier.last().map_or(0, |(sequence, _)| sequence);
    let file = File::options().create(true).append(true).open(path);
    let mut out = file.with_context(|| format!("{} cannot be written", path.display()))?;
    let mut count = 0u64;
    let mut lines = Vec::new();
    follow(known, mesh, |row| {
        if known > 0 && count == 0 && row.sequence > known + 1 {
            bail!(
                "rows {} to {} are no longer kept, so {} cannot be continued: begin a new file, \
                 and export more often",
                known + 1,
                row.sequence - 1,
                path.display()
            );
        }
        verifier
            .row(row)
            .context("the mesh does not continue this file: is it of another mesh?")?;
        write(&mut lines, row)?;
        count += 1;
        if lines.len() > 1 << 20 {
            out.write_all(&lines)?;
            lines.clear();
        }
        Ok(())
    })
    .await?;
    out.write_all(&lines)?;
    out.sync_all()?;
    let last =
        verifier.last().map_or_else(|| "0:".into(), |(n, hash)| format!("{n}:{}", hex(hash)));
    let document = json!({ "exported": count, "last": last, "file": path });
    printer.done(&document, &format!("{count} rows added to {}; last row {last}", path.display()))
}

#[cfg(test)]
mod tests {
    use control_core::state::State;
    use proto::control::Trunk;
    use proto::raft::{Command, command};

    use super::*;
    use crate::cli::Output;

    fn rows() -> Vec<AuditRow> {
        let mut state = State::bootstrap(&[1]);
        for n in 1..=5 {
            let trunk = Trunk { trunk_id: format!("t{n}"), ..Trunk::default() };
            let kind = match n {
                4 => command::Kind::DeleteTrunk("nowhere".into()),
                _ => command::Kind::PutTrunk(trunk),
            };
            let (request_id, principal) = (format!("r{n}"), "operator/anna".into());
            state.apply(n, &Command { request_id, principal, kind: Some(kind) });
        }
        state.audit_rows(0).collect()
    }

    fn file(dir: &Path, lines: &[String]) -> PathBuf {
        let path = dir.join("audit.ndjson");
        std::fs::write(&path, lines.concat()).unwrap();
        path
    }

    #[test]
    fn a_file_is_verified_without_the_mesh() {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<String> = rows()
            .iter()
            .map(|row| {
                let mut line = Vec::new();
                write(&mut line, row).unwrap();
                String::from_utf8(line).unwrap()
            })
            .collect();
        let check = |lines: &[String], expected: Option<&str>| {
            verify_file(&file(dir.path(), lines), expected, &Printer::new(Output::Json))
        };
        check(&lines, None).unwrap();
        let last = format!("5:{}", hex(&rows()[4].hash));
        check(&lines, Some(&last)).unwrap();
        assert!(check(&lines[..4], Some(&last)).unwrap_err().to_string().contains("are missing"));
        assert!(lines[3].contains("\"outcome\":\"NOT_FOUND\""), "{}", lines[3]);

        let mut changed = lines.clone();
        changed[2] = changed[2].replace("operator/anna", "operator/bob");
        assert!(format!("{:#}", check(&changed, None).unwrap_err()).contains("line 3"));
        let missing = [&lines[..2], &lines[3..]].concat();
        assert!(format!("{:#}", check(&missing, None).unwrap_err()).contains("missing or moved"));
        let mut moved = lines.clone();
        moved.swap(1, 2);
        assert!(check(&moved, None).is_err());
        let mut accepted = lines;
        accepted[3] = accepted[3].replace("NOT_FOUND", "accepted");
        assert!(check(&accepted, None).is_err(), "the outcome is in the chain");
    }
}
