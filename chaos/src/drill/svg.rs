//! Two drawings of a report, as inline SVG. Pure.

use std::fmt::Write as _;

use super::figures::{BARS_MS, Second};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 46.0;

/// How many calls had their longest gap in which range.
pub(super) fn histogram(bars: &[usize]) -> String {
    const HEIGHT: f64 = 230.0;
    const FLOOR: f64 = 180.0;
    let most = bars.iter().copied().max().unwrap_or(0).max(1) as f64;
    let step = (WIDTH - LEFT - RIGHT) / bars.len().max(1) as f64;
    let mut svg = open(HEIGHT, "Histogram of the longest gap of each call");
    for (index, count) in bars.iter().enumerate() {
        let x = LEFT + step * index as f64;
        let height = *count as f64 / most * (FLOOR - 30.0);
        let label = match (index.checked_sub(1).and_then(|i| BARS_MS.get(i)), BARS_MS.get(index)) {
            (_, Some(end)) => time(*end),
            (Some(begin), None) => format!("> {}", time(*begin)),
            (None, None) => String::new(),
        };
        let _ok = write!(
            svg,
            "<rect class='bar' x='{:.1}' y='{:.1}' width='{:.1}' height='{height:.1}' rx='2'/>",
            x + 4.0,
            FLOOR - height,
            step - 8.0
        );
        if *count > 0 {
            let y = FLOOR - height - 6.0;
            text(&mut svg, x + step / 2.0, y, "middle", "count", &count.to_string());
        }
        text(&mut svg, x + step / 2.0, FLOOR + 18.0, "middle", "", &label);
    }
    line(&mut svg, (LEFT, FLOOR), (WIDTH - RIGHT, FLOOR), "axis");
    text(
        &mut svg,
        WIDTH / 2.0,
        HEIGHT - 8.0,
        "middle",
        "",
        "longest gap of a call (worse side), up to",
    );
    svg.push_str("</svg>");
    svg
}

fn time(ms: u64) -> String {
    match ms {
        ms if ms < 1_000 => format!("{ms} ms"),
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{:.1} s", ms as f64 / 1e3),
    }
}

/// Calls alive and mean MOS, second by second; `marks`: ms after the first fault, and what.
pub(super) fn course(seconds: &[Second], calls: usize, marks: &[(i64, String)]) -> String {
    const HEIGHT: f64 = 300.0;
    const TOP: f64 = 26.0;
    const FLOOR: f64 = 250.0;
    let mut svg = open(HEIGHT, "Calls that hear both ways, and MOS, second by second");
    let (Some(first), Some(last)) = (seconds.first(), seconds.last()) else {
        svg.push_str("</svg>");
        return svg;
    };
    let (begin, end) = (first.at as f64, (last.at + 1) as f64);
    let x = |at: f64| LEFT + (at - begin) / (end - begin).max(1.0) * (WIDTH - LEFT - RIGHT);
    let y = |share: f64| FLOOR - share * (FLOOR - TOP);
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        line(&mut svg, (LEFT, y(share)), (WIDTH - RIGHT, y(share)), "grid");
        let alive = (calls as f64 * share).round();
        text(&mut svg, LEFT - 6.0, y(share) + 4.0, "end", "alive", &format!("{alive:.0}"));
        let mos = 1.0 + share * 3.5;
        text(&mut svg, WIDTH - RIGHT + 6.0, y(share) + 4.0, "start", "mos", &format!("{mos:.1}"));
    }
    let every = ((end - begin) / 12.0).ceil().max(1.0);
    let mut tick = (begin / every).ceil() * every;
    while tick <= end {
        text(&mut svg, x(tick), FLOOR + 18.0, "middle", "", &format!("{:.0} s", tick + 0.0));
        tick += every;
    }
    let shown = marks.iter().filter(|(ms, _)| (*ms as f64) < end * 1e3);
    for (above, (ms, what)) in [0.0, 12.0].into_iter().cycle().zip(shown) {
        let at = x(*ms as f64 / 1e3);
        line(&mut svg, (at, TOP - 8.0), (at, FLOOR), "mark");
        let (anchor, dx) = if at > WIDTH * 0.7 { ("end", -5.0) } else { ("start", 5.0) };
        // Two in a row stand in two lines.
        text(&mut svg, at + dx, TOP - 4.0 - above, anchor, "mark", &escape(what));
    }
    let alive = |s: &Second| s.alive as f64 / calls.max(1) as f64;
    curve(&mut svg, seconds, "alive", |s| (x(s.at as f64 + 0.5), y(alive(s))));
    curve(&mut svg, seconds, "mos", |s| {
        (x(s.at as f64 + 0.5), y(((s.mos - 1.0) / 3.5).clamp(0.0, 1.0)))
    });
    text(&mut svg, LEFT, HEIGHT - 8.0, "start", "alive", "— calls that hear both ways (left)");
    text(&mut svg, WIDTH - RIGHT, HEIGHT - 8.0, "end", "mos", "mean MOS (right) —");
    text(&mut svg, WIDTH / 2.0, HEIGHT - 8.0, "middle", "", "after the fault");
    svg.push_str("</svg>");
    svg
}

fn curve(svg: &mut String, seconds: &[Second], class: &str, at: impl Fn(&Second) -> (f64, f64)) {
    let points: Vec<String> = seconds
        .iter()
        .map(|second| {
            let (x, y) = at(second);
            format!("{x:.1},{y:.1}")
        })
        .collect();
    let _ok = write!(svg, "<polyline class='{class}' points='{}'/>", points.join(" "));
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}' \
         xmlns='http://www.w3.org/2000/svg'>"
    )
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), class: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ok =
        write!(svg, "<line class='{class}' x1='{x1:.1}' y1='{y1:.1}' x2='{x2:.1}' y2='{y2:.1}'/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let _ok = write!(
        svg,
        "<text class='{class}' x='{x:.1}' y='{y:.1}' text-anchor='{anchor}'>{words}</text>"
    );
}

/// For element content and attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_for_counts_and_nothing_is_left_out() {
        let mut bars = [0; BARS_MS.len() + 1];
        bars[2] = 10;
        bars[14] = 5;
        let svg = histogram(&bars);
        assert_eq!(svg.matches("<rect").count(), 15);
        assert!(svg.contains("height='150.0'") && svg.contains("height='75.0'"), "{svg}");
        assert!(svg.contains("&gt; 15 s") || svg.contains("> 15 s"), "{svg}");
        assert!(svg.contains(">1.5 s<") && svg.contains(">40 ms<"));
    }

    #[test]
    fn the_course_is_drawn_from_before_the_fault() {
        let second = |at, alive| Second { at, alive, heard: 1.0, mos: 4.5 };
        let seconds = [second(-2, 10), second(-1, 10), second(0, 5), second(1, 10)];
        let svg = course(&seconds, 10, &[(0, "kill <pop>".into())]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("kill &lt;pop&gt;"));
        let alive = svg.split("class='alive' points='").nth(1).unwrap();
        let ys: Vec<&str> = alive.split('\'').next().unwrap().split(' ').collect();
        assert_eq!(ys.len(), 4);
        assert!(ys[1].ends_with(",26.0") && ys[2].ends_with(",138.0"), "{ys:?}");
        assert!(course(&[], 0, &[]).ends_with("</svg>"));
    }
}
