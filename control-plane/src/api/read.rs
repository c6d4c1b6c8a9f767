//! How fresh an answer must be.
//!
//! LINEARIZABLE: everything acknowledged before the request; asks the quorum. AT_LEAST_REVISION:
//! what the caller has seen, or later; waits for it here. BOUNDED_STALENESS: from here, if log
//! time says that this is recent enough, else as LINEARIZABLE; clocks of nodes may differ, and so
//! may what they take for recent. LOCAL: whatever is here, even when cut off.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::control::{
    GetComplianceRecordRequest, GetNumberRequest, GetPortOrderRequest, GetReservationRequest,
    GetTenantRequest, ListAccessRequest, ListAuditRequest, ListAvailableRequest, ListBlocksRequest,
    ListComplianceRecordsRequest, ListComplianceRequest, ListMembersRequest, ListNumbersRequest,
    ListPoolsRequest, ListPopsRequest, ListPortOrdersRequest, ListRequest, ListReservationsRequest,
    ListTenantsRequest, ListTokensRequest, ReadConsistency, ReadOptions, SelectCallerIdRequest,
};
use proto::id::Revision;

use super::Failure;

/// A bound above this is a mistake of units.
const STALENESS_MAX: Duration = Duration::from_secs(24 * 3600);

/// Entries looked at for one page at most: on the thread that drives the replica.
const WORK_MAX: usize = 10_000;

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Linearizable,
    AtLeast(Revision),
    Within(Duration),
    Local,
}

/// A request that reads.
pub(super) trait Reads {
    /// As asked for.
    fn freshness(&self) -> Result<Freshness, Failure>;
}

macro_rules! reads {
    ($($request:ty),* $(,)?) => {$(
        impl Reads for $request {
            fn freshness(&self) -> Result<Freshness, Failure> {
                Freshness::of(self.consistency, self.read.as_ref())
            }
        }
    )*};
}

reads! {
    GetComplianceRecordRequest, GetNumberRequest, GetPortOrderRequest, GetReservationRequest,
    GetTenantRequest, ListAccessRequest, ListAuditRequest, ListAvailableRequest, ListBlocksRequest,
    ListComplianceRecordsRequest, ListComplianceRequest, ListMembersRequest, ListNumbersRequest,
    ListPoolsRequest, ListPopsRequest,
    ListPortOrdersRequest, ListRequest, ListReservationsRequest, ListTenantsRequest,
    ListTokensRequest, SelectCallerIdRequest,
}

impl Freshness {
    /// From the old field and the options; these win.
    fn of(consistency: i32, options: Option<&ReadOptions>) -> Result<Self, Failure> {
        let (name, asked) = match options {
            Some(options) => ("read.consistency", options.consistency),
            None => ("consistency", consistency),
        };
        let options = options.copied().unwrap_or_default();
        let asked = ReadConsistency::try_from(asked)
            .map_err(|_| Failure::invalid(format!("{name} {asked} is unknown: 0 to 3")))?;
        match asked {
            ReadConsistency::Linearizable => Ok(Self::Linearizable),
            ReadConsistency::Local => Ok(Self::Local),
            ReadConsistency::AtLeastRevision => match options.min_revision {
                0 => Err(Failure::invalid(
                    "read.min_revision is 0: send the revision of an answer you have seen",
                )),
                revision => Ok(Self::AtLeast(Revision(revision))),
            },
            ReadConsistency::BoundedStaleness => {
                let bound = Duration::from_millis(options.max_staleness_ms);
                if bound.is_zero() || bound > STALENESS_MAX {
                    let most = STALENESS_MAX.as_millis();
                    let message = format!("read.max_staleness_ms is not between 1 and {most}");
                    return Err(Failure::invalid(message));
                }
                Ok(Self::Within(bound))
            }
        }
    }
}

/// Entries of a page: as asked, `usual` for 0.
pub(super) fn page(asked: u32, usual: u32, most: u32) -> Result<usize, Failure> {
    match asked {
        0 => Ok(usual as usize),
        asked if asked <= most => Ok(asked as usize),
        _ => Err(Failure::invalid(format!("page_size {asked} is more than {most}"))),
    }
}

/// A filter; empty: none.
pub(super) fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The first `limit` wanted entries, and the token of the page after them; empty: there is none.
/// The work of a page is bounded: it may be short, even empty, and have a next one.
pub(super) fn paged<T>(
    entries: impl Iterator<Item = T>,
    wanted: impl Fn(&T) -> bool,
    limit: usize,
    token: impl Fn(&T) -> String,
) -> (Vec<T>, String) {
    let (mut page, mut last) = (Vec::new(), String::new());
    for (work, entry) in entries.enumerate() {
        if work >= WORK_MAX || page.len() >= limit {
            return (page, last);
        }
        last = token(&entry);
        if wanted(&entry) {
            page.push(entry);
        }
    }
    (page, String::new())
}

/// Whether a state of this log time is recent enough now.
pub(super) fn recent(log_time_ms: u64, bound: Duration, now: SystemTime) -> bool {
    let then = UNIX_EPOCH + Duration::from_millis(log_time_ms);
    // A log time ahead of this clock is as recent as can be.
    now.duration_since(then).is_ok_and(|age| age <= bound) || then >= now
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(consistency: ReadConsistency, min_revision: u64, max_staleness_ms: u64) -> ReadOptions {
        ReadOptions { consistency: consistency.into(), min_revision, max_staleness_ms }
    }

    #[test]
    fn options_win_over_the_old_field() {
        let local = of(ReadConsistency::Local, 0, 0);
        assert_eq!(Freshness::of(0, None), Ok(Freshness::Linearizable));
        assert_eq!(Freshness::of(1, None), Ok(Freshness::Local));
        assert_eq!(Freshness::of(0, Some(&local)), Ok(Freshness::Local));
        assert_eq!(Freshness::of(1, Some(&ReadOptions::default())), Ok(Freshness::Linearizable));
        let seen = of(ReadConsistency::AtLeastRevision, 7, 0);
        assert_eq!(Freshness::of(0, Some(&seen)), Ok(Freshness::AtLeast(Revision(7))));
        let bound = of(ReadConsistency::BoundedStaleness, 0, 250);
        assert_eq!(
            Freshness::of(0, Some(&bound)),
            Ok(Freshness::Within(Duration::from_millis(250)))
        );
    }

    #[test]
    fn what_makes_no_sense_names_its_field() {
        let wrong = |consistency, options: Option<ReadOptions>| {
            Freshness::of(consistency, options.as_ref()).unwrap_err().message
        };
        assert!(wrong(9, None).starts_with("consistency 9"));
        assert!(wrong(2, None).contains("min_revision"), "the old field cannot say which");
        assert!(
            wrong(0, Some(of(ReadConsistency::AtLeastRevision, 0, 0))).contains("min_revision")
        );
        let unbounded = of(ReadConsistency::BoundedStaleness, 0, 0);
        assert!(wrong(0, Some(unbounded)).contains("max_staleness_ms"));
        let days = of(ReadConsistency::BoundedStaleness, 0, 1_000_000_000);
        assert!(wrong(0, Some(days)).contains("max_staleness_ms"));
    }

    #[test]
    fn pages_hold_all_that_is_wanted_once_with_bounded_work() {
        let (mut found, mut pages, mut after) = (Vec::new(), 0, String::new());
        loop {
            let rest =
                (0..25_000_u32).skip_while(|n| !after.is_empty() && format!("{n:05}") <= after);
            let (page, next) = paged(rest, |n| n % 5_000 == 7, 2, |n| format!("{n:05}"));
            assert!(page.len() <= 2);
            found.extend(page);
            pages += 1;
            if next.is_empty() {
                break;
            }
            after = next;
        }
        assert_eq!(found, [7, 5_007, 10_007, 15_007, 20_007]);
        assert!(pages >= 3, "{pages}");
        assert_eq!(paged(0..2, |_| true, 2, u32::to_string), (vec![0, 1], String::new()));
    }

    #[test]
    fn recent_is_a_matter_of_log_time() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let bound = Duration::from_millis(100);
        assert!(recent(1_000, bound, at(1_100)));
        assert!(!recent(1_000, bound, at(1_101)));
        assert!(recent(1_000, bound, at(900)), "the leader's clock is ahead");
    }
}
