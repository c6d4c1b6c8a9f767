//! Stands in front of a node and cuts connections in the middle.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Passes TCP on. The first connections that brought more than so many bytes are cut.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    target: OnceLock<SocketAddr>,
    cuts: AtomicU64,
    /// Bytes that each connection brought towards the node.
    brought: Mutex<Vec<u64>>,
}

impl Front {
    /// Cuts so many connections after so many bytes.
    pub(crate) async fn new(cuts: u64, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { cuts: AtomicU64::new(cuts), ..Shared::default() });
        let of_all = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, of_all.clone(), after));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.shared.target.set(target).unwrap();
    }

    /// Of connections that brought more than this.
    pub(crate) fn brought(&self, more_than: u64) -> Vec<u64> {
        let brought = self.shared.brought.lock().unwrap();
        brought.iter().copied().filter(|bytes| *bytes > more_than).collect()
    }
}

async fn pass(stream: TcpStream, shared: Arc<Shared>, after: u64) {
    let Some(target) = shared.target.get() else { return };
    let Ok(node) = TcpStream::connect(target).await else { return };
    let place = {
        let mut brought = shared.brought.lock().unwrap();
        brought.push(0);
        brought.len() - 1
    };
    let (mut from, mut back) = stream.into_split();
    let (mut answers, mut to) = node.into_split();
    let forth = async {
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
            total += read as u64;
            shared.brought.lock().unwrap()[place] = total;
            let spend = |cuts: u64| cuts.checked_sub(1);
            let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
            if total > after && shared.cuts.fetch_update(set, fetch, spend).is_ok() {
                return;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = forth => {}
        _ = tokio::io::copy(&mut answers, &mut back) => {}
    }
}
