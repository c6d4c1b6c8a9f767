//! Habits of the code base that no compiler checks. Sizes are printed, not judged.
#![allow(clippy::indexing_slicing, clippy::print_stdout, reason = "a test may panic and speak")]

use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The part before the in-file tests.
    fn product(&self) -> &str {
        let text = self.text.as_str();
        text.split_once("\n#[cfg(test)]\nmod tests {").map_or(text, |(product, _)| product)
    }

    fn is_test(&self) -> bool {
        let path = self.path.to_string_lossy();
        path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("tests.rs")
    }
}

/// Files git knows, and new ones it does not ignore, that are text.
fn sources(extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&tests::root(), extensions, &mut found);
    assert!(found.len() > 3, "no sources: wrong directory?");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(directory: &Path, extensions: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("named").to_string_lossy().into_owned();
        let skipped = ["target", ".git", "out", "corpus", "artifacts"].contains(&name.as_str());
        if path.is_dir() && !skipped {
            walk(&path, extensions, found);
        } else if path.is_file() && extensions.iter().any(|e| name.ends_with(e)) {
            let text = String::from_utf8(fs::read(&path).expect("readable"));
            let text = text.unwrap_or_else(|_| panic!("{} is not UTF-8", path.display()));
            let path = path.strip_prefix(tests::root()).expect("inside").to_path_buf();
            found.push(Source { path, text });
        }
    }
}

fn complain(about: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{about}:\n  {}", found.join("\n  "));
}

/// Lines of `sources` for which `bad` holds, as `path:line: text`.
fn lines_where(sources: &[Source], bad: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let lines =
        sources.iter().flat_map(|s| s.text.lines().enumerate().map(move |(n, l)| (s, n, l)));
    let bad = lines.filter(|(source, _, line)| bad(source, line));
    bad.map(|(s, n, line)| format!("{}:{}: {}", s.path.display(), n + 1, line.trim())).collect()
}

const TEXT: &[&str] = &[
    ".rs", ".toml", ".md", ".sh", ".py", ".yml", ".yaml", ".proto", ".service", "run", "bench",
    "demo",
];

#[test]
fn nothing_is_unfinished() {
    // In pieces, so that this file does not find itself.
    let marks: Vec<String> = [
        ("todo", "!("),
        ("unimplemented", "!("),
        ("#[ig", "nore"),
        ("FIX", "ME"),
        ("XX", "X:"),
        ("TO", "DO:"),
    ]
    .iter()
    .map(|(a, b)| format!("{a}{b}"))
    .collect();
    complain(
        "unfinished",
        lines_where(&sources(&[".rs"]), |_, line| marks.iter().any(|m| line.contains(m))),
    );
}

#[test]
fn no_path_of_one_machine() {
    let homes: Vec<String> = [("/ho", "me/"), ("/ro", "ot/"), ("/wo", "rk/"), ("/Us", "ers/")]
        .iter()
        .map(|(a, b)| format!("{a}{b}"))
        .collect();
    let bad = lines_where(&sources(TEXT), |_, line| homes.iter().any(|h| line.contains(h)));
    complain("a path that exists on one machine only", bad);
}

/// Invariant: cores read no clock, socket, disk, environment or RNG, and no hash order.
#[test]
fn cores_do_not_reach_out() {
    let reaching = [
        "std::fs",
        "std::net::Udp",
        "std::net::Tcp",
        "std::env::",
        "std::thread",
        "std::process",
        "SystemTime",
        "Instant::now",
        "thread_rng",
        "HashMap",
        "HashSet",
        "RandomState",
    ];
    let mut bad = Vec::new();
    for source in sources(&[".rs"]) {
        let core = ["proto/src", "pop-node/core/src", "control-plane/core/src"];
        if !core.iter().any(|c| source.path.starts_with(c)) || source.is_test() {
            continue;
        }
        for (number, line) in source.product().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            // Its hash is seeded from outside, and it lets nobody walk through.
            let seeded = source.path.ends_with("media/map.rs");
            if reaching.iter().any(|r| code.contains(r) && !(seeded && *r == "HashMap")) {
                bad.push(format!("{}:{}: {}", source.path.display(), number + 1, line.trim()));
            }
        }
    }
    complain("a core that reaches out", bad);
}

/// A fixed sleep bounds a failure; it never proves an order. Tests poll for a condition instead.
#[test]
fn no_assertion_on_wall_time_in_cores() {
    let cores =
        sources(&[".rs"]).into_iter().filter(|s| s.path.to_string_lossy().contains("core/"));
    let bad = lines_where(&cores.collect::<Vec<_>>(), |_, line| {
        let sleep = format!("thread::{}(", "sleep");
        line.contains(&sleep)
    });
    complain("sleep in a core", bad);
}

/// Every metric stands once in its shell's table, with its unit, and carries the shell's prefix.
#[test]
fn metrics_are_unique_and_carry_their_prefix() {
    for (file, prefix) in
        [("pop-node/src/telemetry.rs", "pop_"), ("control-plane/src/telemetry.rs", "control_")]
    {
        let text =
            fs::read_to_string(tests::root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut names: Vec<&str> = text
            .split('"')
            .skip(1)
            .step_by(2)
            .filter(|s| s.starts_with(prefix) && is_metric(s))
            .collect();
        assert!(names.len() > 3, "{file}: a table of metric names was expected");
        names.sort_unstable();
        let twice: Vec<_> =
            names.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0].to_owned()).collect();
        complain(&format!("{file} names a metric twice"), twice);
    }
}

fn is_metric(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The README's and the CI's test command are one.
#[test]
fn ci_runs_the_readmes_command() {
    let ci = fs::read_to_string(tests::root().join(".ci/run")).expect(".ci/run");
    assert!(ci.lines().any(|line| line == "exec tests/run"));
}

/// Workspace members inherit the lints; a crate without the line would be unchecked.
#[test]
fn every_crate_inherits_the_lints() {
    let bad = sources(&["Cargo.toml"])
        .into_iter()
        .filter(|s| s.path.parent().is_some_and(|p| p != Path::new("") && !p.ends_with("fuzz")))
        .filter(|s| !s.text.contains("[lints]\nworkspace = true"))
        .map(|s| s.path.display().to_string());
    complain("without `[lints] workspace = true`", bad.collect());
}

/// Speech that is not ours stands beside its notice.
#[test]
fn speech_has_its_notice() {
    let notice =
        fs::read_to_string(tests::root().join("chaos/speech/README.md")).expect("the notice");
    assert!(notice.contains("CC BY-SA 3.0"));
}

/// Prints what is above the guideposts: it teaches, it does not punish.
#[test]
fn sizes() {
    let mut long_files = Vec::new();
    let mut long_functions = Vec::new();
    for source in sources(&[".rs"]).iter().filter(|s| !s.is_test()) {
        let lines = source.product().lines().count();
        if lines > 600 {
            long_files.push(format!("{lines:5} {}", source.path.display()));
        }
        long_functions.extend(
            functions(source.product())
                .into_iter()
                .filter(|(_, l)| *l > 70)
                .map(|(name, lines)| format!("{lines:5} {} {name}", source.path.display())),
        );
    }
    println!("files over 600 lines: {}\n  {}", long_files.len(), long_files.join("\n  "));
    println!(
        "functions over 70 lines: {}\n  {}",
        long_functions.len(),
        long_functions.join("\n  ")
    );
}

/// Name and length of each function, found by rustfmt's indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut open: Option<(String, usize, usize)> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if let Some((name, start, depth)) = &open
            && indent == *depth
            && line.trim_start().starts_with('}')
        {
            found.push((name.clone(), number - start + 1));
            open = None;
        }
        let start =
            ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn "];
        let code = line.trim_start();
        if open.is_none()
            && start.iter().any(|s| code.starts_with(s))
            && !code.ends_with([';', '}'])
        {
            let name = code.split("fn ").nth(1).unwrap_or(code).split(['(', '<']).next();
            open = Some((name.unwrap_or(code).to_owned(), number, indent));
        }
    }
    found
}

#[test]
fn functions_are_measured() {
    let text = "fn one() {\n}\nimpl X {\n    pub fn two(\n        a: u8,\n    ) {\n        if a {\n        }\n    }\n}\n";
    assert_eq!(functions(text), [("one".to_owned(), 2), ("two".to_owned(), 6)]);
}
