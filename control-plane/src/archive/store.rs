//! Objects of a bucket: S3, or what speaks it. Endpoint, region and credentials come from the
//! environment that all tools for S3 know.

mod http;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path as FilePath;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, RetryConfig, WriteMultipart};
use tokio_stream::StreamExt as _;

use super::Target;

/// Bytes of a part of a long object; S3 takes 10,000 parts.
const PART_BYTES: usize = 16 * 1024 * 1024;
/// Parts under way.
const PARTS: usize = 2;
/// A request that fails is tried so often, so long.
const RETRIES: usize = 4;
const RETRY: Duration = Duration::from_secs(30);
/// One of these says who asks.
const CREDENTIALS: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// One of these says where it is, for other than Amazon's.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// A bucket, below a prefix.
#[derive(Debug)]
pub struct Store {
    store: AmazonS3,
    prefix: String,
    said: String,
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Below the prefix.
    pub name: String,
    /// When it was written.
    pub made: SystemTime,
}

impl Store {
    /// Asks nothing of it yet.
    pub fn open(bucket: &str, prefix: &str) -> Result<Self> {
        let target = Target::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
        let said = target.to_string();
        let has = CREDENTIALS.iter().any(|name| std::env::var_os(name).is_some());
        ensure!(
            has,
            "{said}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and \
             AWS_REGION; AWS_ENDPOINT_URL for other than Amazon's)"
        );
        let plain = |name: &&&str| std::env::var(name).is_ok_and(|url| url.starts_with("http://"));
        let allowed = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|allow| allow == "true");
        if let Some(name) = ENDPOINTS.iter().find(plain) {
            ensure!(
                allowed,
                "{said}: {name} is without TLS: use https://, or set AWS_ALLOW_HTTP=true"
            );
        }
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY, ..<_>::default() };
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_http_connector(http::Connector)
            .with_retry(retry)
            .build()
            .with_context(|| said.clone())?;
        Ok(Self { store, prefix: prefix.to_owned(), said })
    }

    /// Further down.
    pub fn below(self, name: &str) -> Self {
        let prefix = if self.prefix.is_empty() { String::new() } else { self.prefix + "/" };
        Self { prefix: prefix + name, said: format!("{}/{name}", self.said), ..self }
    }

    /// All objects, by name.
    pub async fn objects(&self) -> Result<Vec<Object>> {
        let prefix = (!self.prefix.is_empty()).then(|| Path::from(self.prefix.as_str()));
        let mut listed = self.store.list(prefix.as_ref());
        let mut objects = Vec::new();
        while let Some(meta) = listed.next().await {
            let meta = meta.with_context(|| self.failed("be listed"))?;
            let name = meta.location.as_ref();
            let name = name.strip_prefix(&self.prefix).unwrap_or(name).trim_start_matches('/');
            objects.push(Object { name: name.to_owned(), made: meta.last_modified.into() });
        }
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// Writes an object: whole, or not at all.
    pub async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let put = self.store.put(&self.path(name), bytes.into().into()).await;
        put.map(|_| ()).with_context(|| self.failed(&format!("take {name}")))
    }

    /// The same with what a file holds.
    pub async fn put_file(&self, name: &str, from: &FilePath) -> Result<()> {
        let said = || from.display().to_string();
        let mut file = File::open(from).with_context(said)?;
        let failed = || self.failed(&format!("take {name}"));
        let upload = self.store.put_multipart(&self.path(name)).await.with_context(failed)?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut piece = vec![0; 1 << 20];
        loop {
            parts.wait_for_capacity(PARTS).await.with_context(failed)?;
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => parts.write(piece.get(..read).unwrap_or_default()),
                Err(error) => {
                    // What came so far becomes no object.
                    let _ = parts.abort().await;
                    return Err(error).with_context(said);
                }
            }
        }
        parts.finish().await.map(|_| ()).with_context(failed)
    }

    /// What an object holds; small ones only.
    pub async fn get(&self, name: &str) -> Result<Bytes> {
        let failed = || self.failed(&format!("give {name}"));
        let got = self.store.get(&self.path(name)).await.with_context(failed)?;
        got.bytes().await.with_context(failed)
    }

    /// The same into a new file.
    pub async fn get_file(&self, name: &str, to: &FilePath) -> Result<()> {
        let failed = || self.failed(&format!("give {name}"));
        let said = || to.display().to_string();
        let got = self.store.get(&self.path(name)).await.with_context(failed)?;
        let mut file = File::create_new(to).with_context(said)?;
        let mut pieces = got.into_stream();
        while let Some(piece) = pieces.next().await {
            file.write_all(&piece.with_context(failed)?).with_context(said)?;
        }
        file.sync_all().with_context(said)
    }

    /// Removes an object.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let removed = self.store.delete(&self.path(name)).await;
        removed.with_context(|| self.failed(&format!("remove {name}")))
    }

    fn path(&self, name: &str) -> Path {
        let prefix = &self.prefix;
        Path::from(if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") })
    }

    fn failed(&self, what: &str) -> String {
        format!(
            "{} cannot {what}: check the bucket, its rights, AWS_ENDPOINT_URL and AWS_REGION",
            self.said
        )
    }
}
