//! Encrypted media: a phone that insists on SRTP here, one that offers it there.

use std::time::Duration;

use chaos::lab::{Node, admin};
use chaos::speech::Voice;
use proto::control::MediaEncryption;
use tests::peers::baresip::{Phone, SPEECH};
use tests::peers::quality::pesq;
use tests::scene::{FRA, IAD, SOON, Scene};

use crate::run;

/// As for plain media.
const CLEAR: f64 = 4.0;

/// All trunks require SRTP: opus on one side, PCMU on the other, each with keys of its own; and a
/// caller without keys is told so.
#[test]
fn phones_speak_encrypted_and_who_does_not_is_refused() {
    run(async {
        let required = MediaEncryption::Required;
        let scene = Scene::with(|_| {}, |trunk| trunk.set_media_encryption(required)).await?;
        let dir = tempfile::tempdir()?;
        let phone = Phone::new("anna", scene.carrier("fra1")?, 40_000);
        let phone = Phone { codecs: &["opus/48000/1"], number: FRA, ..phone };
        let mut anna = Phone { srtp: Some("srtp-mand"), ..phone }.start(dir.path()).await?;
        let phone = Phone::new("bert", scene.carrier("iad1")?, 40_200);
        let phone = Phone { number: IAD, voice: Voice::Spanish, ..phone };
        let mut bert = Phone { srtp: Some("srtp-mand"), ..phone }.start(dir.path()).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_ESTABLISHED", SOON).await?;
        bert.event("CALL_ESTABLISHED", SOON).await?;
        tokio::time::sleep(SPEECH + Duration::from_secs(1)).await;
        anna.hang_up().await?;
        bert.closed(SOON).await?;
        let heard_by_anna = pesq(Voice::Spanish, &anna.heard()?)?;
        let heard_by_bert = pesq(Voice::English, &bert.heard()?)?;
        println!("PESQ over SRTP: PCMU → Opus {heard_by_anna:.2}, Opus → PCMU {heard_by_bert:.2}");
        assert!(heard_by_anna >= CLEAR, "anna hears {heard_by_anna}");
        assert!(heard_by_bert >= CLEAR, "bert hears {heard_by_bert}");
        for pop in ["fra1", "iad1"] {
            let count = async |name| scene.metric(&Node::pop(pop), name).await;
            let (opened, received) = (
                count("pop_srtp_opened_packets_total").await?,
                count("pop_rtp_received_packets_total").await?,
            );
            let (protected, sent) = (
                count("pop_srtp_protected_packets_total").await?,
                count("pop_rtp_sent_packets_total").await?,
            );
            assert!(opened > 500.0 && opened >= received * 0.99, "{pop}: {opened} of {received}");
            assert!(protected > 500.0 && protected == sent, "{pop}: {protected} of {sent}");
            // RTCP too: what the phones say is understood, and all of it is authentic.
            let text = admin::get(scene.mesh.admin(&Node::pop(pop))?, "/metrics").await?;
            let dropped = |reason: &str| {
                let label = format!("reason=\"{reason}\"");
                let line = text.lines().find(|l| l.contains("rtp_dropped") && l.contains(&label));
                line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
            };
            assert!(count("pop_rtcp_received_packets_total").await? >= 2.0, "{pop}: no RTCP");
            for reason in ["srtp_tag", "malformed_rtcp", "malformed_rtp", "srtp_reused"] {
                assert_eq!(dropped(reason), 0.0, "{pop}: {reason}");
            }
        }
        scene.idle(SOON).await?;

        drop(anna);
        let phone = Phone::new("carl", scene.carrier("fra1")?, 40_400);
        let mut carl = Phone { number: FRA, ..phone }.start(dir.path()).await?;
        carl.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        carl.closed(SOON).await?;
        carl.logs("488", 0).await?;
        scene.idle(SOON).await
    });
}

/// A phone that only offers SRTP gets it from a trunk that accepts it, and plain media is relayed
/// to the other phone, which has none.
#[test]
fn what_is_offered_is_accepted_and_the_other_side_stays_plain() {
    run(async {
        let scene = Scene::start().await?;
        let dir = tempfile::tempdir()?;
        let phone = Phone::new("anna", scene.carrier("fra1")?, 40_000);
        let phone = Phone { number: FRA, srtp: Some("srtp"), ..phone };
        let mut anna = phone.start(dir.path()).await?;
        let phone = Phone::new("bert", scene.carrier("iad1")?, 40_200);
        let phone = Phone { number: IAD, voice: Voice::Spanish, ..phone };
        let mut bert = phone.start(dir.path()).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_ESTABLISHED", SOON).await?;
        bert.event("CALL_ESTABLISHED", SOON).await?;
        let opened = "pop_srtp_opened_packets_total";
        tests::peers::eventually("SRTP of anna is opened", SOON, async || {
            Ok((scene.metric(&Node::pop("fra1"), opened).await? > 100.0).then_some(()))
        })
        .await?;
        for name in [opened, "pop_srtp_protected_packets_total"] {
            assert_eq!(scene.metric(&Node::pop("iad1"), name).await?, 0.0, "{name}");
        }
        anna.hang_up().await?;
        bert.closed(SOON).await?;
        scene.idle(SOON).await
    });
}
