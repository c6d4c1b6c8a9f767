//! One call each: TCP, digest both ways, CANCEL, hold, refusals and the next candidate.

use anyhow::Result;
use chaos::lab::SIP_PORT;
use proto::control::{DigestCredentials, Transport, Trunk};
use tests::peers::baresip::{Baresip, Phone};
use tests::peers::sipp::{Scenario, Sipp};
use tests::scene::{FRA, IAD, SIN, SOON, Scene};

use crate::run;

fn secret() -> Option<DigestCredentials> {
    let (username, password) = ("anna".into(), "secret".into());
    // baresip 1.0 and sipp 3.6 know MD5 only, and give up when they see another hash.
    let algorithms = vec!["MD5".into()];
    Some(DigestCredentials { username, password, algorithms, ..DigestCredentials::default() })
}

/// Anna behind fra1, Bert behind iad1; `change` may alter both phones.
async fn phones(
    scene: &Scene,
    dir: &std::path::Path,
    change: impl Fn(&mut Phone),
) -> Result<(Baresip, Baresip)> {
    let mut anna = Phone { number: FRA, ..Phone::new("anna", scene.carrier("fra1")?, 40_000) };
    let mut bert = Phone { number: IAD, ..Phone::new("bert", scene.carrier("iad1")?, 40_200) };
    change(&mut anna);
    change(&mut bert);
    Ok((anna.start(dir).await?, bert.start(dir).await?))
}

#[test]
fn over_tcp_on_both_sides() {
    run(async {
        let tcp = |trunk: &mut Trunk| {
            trunk.transport = Transport::Tcp.into();
            // baresip does not bind its connections: they come from the host's first address.
            if trunk.trunk_id == "carrier-fra1" {
                trunk.sources.push("127.0.0.1".into());
            }
        };
        let scene = Scene::with(|_| {}, tcp).await?;
        let dir = tempfile::tempdir()?;
        let (mut anna, mut bert) = phones(&scene, dir.path(), |phone| phone.tcp = true).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_ESTABLISHED", SOON).await?;
        bert.event("CALL_ESTABLISHED", SOON).await?;
        // From the far side this time.
        bert.hang_up().await?;
        anna.closed(SOON).await?;
        bert.logs("Via: SIP/2.0/TCP", 0).await?;
        assert_eq!(bert.count("Via: SIP/2.0/UDP"), 0, "bert was called over UDP");
        scene.idle(SOON).await
    });
}

#[test]
fn a_caller_who_knows_the_password_gets_in() {
    run(async {
        let scene = Scene::with(
            |_| {},
            |t| {
                if t.trunk_id == "carrier-fra1" {
                    t.inbound_auth = secret();
                }
            },
        )
        .await?;
        let dir = tempfile::tempdir()?;
        let (mut anna, _bert) =
            phones(&scene, dir.path(), |phone| phone.digest = Some(("anna", "secret"))).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_ESTABLISHED", SOON).await?;
        anna.hang_up().await?;
        anna.logs("SIP/2.0 401", 0).await?;
        scene.idle(SOON).await
    });
}

#[test]
fn a_caller_who_does_not_know_it_stays_out() {
    run(async {
        let scene = Scene::with(|_| {}, |t| t.inbound_auth = secret()).await?;
        let dir = tempfile::tempdir()?;
        let (mut anna, bert) =
            phones(&scene, dir.path(), |phone| phone.digest = Some(("anna", "guess"))).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.closed(SOON).await?;
        assert_eq!(anna.count("SIP/2.0 200"), 0, "anna got in");
        assert_eq!(bert.count("INVITE"), 0, "bert's phone rang");
        scene.idle(SOON).await
    });
}

#[test]
fn we_answer_the_challenge_of_a_carrier() {
    run(async {
        let scene = Scene::with(|_| {}, |t| t.outbound_auth = secret()).await?;
        let dir = tempfile::tempdir()?;
        let callee = Sipp::callee("callee", (scene.carrier("iad1")?, SIP_PORT).into(), 5);
        let callee = Sipp { scenario: Scenario::Ours("challenge"), ..callee }.start(dir.path())?;
        let caller = (scene.carrier("fra1")?, 6060).into();
        let caller =
            Sipp::caller("caller", caller, scene.sip("fra1")?, IAD, 5).start(dir.path())?;
        let caller = caller.finish(SOON).await?;
        let callee = callee.finish(SOON).await?;
        assert_eq!((caller.successful, caller.failed), (5, 0), "caller");
        assert_eq!((callee.successful, callee.failed), (5, 0), "callee");
        scene.idle(SOON).await
    });
}

#[test]
fn a_caller_may_change_her_mind() {
    run(async {
        let scene = Scene::start().await?;
        let dir = tempfile::tempdir()?;
        let (mut anna, mut bert) =
            phones(&scene, dir.path(), |phone| phone.answers = false).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_RINGING", SOON).await?;
        bert.event("CALL_INCOMING", SOON).await?;
        anna.hang_up().await?;
        bert.closed(SOON).await?;
        anna.logs("SIP/2.0 487", 0).await?;
        bert.logs("CANCEL sip:", 0).await?;
        scene.idle(SOON).await
    });
}

#[test]
fn hold_and_resume_reach_the_other_side() {
    run(async {
        let scene = Scene::start().await?;
        let dir = tempfile::tempdir()?;
        let (mut anna, mut bert) = phones(&scene, dir.path(), |_| {}).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_ESTABLISHED", SOON).await?;
        bert.event("CALL_ESTABLISHED", SOON).await?;
        bert.logs("ACK sip:", 0).await?;
        anna.command("hold", "").await?;
        bert.event("CALL_REMOTE_SDP", SOON).await?;
        anna.event("CALL_REMOTE_SDP", SOON).await?;
        bert.logs("a=sendonly", 0).await?;
        anna.logs("a=recvonly", 0).await?;
        bert.logs("ACK sip:", 1).await?;
        let before = bert.count("a=sendrecv");
        anna.command("resume", "").await?;
        bert.event("CALL_REMOTE_SDP", SOON).await?;
        bert.logs("a=sendrecv", before).await?;
        bert.logs("ACK sip:", 2).await?;
        bert.hang_up().await?;
        anna.closed(SOON).await?;
        scene.idle(SOON).await
    });
}

/// 486 is the called person's word: it goes back as it is, and nobody else is asked.
#[test]
fn busy_comes_back_as_busy() {
    run(async {
        let scene = Scene::start().await?;
        let revision = scene.route("1202", &["iad1", "sin1"]).await?;
        scene.mesh.in_view(revision, SOON).await?;
        let dir = tempfile::tempdir()?;
        let busy = Sipp::callee("busy", (scene.carrier("iad1")?, SIP_PORT).into(), 5);
        let busy = Sipp { scenario: Scenario::Ours("busy"), ..busy }.start(dir.path())?;
        let next = Sipp::callee("next", (scene.carrier("sin1")?, SIP_PORT).into(), 5);
        let next = next.start(dir.path())?;
        let caller = (scene.carrier("fra1")?, 6060).into();
        let caller = Sipp::caller("caller", caller, scene.sip("fra1")?, IAD, 5);
        let caller = Sipp { scenario: Scenario::Ours("refused"), ..caller }.start(dir.path())?;
        let caller = caller.finish(SOON).await?;
        assert_eq!((caller.successful, caller.failed), (5, 0), "caller");
        assert_eq!(busy.finish(SOON).await?.successful, 5, "busy callee");
        assert_eq!(next.current_calls(), 0, "another carrier was tried");
        scene.idle(SOON).await
    });
}

/// 503 is the carrier's failure: the next candidate gets the call.
#[test]
fn the_next_candidate_gets_the_call() {
    run(async {
        let scene = Scene::start().await?;
        let revision = scene.route("65", &["iad1", "sin1"]).await?;
        let revision = revision.max(scene.route("656", &["iad1", "sin1"]).await?);
        scene.mesh.in_view(revision, SOON).await?;
        let dir = tempfile::tempdir()?;
        let failing = Sipp::callee("failing", (scene.carrier("iad1")?, SIP_PORT).into(), 5);
        let failing =
            Sipp { scenario: Scenario::Ours("unavailable"), ..failing }.start(dir.path())?;
        let next = Sipp::callee("next", (scene.carrier("sin1")?, SIP_PORT).into(), 5);
        let next = next.start(dir.path())?;
        let caller = (scene.carrier("fra1")?, 6060).into();
        let caller =
            Sipp::caller("caller", caller, scene.sip("fra1")?, SIN, 5).start(dir.path())?;
        let caller = caller.finish(SOON).await?;
        assert_eq!((caller.successful, caller.failed), (5, 0), "caller");
        assert_eq!(failing.finish(SOON).await?.successful, 5, "failing callee");
        assert_eq!(next.finish(SOON).await?.successful, 5, "next callee");
        scene.idle(SOON).await
    });
}
