//! CPU and memory of processes, and who runs where.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

/// The core of the system under test, and the generator's.
pub(in crate::bench) const CORE_TESTED: usize = 0;
pub(in crate::bench) const CORE_GENERATOR: usize = 1;

/// What a process used.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::bench) struct Usage {
    /// Time on a core, all threads, to the nanosecond.
    pub(in crate::bench) cpu: Duration,
    /// Resident now.
    pub(in crate::bench) rss_kib: f64,
}

impl Usage {
    /// CPU since then; memory now.
    pub(in crate::bench) fn since(self, before: &Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu), rss_kib: self.rss_kib }
    }
}

/// Reads `/proc/PID/task/*/schedstat`: exact, where `stat` counts in 10 ms.
pub(in crate::bench) fn of(pid: u32) -> Result<Usage> {
    let mut cpu = Duration::ZERO;
    let tasks = format!("/proc/{pid}/task");
    for task in std::fs::read_dir(&tasks).with_context(|| format!("no {tasks}"))?.flatten() {
        // A thread that ended meanwhile has no file any more.
        let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
        let ns = text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        cpu += Duration::from_nanos(ns);
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|rss| rss.trim().trim_end_matches(" kB").parse().ok());
    Ok(Usage { cpu, rss_kib: rss.context("no VmRSS")? })
}

/// Idle time of all cores since boot, s.
pub(in crate::bench) fn idle_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().context("/proc/stat is empty")?;
    let ticks: f64 =
        first.split_whitespace().nth(4).and_then(|t| t.parse().ok()).context("no idle time")?;
    Ok(ticks / 100.0)
}

/// Pins all threads of a process and gives them real-time priority: other work on the machine then
/// adds only cache noise. Without the right to do so the measurement goes on, noisier.
pub(in crate::bench) fn isolate(pid: u32) {
    let pid = pid.to_string();
    quiet("taskset", &["-a", "-c", "-p", &CORE_TESTED.to_string(), &pid]);
    quiet("chrt", &["-a", "-r", "-p", "5", &pid]);
}

/// The same for the calling thread.
pub(in crate::bench) fn own_thread(core: Option<usize>) {
    let Some(core) = core else { return };
    let tid = nix::unistd::gettid().to_string();
    quiet("taskset", &["-c", "-p", &core.to_string(), &tid]);
    quiet("chrt", &["-r", "-p", "10", &tid]);
}

fn quiet(program: &str, arguments: &[&str]) {
    let _best_effort = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Whether the program is installed.
pub(in crate::bench) fn installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}
