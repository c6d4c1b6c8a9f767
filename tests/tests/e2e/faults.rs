//! kill -9 of control nodes: calls go on, and what was acknowledged is never lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use chaos::lab::{Node, SIP_PORT};
use proto::control::allocate_number_request::Which;
use proto::control::{NumberState, ReadConsistency};
use tests::peers::sipp::{Outcome, Sipp};
use tests::scene::{IAD, SOON, Scene};

use crate::run;

async fn ten_calls(scene: &Scene) -> Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let callee = Sipp::callee("uas", (scene.carrier("iad1")?, SIP_PORT).into(), 10);
    let callee = callee.start(dir.path())?;
    let caller = (scene.carrier("fra1")?, 6060).into();
    let caller = Sipp::caller("uac", caller, scene.sip("fra1")?, IAD, 10).start(dir.path())?;
    let caller = caller.finish(SOON).await?;
    ensure!(caller.failed == 0, "{} calls failed", caller.failed);
    callee.finish(SOON).await?;
    Ok(caller)
}

/// Any one of the three, one after the other, while calls are up.
#[test]
fn any_control_node_may_die_during_calls() {
    run(async {
        let mut scene = Scene::start().await?;
        let numbers: Vec<String> = (0..10).map(|n| format!("+4930555000{n}")).collect();
        scene.mesh.client().import("berlin", &numbers).await?;
        let dir = tempfile::tempdir()?;
        let callee = Sipp::callee("uas", (scene.carrier("iad1")?, SIP_PORT).into(), 50);
        let callee = callee.start(dir.path())?;
        let caller = (scene.carrier("fra1")?, 6060).into();
        let mut caller = Sipp::caller("uac", caller, scene.sip("fra1")?, IAD, 50);
        caller.hold = Duration::from_secs(15);
        let caller = caller.start(dir.path())?;
        for id in 1..=3 {
            scene.mesh.kill(&Node::Control(id))?;
            let before = std::time::Instant::now();
            let which = Which::AnyOfPool("berlin".into());
            scene.mesh.client().allocate("anna", which, Vec::new()).await?;
            println!("control-{id} killed: allocation works after {:?}", before.elapsed());
            ensure!(before.elapsed() <= Duration::from_secs(3), "no allocation for 3 s");
            scene.mesh.restart(&Node::Control(id))?;
            scene.mesh.ready(SOON).await?;
        }
        let caller = caller.finish(Duration::from_secs(40)).await?;
        let callee = callee.finish(SOON).await?;
        assert_eq!((caller.successful, caller.failed, caller.unexpected), (50, 0, 0), "caller");
        assert_eq!((callee.successful, callee.failed, callee.unexpected), (50, 0, 0), "callee");
        scene.idle(SOON).await
    });
}

#[test]
fn all_three_die_and_come_back_with_everything() {
    run(async {
        let mut scene = Scene::start().await?;
        let numbers: Vec<String> = (0..100).map(|n| format!("+49305550{n:03}")).collect();
        scene.mesh.client().import("berlin", &numbers).await?;
        // Writes are under way when they die: what was answered is remembered.
        let mut acknowledged = Vec::new();
        for _ in 0..20 {
            let which = Which::AnyOfPool("berlin".into());
            let (number, _) = scene.mesh.client().allocate("anna", which, Vec::new()).await?;
            acknowledged.push(number.e164);
        }
        for id in 1..=3 {
            scene.mesh.kill(&Node::Control(id))?;
        }
        let calls = ten_calls(&scene).await?;
        assert_eq!((calls.successful, calls.failed), (10, 0), "calls without a control plane");
        for id in 1..=3 {
            scene.mesh.restart(&Node::Control(id))?;
        }
        scene.mesh.ready(Duration::from_secs(20)).await?;
        for e164 in &acknowledged {
            let number = scene.mesh.client().number(e164, ReadConsistency::Linearizable).await?;
            assert_eq!(number.state(), NumberState::Active, "an acknowledged allocation is lost");
            assert_eq!(number.tenant, "anna");
        }
        // It works on: the next number is one nobody has.
        let which = Which::AnyOfPool("berlin".into());
        let (number, revision) = scene.mesh.client().allocate("bert", which, Vec::new()).await?;
        assert!(!acknowledged.contains(&number.e164), "given away twice");
        scene.mesh.in_view(revision, SOON).await
    });
}

/// A POP that is started while no control node answers serves calls from its copy on disk.
#[test]
fn a_pop_starts_without_the_control_plane() {
    run(async {
        let mut scene = Scene::start().await?;
        for pop in ["fra1", "iad1"] {
            scene.copy_on_disk(pop).await?;
        }
        for id in 1..=3 {
            scene.mesh.kill(&Node::Control(id))?;
        }
        for pop in ["fra1", "iad1"] {
            scene.mesh.kill(&Node::pop(pop))?;
            scene.mesh.restart(&Node::pop(pop))?;
        }
        scene.mesh.ready(SOON).await?;
        scene.mesh.linked(SOON).await?;
        let calls = ten_calls(&scene).await?;
        assert_eq!((calls.successful, calls.failed), (10, 0), "calls from the disk copy");
        Ok(())
    });
}
