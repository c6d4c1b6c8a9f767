//! The control plane beside three nodes of Debian's etcd: same machine, same disk, same run.
//!
//! `tests/bench control [--quick] [GROUP…]`. Both with mutual TLS 1.3, real fsync and default
//! timers; clients ask the leader, eight of them share a connection; server CPU is what the
//! processes' `/proc/PID/stat` say, without the clients. Where something lies between the nodes,
//! they live in network namespaces; clients then reach each node without delay.

mod bed;
mod etcd;
mod failover;
mod load;
mod ours;
mod region;
mod size;
mod system;
mod throughput;
mod watchers;

use std::time::Duration;

use anyhow::{Result, bail};

use super::Table;

/// Groups of figures, in the order they run.
const GROUPS: [&str; 7] = ["writes", "allocate", "reads", "watchers", "size", "leader", "region"];

/// What was asked for.
#[derive(Debug, Clone)]
pub(super) struct Options {
    quick: bool,
    groups: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let (flags, groups): (Vec<_>, Vec<_>) =
            arguments.iter().cloned().partition(|argument| argument.starts_with('-'));
        if let Some(unknown) = flags.iter().find(|flag| *flag != "--quick") {
            bail!("no option {unknown}; there is --quick");
        }
        if let Some(unknown) = groups.iter().find(|group| !GROUPS.contains(&group.as_str())) {
            bail!("no figures '{unknown}'; there are: {}", GROUPS.join(", "));
        }
        Ok(Self { quick: flags.iter().any(|flag| flag == "--quick"), groups })
    }

    fn wants(&self, group: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|wanted| wanted == group)
    }

    /// How often each system has its turn.
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// How long a turn is measured.
    fn round(&self) -> Duration {
        if self.quick { Duration::from_secs(2) } else { Duration::from_secs(3) }
    }
}

#[allow(clippy::print_stderr, reason = "progress of a long measurement")]
pub(super) async fn control(arguments: &[String]) -> Result<Table> {
    let options = Options::parse(arguments)?;
    let mut table = Table::new("control");
    let started = std::time::Instant::now();
    for group in GROUPS.iter().filter(|group| options.wants(group)) {
        eprintln!("control: {group} (after {} s)", started.elapsed().as_secs());
        match *group {
            "writes" => throughput::writes(&mut table, &options).await?,
            "allocate" => throughput::allocate(&mut table, &options).await?,
            "watchers" => watchers::watchers(&mut table, &options).await?,
            "size" => size::size(&mut table, &options).await?,
            "region" => region::region(&mut table, &options).await?,
            "leader" => failover::leader(&mut table, &options).await?,
            _ => throughput::reads(&mut table, &options).await?,
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_chosen_by_name() {
        let parse = |text: &str| {
            Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let all = parse("").unwrap();
        assert!(GROUPS.iter().all(|group| all.wants(group)));
        let some = parse("--quick writes").unwrap();
        assert!(some.quick && some.wants("writes") && !some.wants("reads"));
        assert!(parse("--fast").is_err() && parse("wrongs").is_err());
    }
}
