//! `meshctl numbers import`: batches that are taken once, so that an interrupted import goes on.
//!
//! A batch's request id is a hash of its content and of the name of the run. The same command
//! again sends the same ids: what is done already answers as it did, the rest is done.

use std::io::{IsTerminal, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use prost::Message;
use proto::control::{Block, ImportBlocksRequest, ImportNumbersRequest, Shelf, Tag, WriteOptions};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::args::Import;
use super::{To, client, given_id};
use crate::connect::{announce, options_of};
use crate::values::{Type, tag};

/// A request stays far below what a control node takes.
const BATCH_BYTES_MAX: usize = 512 * 1024;

pub(super) async fn run(import: Import, to: To<'_>) -> Result<()> {
    announce(&import.write);
    match &import.csv {
        Some(path) => {
            let shelf = import.shelf.shelf();
            let text = read(path)?;
            let blocks = parse(&text, &shelf, &import.tag)
                .with_context(|| format!("{} is not valid", path.display()))?;
            send_blocks(blocks, &import, to).await
        }
        None => {
            let numbers = gather(import.numbers.clone(), import.file.as_deref())?;
            send_numbers(&numbers, &import, to).await
        }
    }
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
    } else {
        text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
    }
    Ok(text)
}

fn gather(mut numbers: Vec<String>, file: Option<&Path>) -> Result<Vec<String>> {
    if let Some(path) = file {
        let text = read(path)?;
        numbers.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned));
    }
    if numbers.is_empty() {
        bail!("no numbers are given: name some, or a --file with one a line, or a --csv");
    }
    Ok(numbers)
}

/// Tells how far an import is, to people who look.
struct Progress {
    shown: bool,
    batches: usize,
    done: usize,
    imported: u64,
}

impl Progress {
    fn new(batches: usize) -> Self {
        let shown = batches > 1 && std::io::stderr().is_terminal();
        Self { shown, batches, done: 0, imported: 0 }
    }

    fn add(&mut self, imported: u32) {
        self.done += 1;
        self.imported += u64::from(imported);
        if self.shown {
            let (done, batches, imported) = (self.done, self.batches, self.imported);
            let mut out = std::io::stderr();
            // Nobody misses a line of progress that could not be written.
            let _ = write!(out, "\r{imported} numbers, batch {done} of {batches}");
            if done == batches {
                let _ = writeln!(out);
            }
        }
    }

    /// What to say when a batch is refused.
    fn so_far(&self) -> String {
        let (next, batches, imported) = (self.done + 1, self.batches, self.imported);
        if batches == 1 {
            return "nothing is imported".into();
        }
        format!(
            "batch {next} of {batches} is not imported, the {imported} numbers before it are; the \
             same command again goes on there"
        )
    }
}

async fn send_numbers(numbers: &[String], import: &Import, (mesh, printer): To<'_>) -> Result<()> {
    let shelf = import.shelf.shelf();
    if shelf.pool.is_empty() {
        bail!("--pool is missing: which pool do the numbers belong to?");
    }
    let batches = numbers.chunks(import.batch as usize);
    let mut progress = Progress::new(batches.len());
    single(import, batches.len())?;
    for batch in batches {
        let mut request = ImportNumbersRequest {
            options: None,
            pool: shelf.pool.clone(),
            e164: batch.to_vec(),
            country: shelf.country.clone(),
            area: shelf.area.clone(),
            r#type: shelf.r#type,
            carrier: shelf.carrier.clone(),
            tags: import.tag.clone(),
        };
        request.options = batch_options(import, &request);
        let ask = async |channel, request| client(channel).import(request).await;
        let answer = mesh.call(request, ask).await;
        progress.add(answer.with_context(|| progress.so_far())?.imported);
    }
    done(&progress, printer)
}

async fn send_blocks(blocks: Vec<Block>, import: &Import, (mesh, printer): To<'_>) -> Result<()> {
    let batches = batches(blocks, import.batch as usize);
    let mut progress = Progress::new(batches.len());
    single(import, batches.len())?;
    for blocks in batches {
        let mut request = ImportBlocksRequest { options: None, blocks };
        request.options = batch_options(import, &request);
        let ask = async |channel, request| client(channel).import_blocks(request).await;
        let answer = mesh.call(request, ask).await;
        progress.add(answer.with_context(|| progress.so_far())?.imported);
    }
    done(&progress, printer)
}

fn done(progress: &Progress, printer: &crate::table::Printer) -> Result<()> {
    let Progress { batches, imported, .. } = progress;
    printer.done(
        &json!({ "imported": imported, "batches": batches }),
        &format!("{imported} numbers imported"),
    )
}

fn single(import: &Import, batches: usize) -> Result<()> {
    if given_id(&import.write).is_some() && batches > 1 {
        bail!("--request-id names one request, and this takes {batches}: use --run");
    }
    Ok(())
}

/// At most `most` blocks each, and not too large.
fn batches(blocks: Vec<Block>, most: usize) -> Vec<Vec<Block>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for block in blocks {
        let size = block.encoded_len() + 8;
        if let Some(batch) = batches.last_mut().filter(|batch: &&mut Vec<Block>| {
            batch.len() < most && (batch.is_empty() || bytes + size <= BATCH_BYTES_MAX)
        }) {
            bytes += size;
            batch.push(block);
        } else {
            bytes = size;
            batches.push(vec![block]);
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

fn batch_options(import: &Import, request: &impl Message) -> Option<WriteOptions> {
    let request_id = batch_id(import, request);
    Some(options_of(&import.write, request_id))
}

fn batch_id(import: &Import, request: &impl Message) -> String {
    if let Some(id) = given_id(&import.write) {
        return id.to_owned();
    }
    let mut hash = Sha256::new();
    hash.update(import.run.as_bytes());
    hash.update([0]);
    hash.update(request.encode_to_vec());
    let hex: String = hash.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    format!("import-{hex}")
}

/// Where each column is.
#[derive(Default)]
struct Columns {
    number: Option<usize>,
    count: Option<usize>,
    last: Option<usize>,
    pool: Option<usize>,
    country: Option<usize>,
    area: Option<usize>,
    kind: Option<usize>,
    carrier: Option<usize>,
    tags: Option<usize>,
}

impl Columns {
    fn of(head: &csv::StringRecord) -> Result<Self> {
        let mut columns = Self::default();
        for (at, name) in head.iter().enumerate() {
            let column = match name.trim().to_ascii_lowercase().as_str() {
                "number" | "first" | "e164" => &mut columns.number,
                "count" => &mut columns.count,
                "last" => &mut columns.last,
                "pool" => &mut columns.pool,
                "country" => &mut columns.country,
                "area" => &mut columns.area,
                "type" => &mut columns.kind,
                "carrier" => &mut columns.carrier,
                "tags" => &mut columns.tags,
                other => bail!(
                    "column {other:?} is unknown: number, count, last, pool, country, area, type, \
                     carrier, tags"
                ),
            };
            if column.replace(at).is_some() {
                bail!("column {name:?} is there twice");
            }
        }
        if columns.number.is_none() {
            bail!("there is no column \"number\" (or \"first\"): the first line is the head");
        }
        Ok(columns)
    }

    fn block(&self, line: &csv::StringRecord, shelf: &Shelf, tags: &[Tag]) -> Result<Block> {
        let cell = |column: Option<usize>| column.and_then(|at| line.get(at)).unwrap_or("").trim();
        let or = |column, default: &str| match cell(column) {
            "" => default.to_owned(),
            given => given.to_owned(),
        };
        let first = cell(self.number).to_owned();
        let kind = match cell(self.kind) {
            "" => shelf.r#type,
            word => Type::parse(word).map_err(|error| anyhow!(error))?,
        };
        let own = cell(self.tags).split(';').map(str::trim).filter(|tag| !tag.is_empty());
        let own = own.map(|one| tag(one).map_err(|error| anyhow!(error))).collect::<Result<_>>()?;
        let own: Vec<Tag> = own;
        Ok(Block {
            count: count(&first, cell(self.count), cell(self.last))?,
            first,
            shelf: Some(Shelf {
                pool: or(self.pool, &shelf.pool),
                country: or(self.country, &shelf.country),
                area: or(self.area, &shelf.area),
                r#type: kind,
                carrier: or(self.carrier, &shelf.carrier),
            }),
            tags: if own.is_empty() { tags.to_vec() } else { own },
            imported_ms: 0,
        })
    }
}

fn value(number: &str) -> Result<u64> {
    let digits = number.strip_prefix('+').filter(|digits| digits.len() <= 15);
    let value = digits.and_then(|digits| digits.parse().ok());
    value.with_context(|| format!("{number:?} is not \"+\" and up to 15 digits"))
}

fn count(first: &str, count: &str, last: &str) -> Result<u64> {
    let first = value(first)?;
    match (count, last) {
        ("", "") => Ok(1),
        (count, "") => {
            let count: Option<u64> = count.parse().ok().filter(|count| *count > 0);
            count.context("count is not a number above 0")
        }
        ("", last) => {
            let beyond = value(last)?.checked_sub(first).context("last is before the first")?;
            Ok(beyond + 1)
        }
        _ => bail!("count and last are both given: leave one away"),
    }
}

/// Blocks of a CSV; lines that go on where the one before ended become one.
fn parse(text: &str, shelf: &Shelf, tags: &[Tag]) -> Result<Vec<Block>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let columns = Columns::of(reader.headers()?)?;
    let mut blocks = Vec::<Block>::new();
    for line in reader.records() {
        let line = line?;
        let at = line.position().map_or(0, csv::Position::line);
        let block = columns.block(&line, shelf, tags).with_context(|| format!("line {at}"))?;
        if block.shelf.as_ref().is_some_and(|shelf| shelf.pool.is_empty()) {
            bail!("line {at}: no pool: add a column \"pool\", or --pool");
        }
        let follows = blocks.last().is_some_and(|before| goes_on(before, &block));
        match blocks.last_mut().filter(|_| follows) {
            Some(before) => before.count += block.count,
            None => blocks.push(block),
        }
    }
    if blocks.is_empty() {
        bail!("there are no numbers in it");
    }
    Ok(blocks)
}

fn goes_on(before: &Block, block: &Block) -> bool {
    let next = value(&before.first).ok().and_then(|first| first.checked_add(before.count));
    before.shelf == block.shelf
        && before.tags == block.tags
        && before.first.len() == block.first.len()
        && next.is_some_and(|next| value(&block.first).is_ok_and(|first| first == next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> Shelf {
        Shelf { pool: "de".into(), ..Shelf::default() }
    }

    #[test]
    fn lines_become_blocks_and_consecutive_ones_join() {
        let text = "number,count,pool,type,tags\n\
                    +4930123450,10,,,\n\
                    +4930123460,,,,\n\
                    +4930123461,,berlin,local,a=b;vip\n\
                    \"+4930123470\",\"5\",\"\",toll-free,\n";
        let blocks = parse(text, &shelf(), &[]).unwrap();
        let found: Vec<(&str, u64, &str)> = blocks
            .iter()
            .map(|b| (b.first.as_str(), b.count, b.shelf.as_ref().unwrap().pool.as_str()))
            .collect();
        let expected =
            [("+4930123450", 11, "de"), ("+4930123461", 1, "berlin"), ("+4930123470", 5, "de")];
        assert_eq!(found, expected);
        assert_eq!(blocks[1].tags.len(), 2);
        let by_last = parse("first,last\n+4930123450,+4930123459\n", &shelf(), &[]).unwrap();
        assert_eq!(by_last[0].count, 10);
    }

    #[test]
    fn what_is_wrong_names_the_line() {
        let wrong = |text: &str| format!("{:#}", parse(text, &shelf(), &[]).unwrap_err());
        assert!(wrong("+4930123450\n").contains("column"));
        assert!(wrong("number,colour\n+4930123450,red\n").contains("colour"));
        assert!(wrong("number,number\n").contains("twice"));
        assert!(wrong("number,count\n+4930123450,1\n+4930123460,0\n").contains("line 3"));
        assert!(wrong("number\n030123\n").contains("line 2"));
        assert!(wrong("number,last\n+4930123450,+4930123440\n").contains("before"));
        assert!(wrong("number\n").contains("no numbers"));
        let no_pool = parse("number\n+4930123450\n", &Shelf::default(), &[]).unwrap_err();
        assert!(no_pool.to_string().contains("--pool"));
    }

    #[test]
    fn batches_are_bounded_in_count_and_size_and_lose_nothing() {
        let block = |n: usize| Block {
            first: format!("+4930{n:07}"),
            count: 1,
            tags: vec![Tag { key: "k".repeat(60), value: "v".repeat(120) }; 16],
            ..Block::default()
        };
        let blocks: Vec<Block> = (0..1_000).map(block).collect();
        let cut = batches(blocks.clone(), 300);
        assert!(cut.len() >= 6);
        for batch in &cut {
            let request = ImportBlocksRequest { options: None, blocks: batch.clone() };
            assert!(batch.len() <= 300 && request.encoded_len() <= BATCH_BYTES_MAX);
        }
        assert_eq!(cut.concat(), blocks);
        assert_eq!(batches(Vec::new(), 10).len(), 0);
    }
}
