//! The request parser as a connection uses it: streams cut into pieces anywhere, compared with a naive twin that sees the
//! whole stream at once.

use crate::common::Random;
use keyloom::resp::parse::{ARGS_MAX, LARGE_BYTES_MIN, LINE_BYTES_MAX};
use keyloom::resp::read::encode_command;
use keyloom::resp::{Limits, Parser, ProtocolError, Step};
use proptest::prelude::*;

const LIMITS: Limits = Limits { args_max: ARGS_MAX, bulk_bytes_max: 512 * 1024 * 1024, unauthenticated: false };
const UNAUTHENTICATED: Limits = Limits { unauthenticated: true, ..LIMITS };

type Request = Vec<Vec<u8>>;
/// The requests of a stream, and the error that ended it.
type Outcome = (Vec<Request>, Option<ProtocolError>);

/// What the network layer does for one connection.
#[derive(Default)]
struct Connection {
    parser: Parser,
    kept: Vec<u8>,
    received: usize,
    requests: Vec<Request>,
    /// Largest of the bytes held, as the parser counts them, between two deliveries.
    held_max: usize,
}

impl Connection {
    fn deliver(&mut self, piece: &[u8], limits: &Limits, feed: bool) -> Result<(), ProtocolError> {
        self.received += piece.len();
        let taken = if feed { self.parser.feed(piece) } else { 0 };
        // Another address for what was kept, as when a buffer moves.
        self.kept = [&self.kept, &piece[taken..]].concat();
        let mut at = 0;
        loop {
            match self.parser.parse(&self.kept[at..], limits)? {
                Step::Complete { consumed } => {
                    let mut args = Vec::new();
                    self.parser.args(&self.kept[at..], &mut args);
                    assert_eq!(args.len(), self.parser.argc());
                    if !args.is_empty() {
                        self.requests.push(args.iter().map(|arg| arg.to_vec()).collect());
                    }
                    assert!(consumed > 0);
                    at += consumed;
                }
                Step::Incomplete { keep } => {
                    self.kept.truncate(at + keep);
                    self.kept.drain(..at);
                    self.held_max = self.held_max.max(self.kept.len() + self.parser.memory());
                    return Ok(());
                }
            }
        }
    }
}

/// Delivers `stream` cut at `cuts` (ascending).
fn run(stream: &[u8], cuts: &[usize], limits: &Limits, feed: bool) -> Outcome {
    let mut connection = Connection::default();
    let mut from = 0;
    for &to in cuts.iter().chain([&stream.len()]) {
        if let Err(error) = connection.deliver(&stream[from..to], limits, feed) {
            return (connection.requests, Some(error));
        }
        from = to;
    }
    // An argument of one blank costs two bytes on an inline line and has a vector of its own.
    assert!(connection.held_max <= 64 * stream.len() + 16 * 1024, "{} bytes held", connection.held_max);
    (connection.requests, None)
}

/// The twin: reads whole lines of the whole stream, remembers nothing.
fn twin(mut stream: &[u8], limits: &Limits) -> Outcome {
    let mut requests = Vec::new();
    loop {
        match twin_request(&mut stream, limits) {
            Ok(Some(request)) if request.is_empty() => {}
            Ok(Some(request)) => requests.push(request),
            Ok(None) => return (requests, None),
            Err(error) => return (requests, Some(error)),
        }
    }
}

fn twin_request(stream: &mut &[u8], limits: &Limits) -> Result<Option<Request>, ProtocolError> {
    if stream.is_empty() {
        return Ok(None);
    }
    if stream[0] != b'*' {
        let Some(end) = twin_line(stream, b'\n', ProtocolError::InlineTooBig)? else { return Ok(None) };
        let mut line = &stream[..end];
        if line.ends_with(b"\r") {
            line = &line[..line.len() - 1];
        }
        *stream = &stream[end + 1..];
        return twin_inline(line).map(Some).ok_or(ProtocolError::UnbalancedQuotes);
    }
    let Some(count) = twin_number(stream, None, ProtocolError::CountTooBig, ProtocolError::InvalidCount)? else {
        return Ok(None);
    };
    if count > limits.args_max {
        return Err(ProtocolError::InvalidCount);
    }
    if limits.unauthenticated && count > 10 {
        return Err(ProtocolError::UnauthenticatedCount);
    }
    let mut request = Vec::new();
    while (request.len() as i64) < count {
        let number = twin_number(stream, Some(b'$'), ProtocolError::LengthTooBig, ProtocolError::InvalidLength)?;
        let Some(len) = number else { return Ok(None) };
        if !(0..=limits.bulk_bytes_max).contains(&len) {
            return Err(ProtocolError::InvalidLength);
        }
        if limits.unauthenticated && len > 16384 {
            return Err(ProtocolError::UnauthenticatedLength);
        }
        let len = len as usize;
        if stream.len() < len + 2 {
            return Ok(None);
        }
        request.push(stream[..len].to_vec());
        *stream = &stream[len + 2..];
    }
    Ok(Some(request))
}

fn twin_line(stream: &[u8], end: u8, too_big: ProtocolError) -> Result<Option<usize>, ProtocolError> {
    match stream.iter().position(|byte| *byte == end) {
        Some(at) if at <= LINE_BYTES_MAX => Ok(Some(at)),
        None if stream.len() <= LINE_BYTES_MAX => Ok(None),
        _ => Err(too_big),
    }
}

fn twin_number(
    stream: &mut &[u8],
    kind: Option<u8>,
    too_big: ProtocolError,
    invalid: ProtocolError,
) -> Result<Option<i64>, ProtocolError> {
    let Some(end) = twin_line(stream, b'\r', too_big)? else { return Ok(None) };
    if stream.len() < end + 2 {
        return Ok(None);
    }
    if kind.is_some_and(|kind| kind != stream[0]) {
        return Err(ProtocolError::ExpectedBulk(stream[0]));
    }
    let text = std::str::from_utf8(&stream[1..end]).map_err(|_| invalid)?;
    let number: i64 = text.parse().map_err(|_| invalid)?;
    if number.to_string() != text {
        return Err(invalid);
    }
    *stream = &stream[end + 2..];
    Ok(Some(number))
}

/// Character by character, with the quote that is open.
fn twin_inline(line: &[u8]) -> Option<Request> {
    let mut request = Vec::new();
    let mut arg: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut i = 0;
    while i < line.len() {
        let (byte, next) = (line[i], line.get(i + 1).copied());
        i += 1;
        match (quote, byte) {
            (None, b' ' | b'\t' | b'\r' | b'\n') => request.extend(arg.take()),
            (None, 0x0b | 0x0c) if arg.is_none() => {}
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                arg.get_or_insert_default();
            }
            (None, _) => arg.get_or_insert_default().push(byte),
            (Some(open), _) if open == byte => {
                if next.is_some_and(|next| !next.is_ascii_whitespace() && next != 0x0b) {
                    return None;
                }
                request.extend(arg.take());
                quote = None;
            }
            (Some(b'\''), b'\\') if next == Some(b'\'') => {
                arg.get_or_insert_default().push(b'\'');
                i += 1;
            }
            (Some(b'"'), b'\\') if next.is_some() => {
                let digits = line.get(i + 1..i + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                let (byte, len) = match (next?, digits) {
                    (b'x', Some(hex)) => (u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?, 3),
                    (b'n', _) => (b'\n', 1),
                    (b'r', _) => (b'\r', 1),
                    (b't', _) => (b'\t', 1),
                    (b'b', _) => (8, 1),
                    (b'a', _) => (7, 1),
                    (other, _) => (other, 1),
                };
                arg.get_or_insert_default().push(byte);
                i += len;
            }
            (Some(_), _) => arg.get_or_insert_default().push(byte),
        }
    }
    request.extend(arg);
    if quote.is_some() { None } else { Some(request) }
}

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(args, &mut out);
    out
}

/// Places at which to cut a stream, ascending.
fn cuts(random: &mut Random, len: usize, count_max: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = (0..random.below(count_max + 1)).map(|_| random.below(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

/// Good, bad, inline, large and pipelined streams.
fn corpus() -> Vec<Vec<u8>> {
    let large = vec![b'v'; LARGE_BYTES_MIN];
    // Looks like requests, so that a parser that loses its place shows.
    let tricky = b"\r\n*1\r\n$4\r\nPING\r\n".repeat(LARGE_BYTES_MIN / 16);
    let below = vec![b'b'; LARGE_BYTES_MIN - 1];
    let mut corpus: Vec<Vec<u8>> = [
        &b""[..],
        b"PING\r\n",
        b"PING\n\n\r\n  \t\nECHO \"a b\\x41\\n\" 'c\\'d'\r\nGET k",
        b"*0\r\n*-1\r\n*-7\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n$4\rxPINGxx*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$0\r\n\r\n$12\r\n*1\r\n$4\r\nPING\r\n*12\r\n",
        b"*12\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$1\r\n5\r\n$1\r\n6\r\n$1\r\n7\r\n$1\r\n8\r\n$1\r\n9\r\n$1\r\n0\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"*1\r\n$4\r\nPING\r\nset \"a\"b\r\n",
        b"ECHO \"\r\n",
        b"*abc\r\n",
        b"*\r\n",
        b"*01\r\n",
        b"*+1\r\n",
        b"*-0\r\n",
        b"*2147483647\r\n",
        b"*2147483648\r\n",
        b"*9223372036854775808\r\n",
        b"*1\r\nfoo\r\n",
        b"*1\r\n\r\n",
        b"*1\r\n\n\r\n",
        b"*1\r\n\xff\r\n",
        b"*1\r\n*1\r\n",
        b"*2\r\n$3\r\nGET\r\n$-1\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n$007\r\n",
        b"*1\r\n$1234x\r\n",
        b"*1\r\n$536870912\r\nx",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$9223372036854775807\r\n",
        b"*1\r\n$16384\r\n",
        b"*1\r\n$16385\r\n",
        b"*10\r\n$1\r\nx\r\n",
        b"*11\r\n$1\r\nx\r\n",
        b"a\0b c\0\r\n*1\r\n$3\r\n\0\r\n\r\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    corpus.push([command(&[b"SET", b"key:1", &[b'x'; 300]]), command(&[b"GET", b"key:1"]).repeat(5)].concat());
    corpus.push([command(&[b"SET", b"k", &large]), command(&[b"GET", b"k"])].concat());
    corpus.push([command(&[b"MSET", b"a", &tricky, b"b", &below, &large, b""]), b"PING\r\n".to_vec()].concat());
    corpus.push([command(&[&large, &tricky]), b"*1\r\n$-1\r\n".to_vec()].concat());
    corpus.push([command(&[b"SET", &large]), b"*1\r\n$40000\r\nhalf".to_vec()].concat());
    for extra in 0..3 {
        let line = vec![b'1'; LINE_BYTES_MAX - 1 + extra];
        corpus.push([&line[..], b"\n"].concat());
        corpus.push([b"*", &line[1..], b"\r\n"].concat());
        corpus.push([b"*1\r\n$", &line[1..], b"\r\n"].concat());
        corpus.push([b"*1\r\n$", &line[1..]].concat());
    }
    corpus
}

/// Where cutting could matter: everywhere in a short stream; in a long one near its line ends, and at some other places.
fn cuts_worth_trying(stream: &[u8], random: &mut Random) -> Vec<usize> {
    const EVERYWHERE_BYTES_MAX: usize = 4096;
    const CUTS_MAX: usize = 600;
    if stream.len() <= EVERYWHERE_BYTES_MAX {
        return (0..=stream.len()).collect();
    }
    let near_end = |at: usize| at < 64 || at + 64 > stream.len() || stream[at - 8..at + 8].contains(&b'$');
    let mut cuts: Vec<usize> = (0..=stream.len()).filter(|at| near_end(*at)).collect();
    while cuts.len() > CUTS_MAX {
        cuts.swap_remove(random.below(cuts.len()));
    }
    cuts.extend((0..100).map(|_| random.below(stream.len())));
    cuts
}

#[test]
fn the_same_whatever_the_pieces() {
    let mut random = Random::new(7);
    for stream in corpus() {
        for limits in [&LIMITS, &UNAUTHENTICATED] {
            let want = twin(&stream, limits);
            let shown = stream[..stream.len().min(60)].escape_ascii().to_string();
            for feed in [true, false] {
                assert_eq!(run(&stream, &[], limits, feed), want, "{shown}");
                for cut in cuts_worth_trying(&stream, &mut random) {
                    assert!(run(&stream, &[cut], limits, feed) == want, "{shown} cut at {cut}, feed {feed}");
                }
                for _ in 0..50 {
                    let cuts = cuts(&mut random, stream.len(), 12);
                    assert!(run(&stream, &cuts, limits, feed) == want, "{shown} cut at {cuts:?}, feed {feed}");
                }
            }
            if stream.len() <= 4096 {
                let cuts: Vec<usize> = (1..stream.len()).collect();
                assert_eq!(run(&stream, &cuts, limits, true), want, "{shown} byte by byte");
            }
        }
    }
}

#[test]
fn errors_are_those_of_redis() {
    let cases: [(&[u8], &Limits, &str); 15] = [
        (b"*abc\r\n", &LIMITS, "invalid multibulk length"),
        (b"*2147483648\r\n", &LIMITS, "invalid multibulk length"),
        (b"*11\r\n", &UNAUTHENTICATED, "unauthenticated multibulk length"),
        (b"*2147483648\r\n", &UNAUTHENTICATED, "invalid multibulk length"),
        (&[b'*'; LINE_BYTES_MAX + 1], &LIMITS, "too big mbulk count string"),
        (&[b'x'; LINE_BYTES_MAX + 1], &LIMITS, "too big inline request"),
        (b"*1\r\nfoo\r\n", &LIMITS, "expected '$', got 'f'"),
        (b"*1\r\n\r\n", &LIMITS, "expected '$', got '\r'"),
        (b"*1\r\n$-5\r\n", &LIMITS, "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", &LIMITS, "invalid bulk length"),
        (b"*1\r\n$16385\r\n", &UNAUTHENTICATED, "unauthenticated bulk length"),
        (b"*1\r\n$536870913\r\n", &UNAUTHENTICATED, "invalid bulk length"),
        (b"set 'a\r\n", &LIMITS, "unbalanced quotes in request"),
        (b"set 'a'b\r\n", &LIMITS, "unbalanced quotes in request"),
        (b"*1\r\n$99999999999999999999\r\n", &LIMITS, "invalid bulk length"),
    ];
    for (stream, limits, text) in cases {
        let error = Parser::default().parse(stream, limits).expect_err(text);
        assert_eq!(error.to_string(), format!("ERR Protocol error: {text}"));
    }
    let long = [b"*1\r\n", &[b'$'; LINE_BYTES_MAX + 1][..]].concat();
    let error = Parser::default().parse(&long, &LIMITS).expect_err("too long");
    assert_eq!(error.to_string(), "ERR Protocol error: too big bulk count string");
}

#[test]
fn a_million_arguments() {
    const ARGS: usize = 1_000_000;
    let mut stream = format!("*{ARGS}\r\n").into_bytes();
    for i in 0..ARGS {
        let text = i.to_string();
        stream.extend_from_slice(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
    }
    let mut parser = Parser::default();
    let mut received = 0;
    let consumed = loop {
        received = (received + 16 * 1024).min(stream.len());
        match parser.parse(&stream[..received], &LIMITS).expect("no error") {
            Step::Complete { consumed } => break consumed,
            Step::Incomplete { keep } => assert_eq!(keep, received),
        }
    };
    assert_eq!(consumed, stream.len());
    let mut args = Vec::new();
    parser.args(&stream, &mut args);
    assert_eq!(args.len(), ARGS);
    assert!(args.iter().enumerate().all(|(i, arg)| *arg == i.to_string().as_bytes()));
    // What one request needed is not held for the life of the connection.
    parser.parse(b"*0\r\n", &LIMITS).expect("no error");
    assert!(parser.memory() < 64 * 1024, "{} bytes", parser.memory());
}

#[test]
fn announced_sizes_hold_no_memory() {
    let mut parser = Parser::default();
    let stream = b"*2147483647\r\n$3\r\nDEL\r\n";
    assert_eq!(parser.parse(stream, &LIMITS), Ok(Step::Incomplete { keep: stream.len() }));
    assert!(parser.memory() < 1024);
    let stream = b"*2\r\n$536870912\r\nabc";
    let mut parser = Parser::default();
    assert_eq!(parser.parse(stream, &LIMITS), Ok(Step::Incomplete { keep: stream.len() - 3 }));
    assert!(parser.memory() < 1024);
    // More than any machine has: an error, not an abort.
    let limits = Limits { bulk_bytes_max: i64::MAX, ..LIMITS };
    for len in [i64::MAX, i64::MAX - 1, i64::MAX - 4096] {
        let stream = format!("*1\r\n${len}\r\nabc");
        assert_eq!(Parser::default().parse(stream.as_bytes(), &limits), Err(ProtocolError::OutOfMemory));
    }
}

#[test]
fn large_arguments_keep_their_address() {
    let large = vec![b'x'; LARGE_BYTES_MIN];
    let stream = command(&[b"MSET", b"a", &large, b"b", &large]);
    let mut parser = Parser::default();
    let Ok(Step::Incomplete { keep }) = parser.parse(&stream[..100], &LIMITS) else { panic!("not whole") };
    assert!(keep < 64, "the value's bytes need not be kept");
    let taken = parser.feed(&stream[100..]);
    let input = [&stream[..keep], &stream[100 + taken..]].concat();
    assert_eq!(parser.parse(&input, &LIMITS), Ok(Step::Complete { consumed: input.len() }));
    let mut args = Vec::new();
    parser.args(&input, &mut args);
    let before: Vec<*const u8> = args.iter().map(|arg| arg.as_ptr()).collect();
    let owned = parser.take_owned();
    assert_eq!(owned.len(), 1, "the second value was whole in the input");
    assert_eq!((owned[0].0, owned[0].1.as_ptr(), owned[0].1.len()), (2, before[2], large.len()));
    assert!(parser.take_owned().is_empty());
    assert_eq!(parser.argc(), 5);
}

/// A stream of valid commands; now and then one with a large value.
fn valid_stream(random: &mut Random) -> Vec<u8> {
    const WORDS: [&[u8]; 8] = [b"GET", b"SET", b"", b"key", b"\r\n", b"$3\r\n", b"*1\r\n", b"0123456789abcdef"];
    let mut stream = Vec::new();
    for _ in 0..1 + random.below(4) {
        if random.below(8) == 0 {
            stream.extend_from_slice(b"SET \"a b\" 'c' \\x41\r\n");
            continue;
        }
        let mut args: Vec<Vec<u8>> = (0..random.below(5)).map(|_| WORDS[random.below(WORDS.len())].to_vec()).collect();
        if random.below(1000) == 0 {
            args.push(vec![b'*'; LARGE_BYTES_MIN + random.below(100)]);
        }
        encode_command(&args, &mut stream);
    }
    stream
}

/// Small damage: what a fuzzer would try first.
fn mutate(stream: &mut Vec<u8>, random: &mut Random) {
    const BYTES: &[u8] = b"\r\n$*0123456789-+ \"'\\x\0\xff";
    if stream.is_empty() {
        return;
    }
    let at = random.below(stream.len());
    let byte = BYTES[random.below(BYTES.len())];
    match random.below(6) {
        0 => stream[at] = byte,
        1 => stream[at] = random.next() as u8,
        2 => stream.insert(at, byte),
        3 => drop(stream.remove(at)),
        4 => stream.truncate(at),
        _ => {
            let end = (at + random.below(12)).min(stream.len());
            stream.extend_from_within(at..end);
        }
    }
}

#[test]
fn mutated_streams_are_judged_as_the_twin_judges_them() {
    const CASES: u64 = 100_000;
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let mut stream = valid_stream(&mut random);
        for _ in 0..random.below(4) {
            mutate(&mut stream, &mut random);
        }
        let limits = if random.below(4) == 0 { &UNAUTHENTICATED } else { &LIMITS };
        let cuts = cuts(&mut random, stream.len(), 4);
        let (got, want) = (run(&stream, &cuts, limits, random.below(4) != 0), twin(&stream, limits));
        assert!(got == want, "seed {seed}, cuts {cuts:?}: {}\n{got:?}\n{want:?}", stream.escape_ascii());
    }
}

proptest! {
    #[test]
    fn commands_round_trip(
        requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1200), 1..6), 1..6),
        seed: u64,
    ) {
        let mut stream = Vec::new();
        requests.iter().for_each(|args| encode_command(args, &mut stream));
        let cuts = cuts(&mut Random::new(seed), stream.len(), 8);
        prop_assert_eq!(run(&stream, &cuts, &LIMITS, true), (requests, None));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(stream in prop::collection::vec(any::<u8>(), 0..400), seed: u64) {
        let cuts = cuts(&mut Random::new(seed), stream.len(), 8);
        prop_assert_eq!(run(&stream, &cuts, &LIMITS, true), twin(&stream, &LIMITS));
    }

    #[test]
    fn bytes_of_the_protocol_in_any_order(stream in "[*$0-3\r\n \"'x\\\\]{0,200}", seed: u64) {
        let cuts = cuts(&mut Random::new(seed), stream.len(), 8);
        prop_assert_eq!(run(stream.as_bytes(), &cuts, &LIMITS, true), twin(stream.as_bytes(), &LIMITS));
    }
}
