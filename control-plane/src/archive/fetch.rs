//! Backups and archives that are in a bucket: brought here, and put there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::store::Store;
use super::{Contents, tables_name};
use crate::rescue::{MANIFEST, Manifest};

/// Writes a backup that is in a directory; never over another one.
pub async fn put_backup(store: &Store, dir: &Path) -> Result<()> {
    check_free(store).await?;
    let said = || dir.display().to_string();
    for entry in fs::read_dir(dir).with_context(said)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.filter(|name| name != MANIFEST);
        if let Some(name) = name {
            store.put_file(&name, &path).await?;
        }
    }
    // With it the backup is whole.
    let manifest = fs::read(dir.join(MANIFEST)).with_context(said)?;
    store.put(MANIFEST, manifest).await
}

/// Refuses a place where something is.
pub async fn check_free(store: &Store) -> Result<()> {
    let there = store.objects().await?;
    ensure!(there.is_empty(), "{store} holds something already: name a new prefix");
    Ok(())
}

/// Brings into the new directory `to` what a restore of `revision` needs of a backup or an archive.
pub async fn fetch(store: Store, revision: Option<u64>, to: &Path) -> Result<()> {
    let names: Vec<String> = store.objects().await?.into_iter().map(|o| o.name).collect();
    make(to)?;
    if names.iter().any(|name| name == MANIFEST) {
        for name in names.iter().filter(|name| !name.contains('/')) {
            store.get_file(name, &to.join(name)).await?;
        }
        return Ok(());
    }
    let archive = the_archive(&store, &names)?;
    let inside = names.iter().filter_map(|name| name.strip_prefix(&archive));
    let inside: Vec<&str> = inside.map(|name| name.trim_start_matches('/')).collect();
    let archive = archive.trim_end_matches('/');
    let store = if archive.is_empty() { store } else { store.below(archive) };
    let mut contents = Contents::default();
    for name in &inside {
        let whole = name.strip_suffix(MANIFEST).map(|name| name.trim_end_matches('/'));
        contents.note(whole.unwrap_or(name), whole.unwrap_or(name).into());
    }
    get_archive(&store, &contents.sorted(), &inside, revision, to).await
}

/// The newest tables that are not beyond the revision, and the log behind them.
async fn get_archive(
    store: &Store,
    contents: &Contents,
    names: &[&str],
    revision: Option<u64>,
    to: &Path,
) -> Result<()> {
    for (index, _) in contents.tables.iter().rev() {
        let tables = format!("{}/", tables_name(*index));
        let manifest = store.get(&format!("{tables}{MANIFEST}")).await?;
        let manifest: Manifest = serde_json::from_slice(&manifest)
            .with_context(|| format!("{store}/{tables}{MANIFEST} cannot be read"))?;
        if revision.is_some_and(|wanted| manifest.revision > wanted) {
            continue;
        }
        make(&to.join(&tables))?;
        for name in names.iter().filter(|name| name.starts_with(&tables)) {
            store.get_file(name, &to.join(name)).await?;
        }
        for segment in contents.segments.iter().filter(|segment| segment.last > *index) {
            store.get_file(&segment.path.to_string_lossy(), &to.join(&segment.path)).await?;
        }
        return Ok(());
    }
    bail!("{store} has no backup of so old a revision")
}

/// What the names of the only archive begin with.
fn the_archive(store: &Store, names: &[String]) -> Result<String> {
    let of_tables = |name: &String| {
        let (above, file) = name.strip_suffix(MANIFEST)?.rsplit_once("tables-")?;
        let sound = file.trim_end_matches('/').chars().all(|c| c.is_ascii_hexdigit());
        sound.then(|| above.to_owned())
    };
    let found: BTreeSet<String> = names.iter().filter_map(of_tables).collect();
    let mut found: Vec<String> = found.into_iter().collect();
    match (found.pop(), found.as_slice()) {
        (Some(one), []) => Ok(one),
        (None, _) => bail!("{store} holds no backup"),
        (Some(last), others) => {
            let all = others.iter().chain([&last]);
            let all: Vec<_> = all.map(|above| format!("{store}/{above}")).collect();
            bail!("{store} holds several archives: name one of {}", all.join(", "))
        }
    }
}

fn make(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    made.with_context(|| dir.display().to_string())
}
