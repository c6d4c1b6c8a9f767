//! A POP's own prefix is announced while it serves, marked while it empties, and gone when it is.

use std::time::Duration;

use anyhow::Result;
use chaos::lab::{Node, bin_dir};
use tests::peers::bgp::{Announcing, Edge, Heard};
use tests::peers::eventually;
use tests::scene::Scene;

use crate::run;

const PREFIX: &str = "198.51.100.0/24";
const PATIENCE: Duration = Duration::from_secs(30);

async fn until(edge: &Edge, what: &str, heard: Heard) -> Result<()> {
    eventually(what, PATIENCE, async || Ok((edge.heard(PREFIX)? == heard).then_some(()))).await
}

async fn story(who: Announcing) -> Result<()> {
    let mut scene = Scene::start().await?;
    let fra = Node::pop("fra1");
    let config = scene.mesh.config(&fra);
    let args = format!("announce --config {} --prefix {PREFIX}", config.display());
    let mut edge = Edge::announcing(scene.mesh.dir(), who, &bin_dir()?.join("pop-node"), &args)?;
    until(&edge, "a POP that serves is announced", Heard::Route).await?;
    let pop = async |scene: &Scene, what: &str| scene.mesh.meshctl(&["pop", what, "fra1"]).await;
    pop(&scene, "cordon").await?;
    until(&edge, "one that is cordoned asks to be left", Heard::Leaving).await?;
    pop(&scene, "uncordon").await?;
    until(&edge, "it does no longer", Heard::Route).await?;
    pop(&scene, "drain").await?;
    until(&edge, "one that is drained and empty is withdrawn", Heard::NoRoute).await?;
    pop(&scene, "uncordon").await?;
    until(&edge, "it is back", Heard::Route).await?;
    scene.mesh.kill(&fra)?;
    until(&edge, "one that died is withdrawn", Heard::NoRoute).await?;
    scene.mesh.restart(&fra)?;
    until(&edge, "it lives again", Heard::Route).await?;
    if who == Announcing::Frr {
        edge.end_announcer()?;
        until(&edge, "an announcer that is asked to end takes its routes with it", Heard::NoRoute)
            .await?;
    }
    Ok(())
}

#[test]
fn frr_announces_a_pop_that_serves() {
    run(story(Announcing::Frr));
}

#[test]
fn exabgp_announces_a_pop_that_serves() {
    run(story(Announcing::ExaBgp));
}
