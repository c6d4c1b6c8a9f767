//! Printing: aligned columns, or JSON.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

use crate::cli::Output;

/// Prints in the chosen form.
pub(crate) struct Printer(Output);

impl Printer {
    pub(crate) fn new(output: Output) -> Self {
        Self(output)
    }

    /// Rows under a head, or `document` as JSON.
    pub(crate) fn list(
        &self,
        document: &impl Serialize,
        head: &[&str],
        rows: &[Vec<String>],
    ) -> Result<()> {
        match self.0 {
            Output::Json => self.json(document),
            Output::Table => self.raw(table(head, rows).as_bytes()),
        }
    }

    /// A sentence, or `document` as JSON.
    pub(crate) fn done(&self, document: &impl Serialize, sentence: &str) -> Result<()> {
        match self.0 {
            Output::Json => self.json(document),
            Output::Table => self.raw(format!("{sentence}\n").as_bytes()),
        }
    }

    fn json(&self, document: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(document)?;
        text.push(b'\n');
        self.raw(&text)
    }

    /// As it is. A reader that has seen enough (`| head`) is no error.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Columns as wide as their widest cell, two blanks apart.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&h| h.to_owned()).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for row in [&head].into_iter().chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A dash for nothing.
pub(crate) fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = vec![vec!["fra1".into(), "up".into()], vec!["singapore1".into(), "-".into()]];
        let expected = "POP         STATE\nfra1        up\nsingapore1  -\n";
        assert_eq!(table(&["POP", "STATE"], &rows), expected);
    }
}
