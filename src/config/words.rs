//! Words of a configuration line: splitting, with Redis' quoting rules, and quoting.

/// A quote was opened and not closed, or something follows a closing quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unbalanced quotes")]
pub struct UnbalancedQuotes;

/// The words of `line`. Blanks separate words. In double quotes `\n \r \t \b \a`, `\xHH` and a backslash before any
/// other byte are understood; in single quotes only `\'`. A closing quote ends its word.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, UnbalancedQuotes> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest
            && is_blank(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(words);
        }
        let (word, tail) = next_word(rest)?;
        words.push(word);
        rest = tail;
    }
}

fn next_word(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), UnbalancedQuotes> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] => return Ok((word, rest)),
            [b, ..] if is_blank(*b) => return Ok((word, &rest[1..])),
            [quote @ (b'"' | b'\''), tail @ ..] => {
                rest = quoted(tail, *quote, &mut word)?;
                return match rest {
                    [] => Ok((word, rest)),
                    [b, ..] if is_blank(*b) => Ok((word, rest)),
                    _ => Err(UnbalancedQuotes),
                };
            }
            [b, tail @ ..] => {
                word.push(*b);
                rest = tail;
            }
        }
    }
}

/// Appends what stands up to the closing `quote` to `word`; returns what follows it.
fn quoted<'a>(mut rest: &'a [u8], quote: u8, word: &mut Vec<u8>) -> Result<&'a [u8], UnbalancedQuotes> {
    loop {
        let (byte, tail) = match (quote, rest) {
            (_, []) => return Err(UnbalancedQuotes),
            (b'"', [b'\\', b'x', high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), tail)
            }
            (b'"', [b'\\', escaped, tail @ ..]) => (unescape(*escaped), tail),
            (b'\'', [b'\\', b'\'', tail @ ..]) => (b'\'', tail),
            (_, [b, tail @ ..]) if *b == quote => return Ok(tail),
            (_, [b, tail @ ..]) => (*b, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0)
}

/// `word` as it must be written so that [`split`] gives it back: in double quotes if it needs them.
pub fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\');
    if !word.is_empty() && !word.starts_with('#') && word.bytes().all(plain) {
        return word.to_string();
    }
    let mut text = String::from("\"");
    for byte in word.bytes() {
        match byte {
            b'"' | b'\\' => text.extend(['\\', byte as char]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x20..=0x7e => text.push(byte as char),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<String>> {
        let words = split(line.as_bytes()).ok()?;
        Some(words.into_iter().map(|w| String::from_utf8(w).unwrap()).collect())
    }

    #[test]
    fn splits_as_redis_does() {
        for (line, expected) in [
            ("", Some(vec![])),
            ("  port\t6379 ", Some(vec!["port", "6379"])),
            ("save \"\"", Some(vec!["save", ""])),
            ("a 'it\\'s' \"x\\ty\"", Some(vec!["a", "it's", "x\ty"])),
            ("\"\\x41\\xzz\"", Some(vec!["Axzz"])),
            ("a'b c'", Some(vec!["ab c"])),
            ("\"a\"b", None),
            ("\"a", None),
            ("'a", None),
            ("\"a\\", None),
        ] {
            let expected = expected.map(|words| words.into_iter().map(String::from).collect::<Vec<_>>());
            assert_eq!(words(line), expected, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn quoting_is_undone_by_splitting(list in proptest::collection::vec("\\PC{0,8}|[\\x00-\\x7f]{0,6}", 0..5)) {
            let line = list.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ");
            proptest::prop_assert_eq!(words(&line), Some(list));
        }

        #[test]
        fn any_line_ends(line in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = split(&line);
        }
    }
}
