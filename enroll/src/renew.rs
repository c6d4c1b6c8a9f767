//! Renewal: the next certificate for the same identity, asked for with the present one.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::control::RenewRequest;
use proto::control::enrollment_client::EnrollmentClient;
use rcgen::KeyPair;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use crate::files;
use crate::join::{JoinError, Joined, request_of, take};

/// When a certificate is valid, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: i64,
    /// Until.
    pub not_after: i64,
}

impl Validity {
    /// Two thirds of it are over: time to renew, with a third left for repairs.
    pub fn is_due(&self, now: SystemTime) -> bool {
        let length = self.not_after.saturating_sub(self.not_before);
        seconds(now).saturating_sub(self.not_before) >= length / 3 * 2
    }

    /// Seconds until it ends; negative afterwards.
    pub fn left(&self, now: SystemTime) -> i64 {
        self.not_after.saturating_sub(seconds(now))
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The node's answer.
    #[error("the control node refuses: {}", .0.message())]
    Status(#[from] Status),
    /// Its content, or a key.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// Asks one node, over a connection with the present certificate.
pub async fn renew(channel: Channel) -> Result<Joined, RenewError> {
    let key = KeyPair::generate().map_err(JoinError::from)?;
    let csr = request_of(&key).map_err(JoinError::from)?;
    let answer = EnrollmentClient::new(channel).renew(RenewRequest { csr }).await?;
    Ok(take(answer.into_inner(), &key)?)
}

/// How often the age is looked at.
const AGE: Duration = Duration::from_secs(10);
/// After a renewal that did not come about.
const RENEW_AGAIN: Duration = Duration::from_secs(600);

/// Shows the seconds that are left, and renews `file` in time by asking `nodes` in turn; for ever.
/// Without a file that holds key and certificate both, renewal is left to who wrote the two.
pub async fn keep_fresh(
    validity: watch::Receiver<Validity>,
    file: Option<&Path>,
    nodes: impl Fn() -> Vec<Channel>,
    show: impl Fn(i64),
) {
    loop {
        let (now, current) = (SystemTime::now(), *validity.borrow());
        show(current.left(now));
        let mut pause = AGE;
        if let (true, Some(file)) = (current.is_due(now), file)
            && !renewed(file, &nodes()).await
        {
            pause = RENEW_AGAIN;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn renewed(file: &Path, nodes: &[Channel]) -> bool {
    for node in nodes {
        match renew(node.clone()).await {
            Ok(joined) => match files::write(file, joined.pem.as_bytes(), 0o600) {
                Ok(()) => return true, // Who watches the file reads it.
                Err(error) => {
                    let file = file.display();
                    tracing::error!(%error, %file, "a renewed certificate cannot be written");
                    return false;
                }
            },
            Err(error) => tracing::debug!(%error, "a node does not renew this certificate"),
        }
    }
    tracing::warn!("no control node renews this certificate: see that one has [ca], or issue one");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_after_two_thirds() {
        let validity = Validity { not_before: 1_000, not_after: 1_300 };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!validity.is_due(at(1_199)) && validity.is_due(at(1_200)));
        assert_eq!((validity.left(at(1_299)), validity.left(at(1_310))), (1, -10));
        assert!(!validity.is_due(at(0)));
    }
}
