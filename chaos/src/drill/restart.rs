//! A rolling restart: one node after the other, as an operator would do an upgrade.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::timeline::Notes;
use crate::lab::{Mesh, Node, admin};
use crate::screen::Screen;

/// How long a POP may take to hand its calls over.
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
const BACK_PATIENCE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(10);

/// Restarts these nodes: POPs are drained first and take calls again after, control nodes are asked
/// to end, and waited for.
pub(super) async fn all(
    mesh: &mut Mesh,
    nodes: &[Node],
    notes: &Notes,
    screen: &mut Screen,
) -> Result<()> {
    for node in nodes {
        screen.line(&format!("  restart {node}"));
        match node {
            Node::Pop(pop) => {
                mesh.meshctl(&["pop", "drain", pop]).await.context("the drill cannot go on")?;
                empty(mesh, node).await?;
                again(mesh, node, notes).await?;
                mesh.linked(BACK_PATIENCE).await?;
                mesh.meshctl(&["pop", "uncordon", pop]).await.context("the drill cannot go on")?;
            }
            Node::Control(_) => again(mesh, node, notes).await?,
        }
    }
    Ok(())
}

async fn again(mesh: &mut Mesh, node: &Node, notes: &Notes) -> Result<()> {
    notes.add("drill", format!("{node} is stopped and started again"));
    // A moment of the runtime's thread; calls are in threads of their own.
    mesh.stop(node, GRACE)?;
    mesh.restart(node)?;
    mesh.ready(BACK_PATIENCE).await
}

/// Waits until a POP has no call.
async fn empty(mesh: &Mesh, node: &Node) -> Result<()> {
    let deadline = Instant::now() + DRAIN_PATIENCE;
    loop {
        let text = admin::get(mesh.admin(node)?, "/status").await?;
        let status: Value = serde_json::from_str(&text).context("/status is no JSON")?;
        let calls = status.get("calls").and_then(Value::as_array).map_or(0, Vec::len);
        if calls == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{node} still holds {calls} calls {DRAIN_PATIENCE:?} after it was drained");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
