//! Resident memory of nodes that have nothing to do.

use anyhow::Result;
use chaos::lab::Node;

use super::{Figure, Table};
use crate::scene::Scene;

#[allow(clippy::cast_precision_loss, reason = "megabytes")]
pub(super) async fn idle(table: &mut Table) -> Result<()> {
    let scene = Scene::start().await?;
    let worst = |nodes: Vec<Node>| -> Result<f64> {
        let mut worst = 0;
        for process in nodes.iter().filter_map(|node| scene.mesh.process(node)) {
            worst = worst.max(process.rss_bytes()?);
        }
        // Nothing measured is no good result.
        Ok(if worst == 0 { f64::NAN } else { worst as f64 / 1e6 })
    };
    let pops = scene.mesh.sites().iter().map(|site| Node::pop(&site.id)).collect();
    let figures = [
        ("idle POP, resident (worst of 3)", worst(pops)?, 40.0),
        (
            "idle control node, resident (worst of 3)",
            worst((1..=3).map(Node::Control).collect())?,
            60.0,
        ),
    ];
    for (name, ours, target) in figures {
        table.add(Figure {
            name: name.into(),
            peer: None,
            ours,
            target: target.into(),
            unit: "MB",
        });
    }
    Ok(())
}
