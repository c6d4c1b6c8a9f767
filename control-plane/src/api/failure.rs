//! Why a request failed, and the one place where that becomes a gRPC status.
//!
//! As google.rpc.Status (AIP-193): code, a sentence, and the details. Always an ErrorInfo with a
//! stable reason and, in its metadata, the `fix`; then what the code asks for: RetryInfo where
//! waiting helps, PreconditionFailure for a state that has to change first, QuotaFailure for a
//! bound that was reached, BadRequest for a field. The reason is also in the metadata key
//! `voxmesh-reason`, for clients without google.rpc.

use std::collections::BTreeMap;
use std::time::Duration;

use control_core::group::GroupError;
use proto::identity::Identity;
use proto::raft::{Reason, Rejected};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::access::Denied;
use crate::driver::Stopped;

/// Whose reasons these are (ErrorInfo.domain).
pub(super) const DOMAIN: &str = "voxmesh";

/// What the caller can do, by reason. One that is not here has its fix in the message only.
const FIXES: &[(&str, &str)] = &[
    ("ALREADY_EXISTS", "choose another id, or change the one that is there"),
    ("BEHIND", "ask another control node"),
    ("BUSY", "ask another control node"),
    ("CHANGE_IN_PROGRESS", "retry with the same request_id: one change of members at a time"),
    ("CROSS_GROUP", "make one request for each group; name numbers, a country or a prefix"),
    ("DISK_STALLED", "ask another control node; look at the disk of this one"),
    ("ETAG_MISMATCH", "read it again, apply your change to what is there now, and retry"),
    ("FEATURE_LEVEL", "upgrade all control nodes first (meshctl control status)"),
    ("FENCED", "stop this process, or register again for a new epoch"),
    ("IDEMPOTENCY_KEY_REUSED", "use a new request_id for a different request"),
    ("ILLEGAL_TRANSITION", "read the resource: its state does not allow this"),
    ("INVALID", "correct the field that the message names"),
    ("IN_USE", "change what uses it first"),
    ("LIMIT", "delete what is not needed, or wait"),
    ("NOT_CAUGHT_UP", "wait until the learner has caught up, and retry"),
    ("NOT_FOUND", "create it first, or correct its name"),
    ("NOT_HEARD", "start the node, and look at its address"),
    ("NOT_OWNER", "name the owner, or have it transferred"),
    ("NO_CANDIDATE", "see that another voter runs and has caught up"),
    ("NO_CLUSTER", "ask another control node"),
    ("NO_IDENTITY", "come with a certificate of this mesh (meshctl pki issue)"),
    ("NO_QUORUM", "retry with the same request_id; see that a majority of the members runs"),
    ("NUMBER_ALLOCATED", "choose another number"),
    ("NO_AUTHORITY", "ask a node with [ca] in its configuration"),
    ("OUTCOME_UNKNOWN", "retry with the same request_id: it takes effect once"),
    ("OVERLOADED", "wait as long as RetryInfo says, then retry with the same request_id"),
    ("PERMISSION_DENIED", "ask an administrator for a role (meshctl roles explain)"),
    ("POOL_EXHAUSTED", "import more numbers, or choose another pool"),
    ("QUOTA_EXCEEDED", "release what is not needed, or have the quota raised"),
    ("REQUIREMENTS_UNMET", "submit what the message names, then activate it"),
    ("REVISION_COMPACTED", "begin anew without from_revision: a snapshot comes first"),
    ("STOPPING", "ask another control node"),
    ("STORAGE_LOW", "free disk space on the control nodes; reads and releases go on"),
    ("TOKEN_EXPIRED", "have a new token made: meshctl token create"),
    ("TOKEN_UNKNOWN", "have a token of this mesh made: meshctl token create"),
    ("TOKEN_USED", "have a new token made: meshctl token create"),
    ("WOULD_LOSE_QUORUM", "start the voters that are silent, or remove those first"),
    ("WRONG_GROUP", "ask a control node of the group that keeps it"),
];

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
    /// What programs want to know beside the reason. Boxed: failures are rare.
    #[expect(clippy::box_collection, reason = "a map is three words, and most have none")]
    facts: Option<Box<BTreeMap<String, String>>>,
}

impl Failure {
    pub(super) fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, reason: reason.into(), message, retry_after: None, facts: None }
    }

    /// With a fact for the ErrorInfo's metadata: `compact_revision`, `field`, `subject`.
    pub(super) fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.facts.get_or_insert_default().insert(key.into(), value.to_string());
        self
    }

    fn fact(&self, key: &str) -> Option<&str> {
        self.facts.as_ref().and_then(|facts| facts.get(key)).map(String::as_str)
    }

    pub(super) fn unauthenticated(message: String) -> Self {
        Self::new(Code::Unauthenticated, "NO_IDENTITY", message)
    }

    pub(super) fn denied(identity: &Identity) -> Self {
        Self::forbidden(format!("{} may not do this", identity.principal()))
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, "PERMISSION_DENIED", message)
    }

    /// The message begins with the field.
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

    /// A status of another node: its reason, facts and patience are kept.
    pub(super) fn from_peer(status: &Status) -> Self {
        let reason = status.metadata().get(REASON).and_then(|r| r.to_str().ok());
        let mut failure = Self::new(status.code(), reason.unwrap_or(NO_REASON), status.message());
        let details = status.get_error_details();
        failure.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        for (key, value) in details.error_info().map(|info| &info.metadata).into_iter().flatten() {
            failure = failure.with(key, value);
        }
        failure
    }

    fn details(&self) -> ErrorDetails {
        let mut facts: Vec<(String, String)> =
            self.facts.iter().flat_map(|f| f.iter()).map(|(k, v)| (k.clone(), v.clone())).collect();
        if let Some(fix) = fix(&self.reason) {
            facts.push(("fix".into(), fix.into()));
        }
        let facts = facts.into_iter().collect::<std::collections::HashMap<_, _>>();
        let mut details = ErrorDetails::with_error_info(&self.reason, DOMAIN, facts);
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        let subject = self.fact("subject").unwrap_or_default();
        match self.code {
            Code::Aborted | Code::FailedPrecondition => {
                details.add_precondition_failure_violation(&self.reason, subject, &self.message);
            }
            Code::InvalidArgument => {
                let field = self.fact("field").or_else(|| field_of(&self.message));
                details.add_bad_request_violation(field.unwrap_or_default(), &self.message);
            }
            Code::ResourceExhausted => {
                details.add_quota_failure_violation(subject, &self.message);
            }
            _ => {}
        }
        details
    }
}

fn fix(reason: &str) -> Option<&'static str> {
    FIXES.iter().find(|(name, _)| *name == reason).map(|(_, fix)| *fix)
}

/// The field a message begins with, if it begins with one of the schema.
fn field_of(message: &str) -> Option<&str> {
    let first = message.split_whitespace().next()?;
    let name = first.rsplit('.').next().unwrap_or(first);
    proto::schema::fields().contains(name).then_some(first)
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
        let name = match reason {
            Reason::Conflict => "ETAG_MISMATCH",
            Reason::Quota => "QUOTA_EXCEEDED",
            other => other.as_str_name().trim_start_matches("REASON_"),
        };
        Self::new(code, name, rejected.message)
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let message = format!("{denied}: no role of it grants that");
        Self::forbidden(message)
            .with("principal", denied.principal)
            .with("verb", denied.verb)
            .with("resource", denied.resource)
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
pub(super) const REASON: &str = "voxmesh-reason";
/// Metadata key of the fact of that name: a process that was fenced by verdict may register anew.
const VERDICT: &str = "voxmesh-verdict";

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut metadata = MetadataMap::new();
        if let Ok(reason) = MetadataValue::try_from(failure.reason.as_str()) {
            metadata.insert(REASON, reason);
        }
        if let Some(Ok(verdict)) = failure.fact("verdict").map(MetadataValue::try_from) {
            metadata.insert(VERDICT, verdict);
        }
        let details = failure.details();
        Self::with_error_details_and_metadata(failure.code, failure.message, details, metadata)
    }
}

impl From<Box<Failure>> for Failure {
    fn from(failure: Box<Failure>) -> Self {
        *failure
    }
}

impl From<GroupError> for Failure {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Spans(..) | GroupError::Vague(..) => {
                Self::new(Code::InvalidArgument, "CROSS_GROUP", error.to_string())
            }
            GroupError::Elsewhere(group, _) => {
                Self::new(Code::FailedPrecondition, "WRONG_GROUP", error.to_string())
                    .with("group", group)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(failure: Failure) -> ErrorDetails {
        Status::from(failure).get_error_details()
    }

    #[test]
    fn every_reason_has_a_code_a_name_and_a_fix() {
        for number in 1.. {
            let Ok(reason) = Reason::try_from(number) else { break };
            let rejected = Rejected { reason: number, message: "why".into() };
            let failure = Failure::from(rejected);
            assert_ne!(failure.code, Code::Unknown, "{reason:?}");
            assert!(!failure.reason.starts_with("REASON_"), "{reason:?}");
            assert!(fix(&failure.reason).is_some(), "no line of FIXES for {}", failure.reason);
            let details = details(failure.clone());
            let info = details.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (&*failure.reason, DOMAIN));
            assert!(info.metadata.contains_key("fix"), "{reason:?}");
            let wanted = match failure.code {
                Code::FailedPrecondition | Code::Aborted => {
                    details.precondition_failure().is_some()
                }
                Code::InvalidArgument => details.bad_request().is_some(),
                Code::ResourceExhausted => details.quota_failure().is_some(),
                _ => true,
            };
            assert!(wanted, "{reason:?} lacks the detail of its code");
        }
    }

    #[test]
    fn each_fix_is_said_once() {
        let names: std::collections::BTreeSet<_> = FIXES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), FIXES.len());
    }

    #[test]
    fn a_status_carries_reason_patience_and_facts_through_a_peer() {
        let status = Status::from(Failure::overloaded().with("subject", "node 1"));
        let failure = Failure::from_peer(&status);
        assert_eq!(failure.reason, "OVERLOADED");
        assert_eq!(failure.retry_after, Some(Duration::from_millis(500)));
        assert_eq!(failure.fact("subject"), Some("node 1"));
        let details = details(failure);
        assert_eq!(details.quota_failure().unwrap().violations[0].subject, "node 1");
        assert!(details.retry_info().is_some());
    }

    #[test]
    fn a_wrong_field_is_named() {
        let violated = |message: &str| {
            let details = details(Failure::invalid(message));
            details.bad_request().unwrap().field_violations[0].field.clone()
        };
        assert_eq!(violated("trunk_id \"A B\" has a blank"), "trunk_id");
        assert_eq!(violated("options.request_id is empty"), "options.request_id");
        assert_eq!(violated("the request names nothing"), "");
    }
}
