//! Calls by the thousand, from sipp's own scenarios: set up, answered, hung up, forgotten.

use std::time::Duration;

use anyhow::Result;
use chaos::lab::{Node, SIP_PORT};
use tests::peers::sipp::{Outcome, Sipp};
use tests::scene::{FRA, IAD, SOON, Scene};

use crate::run;

const CALLS: u32 = 1_000;
/// 1,000 calls at 50/s take 20 s; the callee lingers 4 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// Growth from one thousand calls to the next that is no leak.
const GROWTH_BYTES: u64 = 1 << 20;

/// Calls from the carrier of `fra1` to a number; both sides' figures.
async fn thousand(scene: &Scene, number: &str, to: &str) -> Result<(Outcome, Outcome)> {
    let dir = tempfile::tempdir()?;
    let callee = (scene.carrier(to)?, SIP_PORT).into();
    let callee = Sipp::callee("uas", callee, CALLS).start(dir.path())?;
    let caller = (scene.carrier("fra1")?, 6060).into();
    let caller =
        Sipp::caller("uac", caller, scene.sip("fra1")?, number, CALLS).start(dir.path())?;
    let caller = caller.finish(PATIENCE).await?;
    Ok((caller, callee.finish(SOON).await?))
}

fn assert_clean(side: &str, outcome: &Outcome) {
    let counts = (outcome.successful, outcome.failed, outcome.unexpected);
    assert_eq!(counts, (u64::from(CALLS), 0, 0), "{side}: successful, failed, unexpected");
}

fn rss(scene: &Scene, pop: &str) -> Result<u64> {
    scene.mesh.process(&Node::pop(pop)).map_or(Ok(0), |process| process.rss_bytes())
}

#[test]
fn a_thousand_calls_inside_one_region() {
    run(async {
        let scene = Scene::start().await?;
        let (caller, callee) = thousand(&scene, FRA, "fra1").await?;
        assert_clean("caller", &caller);
        assert_clean("callee", &callee);
        scene.idle(SOON).await?;
        assert_eq!(
            scene.wait_for_cdrs("fra1", CALLS as usize).await?.len(),
            CALLS as usize,
            "one CDR a call"
        );
        // Buffers and transactions (32 s each) have found their size after the second thousand.
        thousand(&scene, FRA, "fra1").await?;
        let plateau = rss(&scene, "fra1")?;
        thousand(&scene, FRA, "fra1").await?;
        scene.idle(SOON).await?;
        let after = rss(&scene, "fra1")?;
        println!(
            "RSS of fra1 after 2,000 calls {} kB, after 3,000 {} kB",
            plateau / 1024,
            after / 1024
        );
        assert!(after < plateau + GROWTH_BYTES, "memory grows with calls that are over");
        Ok(())
    });
}

#[test]
fn a_thousand_calls_across_two_pops() {
    run(async {
        let scene = Scene::start().await?;
        let (caller, callee) = thousand(&scene, IAD, "iad1").await?;
        assert_clean("caller", &caller);
        assert_clean("callee", &callee);
        scene.idle(SOON).await?;
        for pop in ["fra1", "iad1"] {
            assert_eq!(
                scene.wait_for_cdrs(pop, CALLS as usize).await?.len(),
                CALLS as usize,
                "one CDR a call at {pop}"
            );
        }
        Ok(())
    });
}
