//! Why a request failed, and the one place where that becomes a gRPC status.
//!
//! As google.rpc.Status (AIP-193): code, a sentence, and in the details an ErrorInfo with a stable
//! reason and, where waiting helps, a RetryInfo. The reason is also in the metadata key
//! `voxmesh-reason`, for clients without google.rpc.

use std::time::Duration;

use prost::Message;
use proto::identity::Identity;
use proto::raft::{Reason, Rejected};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::driver::Stopped;

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    /// Stable, for programs: `NUMBER_ALLOCATED`.
    pub(super) reason: String,
    /// For people.
    pub(super) message: String,
    /// Waiting this long helps.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), retry_after: None }
    }

    pub(super) fn unauthenticated(message: String) -> Self {
        Self::new(Code::Unauthenticated, "NO_IDENTITY", message)
    }

    pub(super) fn denied(identity: &Identity) -> Self {
        let message = format!("{} may not do this", identity.principal());
        Self::new(Code::PermissionDenied, "DENIED", message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "INVALID", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, "NOT_FOUND", message)
    }

    /// Nobody can answer now; another try, perhaps elsewhere, may succeed.
    pub(super) fn unavailable(reason: &str, message: impl Into<String>) -> Self {
        let retry_after = Some(Duration::from_millis(200));
        Self { retry_after, ..Self::new(Code::Unavailable, reason, message) }
    }

    pub(super) fn overloaded() -> Self {
        let retry_after = Some(Duration::from_millis(500));
        let message = "too much waits for this node already: retry later";
        Self { retry_after, ..Self::new(Code::ResourceExhausted, "OVERLOADED", message) }
    }

    pub(super) fn internal(message: &str) -> Self {
        Self::new(Code::Internal, "INTERNAL", message)
    }

    /// A status of another node, its reason kept.
    pub(super) fn from_peer(status: &Status) -> Self {
        let reason = status.metadata().get(REASON).and_then(|r| r.to_str().ok());
        Self::new(status.code(), reason.unwrap_or(NO_REASON), status.message())
    }
}

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        let reason = rejected.reason();
        let code = match reason {
            Reason::AlreadyExists | Reason::NumberAllocated => Code::AlreadyExists,
            Reason::Conflict => Code::Aborted,
            Reason::Fenced
            | Reason::IllegalTransition
            | Reason::InUse
            | Reason::RequirementsUnmet => Code::FailedPrecondition,
            Reason::IdempotencyKeyReused | Reason::Invalid => Code::InvalidArgument,
            Reason::Limit | Reason::PoolExhausted | Reason::Quota => Code::ResourceExhausted,
            Reason::NotFound => Code::NotFound,
            Reason::NotOwner => Code::PermissionDenied,
            Reason::Unspecified => Code::Unknown,
        };
        let name = reason.as_str_name();
        Self::new(code, name.strip_prefix("REASON_").unwrap_or(name), rejected.message)
    }
}

impl From<Stopped> for Failure {
    fn from(_: Stopped) -> Self {
        Self::unavailable("STOPPING", "this node is stopping: ask another one")
    }
}

/// Stands for the reason of a status that has none: the transport made it, not a node.
pub(super) const NO_REASON: &str = "PEER";
/// Metadata key of the reason.
const REASON: &str = "voxmesh-reason";

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut metadata = MetadataMap::new();
        if let Ok(reason) = MetadataValue::try_from(failure.reason.as_str()) {
            metadata.insert(REASON, reason);
        }
        let details = details(&failure).into();
        Self::with_details_and_metadata(failure.code, failure.message, details, metadata)
    }
}

impl From<Box<Failure>> for Failure {
    fn from(failure: Box<Failure>) -> Self {
        *failure
    }
}

/// google.rpc.Status
#[derive(Message, Clone, PartialEq)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// google.protobuf.Any
#[derive(Message, Clone, PartialEq)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// google.rpc.ErrorInfo, without its map of metadata
#[derive(Message, Clone, PartialEq)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// google.rpc.RetryInfo
#[derive(Message, Clone, PartialEq)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// google.protobuf.Duration
#[derive(Message, Clone, PartialEq)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn details(failure: &Failure) -> Vec<u8> {
    let any = |name: &str, value: Vec<u8>| Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value,
    };
    let info = ErrorInfo { reason: failure.reason.clone(), domain: "voxmesh".into() };
    let mut details = vec![any("ErrorInfo", info.encode_to_vec())];
    if let Some(delay) = failure.retry_after {
        let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
        let nanos = i32::try_from(delay.subsec_nanos()).unwrap_or_default();
        let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos }) };
        details.push(any("RetryInfo", info.encode_to_vec()));
    }
    let code = i32::from(failure.code);
    RpcStatus { code, message: failure.message.clone(), details }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_and_a_name() {
        for number in 1.. {
            let Ok(reason) = Reason::try_from(number) else { break };
            let rejected = Rejected { reason: number, message: "why".into() };
            let failure = Failure::from(rejected);
            assert_ne!(failure.code, Code::Unknown, "{reason:?}");
            assert!(!failure.reason.starts_with("REASON_"), "{reason:?}");
        }
    }

    #[test]
    fn a_status_carries_reason_and_details() {
        let status = Status::from(Failure::overloaded());
        assert_eq!(Failure::from_peer(&status).reason, "OVERLOADED");
        let details = RpcStatus::decode(status.details()).unwrap();
        assert_eq!(details.code, i32::from(Code::ResourceExhausted));
        let info = ErrorInfo::decode(details.details[0].value.as_slice()).unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("OVERLOADED", "voxmesh"));
        let retry = RetryInfo::decode(details.details[1].value.as_slice()).unwrap();
        assert_eq!(retry.retry_delay.unwrap().nanos, 500_000_000);
    }
}
