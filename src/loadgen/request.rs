//! Requests as prepared RESP frames with places for a key and for data.

use crate::command::{Flags, lookup, table};
use crate::route::slot_of;

/// The place of a key in a custom command.
const KEY_MARK: &[u8] = b"__key__";
/// The place of data in a custom command.
const DATA_MARK: &[u8] = b"__data__";
/// Most arguments of a custom command.
pub const ARGS_MAX: usize = 1024;

/// Most digits of a key's number: those of the largest one.
pub const KEY_DIGITS_MAX: usize = 20;
const ZEROS: [u8; KEY_DIGITS_MAX] = [b'0'; KEY_DIGITS_MAX];

/// How a key's number becomes a key.
#[derive(Clone, Copy, Debug)]
pub struct KeyFormat<'a> {
    pub prefix: &'a [u8],
    /// Least digits of the number, zeros in front; at most [`KEY_DIGITS_MAX`].
    pub digits_min: usize,
}

/// What is filled in when a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Key,
    Data,
}

/// A custom command that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the command is empty")]
    Empty,
    #[error("the command has more than {ARGS_MAX} arguments")]
    TooMany,
    #[error("the command has unbalanced quotes")]
    Quotes,
}

#[derive(Clone, Debug)]
enum Part {
    Bytes(Vec<u8>),
    /// An argument that holds places: its length is known only when they are filled.
    Argument(Vec<Segment>),
}

#[derive(Clone, Debug)]
enum Segment {
    Bytes(Vec<u8>),
    Fill(Field),
}

/// One request, framed as far as it is fixed.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
    prefix: Vec<u8>,
    key_digits_min: usize,
    key: bool,
    data: bool,
    /// The argument that says to which slot the request belongs, if there is one.
    routed_by: Option<Vec<Segment>>,
    writes: bool,
    /// The command's name in capitals.
    name: String,
}

/// `SET <key> <data>`, with `EX expiry_s` unless that is 0.
pub fn set_template(key: KeyFormat<'_>, expiry_s: u64) -> Template {
    let mut args: Vec<Vec<u8>> = vec![b"SET".to_vec(), KEY_MARK.to_vec(), DATA_MARK.to_vec()];
    if expiry_s > 0 {
        args.extend([b"EX".to_vec(), expiry_s.to_string().into_bytes()]);
    }
    Template::new(&args, key)
}

/// `GET <key>`.
pub fn get_template(key: KeyFormat<'_>) -> Template {
    Template::new(&[b"GET".to_vec(), KEY_MARK.to_vec()], key)
}

impl Template {
    /// A command as typed: arguments apart by blanks, `'..'` and `".."` keep blanks (in double quotes a backslash keeps
    /// the next byte). `__key__` stands for the key, `__data__` for the data, anywhere and as often as wanted.
    pub fn parse(command: &[u8], key: KeyFormat<'_>) -> Result<Template, TemplateError> {
        let args = split_args(command)?;
        if args.is_empty() {
            return Err(TemplateError::Empty);
        }
        if args.len() > ARGS_MAX {
            return Err(TemplateError::TooMany);
        }
        Ok(Template::new(&args, key))
    }

    fn new(args: &[Vec<u8>], key: KeyFormat<'_>) -> Template {
        assert!(key.digits_min <= KEY_DIGITS_MAX);
        let mut template = Template {
            parts: Vec::new(),
            prefix: key.prefix.to_vec(),
            key_digits_min: key.digits_min,
            key: false,
            data: false,
            routed_by: key_at(args).map(|at| segments(&args[at])),
            writes: writes(&args[0]),
            name: String::from_utf8_lossy(&args[0]).to_uppercase(),
        };
        let mut fixed = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            let segments = segments(arg);
            template.key |= segments.iter().any(|s| matches!(s, Segment::Fill(Field::Key)));
            template.data |= segments.iter().any(|s| matches!(s, Segment::Fill(Field::Data)));
            if segments.iter().all(|s| matches!(s, Segment::Bytes(_))) {
                bulk(arg, &mut fixed);
            } else {
                template.parts.push(Part::Bytes(std::mem::take(&mut fixed)));
                template.parts.push(Part::Argument(segments));
            }
        }
        template.parts.push(Part::Bytes(fixed));
        template
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    #[inline]
    pub fn uses(&self, field: Field) -> bool {
        match field {
            Field::Key => self.key,
            Field::Data => self.data,
        }
    }

    /// Whether the command may change data; one that is not known may.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// Whether the request belongs to a slot.
    pub fn has_slot(&self) -> bool {
        self.routed_by.is_some()
    }

    /// The slot of the request for key number `key` and `data`; `scratch` is where its key is put together.
    #[inline]
    pub fn slot(&self, key: u64, data: &[u8], scratch: &mut Vec<u8>) -> Option<u16> {
        let segments = self.routed_by.as_ref()?;
        let mut digits = itoa::Buffer::new();
        scratch.clear();
        self.fill(segments, digits.format(key).as_bytes(), data, scratch);
        Some(slot_of(scratch))
    }

    /// Appends the request for key number `key` and `data`.
    #[inline]
    pub fn write(&self, key: u64, data: &[u8], out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        let key = digits.format(key).as_bytes();
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Argument(segments) => self.write_argument(segments, key, data, out),
            }
        }
    }

    #[inline]
    fn write_argument(&self, segments: &[Segment], key: &[u8], data: &[u8], out: &mut Vec<u8>) {
        let zeros = self.zeros(key);
        let length: usize = segments
            .iter()
            .map(|segment| match segment {
                Segment::Bytes(bytes) => bytes.len(),
                Segment::Fill(Field::Key) => self.prefix.len() + zeros.len() + key.len(),
                Segment::Fill(Field::Data) => data.len(),
            })
            .sum();
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(length).as_bytes();
        out.reserve(digits.len() + length + 5);
        out.push(b'$');
        out.extend_from_slice(digits);
        out.extend_from_slice(b"\r\n");
        self.fill(segments, key, data, out);
        out.extend_from_slice(b"\r\n");
    }

    fn zeros(&self, key: &[u8]) -> &'static [u8] {
        &ZEROS[..self.key_digits_min.saturating_sub(key.len())]
    }

    #[inline]
    fn fill(&self, segments: &[Segment], key: &[u8], data: &[u8], out: &mut Vec<u8>) {
        for segment in segments {
            match segment {
                Segment::Bytes(bytes) => out.extend_from_slice(bytes),
                Segment::Fill(Field::Key) => {
                    out.extend_from_slice(&self.prefix);
                    out.extend_from_slice(self.zeros(key));
                    out.extend_from_slice(key);
                }
                Segment::Fill(Field::Data) => out.extend_from_slice(data),
            }
        }
    }
}

/// The argument that is the command's first key: the table of commands knows; of a command that is not in it, the first
/// one that holds the place of a key.
fn key_at(args: &[Vec<u8>]) -> Option<usize> {
    let words: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let known = table().resolve(&words).ok().and_then(|row| row.command.keys.positions(&words).next());
    let holds_key = |arg: &Vec<u8>| segments(arg).iter().any(|s| matches!(s, Segment::Fill(Field::Key)));
    known.filter(|&at| at < args.len()).or_else(|| args.iter().position(holds_key))
}

fn writes(name: &[u8]) -> bool {
    lookup(name).is_none_or(|row| row.command.flags.has(Flags::WRITE))
}

fn bulk(arg: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

/// A request of fixed arguments, framed.
pub fn frame(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bulk(arg, &mut out);
    }
    out
}

fn segments(arg: &[u8]) -> Vec<Segment> {
    let (mut found, mut fixed, mut at) = (Vec::new(), Vec::new(), 0);
    while at < arg.len() {
        let field = [(KEY_MARK, Field::Key), (DATA_MARK, Field::Data)].into_iter().find(|m| arg[at..].starts_with(m.0));
        match field {
            Some((mark, field)) => {
                if !fixed.is_empty() {
                    found.push(Segment::Bytes(std::mem::take(&mut fixed)));
                }
                found.push(Segment::Fill(field));
                at += mark.len();
            }
            None => {
                fixed.push(arg[at]);
                at += 1;
            }
        }
    }
    if !fixed.is_empty() {
        found.push(Segment::Bytes(fixed));
    }
    found
}

fn split_args(command: &[u8]) -> Result<Vec<Vec<u8>>, TemplateError> {
    let mut args: Vec<Vec<u8>> = Vec::new();
    let mut current: Option<Vec<u8>> = None;
    let mut quote: Option<u8> = None;
    let mut bytes = command.iter().copied();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            (Some(b'"'), b'\\') => {
                let next = bytes.next().ok_or(TemplateError::Quotes)?;
                current.get_or_insert_default().push(next);
            }
            (Some(_), byte) => current.get_or_insert_default().push(byte),
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                current.get_or_insert_default();
            }
            (None, byte) if byte.is_ascii_whitespace() => args.extend(current.take()),
            (None, byte) => current.get_or_insert_default().push(byte),
        }
    }
    if quote.is_some() {
        return Err(TemplateError::Quotes);
    }
    args.extend(current);
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(prefix: &[u8]) -> KeyFormat<'_> {
        KeyFormat { prefix, digits_min: 0 }
    }

    #[test]
    fn numbers_are_padded_to_the_width_and_never_cut() {
        let get = |digits_min| get_template(KeyFormat { prefix: b"k:", digits_min });
        assert_eq!(written(&get(6), 42, b""), "*2\r\n$3\r\nGET\r\n$8\r\nk:000042\r\n");
        assert_eq!(written(&get(2), 4321, b""), "*2\r\n$3\r\nGET\r\n$6\r\nk:4321\r\n");
        let longest = format!("*2\r\n$3\r\nGET\r\n$22\r\nk:{}\r\n", u64::MAX);
        assert_eq!(written(&get(KEY_DIGITS_MAX), u64::MAX, b""), longest);
    }

    fn written(template: &Template, key: u64, data: &[u8]) -> String {
        let mut out = Vec::new();
        template.write(key, data, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn set_and_get_are_framed() {
        let get = get_template(key(b"key-"));
        assert_eq!(written(&get, 42, b""), "*2\r\n$3\r\nGET\r\n$6\r\nkey-42\r\n");
        let set = set_template(key(b"k"), 0);
        assert_eq!(written(&set, 7, b"abc"), "*3\r\n$3\r\nSET\r\n$2\r\nk7\r\n$3\r\nabc\r\n");
        let set = set_template(key(b""), 30);
        assert_eq!(written(&set, 7, b""), "*5\r\n$3\r\nSET\r\n$1\r\n7\r\n$0\r\n\r\n$2\r\nEX\r\n$2\r\n30\r\n");
    }

    #[test]
    fn custom_commands_are_filled_and_quoted() {
        let template = Template::parse(b"hset h:__key__:x  'a b' \"q\\\" __data__\" __key__ ''", key(b"p")).unwrap();
        assert_eq!(template.name(), "HSET");
        let expected =
            "*6\r\n$4\r\nhset\r\n$6\r\nh:p5:x\r\n$3\r\na b\r\n$5\r\nq\" dd\r\n$2\r\np5\r\n$0\r\n\r\n".to_string();
        assert_eq!(written(&template, 5, b"dd"), expected);
        assert!(template.uses(Field::Key) && template.uses(Field::Data));
        let ping = Template::parse(b"PING", key(b"p")).unwrap();
        assert_eq!(written(&ping, 1, b""), "*1\r\n$4\r\nPING\r\n");
        assert!(!ping.uses(Field::Key) && !ping.uses(Field::Data));
    }

    #[test]
    fn the_key_of_a_command_decides_its_slot() {
        let slot = |command: &str| {
            let template = Template::parse(command.as_bytes(), key(b"k")).unwrap();
            (template.slot(7, b"dd", &mut Vec::new()), template.writes())
        };
        let of = |key: &str| Some(slot_of(key.as_bytes()));
        assert_eq!(slot("GET __key__"), (of("k7"), false));
        assert_eq!(slot("HSET h:{__key__}:x f __data__"), (of("k7"), true));
        assert_eq!(slot("SET fixed __key__"), (of("fixed"), true));
        assert_eq!(slot("SINTERCARD 2 {a}__key__ {a}"), (of("a"), false));
        assert_eq!(slot("OBJECT ENCODING __data__").0, of("dd"));
        assert_eq!(slot("NO.SUCH 5 __key__"), (of("k7"), true));
        assert_eq!(slot("PING"), (None, false));
        let padded = set_template(KeyFormat { prefix: b"k", digits_min: 4 }, 0);
        assert_eq!(padded.slot(7, b"", &mut b"left over".to_vec()), of("k0007"));
    }

    #[test]
    fn bad_custom_commands_are_refused() {
        assert_eq!(Template::parse(b"  ", key(b"")).unwrap_err(), TemplateError::Empty);
        assert_eq!(Template::parse(b"SET 'a", key(b"")).unwrap_err(), TemplateError::Quotes);
        assert_eq!(Template::parse(b"SET \"a\\", key(b"")).unwrap_err(), TemplateError::Quotes);
        assert_eq!(Template::parse(&b"a ".repeat(ARGS_MAX + 1), key(b"")).unwrap_err(), TemplateError::TooMany);
    }
}
