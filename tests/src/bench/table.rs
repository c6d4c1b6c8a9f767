//! The table every benchmark prints, and its JSON lines.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

/// What a figure has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Less is better.
    AtMost(f64),
    /// More is better.
    AtLeast(f64),
    /// Told for comparison only.
    Told,
}

impl Target {
    /// Not a number reaches nothing.
    fn met(self, ours: f64) -> bool {
        match self {
            Self::AtMost(most) => ours <= most,
            Self::AtLeast(least) => ours >= least,
            Self::Told => true,
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Self::AtMost(number) | Self::AtLeast(number) => Some(number),
            Self::Told => None,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most:.2} {unit}"),
            Self::AtLeast(least) => format!("≥ {least:.2} {unit}"),
            Self::Told => "–".into(),
        }
    }
}

impl From<f64> for Target {
    fn from(most: f64) -> Self {
        Self::AtMost(most)
    }
}

/// One measured figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// What it is compared with, in the same run; `None`: there is no peer.
    pub peer: Option<f64>,
    /// What we reached; not a number: it could not be measured.
    pub ours: f64,
    /// What ours has to reach.
    pub target: Target,
    /// Of peer, ours and target.
    pub unit: &'static str,
}

impl Figure {
    /// Whether the target is reached.
    pub fn met(&self) -> bool {
        self.target.met(self.ours)
    }

    /// Ours to the peer's.
    fn ratio(&self) -> Option<f64> {
        self.peer.map(|peer| self.ours / peer).filter(|ratio| ratio.is_finite())
    }
}

/// The figures of one benchmark.
#[derive(Debug)]
pub struct Table {
    name: &'static str,
    figures: Vec<Figure>,
    notes: Vec<&'static str>,
}

impl Table {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, figures: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// A sentence below the table.
    pub(super) fn note(&mut self, note: &'static str) {
        self.notes.push(note);
    }

    /// Whether all targets are reached.
    pub fn met(&self) -> bool {
        !self.figures.is_empty() && self.figures.iter().all(Figure::met)
    }

    /// The table as text.
    pub fn text(&self) -> String {
        let width = self.figures.iter().map(|f| f.name.chars().count()).max().unwrap_or(0).max(6);
        let mut text = format!(
            "{:width$}  {:>14}  {:>14}  {:>6}  {:>16}  met\n",
            "figure", "peer", "ours", "ratio", "target"
        );
        for figure in &self.figures {
            let unit = figure.unit;
            let value = |value: f64| match value.is_finite() {
                true => format!("{value:.2} {unit}"),
                false => "–".into(),
            };
            let peer = figure.peer.map_or("–".into(), value);
            let ratio = figure.ratio().map_or("–".into(), |ratio| format!("{ratio:.2}"));
            let ours = value(figure.ours);
            let target = figure.target.text(unit);
            let met = match (figure.target, figure.met()) {
                (Target::Told, _) => "",
                (_, true) => "yes",
                (_, false) => "NO",
            };
            let name = &figure.name;
            let _ = writeln!(
                text,
                "{name:width$}  {peer:>14}  {ours:>14}  {ratio:>6}  {target:>16}  {met}"
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        text
    }

    /// Writes `DIR/NAME.jsonl`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lines: String = self
            .figures
            .iter()
            .map(|f| {
                let line = json!({
                    "bench": self.name, "figure": f.name, "peer": f.peer, "ours": f.ours,
                    "ratio": f.ratio(), "target": f.target.number(),
                    "unit": f.unit, "met": f.met(),
                });
                format!("{line}\n")
            })
            .collect();
        let path = dir.join(self.name).with_extension("jsonl");
        std::fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_and_no_figure_at_all_are_failures() {
        let mut table = Table::new("x");
        assert!(!table.met());
        let figure =
            Figure { name: "a".into(), peer: Some(2.0), ours: 1.0, target: 1.5.into(), unit: "ms" };
        table.add(figure.clone());
        assert!(table.met());
        assert!(table.text().contains("0.50"));
        let told = Figure { target: Target::Told, ..figure.clone() };
        table.add(told.clone());
        table.add(Figure { target: Target::AtLeast(1.0), ..figure.clone() });
        assert!(table.met());
        assert!(!Figure { target: Target::AtLeast(1.1), ..figure.clone() }.met());
        table.add(Figure { ours: f64::NAN, ..figure });
        assert!(!table.met());
        assert!(Figure { ours: f64::NAN, ..told }.met(), "what is only told cannot fail");
    }
}
