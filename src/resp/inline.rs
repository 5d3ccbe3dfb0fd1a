//! Inline commands: one line of text, split into arguments by the rules of Redis' `sdssplitargs`.
//!
//! Runs on the core of the connection; no state.

/// The arguments of one line (without its end), or None if a quote is not closed or something follows a closing quote
/// at once.
///
/// Arguments are separated by blanks. Within double quotes `\xHH`, `\n`, `\r`, `\t`, `\b`, `\a` stand for bytes and `\`
/// before any other byte for that byte; within single quotes only `\'` is special. Quotes may open inside an argument.
pub fn split_line(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut args = Vec::new();
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest
            && is_blank(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return Some(args);
        }
        let mut arg = Vec::new();
        rest = take_arg(rest, &mut arg)?;
        args.push(arg);
    }
}

/// Moves one argument from the start of `rest` to `arg` and returns what follows.
fn take_arg<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    while let [first, tail @ ..] = rest {
        match first {
            // Vertical tab and form feed are blanks between arguments only.
            b' ' | b'\n' | b'\r' | b'\t' => break,
            b'"' => return take_quoted(tail, arg, b'"'),
            b'\'' => return take_quoted(tail, arg, b'\''),
            byte => arg.push(*byte),
        }
        rest = tail;
    }
    Some(rest)
}

/// The rest of an argument after an opening quote; it ends with the closing one.
fn take_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>, quote: u8) -> Option<&'a [u8]> {
    loop {
        rest = match (quote, rest) {
            (b'"', [b'\\', b'x', high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                arg.push(hex(*high) << 4 | hex(*low));
                tail
            }
            (b'"', [b'\\', escaped, tail @ ..]) => {
                arg.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                tail
            }
            (b'\'', [b'\\', b'\'', tail @ ..]) => {
                arg.push(b'\'');
                tail
            }
            (_, [first, tail @ ..]) if *first == quote => {
                return tail.first().is_none_or(|next| is_blank(*next)).then_some(tail);
            }
            (_, [first, tail @ ..]) => {
                arg.push(*first);
                tail
            }
            (_, []) => return None,
        };
    }
}

/// C's `isspace`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Option<Vec<String>> {
        split_line(line.as_bytes()).map(|args| args.into_iter().map(|a| a.escape_ascii().to_string()).collect())
    }

    #[test]
    fn words_and_quotes() {
        let cases: [(&str, &[&str]); 11] = [
            ("", &[]),
            (" \t\x0b\x0c ", &[]),
            ("GET k", &["GET", "k"]),
            ("  GET\t k  ", &["GET", "k"]),
            (r#"SET k "a b""#, &["SET", "k", "a b"]),
            (r#""\x41\xfF\n\r\t\b\a\"\\\q\x4""#, &[r#"A\xff\n\r\t\x08\x07\"\\qx4"#]),
            (r"'a\'b\n'", &[r"a\'b\\n"]),
            (r#""" ''"#, &["", ""]),
            (r#"fo"o b" x"#, &["foo b", "x"]),
            ("a\x0bb", &["a\\x0bb"]),
            ("\"a\"\x0bb", &["a", "b"]),
        ];
        for (line, want) in cases {
            assert_eq!(
                split(line).as_deref(),
                Some(&want.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]),
                "{line}"
            );
        }
    }

    #[test]
    fn unbalanced() {
        for line in
            ["\"", "'", "\"a", "'a", "\"a\"b", "'a'b", "\"a\\", "\"a\\\"", "'a\\'", "x \"\"\"\"", "a'", "fo\"o b\"'' x"]
        {
            assert_eq!(split(line), None, "{line}");
        }
    }
}
