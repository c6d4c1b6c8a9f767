//! A backup from a running node: any that answers.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use control_plane::rescue;
use control_plane::snapshot::is_sound;
use control_plane::wal::spool;
use proto::control::backup_part::Part;
use proto::control::cluster_client::ClusterClient;
use proto::control::{BackupHead, BackupPart, BackupRequest};
use tonic::{Status, Streaming};

use crate::connect::{Mesh, Unreached, worth_another_node};
use crate::data::Making;
use crate::refusal::{Refusal, describe};
use crate::table::Printer;

/// Into the new directory `to`.
pub(crate) async fn run(to: &str, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let making = Making::begin(to).await?;
    let to = making.dir.clone();
    let mut failures = Vec::new();
    for (address, channel) in mesh.nodes() {
        let beside = rescue::begin(&to)?;
        let mut client = ClusterClient::new(channel);
        let taken = async {
            let parts = client.backup(BackupRequest {}).await?.into_inner();
            receive(parts, &beside).await
        };
        let taken = taken.await;
        if taken.is_err() {
            // Ours alone, and worth nothing without its end.
            let _ = std::fs::remove_dir_all(&beside);
        }
        match taken {
            Ok(head) => {
                let manifest = rescue::seal(&beside, &to)?;
                let same = (manifest.revision, manifest.applied) == (head.revision, head.index);
                ensure!(same, "{} is not the backup that node {} sent", to.display(), head.node_id);
                let said = making.end(&manifest).await?;
                return printer.done(&manifest, &said);
            }
            Err(Failed::Node(status)) if worth_another_node(&status) => {
                failures.push(format!("{address} ({})", describe(&status)));
            }
            Err(Failed::Node(status)) => return Err(Refusal::of(&status).into()),
            Err(Failed::Here(error)) => return Err(error),
        }
    }
    Err(Unreached::new(failures.join(", ")).into())
}

/// Who failed.
enum Failed {
    Here(anyhow::Error),
    Node(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Node(status)
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Here(error)
    }
}

/// Writes the file, every byte checked.
async fn receive(mut parts: Streaming<BackupPart>, dir: &Path) -> Result<BackupHead, Failed> {
    let first = parts.message().await?.and_then(|part| part.part);
    let Some(Part::Head(head)) = first else {
        return Err(Status::data_loss("a backup begins with its head").into());
    };
    let path = dir.join(spool::file_name(head.index));
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    let mut have = 0;
    while let Some(part) = parts.message().await? {
        let Some(Part::Chunk(chunk)) = part.part else { continue };
        if chunk.offset != have || !is_sound(&chunk) {
            return Err(Status::unavailable("a piece of the backup came damaged").into());
        }
        file.write_all(&chunk.data).with_context(|| path.display().to_string())?;
        have += chunk.data.len() as u64;
    }
    file.sync_all().with_context(|| path.display().to_string())?;
    if have != head.bytes {
        return Err(Status::unavailable("the connection broke").into());
    }
    match whole(&path, &head) {
        Ok(()) => Ok(head),
        Err(error) => Err(error.into()),
    }
}

fn whole(path: &Path, head: &BackupHead) -> Result<()> {
    if spool::checksum(path)? != head.crc32c {
        bail!("{} is not what node {} sent: check this disk", path.display(), head.node_id);
    }
    Ok(())
}
