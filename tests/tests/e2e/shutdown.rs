//! SIGTERM: calls are hung up in order, CDRs written, exit code 0, nothing left behind.

use std::time::Duration;

use chaos::lab::Node;
use tests::peers::baresip::Phone;
use tests::scene::{FRA, IAD, SOON, Scene};

use crate::run;

#[test]
fn a_pop_says_goodbye() {
    run(async {
        let mut scene = Scene::start().await?;
        let dir = tempfile::tempdir()?;
        let anna = Phone { number: FRA, ..Phone::new("anna", scene.carrier("fra1")?, 40_000) };
        let mut anna = anna.start(dir.path()).await?;
        let bert = Phone { number: IAD, ..Phone::new("bert", scene.carrier("iad1")?, 40_200) };
        let mut bert = bert.start(dir.path()).await?;
        anna.dial(&format!("sip:{IAD}@{}", scene.sip("fra1")?)).await?;
        anna.event("CALL_ESTABLISHED", SOON).await?;
        bert.logs("ACK sip:", 0).await?;
        let status = scene.mesh.stop(&Node::pop("fra1"), Duration::from_secs(5))?;
        assert!(status.is_some_and(|s| s.success()), "fra1 ended with {status:?}");
        // Both phones are told, also the one behind the other POP.
        anna.closed(SOON).await?;
        bert.closed(SOON).await?;
        anna.logs("BYE sip:", 0).await?;
        assert_eq!(scene.wait_for_cdrs("fra1", 1).await?.len(), 1, "one CDR at fra1");
        scene.idle(SOON).await?;
        assert_eq!(scene.wait_for_cdrs("iad1", 1).await?.len(), 1, "one CDR at iad1");
        Ok(())
    });
}

#[test]
fn control_nodes_end_with_zero() {
    run(async {
        let mut scene = Scene::start().await?;
        for id in 1..=3 {
            let status = scene.mesh.stop(&Node::Control(id), Duration::from_secs(5))?;
            assert!(status.is_some_and(|s| s.success()), "control-{id} ended with {status:?}");
        }
        Ok(())
    });
}
