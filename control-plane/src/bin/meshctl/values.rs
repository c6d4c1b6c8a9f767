//! Values of arguments: durations, moments, tags, types of numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use proto::control::{
    AddressRule, ComplianceKind, ComplianceStatus, EndUserType, Expect, NumberCompliance,
    NumberState, NumberType, PortEvent, PortState, ReadConsistency, ReadOptions, Shelf, Tag,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// "90s", "30m", "12h", "45d", as milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration like 90s, 30m, 12h or 45d");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (count, unit) = text.split_at(split);
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    count.checked_mul(unit_ms).ok_or_else(wrong)
}

/// A moment: RFC 3339, or "+3d" from now; as Unix milliseconds.
pub(crate) fn moment_ms(text: &str) -> Result<u64, String> {
    if let Some(ahead) = text.strip_prefix('+') {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        return Ok(unix_ms(now).saturating_add(duration_ms(ahead)?));
    }
    let wrong = |_| format!("{text:?} is neither a moment like 2027-01-31T10:00:00Z nor like +3d");
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(wrong)?;
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000)
        .map_err(|_| format!("{text:?} is before 1970"))
}

fn unix_ms(since: Duration) -> u64 {
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A log time for people; a dash for none.
pub(crate) fn moment(unix_ms: u64) -> String {
    let nanos = i128::from(unix_ms) * 1_000_000;
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    let text = moment.filter(|_| unix_ms > 0).and_then(|moment| {
        let whole = moment.replace_nanosecond(0).ok()?;
        whole.format(&Rfc3339).ok()
    });
    text.unwrap_or_else(|| "-".into())
}

/// KEY=VALUE, or KEY.
pub(crate) fn tag(text: &str) -> Result<Tag, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("{text:?} is no tag like customer=4711"));
    }
    Ok(Tag { key: key.into(), value: value.into() })
}

/// "customer=4711 vip"
pub(crate) fn tags(tags: &[Tag]) -> String {
    let all = tags.iter().map(|tag| match tag.value.as_str() {
        "" => tag.key.clone(),
        value => format!("{}={value}", tag.key),
    });
    all.collect::<Vec<_>>().join(" ")
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident for $of:ident, $unknown:literal:
        $($variant:ident = $word:literal),* $(,)?) => {
        $(#[$doc])*
        #[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum $name { $(#[value(name = $word)] $variant),* }

        impl $name {
            /// As the API has it.
            pub(crate) fn of(given: Option<Self>) -> i32 {
                given.map_or($of::Unspecified, |one| match one { $(Self::$variant => $of::$variant),* })
                    .into()
            }

            /// As it is shown.
            pub(crate) fn word(of: i32) -> &'static str {
                match $of::try_from(of) {
                    $(Ok($of::$variant) => $word,)*
                    Ok($of::Unspecified) | Err(_) => $unknown,
                }
            }
        }
    };
}

words! {
    /// What a number is for.
    Type for NumberType, "-":
    Local = "local", National = "national", Mobile = "mobile", TollFree = "toll-free",
}

words! {
    /// Where a number is in its life.
    State for NumberState, "unknown":
    Active = "active", Available = "available", Blocked = "blocked",
    Decommissioned = "decommissioned", Pending = "pending", PortedOut = "ported-out",
    PortingIn = "porting-in", PortingOut = "porting-out", Quarantine = "quarantine",
    Reserved = "reserved", Suspended = "suspended",
}

words! {
    /// Whom a country's requirements are about.
    EndUser for EndUserType, "-":
    Individual = "individual", Business = "business",
}

words! {
    /// How far a port order is.
    PortStateWord for PortState, "unknown":
    Draft = "draft", Submitted = "submitted", Exception = "exception",
    FocConfirmed = "foc-confirmed", Completed = "completed", Cancelled = "cancelled",
    Rejected = "rejected", Snapback = "snapback",
}

words! {
    /// What happened to a port order.
    PortEventWord for PortEvent, "unknown":
    Submitted = "submitted", Exception = "exception", FocConfirmed = "foc-confirmed",
    Completed = "completed", Cancelled = "cancelled", Rejected = "rejected",
    Snapback = "snapback",
}

words! {
    /// Which address a number needs.
    Address for AddressRule, "-":
    None = "none", Any = "any", National = "national", Local = "local",
}

words! {
    /// What a compliance record is.
    Kind for ComplianceKind, "-":
    Bundle = "bundle", Address = "address", EmergencyAddress = "emergency-address",
}

words! {
    /// How a compliance record stands.
    Status for ComplianceStatus, "-":
    Draft = "draft", Submitted = "submitted", Approved = "approved", Rejected = "rejected",
    Expired = "expired",
}

impl Type {
    /// A word of a file.
    pub(crate) fn parse(word: &str) -> Result<i32, String> {
        let word = word.replace('_', "-");
        let found = <Self as ValueEnum>::from_str(&word, true);
        found
            .map(|one| Self::of(Some(one)))
            .map_err(|_| format!("type {word:?} is none of local, national, mobile, toll-free"))
    }
}

/// Which part of the inventory.
#[derive(Args, Clone, Default)]
pub(crate) struct Filter {
    /// Of this pool
    #[arg(long)]
    pub(crate) pool: Option<String>,
    /// Of this country, such as DE; 001: of no country
    #[arg(long, value_name = "ISO")]
    pub(crate) country: Option<String>,
    /// Of this area
    #[arg(long)]
    pub(crate) area: Option<String>,
    /// Of this type
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<Type>,
    /// From this carrier
    #[arg(long)]
    pub(crate) carrier: Option<String>,
}

impl Filter {
    pub(crate) fn is_empty(&self) -> bool {
        self.shelf() == Shelf::default()
    }

    pub(crate) fn shelf(&self) -> Shelf {
        let text = |given: &Option<String>| given.clone().unwrap_or_default();
        Shelf {
            pool: text(&self.pool),
            country: text(&self.country),
            area: text(&self.area),
            r#type: Type::of(self.kind),
            carrier: text(&self.carrier),
        }
    }
}

/// What must still be true, or the write is refused.
#[derive(Args, Clone, Default)]
pub(crate) struct Expected {
    /// Only if its generation is still this one
    #[arg(long, value_name = "N")]
    pub(crate) if_generation: Option<u64>,
    /// Only if its etag is still this one
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<String>,
}

impl Expected {
    pub(crate) fn expect(&self) -> Option<Expect> {
        let (generation, etag) = (self.if_generation, self.if_etag.clone());
        (generation.is_some() || etag.is_some()).then(|| Expect {
            generation: generation.unwrap_or_default(),
            etag: etag.unwrap_or_default(),
        })
    }
}

/// What a tenant has shown for a number.
#[derive(Args, Clone, Default)]
pub(crate) struct Shown {
    /// Its approved identity documents
    #[arg(long, value_name = "RECORD")]
    pub(crate) bundle: Option<String>,
    /// Its address
    #[arg(long, value_name = "RECORD")]
    pub(crate) address: Option<String>,
    /// Its address for emergency calls
    #[arg(long, value_name = "RECORD")]
    pub(crate) emergency_address: Option<String>,
}

impl Shown {
    pub(crate) fn compliance(&self) -> Option<NumberCompliance> {
        let text = |given: &Option<String>| given.clone().unwrap_or_default();
        let shown = NumberCompliance {
            bundle_id: text(&self.bundle),
            address_id: text(&self.address),
            emergency_address_id: text(&self.emergency_address),
        };
        (shown != NumberCompliance::default()).then_some(shown)
    }
}

/// How fresh the answer must be.
#[derive(Args, Clone, Copy, Default)]
pub(crate) struct Read {
    /// Let the node answer from its own, perhaps older, state: works without a majority
    #[arg(long, conflicts_with_all = ["min_revision", "max_staleness"])]
    pub(crate) local: bool,
    /// At least what was there at this revision, such as one a write printed
    #[arg(long, value_name = "N", conflicts_with = "max_staleness")]
    pub(crate) min_revision: Option<u64>,
    /// May be so old, such as 500ms
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    pub(crate) max_staleness: Option<u64>,
}

impl Read {
    pub(crate) fn options(self) -> Option<ReadOptions> {
        let (min_revision, max_staleness_ms) = (self.min_revision, self.max_staleness);
        let consistency = match (self.local, min_revision, max_staleness_ms) {
            (true, ..) => ReadConsistency::Local,
            (_, Some(_), _) => ReadConsistency::AtLeastRevision,
            (_, _, Some(_)) => ReadConsistency::BoundedStaleness,
            _ => ReadConsistency::Linearizable,
        };
        Some(ReadOptions {
            consistency: consistency.into(),
            min_revision: min_revision.unwrap_or_default(),
            max_staleness_ms: max_staleness_ms.unwrap_or_default(),
        })
    }
}

/// How much of a list.
#[derive(Args, Clone, Copy)]
pub(crate) struct Pages {
    /// At most so many
    #[arg(long, default_value_t = 1_000, value_name = "N", conflicts_with = "all")]
    pub(crate) limit: usize,
    /// Everything, page after page
    #[arg(long)]
    pub(crate) all: bool,
}

impl Pages {
    /// Entries wanted in all.
    pub(crate) fn limit(self) -> usize {
        if self.all { usize::MAX } else { self.limit }
    }

    /// The size of the next page, when `have` are there.
    pub(crate) fn next(self, have: usize, most: u32) -> u32 {
        u32::try_from(self.limit().saturating_sub(have)).unwrap_or(most).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_moments_are_read_and_shown() {
        assert_eq!(duration_ms("90s"), Ok(90_000));
        assert_eq!(duration_ms("45d"), Ok(45 * 86_400_000));
        for bad in ["", "5", "m", "5 m", "-5m", "99999999999999999999d", "18446744073709551615d"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
        assert_eq!(moment_ms("1970-01-01T00:00:01Z"), Ok(1_000));
        assert_eq!(moment(1_000), "1970-01-01T00:00:01Z");
        assert_eq!(moment(0), "-");
        assert!(moment_ms("+1h").unwrap() > 1_700_000_000_000);
        assert!(moment_ms("tomorrow").is_err() && moment_ms("1969-01-01T00:00:00Z").is_err());
    }

    #[test]
    fn words_are_those_of_the_api() {
        assert_eq!(Type::of(Some(Type::TollFree)), i32::from(NumberType::TollFree));
        assert_eq!(Type::word(4), "toll-free");
        assert_eq!(Type::parse("toll_free"), Ok(4));
        assert!(Type::parse("pager").unwrap_err().contains("toll-free"));
        assert_eq!(State::word(i32::from(NumberState::PortedOut)), "ported-out");
        assert_eq!(State::of(None), 0);
        assert_eq!(tags(&[tag("a=b").unwrap(), tag("vip").unwrap()]), "a=b vip");
        assert!(tag("=x").is_err());
    }
}
