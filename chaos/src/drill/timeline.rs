//! What the mesh says of itself during a drill: the control plane's list of POPs, metrics and logs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::control::list_pops_response::Entry;
use proto::time::Instant;
use tokio::task::JoinHandle;

use crate::endpoint;
use crate::lab::admin;
use crate::lab::provision::Client;

/// Pause between two looks at the list of POPs, and at one node's metrics.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Events kept; a drill that tells more tells too much.
const EVENTS_MAX: usize = 2_000;
/// Lines of logs kept.
const LINES_MAX: usize = 400;
/// Metrics whose name holds one of these tell how calls move.
const TELLING: [&str; 9] =
    ["adopt", "capsule", "claim", "cordon", "drain", "expired", "fenced", "guardian", "takeover"];

/// Something that happened, on the clock of all agents.
#[derive(Debug, Clone)]
pub(super) struct Happened {
    pub(super) at: Instant,
    pub(super) who: String,
    pub(super) what: String,
}

/// The notes; cheap to share.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Vec<Happened>>>);

impl Notes {
    pub(super) fn add(&self, who: &str, what: impl Into<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < EVENTS_MAX {
            all.push(Happened { at: endpoint::now(), who: who.to_owned(), what: what.into() });
        }
    }

    pub(super) fn all(&self) -> Vec<Happened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Looks until it is dropped.
#[derive(Debug)]
pub(super) struct Lookout(Vec<JoinHandle<()>>);

impl Drop for Lookout {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Lookout {
    /// Looks at the control plane through this client, and at these nodes' metrics.
    pub(super) fn start(client: Client, nodes: Vec<(String, SocketAddr)>, notes: &Notes) -> Self {
        let mut tasks = vec![tokio::spawn(control_plane(client, notes.clone()))];
        for (node, address) in nodes {
            tasks.push(tokio::spawn(metrics(node, address, notes.clone())));
        }
        Self(tasks)
    }
}

async fn control_plane(client: Client, notes: Notes) {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    loop {
        if let Ok(list) = client.pops().await {
            for entry in &list.pops {
                let Some((pop, state)) = described(entry) else { continue };
                match known.insert(pop.clone(), state.clone()) {
                    Some(before) if before != state => notes.add(&pop, state),
                    _ => {}
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the control plane thinks of a POP.
fn described(entry: &Entry) -> Option<(String, String)> {
    let pop = entry.pop.as_ref()?;
    let words = [
        (pop.fenced, "fenced"),
        (pop.expired && !pop.fenced, "expired"),
        (pop.cordoned, "cordoned"),
        (pop.draining, "draining"),
    ];
    let mut words: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, w)| *w).collect();
    if words.is_empty() {
        words.push("in service");
    }
    Some((pop.pop_id.clone(), format!("{}, epoch {}", words.join(", "), pop.epoch)))
}

async fn metrics(node: String, address: SocketAddr, notes: Notes) {
    let mut known: BTreeMap<String, f64> = BTreeMap::new();
    loop {
        if let Ok(text) = admin::get(address, "/metrics").await {
            for (name, value) in telling(&text) {
                let before = known.insert(name.clone(), value);
                if before.is_some_and(|before| before.to_bits() != value.to_bits()) {
                    notes.add(&node, format!("{name} {value}"));
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Samples whose name tells how calls move.
fn telling(text: &str) -> Vec<(String, f64)> {
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let bare = name.split('{').next()?;
        // Ages and sizes change all the time.
        let moves = !bare.contains("seconds") && !bare.contains("bytes");
        let tells = TELLING.iter().any(|word| bare.contains(word)) && moves;
        tells.then(|| Some((name.to_owned(), value.parse().ok()?)))?
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// What nodes logged from `since` on, at WARN or ERROR or about moving calls; by time of day.
pub(super) fn logged(dir: &Path, since: SystemTime) -> Vec<String> {
    let since = day_ms(since);
    let mut found = Vec::new();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let node = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
        for line in text.lines() {
            let Some(at) = stamped(line).filter(|at| *at >= since) else { continue };
            let lower = line.to_ascii_lowercase();
            let tells = line.contains("WARN") || line.contains("ERROR");
            if tells || TELLING.iter().any(|word| lower.contains(word)) {
                let after = (at - since) as f64 / 1e3;
                let words = line.split_once(' ').map_or(line, |(_, words)| words).trim();
                found.push((at, format!("{after:8.2} s  {node}: {words}")));
            }
        }
    }
    found.sort();
    found.truncate(LINES_MAX);
    found.into_iter().map(|(_, line)| line).collect()
}

fn day_ms(at: SystemTime) -> u128 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis()) % 86_400_000
}

/// The time of day of a line that begins with RFC 3339 in UTC, in ms.
fn stamped(line: &str) -> Option<u128> {
    let (_, time) = line.split_whitespace().next()?.strip_suffix('Z')?.split_once('T')?;
    let mut parts = time.split(':');
    let mut whole = || parts.next()?.parse::<u128>().ok();
    let (hours, minutes) = (whole()?, whole()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "less than a minute"
    )]
    let millis = (seconds * 1e3) as u128;
    Some((hours * 60 + minutes) * 60_000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tells_of_moving_calls_is_taken_from_metrics() {
        let text = "# HELP pop_adopted_calls_total x\npop_adopted_calls_total 7\n\
                    pop_calls_active 3\npop_capsule_age_seconds 0.3\npop_fenced 1\n";
        let found = telling(text);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["pop_adopted_calls_total", "pop_fenced"]);
    }

    #[test]
    fn lines_of_logs_are_put_in_order_of_time() {
        let dir = tempfile::tempdir().unwrap();
        let since = UNIX_EPOCH + Duration::from_secs(12 * 3_600);
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("fra1.log", "2026-11-30T11:59:59.900000Z  WARN before\nno stamp WARN\n");
        write(
            "sin1.log",
            "2026-11-30T12:00:02.500000Z  INFO call adopted\n\
             2026-11-30T12:00:01.250000Z  WARN link down\n2026-11-30T12:00:03Z  INFO nothing\n",
        );
        let lines = logged(dir.path(), since);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains("1.25 s") && lines[0].contains("sin1") && lines[0].contains("down")
        );
        assert!(lines[1].contains("2.50 s") && lines[1].contains("adopted"));
    }
}
