//! The least SIP that sets up a call: an instrument, so it shares no code with what it measures.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::UdpSocket;

const PATIENCE: Duration = Duration::from_secs(5);

/// A caller and a callee around the mesh.
pub(super) struct Carriers {
    caller: UdpSocket,
    callee: UdpSocket,
    pop: SocketAddr,
    /// What the caller's and the callee's SDP offer.
    formats: (Format, Format),
    /// The caller's SDP offers SRTP with this key.
    key: Option<String>,
}

/// One audio format: payload type and `a=` lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format(pub(super) u8, pub(super) &'static str);

/// What SDES of the instrument is: its own master key and salt, for one call only.
pub(super) const SDES: &str = "AES_CM_128_HMAC_SHA1_80 inline:";

/// What everybody has.
pub(super) const PCMU: Format = Format(0, "a=rtpmap:0 PCMU/8000\r\n");

/// An answered call.
pub(super) struct Call {
    number: usize,
    called: String,
    to: String,
    /// Where the caller sends RTP.
    pub(super) media: SocketAddr,
    /// Where the callee sends RTP.
    pub(super) far: Option<SocketAddr>,
    /// The key of what the caller receives, if it is SRTP.
    pub(super) key: Option<String>,
}

/// The value of the first header of this name.
fn header<'a>(message: &'a str, name: &str) -> Result<&'a str> {
    message
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .with_context(|| format!("no {name} in:\n{message}"))
}

/// Where one side takes RTP, and the SSRC it sends, if that is known (RFC 5576).
#[derive(Debug, Clone, Copy)]
pub(super) struct Side(SocketAddr, Option<u32>);

impl From<SocketAddr> for Side {
    fn from(media: SocketAddr) -> Self {
        Self(media, None)
    }
}

impl From<(SocketAddr, u32)> for Side {
    fn from((media, ssrc): (SocketAddr, u32)) -> Self {
        Self(media, Some(ssrc))
    }
}

fn body(Side(media, ssrc): Side, Format(payload_type, lines): Format, key: Option<&str>) -> String {
    let (ip, port) = (media.ip(), media.port());
    let ssrc = ssrc.map_or(String::new(), |ssrc| format!("a=ssrc:{ssrc} cname:bench\r\n"));
    let (profile, crypto) = match key {
        Some(key) => ("RTP/SAVP", format!("a=crypto:1 {SDES}{key}\r\n")),
        None => ("RTP/AVP", String::new()),
    };
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} {profile} {payload_type}\r\n{lines}{crypto}{ssrc}"
    )
}

/// The key of the first `a=crypto` line of an SDP.
pub(super) fn key(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(SDES)?;
    let end = |c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c));
    rest.split(end).next().map(str::to_owned)
}

/// The address of the first audio stream of an SDP.
pub(super) fn media(message: &str) -> Result<SocketAddr> {
    let line = |start| message.lines().find_map(|line| line.strip_prefix(start));
    let ip: IpAddr = line("c=IN IP4 ").context("no c=")?.trim().parse()?;
    let rest = line("m=audio ").context("no m=audio")?;
    Ok((ip, rest.split(' ').next().context("no port")?.parse()?).into())
}

impl Carriers {
    pub(super) async fn new(
        caller: SocketAddr,
        callee: SocketAddr,
        pop: SocketAddr,
    ) -> Result<Self> {
        let (caller, callee) = (UdpSocket::bind(caller).await?, UdpSocket::bind(callee).await?);
        Ok(Self { caller, callee, pop, formats: (PCMU, PCMU), key: None })
    }

    /// The same with other formats of caller and callee.
    pub(super) const fn speaking(mut self, caller: Format, callee: Format) -> Self {
        self.formats = (caller, callee);
        self
    }

    /// The same with SRTP towards the caller: this base64 of its key and salt.
    pub(super) fn encrypted(mut self, key: Option<&str>) -> Self {
        self.key = key.map(str::to_owned);
        self
    }

    fn request(
        &self,
        method: &str,
        cseq: u32,
        call: usize,
        called: &str,
        to: &str,
    ) -> Result<String> {
        let us = self.caller.local_addr()?;
        Ok(format!(
            "{method} sip:{called}@{pop} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {us};branch=z9hG4bK-bench-{call}-{cseq}-{method};rport\r\n\
             From: <sip:+49305550{call:04}@{us}>;tag=b{call}\r\nTo: {to}\r\n\
             Call-ID: bench-{call}@{us}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:bench@{us}>\r\nMax-Forwards: 70\r\n",
            pop = self.pop
        ))
    }

    /// Sets up call number `call`; the two media addresses are the instrument's own.
    pub(super) async fn call(
        &self,
        call: usize,
        called: &str,
        here: impl Into<Side>,
        there: impl Into<Side>,
    ) -> Result<Call> {
        let (here, there) = (here.into(), there.into());
        let to = format!("<sip:{called}@{}>", self.pop);
        let sdp = body(here, self.formats.0, self.key.as_deref());
        let invite = self.request("INVITE", 1, call, called, &to)?;
        let invite = format!(
            "{invite}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        );
        self.caller.send_to(invite.as_bytes(), self.pop).await?;
        let (answer, far) = self.until("INVITE", there).await?;
        let call = Call {
            number: call,
            called: called.to_owned(),
            to: header(&answer, "To")?.to_owned(),
            media: media(&answer)?,
            key: key(&answer),
            far,
        };
        let ack = self.request("ACK", 1, call.number, &call.called, &call.to)?;
        self.caller.send_to(format!("{ack}Content-Length: 0\r\n\r\n").as_bytes(), self.pop).await?;
        Ok(call)
    }

    pub(super) async fn hang_up(&self, call: &Call) -> Result<()> {
        let bye = self.request("BYE", 2, call.number, &call.called, &call.to)?;
        self.caller.send_to(format!("{bye}Content-Length: 0\r\n\r\n").as_bytes(), self.pop).await?;
        // The callee has no SDP to give any more.
        self.until("BYE", self.callee.local_addr()?.into()).await?;
        Ok(())
    }

    /// Plays the callee until the caller's request has its final answer; that, and where the POP
    /// wants the callee's media.
    async fn until(&self, method: &str, there: Side) -> Result<(String, Option<SocketAddr>)> {
        let mut far = None;
        let (mut at_caller, mut at_callee) = (vec![0; 4096], vec![0; 4096]);
        loop {
            tokio::select! {
                got = self.caller.recv_from(&mut at_caller) => {
                    let (length, _) = got?;
                    let text = std::str::from_utf8(at_caller.get(..length).unwrap_or_default())?;
                    let ours = header(text, "CSeq")?.ends_with(method);
                    match text.split(' ').nth(1) {
                        Some(status) if ours && status.starts_with('2') => {
                            return Ok((text.into(), far));
                        }
                        Some(status) if ours && !status.starts_with('1') => bail!("{text}"),
                        _ => {}
                    }
                }
                got = self.callee.recv_from(&mut at_callee) => {
                    let (length, from) = got?;
                    let text = std::str::from_utf8(at_callee.get(..length).unwrap_or_default())?;
                    far = media(text).ok().or(far);
                    self.answer(text, from, there).await?;
                }
                () = tokio::time::sleep(PATIENCE) => bail!("no answer to {method} in {PATIENCE:?}"),
            }
        }
    }

    async fn answer(&self, request: &str, from: SocketAddr, there: Side) -> Result<()> {
        let (us, via) = (self.callee.local_addr()?, header(request, "Via")?);
        let sdp = if request.starts_with("INVITE") {
            body(there, self.formats.1, None)
        } else {
            String::new()
        };
        if request.starts_with("ACK") {
            return Ok(());
        }
        let tag = if header(request, "To")?.contains(";tag=") { "" } else { ";tag=callee" };
        let answer = format!(
            "SIP/2.0 200 OK\r\nVia: {via}\r\nFrom: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\n\
             CSeq: {}\r\nContact: <sip:callee@{us}>\r\nContent-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{sdp}",
            header(request, "From")?,
            header(request, "To")?,
            header(request, "Call-ID")?,
            header(request, "CSeq")?,
            sdp.len()
        );
        self.callee.send_to(answer.as_bytes(), from).await?;
        Ok(())
    }
}
