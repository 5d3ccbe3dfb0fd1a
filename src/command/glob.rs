//! Glob patterns, as KEYS, SCAN and CONFIG GET take them.
//!
//! `*` any run of bytes, `?` any byte, `[abc]` one of, `[^abc]` none of, `[a-z]` a range, `\x` the byte x itself. A
//! class that is not closed ends with the pattern. Pure functions; patterns come from clients and may be hostile.
//!
//! Every element but `*` stands for exactly one byte. So a pattern is a row of *segments* between stars, each as long as its
//! elements are many: the first stands at the start of the text, the last at its end, and each one in between can take the
//! first place where it fits, because a later one would not do better. Nothing is tried twice. A segment of plain bytes is
//! searched for in linear time; one with other elements takes at most (its bytes) times (bytes of the text) steps.

/// Whether the whole of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_with(pattern, text, false, &mut { u64::MAX })
}

/// Like [`matches()`], taking at most `steps` steps in searches that could take more than linear time; they are taken off.
/// When none are left, what would need one does not match.
pub fn matches_within(pattern: &[u8], text: &[u8], steps: &mut u64) -> bool {
    matches_with(pattern, text, false, steps)
}

/// Like [`matches()`], without regard to the case of ASCII letters.
pub fn matches_ignore_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_with(pattern, text, true, &mut { u64::MAX })
}

fn matches_with(pattern: &[u8], text: &[u8], ignore_case: bool, steps: &mut u64) -> bool {
    // As in Redis, no text at all is matched by no pattern at all, and not by stars. (A lone `*` for all keys is a case of
    // its own in KEYS and SCAN.)
    if text.is_empty() {
        return pattern.is_empty();
    }
    let first = Segment::first_of(pattern);
    if first.bytes.len() == pattern.len() {
        return text.len() == first.elements && first.fits(text, ignore_case);
    }
    if text.len() < first.elements || !first.fits(text, ignore_case) {
        return false;
    }
    let (mut pattern, mut text) = (&pattern[first.bytes.len()..], &text[first.elements..]);
    loop {
        let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
        let segment = Segment::first_of(&pattern[stars..]);
        pattern = &pattern[stars + segment.bytes.len()..];
        if pattern.is_empty() {
            let start = text.len().checked_sub(segment.elements);
            return start.is_some_and(|start| segment.fits(&text[start..], ignore_case));
        }
        match segment.find(text, ignore_case, steps) {
            Some(at) => text = &text[at + segment.elements..],
            None => return false,
        }
    }
}

/// A part of a pattern without a star. Invariant: it stands for `elements` bytes of text.
struct Segment<'a> {
    bytes: &'a [u8],
    elements: usize,
    /// Every byte stands for itself.
    plain: bool,
}

impl<'a> Segment<'a> {
    /// What stands before the first star of `pattern`.
    fn first_of(pattern: &'a [u8]) -> Segment<'a> {
        let (mut at, mut elements, mut plain) = (0, 0, true);
        while let Some(&byte) = pattern.get(at).filter(|&&byte| byte != b'*') {
            plain &= !matches!(byte, b'?' | b'[' | b'\\');
            at += element(&pattern[at..], 0, false).1;
            elements += 1;
        }
        Segment { bytes: &pattern[..at], elements, plain }
    }

    /// Whether the text begins as the segment says. It has at least as many bytes as the segment has elements.
    fn fits(&self, text: &[u8], ignore_case: bool) -> bool {
        let mut pattern = self.bytes;
        for &byte in &text[..self.elements] {
            let (matched, len) = element(pattern, byte, ignore_case);
            if !matched {
                return false;
            }
            pattern = &pattern[len..];
        }
        true
    }

    /// The first place in `text` where the segment fits; none if `steps` do not suffice to find it.
    fn find(&self, text: &[u8], ignore_case: bool, steps: &mut u64) -> Option<usize> {
        if self.plain && !ignore_case {
            return memchr::memmem::find(text, self.bytes);
        }
        let last = text.len().checked_sub(self.elements)?;
        for at in 0..=last {
            let mut pattern = self.bytes;
            let mut rest = &text[at..];
            loop {
                let Some((&byte, behind)) = rest.split_first().filter(|_| !pattern.is_empty()) else { return Some(at) };
                let (matched, len) = element(pattern, byte, ignore_case);
                *steps = steps.checked_sub(len as u64)?;
                if !matched {
                    break;
                }
                (pattern, rest) = (&pattern[len..], behind);
            }
        }
        None
    }
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
        assert!(!matches(&[b"*".as_slice(), &text[..2_500], b"?b*"].concat(), &text));
        // In steps of (pattern) times (text) these would take hours.
        let text = vec![b'a'; 4_000_000];
        for end in ["b", "b*", "*b", "*b*"] {
            assert!(!matches(&[b"*".as_slice(), &text[..2_000_000], end.as_bytes()].concat(), &text), "{end}");
        }
        assert!(matches(&[b"*".as_slice(), &text[..2_000_000], b"*"].concat(), &text));
        // Not all can be searched for in linear time.
        let mut steps = 10_000_000;
        assert!(!matches_within(&[b"*?".as_slice(), &text[..2_000_000], b"b*"].concat(), &text, &mut steps));
        assert!(steps < 2_000_000, "{steps}");
        let mut steps = 100;
        assert!(matches_within(b"*[ab]c*?d*", b"xxacxxxxdx", &mut steps));
        assert!((50..100).contains(&steps), "{steps}");
        assert!(!matches_within(b"*[ab]c*", b"xxacxx", &mut 5));
    }
}
