//! kill -9 of the POP beside a far end that is not ours: sipp, and baresip plain and encrypted. The
//! other POP calls it over, both sides hear on, digits and BYE work.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos::endpoint::{Agent, Bye, Config, Dial, End, Report, tape};
use chaos::lab::{Node, SIP_PORT};
use chaos::speech::{Voice, likeness, samples};
use pop_core::codec::Codec;
use proto::control::{MediaEncryption, Trunk};
use serde_json::Value;
use tests::peers::baresip::Phone;
use tests::peers::sipp::{Scenario, Sipp};
use tests::peers::{eventually, quality};
use tests::scene::{FRA, IAD, SOON, Scene};

use crate::run;

/// Until the lost POP is found out and the far end called over, on a busy machine.
const MOVED: Duration = Duration::from_secs(40);
/// What is looked at of the sound at the end, all of it from after the move.
const TAIL: Duration = Duration::from_secs(5);
/// Packets in that time and a little more.
const TAIL_PACKETS: u64 = 300;
/// As for calls that nothing happens to.
const ALIKE: f64 = 0.85;

/// The caller, beside fra1. The called side is beside iad1, whose POP dies.
struct Caller {
    agent: Agent,
    number: u64,
}

impl Caller {
    async fn call(scene: &Scene, echoed: bool) -> Result<Self> {
        let address = SocketAddr::new(scene.carrier("fra1")?, SIP_PORT);
        let config = Config { diary: echoed, echoed, ..Config::new(address) };
        let agent = Agent::start(config)?;
        let number = agent.dial(Dial {
            proxy: scene.sip("fra1")?,
            from: FRA.to_owned(),
            to: IAD.to_owned(),
            codecs: vec![Codec::Pcmu],
            talk: None,
            digits: String::new(),
            srtp: false,
        });
        let caller = Self { agent, number };
        caller.hears(100, SOON).await.context("before the fault")?;
        Ok(caller)
    }

    fn received(&self) -> u64 {
        self.agent.live().iter().map(|live| live.received).sum()
    }

    /// Waits until so many packets more were heard.
    async fn hears(&self, packets: u64, patience: Duration) -> Result<()> {
        let before = self.received();
        eventually(&format!("{packets} packets are heard"), patience, async || {
            let over = self.agent.over();
            ensure!(over.0 == 0, "the call is over: {:?}", self.agent.reports()?);
            Ok((self.received() >= before + packets).then_some(()))
        })
        .await
    }

    async fn report(&self) -> Result<Report> {
        eventually("the call is over", SOON, async || Ok(self.agent.reports()?.pop())).await
    }
}

/// The one record of the call, once no POP has it any more: both halves ended at fra1.
async fn record(scene: &Scene) -> Result<()> {
    scene.idle(SOON).await?;
    scene.wait_for_cdrs("fra1", 1).await?;
    let mut billed = Vec::new();
    for site in scene.mesh.sites() {
        let is_billed = |record: &Value| record["role"] == "ingress" || record["role"] == "local";
        billed.extend(scene.cdrs(&site.id)?.into_iter().filter(is_billed));
    }
    let [record] = billed.as_slice() else {
        anyhow::bail!("{} records: {billed:?}", billed.len());
    };
    let fields = ["pop", "role", "trunk_in", "trunk_out"].map(|name| &record[name]);
    ensure!(fields == ["fra1", "local", "carrier-fra1", "carrier-iad1"], "{record}");
    Ok(())
}

/// The last [`TAIL`] of a sound at 8 kHz is this voice.
fn is_voice(sound: &[i16], voice: Voice) -> Result<()> {
    let wanted = usize::try_from(TAIL.as_secs())? * tape::RATE_HZ as usize;
    let tail = sound.len().checked_sub(wanted).and_then(|from| sound.get(from..));
    let tail = tail.with_context(|| format!("only {} samples", sound.len()))?;
    let likeness = likeness(tail, &samples(voice, tape::RATE_HZ)?);
    ensure!(likeness.correlation > ALIKE, "{likeness:?}");
    Ok(())
}

/// sipp echoes what it hears, so what comes back was heard both ways; and it hangs up itself.
#[test]
fn sipp_is_called_over_and_hangs_up() {
    run(async {
        let mut scene = Scene::start().await?;
        let dir = tempfile::tempdir()?;
        let callee = Sipp::callee("moves", (scene.carrier("iad1")?, SIP_PORT).into(), 1);
        let more = vec!["-rtp_echo".to_owned()];
        let callee = Sipp { scenario: Scenario::Ours("moves"), more, ..callee };
        let callee = callee.start(dir.path())?;
        let caller = Caller::call(&scene, true).await?;
        scene.mesh.kill(&Node::pop("iad1"))?;
        caller.hears(TAIL_PACKETS, MOVED).await.with_context(|| callee.words())?;
        let callee = callee.finish(Duration::from_secs(20)).await?;
        assert_eq!((callee.successful, callee.failed, callee.unexpected), (1, 0, 0), "sipp");
        let report = caller.report().await?;
        let from = scene.sip("fra1")?;
        assert_eq!((&report.end, report.bye), (&End::Completed, Some(Bye::Received(from))));
        let diary = report.diary.context("no diary")?;
        let late = diary.voice(diary.spoke).into_iter().filter(|at| report.ended - *at <= TAIL);
        let late = late.count();
        assert!(late >= 225, "{late} of 250 packets came back in the last 5 s");
        record(&scene).await
    });
}

/// baresip says a recording and keeps what it hears; keys are pressed on both sides.
async fn baresip_is_called_over(srtp: bool) -> Result<()> {
    let required = |trunk: &mut Trunk| {
        if srtp && trunk.trunk_id == "carrier-iad1" {
            trunk.set_media_encryption(MediaEncryption::Required);
        }
    };
    let mut scene = Scene::with(|_| {}, required).await?;
    let dir = tempfile::tempdir()?;
    let phone = Phone::new("bert", scene.carrier("iad1")?, 40_200);
    let phone = Phone { number: IAD, voice: Voice::Spanish, times: 10, ..phone };
    let mut bert = Phone { srtp: srtp.then_some("srtp-mand"), ..phone }.start(dir.path()).await?;
    let caller = Caller::call(&scene, false).await?;
    bert.event("CALL_ESTABLISHED", SOON).await?;
    scene.mesh.kill(&Node::pop("iad1"))?;
    caller.hears(50, MOVED).await?;
    // baresip 1.0 (Debian 12) takes no new key within a call, and says so of each packet.
    let is_deaf = srtp && bert.count("failed to decrypt RTP") > 0;
    if !is_deaf {
        caller.agent.press(caller.number, "4");
        bert.event("CALL_DTMF_START", SOON).await?;
        bert.command("sndcode", "2").await?;
    }
    caller.hears(TAIL_PACKETS, MOVED).await?;
    caller.agent.hang_up(caller.number);
    bert.closed(SOON).await?;
    let report = caller.report().await?;
    assert_eq!((&report.end, report.bye), (&End::Completed, Some(Bye::Sent(Some(200)))));
    is_voice(&report.heard.sound, Voice::Spanish).context("the caller hears")?;
    if !is_deaf {
        is_voice(&quality::read_wav(&bert.heard()?)?, Voice::English).context("bert hears")?;
        assert_eq!(report.heard.digits, "2");
    }
    record(&scene).await
}

#[test]
fn baresip_is_called_over_in_plain() {
    run(baresip_is_called_over(false));
}

/// New keys come with the re-INVITE.
#[test]
fn baresip_is_called_over_with_srtp() {
    run(baresip_is_called_over(true));
}
