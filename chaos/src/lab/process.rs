//! One child process: its log, its death.
//!
//! A child never outlives us: it is killed when dropped, and [`kill_all`] serves the ways out that
//! drop nothing (a panic aborts).

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Process ids of all children that live.
static LIVING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// How to start a child, again and again.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// For people.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Where its output goes; appended at each start.
    pub log: PathBuf,
}

/// A running (or ended) child.
#[derive(Debug)]
pub struct Process {
    recipe: Recipe,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it.
    pub fn start(recipe: Recipe) -> Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&recipe.log)
            .with_context(|| format!("cannot write the log {}", recipe.log.display()))?;
        let child = Command::new(&recipe.program)
            .args(&recipe.args)
            .envs(recipe.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("no second handle of the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", recipe.program.display()))?;
        note(|living| living.insert(child.id().cast_signed()));
        Ok(Self { recipe, child, ended: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.recipe.log
    }

    /// The last lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.recipe.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.bury(status);
        }
        self.ended
    }

    /// Fails with the last words of a child that ended although it should run.
    pub fn check(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended ({status}). It said:\n{}", self.recipe.name, self.log_tail(12))
            }
        }
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) else { return Ok(()) };
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.recipe.name))
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let _gone = self.child.kill();
        if let Ok(status) = self.child.wait() {
            self.bury(status);
        }
    }

    /// SIGTERM, and kill -9 if it has not ended within `grace`.
    pub fn stop(&mut self, grace: Duration) -> Option<ExitStatus> {
        let _gone = self.signal(Signal::TERM);
        self.wait(grace)
    }

    /// Waits for its end, and kills it if that has not come within `grace`.
    pub fn wait(&mut self, grace: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + grace;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        self.ended
    }

    /// Starts it again, with the same recipe.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        *self = Self::start(self.recipe.clone())?;
        Ok(())
    }

    /// Resident memory, as the kernel counts it.
    pub fn rss_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let kib = text
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
            .with_context(|| format!("no VmRSS in {path}"))?;
        Ok(kib * 1024)
    }

    /// User and system CPU time used so far (clock ticks are 10 ms on Linux).
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // Fields 14 and 15, counted after the name in parentheses, which is field 2.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 =
            rest.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    fn bury(&mut self, status: ExitStatus) {
        self.ended = Some(status);
        note(|living| living.remove(&self.child.id().cast_signed()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills every child of ours. For the panic hook.
pub fn kill_all() {
    note(|living| {
        for pid in std::mem::take(living).into_iter().filter_map(Pid::from_raw) {
            let _gone = kill_process(pid, Signal::KILL);
        }
        true
    });
}

fn note(change: impl FnOnce(&mut BTreeSet<i32>) -> bool) {
    change(&mut LIVING.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Fails in words when an executable is not where it should be.
pub fn check_executable(path: &Path) -> Result<()> {
    File::open(path).map(|_| ()).with_context(|| {
        format!(
            "{} is not there: build it first (cargo build --release -p control-plane -p pop-node)",
            path.display()
        )
    })
}

/// Starts a Debian program in `dir`, its output in `dir/name.log`.
pub fn start_in(dir: &Path, name: &str, program: &str, args: Vec<String>) -> Result<Process> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // `env -C` becomes the program: its process id, its working directory.
    let mut all = vec!["-C".into(), dir.display().to_string(), program.to_owned()];
    all.extend(args);
    let recipe = Recipe {
        name: name.to_owned(),
        program: "/usr/bin/env".into(),
        args: all,
        // They may look for a home; it must not be the user's.
        env: vec![("HOME".into(), dir.display().to_string())],
        log: dir.join(format!("{name}.log")),
    };
    Process::start(recipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(dir: &Path, script: &str) -> Recipe {
        Recipe {
            name: "child".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("WORD".into(), "hello".into())],
            log: dir.join("child.log"),
        }
    }

    fn alive(pid: u32) -> bool {
        // A zombie is dead; a parent that waits leaves none.
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn dies_with_its_handle() {
        let dir = tempfile::tempdir().unwrap();
        let child = Process::start(recipe(dir.path(), "exec sleep 1000")).unwrap();
        let pid = child.pid();
        assert!(alive(pid));
        assert!(child.rss_bytes().unwrap() > 0);
        drop(child);
        assert!(!alive(pid));
    }

    #[test]
    fn says_what_it_said_before_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Process::start(recipe(dir.path(), "echo $WORD; exit 3")).unwrap();
        while child.ended().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let why = child.check().unwrap_err().to_string();
        assert!(why.contains("exit status: 3") && why.contains("hello"), "{why}");
    }

    #[test]
    fn stop_asks_first_and_restart_runs_again() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        let mut child = Process::start(recipe(dir.path(), script)).unwrap();
        while !child.log_tail(1).contains("ready") {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(child.stop(Duration::from_secs(10)).unwrap().success());
        assert!(child.log_tail(1).contains("bye"));
        child.restart().unwrap();
        assert!(child.ended().is_none());
    }
}
