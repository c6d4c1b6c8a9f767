//! The peer: rtpengine in user space, steered over its NG protocol (bencode over UDP).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chaos::lab::process::{Process, Recipe};

use super::super::sip;
use super::cpu;
use super::generator::{Sockets, Target};
use super::pop::{KEY, keys};
use crate::peers::eventually;

const HERE: Ipv4Addr = super::PEER;
const CONTROL: u16 = 2_223;
const PATIENCE: Duration = Duration::from_secs(2);

/// A running rtpengine.
pub(in crate::bench) struct Rtpengine {
    process: Process,
    socket: UdpSocket,
    cookies: usize,
}

impl Rtpengine {
    pub(in crate::bench) async fn start(dir: &Path) -> Result<Self> {
        if !cpu::installed("rtpengine") {
            bail!("rtpengine is not there: apt-get install rtpengine-daemon (tests/bench does)");
        }
        let args = format!(
            "--config-file=none --table=-1 -f -E -L 3 --interface={HERE} \
             --listen-ng={HERE}:{CONTROL} --port-min=2400 --port-max=25900 --num-threads=1 \
             --timeout=3600 --silent-timeout=3600 --delete-delay=0"
        );
        let process = Process::start(Recipe {
            name: "rtpengine".into(),
            program: "/usr/bin/rtpengine".into(),
            args: args.split_whitespace().map(str::to_owned).collect(),
            env: Vec::new(),
            log: dir.join("rtpengine.log"),
        })?;
        let socket = UdpSocket::bind((HERE, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut engine = Self { process, socket, cookies: 0 };
        eventually("rtpengine answers", Duration::from_secs(10), async || {
            engine.process.check()?;
            Ok(engine.command(&[("command", "ping")]).ok())
        })
        .await?;
        engine.socket.set_read_timeout(Some(PATIENCE))?;
        cpu::isolate(engine.pid());
        Ok(engine)
    }

    pub(in crate::bench) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Offer and answer of one call.
    pub(super) fn call(&mut self, sockets: &Sockets, call: usize, srtp: bool) -> Result<Target> {
        let (caller, callee) = sockets.addresses(call)?;
        let (id, from, to) = (format!("bench-{call}"), format!("f{call}"), format!("t{call}"));
        let offer = sdp(caller, srtp.then_some(KEY));
        let offered = self.command(&[
            ("ICE", "remove"),
            ("call-id", &id),
            ("command", "offer"),
            ("from-tag", &from),
            ("sdp", &offer),
            ("transport-protocol", "RTP/AVP"),
        ])?;
        let answer = sdp(callee, None);
        let answered = self.command(&[
            ("ICE", "remove"),
            ("call-id", &id),
            ("command", "answer"),
            ("from-tag", &from),
            ("sdp", &answer),
            ("to-tag", &to),
        ])?;
        let srtp = if srtp {
            Some(keys(&sip::key(&answered).context("rtpengine gave no key")?)?)
        } else {
            None
        };
        Ok(Target { caller: media(&answered)?, callee: media(&offered)?, srtp })
    }

    /// Sends a dictionary (keys in order), returns the answer as text.
    fn command(&mut self, fields: &[(&str, &str)]) -> Result<String> {
        let fields: Vec<(&str, String)> = fields.iter().map(|(k, v)| (*k, string(v))).collect();
        self.command_of(&fields)
    }

    /// The same with values that are encoded already.
    pub(in crate::bench) fn command_of(&mut self, fields: &[(&str, String)]) -> Result<String> {
        self.cookies += 1;
        let cookie = format!("{}_{}", std::process::id(), self.cookies);
        let body: String = fields.iter().map(|(key, value)| string(key) + value).collect();
        self.socket.send_to(format!("{cookie} d{body}e").as_bytes(), (HERE, CONTROL))?;
        let mut buffer = vec![0; 65_536];
        loop {
            let length = self.socket.recv(&mut buffer).context("rtpengine does not answer")?;
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            // The answer to an earlier attempt.
            let Some(answer) = text.strip_prefix(&format!("{cookie} ")) else { continue };
            if !(answer.contains("6:result2:ok") || answer.contains("6:result4:pong")) {
                bail!("rtpengine refused: {answer}");
            }
            return Ok(answer.to_owned());
        }
    }
}

/// A string as the NG protocol writes it.
pub(in crate::bench) fn string(text: &str) -> String {
    format!("{}:{text}", text.len())
}

fn sdp(media: SocketAddr, key: Option<&str>) -> String {
    let (ip, port) = (media.ip(), media.port());
    let (profile, crypto) = match key {
        Some(key) => ("RTP/SAVP", format!("a=crypto:1 {}{key}\r\n", sip::SDES)),
        None => ("RTP/AVP", String::new()),
    };
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} {profile} 0\r\na=rtpmap:0 PCMU/8000\r\n{crypto}a=ptime:20\r\n\
         a=sendrecv\r\n"
    )
}

pub(in crate::bench) fn media(answer: &str) -> Result<SocketAddr> {
    sip::media(answer.split_once("3:sdp").context("no SDP in the answer")?.1)
}
