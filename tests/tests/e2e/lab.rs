//! A mesh that stays up, as somebody at a terminal uses it: `chaos lab`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaos::lab::process::{Process, Recipe};
use chaos::lab::{admin, bin_dir};
use serde_json::Value;
use tests::peers::eventually;

use crate::run;

const PATIENCE: Duration = Duration::from_secs(30);
/// Certificates, elections, three POPs, routers: on a busy machine.
const UP: Duration = Duration::from_secs(90);

struct Lab {
    dir: tempfile::TempDir,
    up: Process,
}

impl Lab {
    async fn up(file: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("lab.sock");
        let args = ["lab", "up", &file.display().to_string(), "--socket"].map(str::to_owned);
        let recipe = Recipe {
            name: "chaos".into(),
            program: bin_dir()?.join("chaos"),
            args: [args.as_slice(), &[socket.display().to_string()]].concat(),
            env: vec![("TMPDIR".into(), dir.path().display().to_string())],
            log: dir.path().join("up.log"),
        };
        let mut lab = Self { dir, up: Process::start(recipe)? };
        eventually("the lab is up", UP, async || {
            lab.up.check()?;
            Ok(lab.said()?.contains("change:").then_some(()))
        })
        .await?;
        Ok(lab)
    }

    /// What `chaos lab up` printed.
    fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.path().join("up.log"))?)
    }

    /// `chaos lab …`: exit code, and what it printed.
    fn tell(&self, words: &str) -> Result<(Option<i32>, String)> {
        let socket = self.dir.path().join("lab.sock");
        let output = Command::new(bin_dir()?.join("chaos"))
            .args(["lab", "--socket"])
            .arg(socket)
            .args(words.split_whitespace())
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    }

    fn done(&self, words: &str) -> Result<String> {
        let (code, said) = self.tell(words)?;
        ensure!(code == Some(0), "{words}: {code:?} {said}");
        Ok(said)
    }

    fn facts(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.done("show --json")?)?)
    }

    /// Waits until fra1 says so of its paths to sin1.
    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let facts = self.facts()?;
        let nodes = facts["nodes"].as_array().context("no nodes")?;
        let fra1 = nodes.iter().find(|node| node["node"] == "fra1").context("no fra1")?;
        let address = fra1["admin"].as_str().context("no address")?.parse()?;
        eventually(what, PATIENCE, async || {
            let all: Value = serde_json::from_str(&admin::get(address, "/paths").await?)?;
            let peers = all["peers"].as_array().cloned().unwrap_or_default();
            let sin1 = peers.into_iter().find(|peer| peer["peer"] == "sin1").unwrap_or_default();
            Ok(holds(&sin1).then_some(()))
        })
        .await
    }
}

fn path<'a>(paths: &'a Value, name: &str) -> &'a Value {
    let all = paths["paths"].as_array().into_iter().flatten();
    all.into_iter().find(|path| path["path"] == name).unwrap_or(&Value::Null)
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../chaos/labs/two-upstreams.toml")
}

/// Everything that stays when a lab is down: nothing.
fn left(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let all = entries.collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|path| !path.ends_with("up.log")).collect())
}

#[test]
fn a_lab_is_brought_up_hurt_healed_and_taken_down() {
    run(async {
        let mut lab = Lab::up(&example()).await?;
        lab.until("all four paths are good", |paths| {
            ["0-0", "0-1", "1-0", "1-1"].iter().all(|name| path(paths, name)["state"] == "good")
        })
        .await?;
        let facts = lab.facts()?;
        let longer = |way: &Value| way["from"] == "fra1/1" && way["delay_ms"] == 90.0;
        let ways = facts["ways"].as_array().context("no ways")?;
        ensure!(ways.iter().filter(|way| longer(way)).count() == 2, "{ways:?}");
        lab.until("the longer way is measured", |paths| {
            path(paths, "1-0")["rtt_ms"].as_f64().is_some_and(|ms| ms > 180.0)
        })
        .await?;

        lab.done("do cut upstream fra1/1")?;
        lab.done("do cut upstream fra1/1 --undo")?;
        let (healed, ways) = (lab.facts()?, ways.len());
        let healed = healed["ways"].as_array().context("no ways")?;
        let as_before =
            healed.iter().filter(|way| longer(way)).count() == 2 && healed.len() == ways;
        ensure!(as_before, "a way that was cut is as it was before: {healed:?}");
        lab.done("do cut upstream fra1/0")?;
        lab.until("a cut upstream is noticed", |paths| path(paths, "0-1")["state"] == "down")
            .await?;
        lab.done("do cut upstream fra1/0 --undo")?;
        lab.until("it is back", |paths| path(paths, "0-1")["state"] == "good").await?;
        lab.done("link fra1/0 sin1/0 --delay 130ms --jitter 2ms --one-way")?;
        lab.until("a changed way is measured", |paths| {
            path(paths, "0-0")["rtt_ms"].as_f64().is_some_and(|ms| ms > 175.0)
        })
        .await?;

        // What the lab said can be typed.
        let command = lab.said()?;
        let command = command.lines().find_map(|line| line.strip_prefix("BGP:")).context("BGP")?;
        let command = command.split("(").next().unwrap_or_default().trim().to_owned();
        let mut words = command.split_whitespace();
        let program = words.next().context("no command")?;
        let ended = Command::new(program).args(words).status()?;
        ensure!(ended.success(), "{command}");
        lab.until("fra1 hears of a withdrawal", |paths| path(paths, "0-0")["withdrawn"] == true)
            .await?;

        lab.done("do kill pop iad1")?;
        let running = |facts: &Value| {
            let nodes = facts["nodes"].as_array().cloned().unwrap_or_default();
            nodes
                .into_iter()
                .find(|node| node["node"] == "iad1")
                .map(|node| node["running"].clone())
        };
        ensure!(running(&lab.facts()?) == Some(false.into()), "iad1 still runs");
        lab.done("do kill pop iad1 --undo")?;
        ensure!(running(&lab.facts()?) == Some(true.into()), "iad1 is not back");

        for (words, cure) in [
            ("do hurt pop fra1", "it can: cut, drain, kill"),
            ("do kill pop mars", "there are fra1"),
            ("do cut upstream fra1/7", "counted from 0"),
            ("link fra1 fra1 --cut", "itself"),
            ("link fra1 sin1", "say what changes"),
            ("link fra1 sin1 --delay 80", "is no duration"),
        ] {
            let (code, said) = lab.tell(words)?;
            ensure!(code == Some(2) && said.contains(cure), "{words}: {code:?} {said}");
        }
        let again = lab.tell(&format!("up {}", example().display()))?;
        ensure!(again.0 == Some(2) && again.1.contains("chaos lab down"), "{again:?}");

        lab.done("down")?;
        let ended = lab.up.wait(PATIENCE).context("the lab does not end")?;
        ensure!(ended.success(), "{}", lab.up.log_tail(3));
        ensure!(left(lab.dir.path())?.is_empty(), "left: {:?}", left(lab.dir.path())?);
        let nobody = lab.tell("show")?;
        ensure!(nobody.0 == Some(2) && nobody.1.contains("chaos lab up"), "{nobody:?}");
        Ok(())
    });
}

#[test]
fn a_mistake_in_a_lab_is_named_before_anything_starts() {
    run(async {
        let dir = tempfile::tempdir()?;
        let (file, socket) = (dir.path().join("lab.toml"), dir.path().join("lab.sock"));
        let text = std::fs::read_to_string(example())?;
        std::fs::write(&file, text.replace("\"frr\"", "\"cisco\""))?;
        let output = Command::new(bin_dir()?.join("chaos"))
            .args(["lab", "up"])
            .arg(&file)
            .arg("--socket")
            .arg(&socket)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains("frr or gobgp"), "{said}");
        ensure!(!socket.exists(), "a socket is left");
        Ok(())
    });
}
