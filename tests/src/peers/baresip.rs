//! baresip: a softphone without devices. It speaks a recording, writes down what it hears, and is
//! steered over its TCP control port (netstrings of JSON).

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chaos::lab::process::Process;
use chaos::speech::{Voice, samples};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{eventually, quality};

/// Where Debian puts its modules, below the library directory of the architecture or not.
const MODULES: [&str; 2] = ["/usr/lib/baresip/modules", "/usr/local/lib/baresip/modules"];
const CONTROL_PORT: u16 = 4444;
/// Silence before and after the speech: nothing is cut while codecs and buffers start.
const SILENCE_BEFORE_MS: u32 = 1_000;
const SILENCE_AFTER_MS: u32 = 60_000;
/// The recordings are eleven seconds long.
pub const SPEECH: Duration = Duration::from_millis(11_000 + SILENCE_BEFORE_MS as u64);

/// A phone.
#[derive(Debug, Clone)]
pub struct Phone {
    pub name: &'static str,
    /// SIP on port 5060 of this address, control on 4444.
    pub address: IpAddr,
    /// First RTP port of a hundred. RTP is bound to any address, so phones must not share ports.
    pub rtp_port: u16,
    /// User part of its own address.
    pub number: &'static str,
    /// As baresip lists them with our configuration: "opus/48000/1", "G722/16000/1",
    /// "PCMU/8000/1"; the first is preferred. A name it does not know means all codecs!
    pub codecs: &'static [&'static str],
    pub voice: Voice,
    /// How often it says its speech, without a pause.
    pub times: usize,
    /// Answers challenges with these: user, password.
    pub digest: Option<(&'static str, &'static str)>,
    /// Signals over TCP.
    pub tcp: bool,
    /// Its media encryption: "srtp-mand" insists on SRTP, "srtp" offers it (RFC 8643).
    pub srtp: Option<&'static str>,
    /// Picks up by itself; else it rings until told.
    pub answers: bool,
}

impl Phone {
    pub fn new(name: &'static str, address: IpAddr, rtp_port: u16) -> Self {
        Self {
            name,
            address,
            rtp_port,
            number: name,
            codecs: &["PCMU/8000/1"],
            voice: Voice::English,
            times: 1,
            digest: None,
            tcp: false,
            srtp: None,
            answers: true,
        }
    }

    /// Starts it, and waits until it listens.
    pub async fn start(&self, dir: &Path) -> Result<Baresip> {
        let dir = dir.join(self.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let rate_hz = if self.codecs.iter().any(|c| c.contains("48000")) { 48_000 } else { 8_000 };
        let source = dir.join("speech.wav");
        let silence = |ms: u32| vec![0; (ms * rate_hz / 1_000) as usize];
        let speech = samples(self.voice, rate_hz)?.repeat(self.times);
        let spoken = [silence(SILENCE_BEFORE_MS), speech, silence(SILENCE_AFTER_MS)];
        quality::write_wav(&source, rate_hz, spoken.concat())?;
        std::fs::write(dir.join("config"), self.config(&dir, &source, rate_hz)?)?;
        std::fs::write(dir.join("accounts"), self.account())?;
        std::fs::write(dir.join("contacts"), "")?;
        let args = ["-f".into(), dir.display().to_string(), "-s".into(), "-v".into()];
        let mut process = super::start(&dir, self.name, "baresip", args.to_vec())?;
        let control = SocketAddr::new(self.address, CONTROL_PORT);
        let stream = eventually("baresip listens", Duration::from_secs(10), async || {
            process.check()?;
            Ok(TcpStream::connect(control).await.ok())
        })
        .await?;
        Ok(Baresip { process, dir, stream, unread: Vec::new() })
    }

    fn config(&self, dir: &Path, source: &Path, rate_hz: u32) -> Result<String> {
        let modules = MODULES.into_iter().find(|m| Path::new(m).is_dir());
        let modules =
            modules.context("no baresip modules: install baresip-core (tests/run does)")?;
        let (address, rtp, dir) = (self.address, self.rtp_port, dir.display());
        let source = source.display();
        Ok(format!(
            "sip_listen {address}:5060\n\
             net_interface {address}\n\
             call_local_timeout 120\n\
             call_max_calls 4\n\
             rtp_ports {rtp}-{}\n\
             rtp_stats yes\n\
             jitter_buffer_delay 2-10\n\
             audio_source aufile,{source}\n\
             audio_player aufile,{dir}/played.wav\n\
             audio_alert aufile,{dir}/alert.wav\n\
             ausrc_srate {rate_hz}\n\
             auplay_srate {rate_hz}\n\
             ausrc_channels 1\n\
             auplay_channels 1\n\
             audio_buffer 20-160\n\
             opus_bitrate 28000\n\
             opus_stereo no\n\
             opus_sprop_stereo no\n\
             snd_path {dir}\n\
             ctrl_tcp_listen {address}:{CONTROL_PORT}\n\
             module_path {modules}\n\
             module opus.so\n\
             module g722.so\n\
             module g711.so\n\
             module aufile.so\n\
             module sndfile.so\n\
             module srtp.so\n\
             module_tmp account.so\n\
             module_app menu.so\n\
             module_app ctrl_tcp.so\n",
            rtp + 99
        ))
    }

    fn account(&self) -> String {
        let transport = if self.tcp { ";transport=tcp" } else { "" };
        let digest =
            self.digest.map(|(user, password)| format!(";auth_user={user};auth_pass={password}"));
        let srtp = self.srtp.map(|srtp| format!(";mediaenc={srtp}")).unwrap_or_default();
        let answers = if self.answers { "auto" } else { "manual" };
        format!(
            "<sip:{}@{}{transport}>;regint=0;answermode={answers};audio_codecs={}{}{srtp}\n",
            self.number,
            self.address,
            self.codecs.join(","),
            digest.unwrap_or_default()
        )
    }
}

/// A phone that runs.
#[derive(Debug)]
pub struct Baresip {
    process: Process,
    dir: PathBuf,
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Baresip {
    /// Types a command: `dial URI`, `hangup`, `hold`, `resume`, `accept`…
    pub async fn command(&mut self, command: &str, parameter: &str) -> Result<()> {
        let message = json!({ "command": command, "params": parameter }).to_string();
        let netstring = format!("{}:{message},", message.len());
        Ok(self.stream.write_all(netstring.as_bytes()).await?)
    }

    pub async fn dial(&mut self, uri: &str) -> Result<()> {
        self.command("dial", uri).await
    }

    /// Waits for an event such as `CALL_ESTABLISHED`; a call that closes instead is an error.
    pub async fn event(&mut self, kind: &str, patience: Duration) -> Result<Value> {
        let wanted = async {
            loop {
                let event = self.next().await?;
                match event.get("type").and_then(Value::as_str) {
                    Some(found) if found == kind => return Ok(event),
                    Some("CALL_CLOSED") => {
                        bail!("call closed before {kind}: {event}")
                    }
                    _ => {}
                }
            }
        };
        timeout(patience, wanted)
            .await
            .unwrap_or_else(|_| bail!("no {kind} within {patience:?}"))
            .with_context(|| format!("baresip said:\n{}", self.process.log_tail(60)))
    }

    /// What it said so far, with each SIP message.
    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.process.log()).unwrap_or_default()).into_owned()
    }

    /// Waits until its log holds `text` more than `seen` times: what it sends and hears may come
    /// after the event that tells of it.
    pub async fn logs(&self, text: &str, seen: usize) -> Result<()> {
        let what = format!("'{text}' in the log of {}", self.dir.display());
        eventually(&what, Duration::from_secs(10), async || {
            Ok((self.count(text) > seen).then_some(()))
        })
        .await
    }

    /// How often its log holds `text`.
    pub fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Hangs up and waits until the call is over and the recording complete.
    pub async fn hang_up(&mut self) -> Result<()> {
        self.command("hangup", "").await?;
        self.closed(Duration::from_secs(5)).await
    }

    /// Waits for the call's end.
    pub async fn closed(&mut self, patience: Duration) -> Result<()> {
        self.event("CALL_CLOSED", patience).await.map(drop)
    }

    /// Whether it agreed on this codec in both directions, as it says itself.
    pub fn speaks(&self, codec: &str) -> bool {
        let log = self.log();
        ["encoder", "decoder"].iter().all(|which| {
            let said = format!("audio: Set audio {which}: ");
            let last = log.rsplit_once(&said).map(|(_, last)| last.starts_with(codec));
            last == Some(true)
        })
    }

    /// The recording of what it heard in its last call.
    pub fn heard(&self) -> Result<PathBuf> {
        let entries = std::fs::read_dir(&self.dir)?.flatten().map(|entry| entry.path());
        let mut found: Vec<PathBuf> =
            entries.filter(|path| path.to_string_lossy().ends_with("-dec.wav")).collect();
        found.sort();
        found.pop().context("baresip recorded nothing")
    }

    async fn next(&mut self) -> Result<Value> {
        loop {
            if let Some((start, end)) = netstring(&self.unread) {
                let event = self.unread.get(start..end).map(serde_json::from_slice);
                let event = event.context("a netstring without an end")??;
                self.unread.drain(..=end);
                return Ok(event);
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                bail!("baresip closed its control port");
            }
        }
    }
}

/// Where the first whole netstring's content begins and ends.
fn netstring(bytes: &[u8]) -> Option<(usize, usize)> {
    let colon = bytes.iter().position(|b| *b == b':')?;
    let length: usize = std::str::from_utf8(bytes.get(..colon)?).ok()?.parse().ok()?;
    let (start, end) = (colon + 1, colon + 1 + length);
    (bytes.get(end) == Some(&b',')).then_some((start, end))
}
