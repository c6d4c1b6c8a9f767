//! The table every benchmark prints, and its JSON lines.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

/// One measured figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// What it is compared with, in the same run; `None`: there is no peer.
    pub peer: Option<f64>,
    /// What we reached.
    pub ours: f64,
    /// Ours must not be above.
    pub target: f64,
    /// Of peer, ours and target.
    pub unit: &'static str,
}

impl Figure {
    /// Whether the target is reached. Not a number never is.
    pub fn met(&self) -> bool {
        self.ours <= self.target
    }
}

/// The figures of one benchmark.
#[derive(Debug)]
pub struct Table {
    name: &'static str,
    figures: Vec<Figure>,
}

impl Table {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, figures: Vec::new() }
    }

    pub(super) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Whether all targets are reached.
    pub fn met(&self) -> bool {
        !self.figures.is_empty() && self.figures.iter().all(Figure::met)
    }

    /// The table as text.
    pub fn text(&self) -> String {
        let width = self.figures.iter().map(|f| f.name.chars().count()).max().unwrap_or(0).max(6);
        let mut text = format!(
            "{:width$}  {:>12}  {:>12}  {:>6}  {:>12}  met\n",
            "figure", "peer", "ours", "ratio", "target"
        );
        for figure in &self.figures {
            let unit = figure.unit;
            let peer = figure.peer.map_or("–".into(), |peer| format!("{peer:.2} {unit}"));
            let ratio =
                figure.peer.map_or("–".into(), |peer| format!("{:.2}", figure.ours / peer));
            let ours = format!("{:.2} {unit}", figure.ours);
            let target = format!("≤ {:.2} {unit}", figure.target);
            let met = if figure.met() { "yes" } else { "NO" };
            let name = &figure.name;
            let _ = writeln!(
                text,
                "{name:width$}  {peer:>12}  {ours:>12}  {ratio:>6}  {target:>12}  {met}"
            );
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
                    "ratio": f.peer.map(|peer| f.ours / peer), "target": f.target,
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
            Figure { name: "a".into(), peer: Some(2.0), ours: 1.0, target: 1.5, unit: "ms" };
        table.add(figure.clone());
        assert!(table.met());
        assert!(table.text().contains("0.50"));
        table.add(Figure { ours: f64::NAN, ..figure });
        assert!(!table.met());
    }
}
