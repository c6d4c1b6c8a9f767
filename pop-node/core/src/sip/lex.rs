//! The characters and separators of RFC 3261 §25.1, over bytes.

/// True for the characters of `token`.
pub(super) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// True for a non-empty `token`.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// Linear white space inside an unfolded value.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without white space at either end.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [first, tail @ ..] = rest
        && is_space(*first)
    {
        rest = tail;
    }
    while let [head @ .., last] = rest
        && is_space(*last)
    {
        rest = head;
    }
    rest
}

/// Splits at position `at`; the byte there belongs to neither part.
fn split_at_byte(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    let (head, tail) = bytes.split_at(at.min(bytes.len()));
    (head, tail.get(1..).unwrap_or_default())
}

/// Splits at the first `separator`.
pub(super) fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some(split_at_byte(bytes, at))
}

/// What `find_outside` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    At(usize),
    Nowhere,
    /// A quoted string or angle bracket is never closed.
    Unbalanced,
}

/// Finds the first byte for which `wanted` holds, outside quoted strings and angle brackets.
/// `wanted` sees an opening `<` or `"` before it hides what follows.
pub(super) fn find_outside(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> Found {
    let mut quoted = false;
    let mut escaped = false;
    let mut angled = false;
    for (at, byte) in bytes.iter().copied().enumerate() {
        if quoted {
            if escaped {
                escaped = false;
            } else if byte == b'\\' {
                escaped = true;
            } else if byte == b'"' {
                quoted = false;
            }
            continue;
        }
        if !angled && wanted(byte) {
            return Found::At(at);
        }
        match byte {
            b'"' => quoted = true,
            b'<' => angled = true,
            b'>' => angled = false,
            _ => {}
        }
    }
    if quoted || angled { Found::Unbalanced } else { Found::Nowhere }
}

/// Splits at the first `separator` outside quoted strings and angle brackets.
/// An unbalanced value is not split.
pub(super) fn split_once_outside(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    match find_outside(bytes, |byte| byte == separator) {
        Found::At(at) => Some(split_at_byte(bytes, at)),
        Found::Nowhere | Found::Unbalanced => None,
    }
}

/// The elements of a comma-separated list, trimmed, empty ones left out.
pub(super) fn list(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let now = rest?;
        let (item, tail) = match split_once_outside(now, b',') {
            Some((item, tail)) => (item, Some(tail)),
            None => (now, None),
        };
        rest = tail;
        Some(trim(item))
    })
    .filter(|item| !item.is_empty())
}

/// A decimal number; `None` if not digits only or too large.
pub(super) fn number<T: TryFrom<u64>>(bytes: &[u8]) -> Option<T> {
    if bytes.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for byte in bytes {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    T::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_respect_quotes_and_brackets() {
        let value = br#""a, \"b" <sip:x,y@h>;p=1 , ,b, "c,"#;
        let items: Vec<_> = list(value).map(|item| String::from_utf8_lossy(item)).collect();
        assert_eq!(items, [r#""a, \"b" <sip:x,y@h>;p=1"#, "b", "\"c,"]);
    }

    #[test]
    fn numbers_do_not_overflow() {
        assert_eq!(number::<u32>(b"0009"), Some(9));
        assert_eq!(number::<u32>(b"4294967296"), None);
        assert_eq!(number::<u64>(b"36893488147419103232"), None);
        assert_eq!(number::<u8>(b"-1"), None);
        assert_eq!(number::<u8>(b""), None);
    }

    #[test]
    fn trims_both_ends() {
        assert_eq!(trim(b" \t a b \r\n"), b"a b");
        assert_eq!(trim(b"  "), b"");
    }
}
