//! What people hear: a phone with Opus in one region, a phone with PCMU behind another.

use std::time::Duration;

use chaos::lab::Node;
use chaos::speech::Voice;
use tests::peers::baresip::{Phone, SPEECH};
use tests::peers::quality::pesq;
use tests::scene::{FRA, IAD, SOON, Scene};

use crate::run;

/// The bar for a clean link, narrow-band.
const CLEAR: f64 = 4.0;

const OPUS: &[&str] = &["opus/48000/1"];

#[test]
fn opus_here_pcmu_there_both_clear() {
    run(async {
        let scene = Scene::start().await?;
        let dir = tempfile::tempdir()?;
        let phone = Phone { codecs: OPUS, ..Phone::new("anna", scene.carrier("fra1")?, 40_000) };
        let mut anna = Phone { number: FRA, ..phone }.start(dir.path()).await?;
        let phone = Phone::new("bert", scene.carrier("iad1")?, 40_200);
        let mut bert =
            Phone { number: IAD, voice: Voice::Spanish, ..phone }.start(dir.path()).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_ESTABLISHED", SOON).await?;
        bert.event("CALL_ESTABLISHED", SOON).await?;
        tokio::time::sleep(SPEECH + Duration::from_secs(1)).await;
        assert!(anna.speaks("opus 48000Hz"), "anna does not speak Opus");
        assert!(bert.speaks("PCMU"), "bert does not speak PCMU");
        anna.hang_up().await?;
        bert.closed(SOON).await?;
        let heard_by_anna = pesq(Voice::Spanish, &anna.heard()?)?;
        let heard_by_bert = pesq(Voice::English, &bert.heard()?)?;
        println!("PESQ: PCMU → Opus {heard_by_anna:.2}, Opus → PCMU {heard_by_bert:.2}");
        assert!(heard_by_anna >= CLEAR, "anna hears {heard_by_anna}");
        assert!(heard_by_bert >= CLEAR, "bert hears {heard_by_bert}");
        scene.idle(SOON).await
    });
}

/// One control node dies (the leader) while they talk: nobody hears it, and numbers can be
/// allocated again within 3 s.
#[test]
fn nobody_hears_a_control_node_die() {
    run(async {
        let mut scene = Scene::start().await?;
        let dir = tempfile::tempdir()?;
        let numbers: Vec<String> = (0..10).map(|n| format!("+4930555000{n}")).collect();
        scene.mesh.client().import("berlin", &numbers).await?;
        let phone = Phone::new("anna", scene.carrier("fra1")?, 40_000);
        let mut anna = Phone { number: FRA, ..phone }.start(dir.path()).await?;
        let phone = Phone::new("bert", scene.carrier("iad1")?, 40_200);
        let mut bert =
            Phone { number: IAD, voice: Voice::Spanish, ..phone }.start(dir.path()).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_ESTABLISHED", SOON).await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let leader = scene.mesh.client().status(0).await?.leader_id;
        let before = std::time::Instant::now();
        scene.mesh.kill(&Node::Control(leader))?;
        let which = proto::control::allocate_number_request::Which::AnyOfPool("berlin".into());
        scene.mesh.client().allocate("anna", which, Vec::new()).await?;
        let without = before.elapsed();
        println!("allocation works {without:?} after the leader died");
        assert!(without <= Duration::from_secs(3), "no allocation for {without:?}");
        tokio::time::sleep(
            (SPEECH + Duration::from_secs(1)).saturating_sub(without + Duration::from_secs(4)),
        )
        .await;
        anna.hang_up().await?;
        bert.closed(SOON).await?;
        for (who, voice, phone) in
            [("anna", Voice::Spanish, &anna), ("bert", Voice::English, &bert)]
        {
            let heard = pesq(voice, &phone.heard()?)?;
            println!("PESQ of {who} while the leader dies: {heard:.2}");
            assert!(heard >= CLEAR, "{who} heard it: {heard}");
        }
        scene.mesh.check()
    });
}
