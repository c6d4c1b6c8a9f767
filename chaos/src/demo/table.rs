//! The live table: one row per direction between two POPs. Pure.

use std::time::Duration;

use super::verdict::share;
use crate::wan::Counters;

/// What is heard in one direction.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) ears: usize,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) jitter: Duration,
    pub(super) longest_gap: Duration,
    pub(super) mos: Option<f64>,
    pub(super) wan: Counters,
}

/// Everything the table shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    pub(super) elapsed: Duration,
    pub(super) planned: usize,
    pub(super) up: usize,
    pub(super) over: usize,
    pub(super) failed: usize,
    pub(super) control: String,
    pub(super) rows: Vec<Row>,
}

impl Picture {
    /// For a terminal.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            format!("  {}   {}", self.head(), self.control),
            "  path             ears   WAN loss    lost   jitter   longest gap   worst MOS".into(),
        ];
        for row in &self.rows {
            let path = format!("{} > {}", row.from, row.to);
            let mos = row.mos.map_or_else(|| "-".into(), |mos| format!("{mos:.2}"));
            lines.push(format!(
                "  {path:<15} {:>5} {:>8.2} % {:>6.2}% {:>5} ms {:>10} ms {mos:>11}",
                row.ears,
                share(row.wan.lost, row.wan.received) * 100.0,
                share(row.lost, row.received + row.lost) * 100.0,
                row.jitter.as_millis(),
                row.longest_gap.as_millis(),
            ));
        }
        lines
    }

    /// For a pipe.
    pub(super) fn summary(&self) -> String {
        let received: u64 = self.rows.iter().map(|r| r.received).sum();
        let lost: u64 = self.rows.iter().map(|r| r.lost).sum();
        let jitter = self.rows.iter().map(|r| r.jitter).max().unwrap_or_default();
        let mos = self.rows.iter().filter_map(|r| r.mos).min_by(f64::total_cmp);
        let mos = mos.map_or_else(|| "-".into(), |mos| format!("{mos:.2}"));
        format!(
            "  {}, lost {:.2} %, jitter up to {} ms, worst MOS {mos}; {}",
            self.head(),
            share(lost, received + lost) * 100.0,
            jitter.as_millis(),
            self.control
        )
    }

    fn head(&self) -> String {
        format!(
            "{:>3} s   {} of {} calls up, {} over, {} failed",
            self.elapsed.as_secs(),
            self.up,
            self.planned,
            self.over,
            self.failed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_in_rows_and_in_one_line() {
        let row = Row {
            from: "fra1".into(),
            to: "iad1".into(),
            ears: 8,
            received: 998,
            lost: 2,
            jitter: Duration::from_millis(3),
            longest_gap: Duration::from_millis(41),
            mos: Some(4.314),
            wan: Counters { received: 1_000, delivered: 990, lost: 10, ..Counters::default() },
        };
        let picture = Picture {
            elapsed: Duration::from_secs(12),
            planned: 24,
            up: 23,
            over: 1,
            failed: 0,
            control: "leader control-1".into(),
            rows: vec![row, Row { from: "iad1".into(), to: "fra1".into(), ..Row::default() }],
        };
        let lines = picture.lines();
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|l| l.len() <= 96), "{lines:?}");
        assert_eq!(
            lines[3],
            "  fra1 > iad1         8     1.00 %   0.20%     3 ms         41 ms        4.31"
        );
        assert_eq!(
            picture.summary(),
            "   12 s   23 of 24 calls up, 1 over, 0 failed, lost 0.20 %, jitter up to 3 ms, \
             worst MOS 4.31; leader control-1"
        );
    }
}
