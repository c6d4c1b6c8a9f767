//! sipp: calls by the thousand, from its built-in scenarios or from ours (`tests/scenarios`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos::lab::process::Process;

/// Which side, and by which scenario.
#[derive(Debug, Clone, Copy)]
pub enum Scenario {
    /// sipp's own caller (`-sn uac`).
    Uac,
    /// sipp's own callee (`-sn uas`).
    Uas,
    /// A file of `tests/scenarios`, without its `.xml`.
    Ours(&'static str),
}

/// One run of sipp.
#[derive(Debug, Clone)]
pub struct Sipp {
    pub name: &'static str,
    pub scenario: Scenario,
    pub local: SocketAddr,
    /// Callers: where to.
    pub remote: Option<SocketAddr>,
    /// Callers: the called number.
    pub service: String,
    pub calls: u32,
    /// Calls a second; callers.
    pub rate: u32,
    /// How long a call lasts; callers.
    pub hold: Duration,
    pub tcp: bool,
    /// Further arguments.
    pub more: Vec<String>,
}

impl Sipp {
    pub fn callee(name: &'static str, local: SocketAddr, calls: u32) -> Self {
        Self {
            name,
            scenario: Scenario::Uas,
            local,
            remote: None,
            service: String::new(),
            calls,
            rate: 0,
            hold: Duration::ZERO,
            tcp: false,
            more: Vec::new(),
        }
    }

    pub fn caller(
        name: &'static str,
        local: SocketAddr,
        remote: SocketAddr,
        number: &str,
        calls: u32,
    ) -> Self {
        Self {
            scenario: Scenario::Uac,
            remote: Some(remote),
            service: number.to_owned(),
            rate: 50,
            ..Self::callee(name, local, calls)
        }
    }

    pub fn start(&self, dir: &Path) -> Result<Running> {
        let mut args: Vec<String> = Vec::new();
        match self.scenario {
            Scenario::Uac => args.extend(["-sn".into(), "uac".into()]),
            Scenario::Uas => args.extend(["-sn".into(), "uas".into()]),
            Scenario::Ours(file) => {
                let path = crate::root().join("tests/scenarios").join(file).with_extension("xml");
                args.extend(["-sf".into(), path.display().to_string()]);
            }
        }
        let statistics = format!("{}.csv", self.name);
        let errors = format!("{}.errors", self.name);
        args.extend(self.remote.map(|remote| remote.to_string()));
        let ip = self.local.ip().to_string();
        let pairs = [
            ("-i", ip.clone()),
            ("-mi", ip),
            ("-p", self.local.port().to_string()),
            ("-m", self.calls.to_string()),
            ("-t", if self.tcp { "t1" } else { "u1" }.into()),
            ("-stf", statistics.clone()),
            ("-error_file", errors),
        ];
        args.extend(pairs.into_iter().flat_map(|(key, value)| [key.to_owned(), value]));
        // A peer that sends no media is asked whether it is there (RFC 3261 §11): it answers.
        args.push("-aa".into());
        args.extend(["-nostdin", "-trace_stat", "-trace_err", "-trace_rtt"].map(str::to_owned));
        args.extend(["-rtt_freq".into(), "1".into(), "-fd".into(), "1".into()]);
        if self.remote.is_some() {
            let hold = self.hold.as_millis().to_string();
            args.extend(["-s".into(), self.service.clone(), "-d".into(), hold]);
            args.extend(["-r".into(), self.rate.to_string()]);
        }
        args.extend(self.more.iter().cloned());
        let process = super::start(dir, self.name, "sipp", args)?;
        Ok(Running {
            process,
            name: self.name,
            dir: dir.to_owned(),
            statistics: dir.join(statistics),
        })
    }
}

/// A sipp that runs, or ran.
#[derive(Debug)]
pub struct Running {
    process: Process,
    name: &'static str,
    dir: PathBuf,
    statistics: PathBuf,
}

/// What sipp counted.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub successful: u64,
    pub failed: u64,
    pub unexpected: u64,
    pub retransmissions: u64,
    /// Everything, by the column's name.
    pub columns: BTreeMap<String, String>,
    /// INVITE to answer, in ms, sorted (callers).
    pub response_ms: Vec<f64>,
}

impl Running {
    /// Waits for the end, at most `patience`, and reads the figures.
    pub async fn finish(mut self, patience: Duration) -> Result<Outcome> {
        let deadline = Instant::now() + patience;
        while self.process.ended().is_none() {
            if Instant::now() >= deadline {
                bail!("{} did not end in {patience:?}; {}", self.name, self.words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let outcome = self.read()?;
        let ended = self.process.ended();
        if !ended.is_some_and(|status| status.success()) && outcome.failed == 0 {
            bail!("{} ended with {ended:?}; {}", self.name, self.words());
        }
        Ok(outcome)
    }

    /// Whether it runs still.
    pub fn runs(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Calls under way now, as of the last second.
    pub fn current_calls(&self) -> u64 {
        self.read().map_or(0, |o| number(&o.columns, "CurrentCall"))
    }

    /// Why calls failed, in sipp's words.
    pub fn words(&self) -> String {
        let errors = std::fs::read_to_string(self.dir.join(format!("{}.errors", self.name)));
        let errors = errors.unwrap_or_default();
        let head: Vec<&str> = errors.lines().take(30).collect();
        format!("it said:\n{}\n{}", head.join("\n"), self.process.log_tail(5))
    }

    fn read(&self) -> Result<Outcome> {
        let text = std::fs::read_to_string(&self.statistics)
            .with_context(|| format!("{} wrote no statistics; {}", self.name, self.words()))?;
        let mut lines = text.lines();
        let names = lines.next().context("statistics without a head")?;
        let last = lines.next_back().context("statistics without a line")?;
        let columns: BTreeMap<String, String> =
            names.split(';').map(str::to_owned).zip(last.split(';').map(str::to_owned)).collect();
        Ok(Outcome {
            successful: number(&columns, "SuccessfulCall(C)"),
            failed: number(&columns, "FailedCall(C)"),
            unexpected: number(&columns, "FailedUnexpectedMessage(C)"),
            retransmissions: number(&columns, "Retransmissions(C)"),
            columns,
            response_ms: self.response_times(),
        })
    }

    /// sipp names this file by scenario and process id.
    fn response_times(&self) -> Vec<f64> {
        let suffix = format!("_{}_rtt.csv", self.process.pid());
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let file = entries.map(|e| e.path()).find(|p| p.to_string_lossy().ends_with(&suffix));
        let text = file.and_then(|f| std::fs::read_to_string(f).ok()).unwrap_or_default();
        let times = text.lines().skip(1).filter_map(|line| line.split(';').nth(1)?.parse().ok());
        let mut times: Vec<f64> = times.collect();
        times.sort_by(f64::total_cmp);
        times
    }
}

fn number(columns: &BTreeMap<String, String>, name: &str) -> u64 {
    columns.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}
