//! E.164 numbers as integers.

use std::ops::RangeInclusive;

use proto::e164::redact;

/// The highest number: 15 digits (E.164 §6.2.1).
pub(crate) const HIGHEST: u64 = 999_999_999_999_999;

/// "+" and 1 to 15 digits, the first not 0.
pub(crate) fn parse(e164: &str) -> Option<u64> {
    let digits = e164.strip_prefix('+')?;
    let good = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    let number = good.then(|| digits.parse().ok())??;
    (1..=HIGHEST).contains(&number).then_some(number)
}

/// "+" and digits.
pub(crate) fn text(number: u64) -> String {
    format!("+{number}")
}

/// For messages.
pub(crate) fn shown(number: u64) -> String {
    redact(&text(number), 4)
}

/// As it stands in keys: in order.
pub(crate) fn bytes(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

pub(crate) fn from_bytes(name: &[u8]) -> Option<u64> {
    name.try_into().ok().map(u64::from_be_bytes)
}

/// How many digits.
pub(crate) fn length(number: u64) -> u32 {
    number.checked_ilog10().map_or(1, |log| log + 1)
}

/// The numbers that begin with these digits, one range for each length. None when `prefix` is
/// nothing a number can begin with; everything for an empty one.
pub(crate) fn windows(prefix: &str) -> Vec<RangeInclusive<u64>> {
    if prefix.is_empty() {
        return vec![1..=HIGHEST];
    }
    let Some(head) = parse(&format!("+{prefix}")) else { return Vec::new() };
    (0..=15 - length(head))
        .map(|more| {
            let unit = 10u64.pow(more);
            head * unit..=head * unit + (unit - 1)
        })
        .collect()
}

/// How many digits two numbers have in common at the beginning.
pub(crate) fn common_prefix(a: u64, b: u64) -> u32 {
    let (mut a, mut b) = (a, b);
    let (long_a, long_b) = (length(a), length(b));
    a /= 10u64.pow(long_a.saturating_sub(long_b));
    b /= 10u64.pow(long_b.saturating_sub(long_a));
    let mut common = long_a.min(long_b);
    while a != b {
        a /= 10;
        b /= 10;
        common = common.saturating_sub(1);
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_text() {
        assert_eq!(parse("+4930123456"), Some(4_930_123_456));
        assert_eq!(parse("+999999999999999"), Some(HIGHEST));
        for bad in ["", "+", "49", "+049", "+0", "+1000000000000000", "+49 3", "++4", "+４９"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&text(4930)), Some(4930));
        assert_eq!((length(9), length(10), length(HIGHEST)), (1, 2, 15));
    }

    #[test]
    fn a_prefix_is_a_range_for_each_length() {
        assert_eq!(windows(""), [1..=HIGHEST]);
        assert!(windows("0").is_empty() && windows("x").is_empty());
        let found = windows("49");
        assert_eq!((found.len(), &found[0], &found[1]), (14, &(49..=49), &(490..=499)));
        assert_eq!(windows("999999999999999"), [HIGHEST..=HIGHEST]);
    }

    #[test]
    fn common_digits_are_counted_from_the_left() {
        assert_eq!(common_prefix(4_930_123_456, 4_930_123_499), 8);
        assert_eq!(common_prefix(4_930_123_456, 4930), 4);
        assert_eq!(common_prefix(4930, 4_930_123_456), 4);
        assert_eq!(common_prefix(1, 49), 0);
        assert_eq!(common_prefix(49, 49), 2);
    }
}
