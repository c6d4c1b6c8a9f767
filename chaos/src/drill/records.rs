//! Call records of all POPs, matched with the calls that were placed. Pure, but for reading.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// What the POPs wrote of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// POPs whose record is the one that is billed (role ingress or local), each as often as it
    /// wrote one.
    pub(super) billed: Vec<String>,
    /// Causes in those.
    pub(super) causes: Vec<String>,
    /// The calls they are of: a caller who gave one way in up may have been answered there, too.
    calls: BTreeSet<String>,
}

/// By calling number: each call of a drill has its own.
pub(super) type Book = BTreeMap<String, Written>;

/// Reads the records of these POPs' data directories.
pub(super) fn read(data: &Path, pops: &[String]) -> Result<Book> {
    let mut book = Book::new();
    for pop in pops {
        let path = data.join(pop).join("cdr.jsonl");
        // None was written yet.
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        enter(&mut book, pop, &text).with_context(|| format!("{} is damaged", path.display()))?;
    }
    Ok(book)
}

/// Enters one POP's records, one JSON object a line.
fn enter(book: &mut Book, pop: &str, text: &str) -> Result<()> {
    // A killed process may leave half a line.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let record: Value = serde_json::from_str(line)?;
        let field = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        // Attempts that nobody answered are recorded, too: callers try other ways in.
        let billed = matches!(field("role"), "ingress" | "local");
        if !billed || record.get("answered").is_none_or(Value::is_null) {
            continue;
        }
        let written = book.entry(field("from").to_owned()).or_default();
        written.billed.push(pop.to_owned());
        written.causes.push(field("cause").to_owned());
        written.calls.insert(field("call_id").to_owned());
    }
    Ok(())
}

/// Calls without exactly one record, each with what is there. A calling number comes with the ways in
/// that it tried: each of them is a call.
pub(super) fn complaints<'a>(
    book: &Book,
    calls: impl Iterator<Item = (&'a str, usize)>,
) -> Vec<String> {
    let complain = |(from, tries): (&str, usize)| {
        let written = book.get(from).cloned().unwrap_or_default();
        match written.billed.len() {
            0 => Some(format!("{from}: no record")),
            count if count == written.calls.len() && count <= tries => None,
            _ => Some(format!(
                "{from}: records at {} ({})",
                written.billed.join(", "),
                written.causes.join(", ")
            )),
        }
    };
    calls.filter_map(complain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_doubled_records_are_found_and_halves_are_not_counted() {
        let mut book = Book::new();
        let line = |from: &str, role: &str, call: u8| {
            format!(
                "{{\"from\":\"{from}\",\"role\":\"{role}\",\"cause\":\"x\",\"answered\":\"now\",\
                 \"call_id\":\"{call}\"}}\n"
            )
        };
        let unanswered = "{\"from\":\"+1\",\"role\":\"ingress\",\"answered\":null}\n";
        enter(&mut book, "iad1", unanswered).unwrap();
        enter(&mut book, "fra1", &(line("+1", "ingress", 1) + &line("+2", "ingress", 2))).unwrap();
        enter(&mut book, "sin1", &(line("+1", "egress", 1) + &line("+2", "local", 2))).unwrap();
        enter(&mut book, "iad1", "{\"from\":\"+3\",\"ro").unwrap();
        // Given up at one way in, answered at another: two calls, if two were tried.
        enter(&mut book, "iad1", &(line("+4", "local", 4) + &line("+4", "local", 5))).unwrap();
        let found = complaints(&book, [("+4", 2)].into_iter());
        assert_eq!(found, [""; 0]);
        assert_eq!(complaints(&book, [("+4", 1)].into_iter()).len(), 1);
        let found = complaints(&book, [("+1", 2), ("+2", 2), ("+3", 2)].into_iter());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("+2: records at fra1, sin1"), "{found:?}");
        assert_eq!(found[1], "+3: no record");
        assert!(enter(&mut book, "fra1", "junk\n").is_err());
    }
}
