//! Reading replies, RESP2 and RESP3: for the load generator, for merging partial replies, and for tests.
//!
//! No state and no owner: functions over bytes. Input may come from anywhere; it is judged before anything is allocated
//! for it, nesting is bounded, and allocation is in proportion to bytes that are there. Streamed values (`$?`), which no
//! server sends, are refused.

use super::number::{parse_i64, parse_u64};

/// Arrays within arrays, attributes included.
pub const REPLY_DEPTH_MAX: usize = 32;

/// Why bytes are not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("a value cannot start with byte {0:#04x}")]
    Kind(u8),
    #[error("a length is not a number")]
    Length,
    #[error("a value does not end with CR LF")]
    End,
    #[error("a value is not of its type")]
    Content,
    #[error("values are nested deeper than {REPLY_DEPTH_MAX}")]
    Depth,
}

/// One reply, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+`
    Simple(Vec<u8>),
    /// `-`, or `!`, the error as a bulk string.
    Error(Vec<u8>),
    /// `:`
    Int(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1` or `_`
    Null,
    /// `*-1`
    NullArray,
    /// `*`
    Array(Vec<Value>),
    /// `,`
    Double(f64),
    /// `#`
    Bool(bool),
    /// `(`; decimal digits, perhaps with a sign.
    BigNumber(Vec<u8>),
    /// `=`
    Verbatim { format: [u8; 3], text: Vec<u8> },
    /// `%`
    Map(Vec<(Value, Value)>),
    /// `~`
    Set(Vec<Value>),
    /// `>`
    Push(Vec<Value>),
}

/// What stands at the start of `input`: one value, or the header of one that consists of others.
enum Item<'a> {
    /// The bytes between the type byte (and length) and the CR LF.
    Leaf { kind: u8, body: &'a [u8] },
    /// `$-1` or `*-1`
    Null { kind: u8 },
    /// So many values follow: for a map or an attribute two for each pair.
    Group { kind: u8, values: u64 },
}

/// The first item of `input` and its length, None if it is not whole.
#[inline]
fn read_item(input: &[u8]) -> Result<Option<(Item<'_>, usize)>, ReadError> {
    let Some(&kind) = input.first() else { return Ok(None) };
    if !matches!(
        kind,
        b'+' | b'-' | b':' | b'$' | b'*' | b'_' | b'#' | b',' | b'(' | b'!' | b'=' | b'%' | b'~' | b'>' | b'|'
    ) {
        return Err(ReadError::Kind(kind));
    }
    let Some(end) = memchr::memchr(b'\r', input) else { return Ok(None) };
    match input.get(end + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(ReadError::End),
    }
    let (line, next) = (&input[1..end], end + 2);
    match kind {
        b'$' | b'*' if line == b"-1" => Ok(Some((Item::Null { kind }, next))),
        b'$' | b'!' | b'=' => read_blob(input, kind, line, next),
        b'*' | b'~' | b'>' => {
            let values = parse_u64(line).ok_or(ReadError::Length)?;
            Ok(Some((Item::Group { kind, values }, next)))
        }
        b'%' | b'|' => {
            let values = parse_u64(line).and_then(|pairs| pairs.checked_mul(2)).ok_or(ReadError::Length)?;
            Ok(Some((Item::Group { kind, values }, next)))
        }
        _ => Ok(Some((Item::Leaf { kind, body: line }, next))),
    }
}

#[inline]
fn read_blob<'a>(input: &'a [u8], kind: u8, line: &[u8], start: usize) -> Result<Option<(Item<'a>, usize)>, ReadError> {
    let len = parse_u64(line).and_then(|len| usize::try_from(len).ok()).ok_or(ReadError::Length)?;
    let end = start.checked_add(len).ok_or(ReadError::Length)?;
    match input.get(end..) {
        Some([b'\r', b'\n', ..]) => Ok(Some((Item::Leaf { kind, body: &input[start..end] }, end + 2))),
        None | Some([] | [b'\r']) => Ok(None),
        Some(_) => Err(ReadError::End),
    }
}

/// The length of the first whole value of `input`, attributes in front of it included; None if more bytes are needed.
/// Only the frame is judged, not whether the text of a number is one.
pub fn skip_value(input: &[u8]) -> Result<Option<usize>, ReadError> {
    // How many values are still to come on each level that is open; the outermost wants one.
    let mut open = [0u64; REPLY_DEPTH_MAX + 1];
    open[0] = 1;
    let mut depth = 0;
    let mut at = 0;
    loop {
        let Some((item, len)) = read_item(&input[at..])? else { return Ok(None) };
        at += len;
        match item {
            // An attribute is no value: what it describes is still to come.
            Item::Group { kind: b'|', values } => {
                depth += 1;
                *open.get_mut(depth).ok_or(ReadError::Depth)? = values;
            }
            Item::Group { values, .. } => {
                open[depth] -= 1;
                depth += 1;
                *open.get_mut(depth).ok_or(ReadError::Depth)? = values;
            }
            Item::Leaf { .. } | Item::Null { .. } => open[depth] -= 1,
        }
        while open[depth] == 0 {
            if depth == 0 {
                return Ok(Some(at));
            }
            depth -= 1;
        }
    }
}

/// The first whole value of `input` and its length; None if more bytes are needed. Attributes are left out.
pub fn parse_value(input: &[u8]) -> Result<Option<(Value, usize)>, ReadError> {
    // Judged first, so that every announced number of values is known to be there and the nesting to be bounded.
    let Some(len) = skip_value(input)? else { return Ok(None) };
    let mut rest = &input[..len];
    let value = build(&mut rest)?;
    debug_assert!(rest.is_empty());
    Ok(Some((value, len)))
}

/// Takes one value, known to be whole, from the start of `rest`. Recursion ends at [`REPLY_DEPTH_MAX`].
fn build(rest: &mut &[u8]) -> Result<Value, ReadError> {
    // Not reached: the caller has seen that the value is whole.
    let (item, len) = read_item(rest)?.ok_or(ReadError::End)?;
    *rest = &rest[len..];
    match item {
        Item::Null { kind: b'*' } => Ok(Value::NullArray),
        Item::Null { .. } => Ok(Value::Null),
        Item::Leaf { kind, body } => leaf(kind, body),
        Item::Group { kind: b'%', values } => {
            (0..values / 2).map(|_| Ok((build(rest)?, build(rest)?))).collect::<Result<_, _>>().map(Value::Map)
        }
        Item::Group { kind: b'|', values } => {
            (0..values).try_for_each(|_| build(rest).map(drop))?;
            build(rest)
        }
        Item::Group { kind, values } => {
            let values = (0..values).map(|_| build(rest)).collect::<Result<_, _>>()?;
            Ok(match kind {
                b'~' => Value::Set(values),
                b'>' => Value::Push(values),
                _ => Value::Array(values),
            })
        }
    }
}

fn leaf(kind: u8, body: &[u8]) -> Result<Value, ReadError> {
    let value = match kind {
        b'+' => Value::Simple(body.to_vec()),
        b'-' | b'!' => Value::Error(body.to_vec()),
        b':' => Value::Int(parse_i64(body).ok_or(ReadError::Content)?),
        b'$' => Value::Bulk(body.to_vec()),
        b'_' if body.is_empty() => Value::Null,
        b'#' if body == b"t" => Value::Bool(true),
        b'#' if body == b"f" => Value::Bool(false),
        b',' => {
            let text = std::str::from_utf8(body).map_err(|_| ReadError::Content)?;
            Value::Double(text.parse().map_err(|_| ReadError::Content)?)
        }
        b'(' if is_integer(body) => Value::BigNumber(body.to_vec()),
        b'=' => match body.split_first_chunk::<4>() {
            Some((&[a, b, c, b':'], text)) => Value::Verbatim { format: [a, b, c], text: text.to_vec() },
            _ => return Err(ReadError::Content),
        },
        _ => return Err(ReadError::Content),
    };
    Ok(value)
}

fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// Appends a request, an array of bulk strings, to `out`.
pub fn encode_command<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let mut header = |out: &mut Vec<u8>, kind: u8, n: usize| {
        out.push(kind);
        out.extend_from_slice(digits.format(n).as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    header(out, b'*', args.len());
    for arg in args.iter().map(AsRef::as_ref) {
        header(out, b'$', arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(input: &[u8]) -> Value {
        for cut in 0..input.len() {
            assert_eq!(skip_value(&input[..cut]), Ok(None), "{} cut at {cut}", input.escape_ascii());
            assert_eq!(parse_value(&input[..cut]), Ok(None));
        }
        let followed = [input, b"+next\r\n"].concat();
        assert_eq!(skip_value(&followed), Ok(Some(input.len())), "{}", input.escape_ascii());
        let (value, len) = parse_value(&followed).unwrap().unwrap();
        assert_eq!(len, input.len());
        value
    }

    #[test]
    fn every_type() {
        let bulk = |text: &str| Value::Bulk(text.into());
        let cases: Vec<(&[u8], Value)> = vec![
            (b"+OK\r\n", Value::Simple(b"OK".to_vec())),
            (b"-ERR no\r\n", Value::Error(b"ERR no".to_vec())),
            (b"!6\r\nERR\r\nx\r\n", Value::Error(b"ERR\r\nx".to_vec())),
            (b":-5\r\n", Value::Int(-5)),
            (b"$2\r\n\r\n\r\n", bulk("\r\n")),
            (b"$0\r\n\r\n", bulk("")),
            (b"$-1\r\n", Value::Null),
            (b"_\r\n", Value::Null),
            (b"*-1\r\n", Value::NullArray),
            (b"*0\r\n", Value::Array(vec![])),
            (b"*2\r\n:1\r\n*1\r\n$1\r\na\r\n", Value::Array(vec![Value::Int(1), Value::Array(vec![bulk("a")])])),
            (b",0.5\r\n", Value::Double(0.5)),
            (b",inf\r\n", Value::Double(f64::INFINITY)),
            (b",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
            (b",1e+17\r\n", Value::Double(1e17)),
            (b"#t\r\n", Value::Bool(true)),
            (b"#f\r\n", Value::Bool(false)),
            (b"(-12345678901234567890\r\n", Value::BigNumber(b"-12345678901234567890".to_vec())),
            (b"=7\r\ntxt:abc\r\n", Value::Verbatim { format: *b"txt", text: b"abc".to_vec() }),
            (b"%1\r\n+k\r\n:1\r\n", Value::Map(vec![(Value::Simple(b"k".to_vec()), Value::Int(1))])),
            (b"~1\r\n:1\r\n", Value::Set(vec![Value::Int(1)])),
            (b">1\r\n:1\r\n", Value::Push(vec![Value::Int(1)])),
            (b"|1\r\n+ttl\r\n:9\r\n:1\r\n", Value::Int(1)),
            (b"*2\r\n|0\r\n:1\r\n|1\r\n+a\r\n*0\r\n:2\r\n", Value::Array(vec![Value::Int(1), Value::Int(2)])),
        ];
        for (input, want) in cases {
            assert_eq!(whole(input), want, "{}", input.escape_ascii());
        }
        assert!(matches!(whole(b",nan\r\n"), Value::Double(n) if n.is_nan()));
    }

    #[test]
    fn bad_input() {
        let frames: [(&[u8], ReadError); 10] = [
            (b"x\r\n", ReadError::Kind(b'x')),
            (b"$?\r\n", ReadError::Length),
            (b"*\r\n", ReadError::Length),
            (b"*-2\r\n", ReadError::Length),
            (b"%-1\r\n", ReadError::Length),
            (b"$18446744073709551615\r\n", ReadError::Length),
            (b"%18446744073709551615\r\n", ReadError::Length),
            (b"+a\rb\r\n", ReadError::End),
            (b"$1\r\nab\r\n", ReadError::End),
            (b"*1\r\n*1\r\n$1\r\na\rx", ReadError::End),
        ];
        for (input, error) in frames {
            assert_eq!(skip_value(input), Err(error), "{}", input.escape_ascii());
            assert_eq!(parse_value(input), Err(error), "{}", input.escape_ascii());
        }
        for input in
            [&b":x\r\n"[..], b"#x\r\n", b"_x\r\n", b",x\r\n", b"(x\r\n", b"(\r\n", b"=3\r\ntxt\r\n", b"*1\r\n:\r\n"]
        {
            assert_eq!(parse_value(input), Err(ReadError::Content), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn nesting_is_bounded_and_announced_lengths_allocate_nothing() {
        let nested = |kind: &str, depth: usize| [kind.repeat(depth).as_bytes(), b":1\r\n"].concat();
        assert!(parse_value(&nested("*1\r\n", REPLY_DEPTH_MAX)).unwrap().is_some());
        assert!(parse_value(&nested("|0\r\n", 1000)).unwrap().is_some());
        for kind in ["*1\r\n", "|1\r\n", "~2\r\n"] {
            assert_eq!(skip_value(&nested(kind, REPLY_DEPTH_MAX + 1)), Err(ReadError::Depth));
            assert_eq!(parse_value(&nested(kind, 1_000_000)), Err(ReadError::Depth));
        }
        assert_eq!(parse_value(b"*18446744073709551615\r\n:1\r\n"), Ok(None));
        assert_eq!(parse_value(b"$9223372036854775807\r\n:1\r\n"), Ok(None));
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        encode_command(&["SET", "k", ""], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(input in "[-+:$*_#,(!=%~>|0-9a\r\n]{0,40}") {
            let skipped = skip_value(input.as_bytes());
            match parse_value(input.as_bytes()) {
                Ok(value) => proptest::prop_assert_eq!(skipped, Ok(value.map(|v| v.1))),
                Err(ReadError::Content) => {}
                Err(error) => proptest::prop_assert_eq!(skipped, Err(error)),
            }
        }
    }
}
