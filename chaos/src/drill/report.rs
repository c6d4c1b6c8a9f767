//! What a drill showed: words for the screen, JSON, and a page that needs nothing else. Pure, but
//! for writing files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Outcome;
use super::figures::{BARS_MS, histogram};
use super::svg::{self, escape};
use super::verdict::{Account, Bound, Row, reasons};
use super::words::short;

/// Rows of long tables that a page shows.
const SHOWN: usize = 60;

/// Writes page and JSON into a directory; where the page is.
pub fn write(outcome: &Outcome, dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let save = |ending: &str, text: String| -> Result<PathBuf> {
        let path = dir.join(format!("{}.{ending}", outcome.drill.name));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    save("json", format!("{:#}\n", json(outcome)))?;
    save("html", page(outcome))
}

/// For the screen.
pub(super) fn words(outcome: &Outcome) -> Vec<String> {
    let mut lines = vec![String::new()];
    let holds = if outcome.holds() { "VERDICT: holds." } else { "VERDICT: does not hold." };
    lines.push(holds.into());
    for row in &outcome.rows {
        let mark = match (row.target, row.holds()) {
            (None, _) => " ",
            (Some(_), true) => "+",
            (Some(_), false) => "-",
        };
        lines.push(format!("  {mark} {:55} {:>12}   {}", row.name, row.figure(), row.bound()));
    }
    for ((lost, kind), count) in reasons(&outcome.runs) {
        lines.push(format!("    {count} calls ({}): {}", kind.words(), lost.words()));
    }
    let complaints = outcome.runs.iter().flat_map(|run| {
        let farewells = run.calls.iter().filter_map(|call| {
            call.farewell.as_ref().map(|why| format!("{} to {}: {why}", call.from, call.to))
        });
        let wrong = run.briefs.iter().filter(|b| !b.excused).filter_map(|brief| {
            let at = brief.placed_ms as f64 / 1e3;
            brief.wrong.as_ref().map(|why| format!("new call {} at {at:.1} s: {why}", brief.flow))
        });
        run.records.iter().cloned().chain(run.twice.iter().cloned()).chain(farewells).chain(wrong)
    });
    let complaints: Vec<String> = complaints.collect();
    lines.extend(complaints.iter().take(12).map(|line| format!("    {line}")));
    if complaints.len() > 12 {
        lines.push(format!("    … and {} more", complaints.len() - 12));
    }
    lines
}

/// Everything, for programs.
pub(super) fn json(outcome: &Outcome) -> Value {
    let row = |row: &Row| {
        let (least, most) = match row.target {
            Some(Bound::AtLeast(least)) => (Some(least), None),
            Some(Bound::AtMost(most)) => (None, Some(most)),
            None => (None, None),
        };
        json!({
            "name": row.name, "ours": row.ours, "unit": row.unit,
            "at_least": least, "at_most": most, "holds": row.holds(),
        })
    };
    let call = |call: &Account| {
        json!({
            "from": call.from, "to": call.to, "flow": call.flow, "kind": call.kind.words(),
            "touched": call.touched,
            "gap_ms": call.fate.gap.as_millis(), "silent_ms": call.fate.silent.as_millis(),
            "lost": call.fate.lost.map(|lost| lost.words()), "farewell": call.farewell,
            "moves": call.moves, "ends": call.ends, "late_requests": call.stale,
        })
    };
    let runs: Vec<Value> = outcome
        .runs
        .iter()
        .map(|run| {
            let events = run.events.iter();
            let events: Vec<Value> =
                events.map(|e| json!({ "at_ms": e.at_ms, "who": e.who, "what": e.what })).collect();
            let seconds: Vec<Value> = run
                .seconds
                .iter()
                .map(|s| json!({ "at": s.at, "alive": s.alive, "heard": s.heard, "mos": s.mos }))
                .collect();
            let briefs: Vec<Value> = run
                .briefs
                .iter()
                .map(|b| {
                    let set_up = b.set_up.map(|t| t.as_millis());
                    json!({
                        "placed_ms": b.placed_ms, "flow": b.flow, "set_up_ms": set_up,
                        "wrong": b.wrong, "excused": b.excused,
                    })
                })
                .collect();
            json!({
                "calls": run.calls.iter().map(call).collect::<Vec<_>>(), "new_calls": briefs,
                "records": run.records, "twice": run.twice, "crashed": run.crashed,
                "seconds": seconds, "events": events,
            })
        })
        .collect();
    json!({
        "drill": outcome.drill.name, "title": outcome.drill.title, "holds": outcome.holds(),
        "rows": outcome.rows.iter().map(row).collect::<Vec<_>>(), "runs": runs,
    })
}

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5d6b7c;--line:#d9dfe6;--back:#fff;--card:#f6f8fa;
--good:#12805c;--bad:#c0332b;--alive:#1f6fd6;--mos:#c77700}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#98a6b6;--line:#2f3a47;--back:#12171d;
--card:#1a212a;--good:#3fc28f;--bad:#ff766b;--alive:#69a7ff;--mos:#f0b04f}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,'DejaVu Sans',sans-serif}
main{max-width:920px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;line-height:1.25;margin:0 0 6px}h2{font-size:17px;margin:34px 0 10px}
.sub{color:var(--soft);margin:0 0 14px}.about{max-width:75ch}
.verdict{display:flex;gap:16px;align-items:baseline;border-left:6px solid;padding:12px 16px;
background:var(--card);border-radius:4px;margin:18px 0}.verdict b{font-size:19px;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}.verdict.good{border-color:var(--good)}
.verdict.bad{border-color:var(--bad)}.verdict span{color:var(--ink)}
table{border-collapse:collapse;width:100%}td,th{padding:5px 10px 5px 0;text-align:left;
border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:500;font-size:13px}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.told td{color:var(--soft)}svg{width:100%;height:auto;display:block}
svg text{font-size:11px;fill:var(--soft)}svg text.count{fill:var(--ink);font-weight:600}
.bar{fill:var(--alive)}line.axis{stroke:var(--soft)}line.grid{stroke:var(--line)}
line.mark{stroke:var(--bad);stroke-dasharray:4 3}svg text.mark{fill:var(--bad)}
polyline{fill:none;stroke-width:2}polyline.alive{stroke:var(--alive)}polyline.mos{stroke:var(--mos)}
svg text.alive{fill:var(--alive)}svg text.mos{fill:var(--mos)}
pre{background:var(--card);padding:12px;overflow-x:auto;font-size:12px;border-radius:4px;margin:8px 0}
summary{cursor:pointer;color:var(--soft)}details{margin:8px 0}
";

/// One file, no network.
fn page(outcome: &Outcome) -> String {
    let drill = &outcome.drill;
    let mut html = format!(
        "<!doctype html><html lang='en'><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width,initial-scale=1'>\
         <title>{title}: {name}</title><style>{STYLE}</style><main>\
         <h1>{title}</h1><p class='sub'>Drill {name} · {setting}</p>",
        title = escape(&drill.title),
        name = escape(&drill.name),
        setting = escape(&setting(outcome)),
    );
    headline(&mut html, outcome);
    let _ok = write!(html, "<p class='about'>{}</p>", escape(&drill.about));
    figures(&mut html, outcome);
    charts(&mut html, outcome);
    lost(&mut html, outcome);
    events(&mut html, outcome);
    html.push_str(
        "<h2>How this was measured</h2><p>Real processes on one machine; a WAN in user space \
         between the POPs' overlay addresses. Carriers are user agents that speak a recording and \
         compare each packet they hear with what the other side said just then: silence, noise, \
         repetitions and other calls do not count as heard. Lost calls stay in all percentiles, with \
         their silence until the end. The ways between POPs and control nodes have no delay in this \
         lab; a silent host is a stopped process that nothing reaches by the overlay.</p></main></html>\n",
    );
    html
}

fn setting(outcome: &Outcome) -> String {
    let drill = &outcome.drill;
    let runs = outcome.runs.len();
    let regions: Vec<String> =
        drill.mesh.regions.iter().map(|r| format!("{} ({})", r.name, r.pops.join(", "))).collect();
    format!(
        "{} {}, {} {} calls, {} round trip, {}",
        runs,
        if runs == 1 { "run" } else { "runs" },
        drill.load.calls,
        drill.load.codec.name(),
        short(drill.mesh.rtt),
        regions.join(" · ")
    )
}

fn headline(html: &mut String, outcome: &Outcome) {
    let (class, word) = if outcome.holds() { ("good", "Holds") } else { ("bad", "Does not hold") };
    let failed: Vec<String> = outcome
        .rows
        .iter()
        .filter(|row| !row.holds())
        .map(|row| format!("{}: {}, not {}", row.name, row.figure(), row.bound()))
        .collect();
    let said = match (failed.is_empty(), outcome.rows.first()) {
        (true, Some(row)) => format!("{}: {}", row.name, row.figure()),
        _ => failed.join("; "),
    };
    let _ok = write!(
        html,
        "<div class='verdict {class}'><b>{word}</b><span>{}</span></div>",
        escape(&said)
    );
}

fn figures(html: &mut String, outcome: &Outcome) {
    html.push_str(
        "<h2>Figures</h2><table><tr><th>Figure</th><th class='n'>Measured</th>\
         <th class='n'>Target</th><th class='n'>Reached</th></tr>",
    );
    for row in &outcome.rows {
        let (class, reached) = match (row.target, row.holds()) {
            (None, _) => ("told", ""),
            (Some(_), true) => ("", "<span class='good'>yes</span>"),
            (Some(_), false) => ("", "<span class='bad'>no</span>"),
        };
        let _ok = write!(
            html,
            "<tr class='{class}'><td>{}</td><td class='n'>{}</td><td class='n'>{}</td>\
             <td class='n'>{reached}</td></tr>",
            escape(&row.name),
            escape(&row.figure()),
            escape(&row.bound())
        );
    }
    html.push_str("</table>");
}

fn charts(html: &mut String, outcome: &Outcome) {
    let touched = outcome.runs.iter().flat_map(|run| &run.calls).filter(|call| call.touched);
    let gaps: Vec<std::time::Duration> = touched.map(|call| call.fate.gap).collect();
    let bars: [usize; BARS_MS.len() + 1] = histogram(&gaps);
    let _ok = write!(
        html,
        "<h2>Longest gap of the {} calls that the fault touches</h2>{}",
        gaps.len(),
        svg::histogram(&bars)
    );
    for (number, run) in (1..).zip(&outcome.runs) {
        let calls = run.calls.iter().filter(|call| call.touched).count();
        let marks: Vec<(i64, String)> = run
            .events
            .iter()
            .filter(|event| event.who == "drill" && !event.what.contains("stopped and started"))
            .map(|event| (event.at_ms, event.what.clone()))
            .filter(|(_, what)| what != "hangs up")
            .collect();
        let several = outcome.runs.len() > 1;
        let title = if several { format!(", run {number}") } else { String::new() };
        let _ok = write!(
            html,
            "<h2>Calls and MOS through the fault{title}</h2>{}",
            svg::course(&run.seconds, calls, &marks)
        );
    }
}

fn lost(html: &mut String, outcome: &Outcome) {
    let calls: Vec<&Account> = outcome
        .runs
        .iter()
        .flat_map(|run| &run.calls)
        .filter(|call| call.fate.lost.is_some() || call.farewell.is_some())
        .collect();
    let others: Vec<String> = outcome
        .runs
        .iter()
        .flat_map(|run| {
            let wrong = run.briefs.iter().filter(|b| !b.excused).filter_map(|b| {
                let at = b.placed_ms as f64 / 1e3;
                b.wrong.as_ref().map(|why| format!("new call {} at {at:.1} s: {why}", b.flow))
            });
            let records = run.records.iter().map(|line| format!("record of {line}"));
            let twice = run.twice.iter().map(|line| format!("held twice: {line}"));
            records.chain(twice).chain(run.crashed.iter().cloned()).chain(wrong)
        })
        .collect();
    if calls.is_empty() && others.is_empty() {
        return;
    }
    html.push_str("<h2>What went wrong</h2>");
    for ((lost, kind), count) in reasons(&outcome.runs) {
        let _ok = write!(html, "<p>{count} calls ({}): {}</p>", kind.words(), lost.words());
    }
    if !calls.is_empty() {
        html.push_str(
            "<details><summary>The calls</summary><table><tr><th>From</th><th>To</th><th>Way</th>\
             <th class='n'>Silent</th><th class='n'>Re-INVITEs</th><th>What</th></tr>",
        );
        for call in calls.iter().take(SHOWN) {
            let what = call.fate.lost.map(|lost| lost.words().to_owned());
            let mut what = what.or_else(|| call.farewell.clone()).unwrap_or_default();
            call.ends.iter().for_each(|end| what = format!("{what}; {end}"));
            let _ok = write!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class='n'>{}</td><td class='n'>{}</td>\
                 <td>{}</td></tr>",
                call.from,
                call.to,
                escape(&format!("{}, {}", call.flow, call.kind.words())),
                short(call.fate.silent),
                call.moves,
                escape(&what)
            );
        }
        html.push_str("</table>");
        more(html, calls.len());
        html.push_str("</details>");
    }
    if !others.is_empty() {
        let shown: Vec<String> = others.iter().take(SHOWN).map(|line| escape(line)).collect();
        let _ok = write!(
            html,
            "<details open><summary>Records, new calls, processes</summary><pre>{}</pre>",
            shown.join("\n")
        );
        more(html, others.len());
        html.push_str("</details>");
    }
}

fn more(html: &mut String, all: usize) {
    if all > SHOWN {
        let _ok =
            write!(html, "<p class='sub'>… and {} more; all are in the JSON.</p>", all - SHOWN);
    }
}

fn events(html: &mut String, outcome: &Outcome) {
    for (number, run) in (1..).zip(&outcome.runs) {
        let several = outcome.runs.len() > 1;
        let title = if several { format!(", run {number}") } else { String::new() };
        let open = if several { "" } else { " open" };
        let _ok = write!(
            html,
            "<h2>What the mesh did{title}</h2><details{open}><summary>{} events</summary><table>\
             <tr><th class='n'>After the fault</th><th>Who</th><th>What</th></tr>",
            run.events.len()
        );
        for event in run.events.iter().take(SHOWN) {
            let _ok = write!(
                html,
                "<tr><td class='n'>{:.2} s</td><td>{}</td><td>{}</td></tr>",
                event.at_ms as f64 / 1e3,
                escape(&event.who),
                escape(&event.what)
            );
        }
        html.push_str("</table>");
        more(html, run.events.len());
        html.push_str("</details>");
        if !run.logs.is_empty() {
            let lines: Vec<String> = run.logs.iter().map(|line| escape(line)).collect();
            let _ok = write!(
                html,
                "<details><summary>What nodes logged (seconds after the fault)</summary>\
                 <pre>{}</pre></details>",
                lines.join("\n")
            );
        }
    }
}
