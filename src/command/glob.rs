//! Glob patterns, as KEYS, SCAN and CONFIG GET take them.
//!
//! `*` any run of bytes, `?` any byte, `[abc]` one of, `[^abc]` none of, `[a-z]` a range, `\x` the byte x itself. A
//! class that is not closed ends with the pattern. Pure functions; patterns come from clients and may be hostile.
//!
//! Every element but `*` stands for exactly one byte. So when the rest of a pattern fails, only the last `*` needs to
//! take one byte more: an earlier one could not do better. Matching therefore needs at most (pattern bytes) times (text
//! bytes) steps and no recursion.

/// Whether the whole of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_with(pattern, text, false)
}

/// Like [`matches()`], without regard to the case of ASCII letters.
pub fn matches_ignore_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_with(pattern, text, true)
}

fn matches_with(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last `*`, and the first byte of the text that it has not taken.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            if p == pattern.len() {
                return true;
            }
            retry = Some((p, t));
            continue;
        }
        if p < pattern.len() {
            let (matched, len) = element(&pattern[p..], text[t], ignore_case);
            if matched {
                p += len;
                t += 1;
                continue;
            }
        }
        match &mut retry {
            Some((behind_star, from)) => {
                *from += 1;
                (p, t) = (*behind_star, *from);
            }
            None => return false,
        }
    }
    // As in Redis, no text at all is matched by no pattern at all, and not by stars. (A lone `*` for all keys is a case of
    // its own in KEYS and SCAN.)
    if text.is_empty() {
        return pattern.is_empty();
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// Whether the first element of `pattern` stands for `byte`, and the element's length.
#[inline]
fn element(pattern: &[u8], byte: u8, ignore_case: bool) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'[', ..] => class(pattern, byte, ignore_case),
        [b'\\', literal, ..] => (same(*literal, byte, ignore_case), 2),
        [literal, ..] => (same(*literal, byte, ignore_case), 1),
        [] => (false, 0),
    }
}

/// Like [`element`], for a class.
fn class(pattern: &[u8], byte: u8, ignore_case: bool) -> (bool, usize) {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += negated as usize;
    let mut found = false;
    loop {
        match &pattern[at..] {
            [] => break,
            [b'\\', literal, ..] => {
                found |= *literal == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [start, b'-', end, ..] => {
                found |= in_range(*start, *end, byte, ignore_case);
                at += 3;
            }
            [literal, ..] => {
                found |= same(*literal, byte, ignore_case);
                at += 1;
            }
        }
    }
    (found != negated, at)
}

/// The ends of a range may come in either order; bytes are signed there, as they are in Redis.
fn in_range(start: u8, end: u8, byte: u8, ignore_case: bool) -> bool {
    let fold = |b: u8| if ignore_case { b.to_ascii_lowercase() as i8 } else { b as i8 };
    // The ends are ordered before their case is folded.
    let (start, end) = if start as i8 > end as i8 { (end, start) } else { (start, end) };
    (fold(start)..=fold(end)).contains(&fold(byte))
}

#[inline]
fn same(a: u8, b: u8, ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(&b) } else { a == b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", false),
            ("**", "", false),
            ("*", "abc", true),
            ("a*", "a", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[a", "a", true),
            ("[a-", "-", true),
            ("[a-]x", "x", true),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("a[", "ab", false),
            ("*?", "", false),
            ("a*?", "a", false),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
        assert!(!matches(b"[\x01-\xff]", b"\x05"));
        assert!(matches_ignore_case(b"H[A-C]?LO*", b"hblLo"));
        assert!(!matches(b"H", b"h"));
    }

    /// The definition, tried in all ways; exponential, so for short inputs only.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(b'*'), _) => naive(&pattern[1..], text) || (!text.is_empty() && naive(pattern, &text[1..])),
            (Some(_), Some(&byte)) => {
                let (matched, len) = element(pattern, byte, false);
                matched && naive(&pattern[len..], &text[1..])
            }
            _ => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?\\[\\]^\\\\-]{0,9}", text in "[ab\\]-]{0,9}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            let expected = if text.is_empty() { pattern.is_empty() } else { naive(pattern, text) };
            proptest::prop_assert_eq!(matches(pattern, text), expected);
        }
    }

    #[test]
    fn hostile_patterns_end() {
        let text = vec![b'a'; 5_000];
        let pattern = b"a*".repeat(2_000);
        assert!(!matches(&[pattern.as_slice(), b"b"].concat(), &text));
        assert!(!matches(&[b"*".as_slice(), &text[..2_500], b"b"].concat(), &text));
    }
}
