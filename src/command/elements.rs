//! What commands of several families have in common that answer elements of a collection: the cursor and the options of
//! SCAN, SSCAN and HSCAN, replies whose number of elements is known at their end only, and random draws.
//!
//! Pure functions; no core owns anything here.

use super::number::parse_i64;
use super::{Args, glob};
use crate::resp::{Error, Output, Reply};

/// Elements that one call of a walk visits unless the client says otherwise.
const COUNT_DEFAULT: usize = 10;

/// Bytes of the shortest reply to one draw: `$0`, and two ends of lines.
const DRAW_BYTES_MIN: u64 = 6;

/// A cursor as a number, read as C's `strtoul` does: a sign is fine, a negative number counts down from 2^64, nothing at
/// all is 0. Blanks are not fine. The text ends with the first NUL.
pub fn parse_cursor(arg: &[u8]) -> Option<u64> {
    let arg = arg.split(|&byte| byte == 0).next().unwrap_or_default();
    let (negative, digits) = match arg {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() && !arg.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0u64, |cursor, &digit| {
        let digit = digit.is_ascii_digit().then(|| (digit - b'0') as u64)?;
        cursor.checked_mul(10)?.checked_add(digit)
    })?;
    Some(if negative { number.wrapping_neg() } else { number })
}

/// What a walk visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    Keys,
    Fields,
    /// Of a set or a sorted set.
    Members,
}

/// The options of a walk.
#[derive(Clone, Copy, Debug)]
pub struct WalkOptions<'a> {
    /// Elements that a call should visit.
    pub count: usize,
    /// None: whatever it is.
    pub pattern: Option<&'a [u8]>,
    /// The name of a type, for keys.
    pub kind: Option<&'a [u8]>,
    /// Fields without their values.
    pub no_values: bool,
}

impl<'a> WalkOptions<'a> {
    /// Reads the arguments behind the cursor.
    pub fn parse(args: Args<'a>, walk: Walk) -> Result<Self, Error> {
        let mut options = WalkOptions { count: COUNT_DEFAULT, pattern: None, kind: None, no_values: false };
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            if option.eq_ignore_ascii_case(b"novalues") {
                options.no_values = true;
                if walk != Walk::Fields {
                    return Err(Error::NoValues);
                }
                continue;
            }
            let value = rest.next().ok_or(Error::Syntax)?;
            if option.eq_ignore_ascii_case(b"count") {
                let count = parse_i64(value)?;
                options.count = usize::try_from(count).ok().filter(|&n| n > 0).ok_or(Error::Syntax)?;
            } else if option.eq_ignore_ascii_case(b"match") {
                options.pattern = Some(value).filter(|&&pattern| pattern != b"*").copied();
            } else if option.eq_ignore_ascii_case(b"type") && walk == Walk::Keys {
                options.kind = Some(value);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }

    /// Whether an element with this name is wanted.
    #[inline]
    pub fn want(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }
}

/// Elements that were found, already in the form of the reply: their number is needed before them.
#[derive(Default)]
pub struct Found {
    len: usize,
    out: Output,
}

impl Found {
    /// Adds a bulk string.
    pub fn add(&mut self, element: &[u8], reply: &Reply) {
        self.len += 1;
        Reply::new(&mut self.out, reply.version()).bulk(element);
    }

    /// Writes them as an array.
    pub fn write_array(&self, reply: &mut Reply) {
        reply.array(self.len);
        reply.output().copy_range(&self.out, 0, self.out.mark());
    }

    /// Writes them as a set.
    pub fn write_set(&self, reply: &mut Reply) {
        reply.set(self.len);
        reply.output().copy_range(&self.out, 0, self.out.mark());
    }

    /// Writes them as the answer to a walk.
    pub fn write_walk(&self, next: u64, reply: &mut Reply) {
        reply.array(2);
        reply.bulk_int(next as i64);
        self.write_array(reply);
    }
}

/// How many elements are to be drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draws {
    /// Different ones, as far as there are so many.
    Distinct(usize),
    /// Any ones, each draw for itself.
    Repeated(u64),
}

impl Draws {
    /// What stands behind the key: a count, if there is one, and then `option`, which doubles the reply.
    pub fn parse_args(args: Args, option: &[u8]) -> Result<(Option<Draws>, bool), Error> {
        match args {
            [_, _] => Ok((None, false)),
            [_, _, count] => Ok((Some(Draws::parse(count)?), false)),
            [_, _, count, word] if word.eq_ignore_ascii_case(option) => Ok((Some(Draws::parse_pairs(count)?), true)),
            [_, _, count, ..] => {
                Draws::parse(count)?;
                Err(Error::Syntax)
            }
            _ => Err(Error::Syntax),
        }
    }

    /// Reads a count; a negative one lets elements come several times.
    pub fn parse(arg: &[u8]) -> Result<Draws, Error> {
        let count = parse_i64(arg)?;
        match usize::try_from(count) {
            Ok(count) => Ok(Draws::Distinct(count)),
            Err(_) if count == i64::MIN => Err(Error::NotBetween { min: -i64::MAX, max: i64::MAX }),
            Err(_) => Ok(Draws::Repeated(count.unsigned_abs())),
        }
    }

    /// As [`Draws::parse`], for elements that are answered with their values: twice as many parts must be a number.
    pub fn parse_pairs(arg: &[u8]) -> Result<Draws, Error> {
        const MAX: u64 = i64::MAX as u64 / 2;
        match Draws::parse(arg)? {
            Draws::Distinct(count) if count as u64 > MAX => Err(Error::OutOfRange),
            Draws::Repeated(count) if count > MAX => Err(Error::OutOfRange),
            draws => Ok(draws),
        }
    }
}

/// Lets `draw` answer `count` times. A small collection can be drawn from without an end: so the reply is refused when it
/// takes more than `bytes_max`, at once if that is certain.
pub fn draw_repeatedly(
    reply: &mut Reply,
    count: u64,
    bytes_max: usize,
    mut draw: impl FnMut(&mut Reply),
) -> Result<(), Error> {
    if count > bytes_max as u64 / DRAW_BYTES_MIN {
        return Err(Error::ReplyTooLong);
    }
    let start = reply.output().len();
    for _ in 0..count {
        draw(reply);
        if reply.output().len() - start > bytes_max {
            return Err(Error::ReplyTooLong);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Version;

    #[test]
    fn counts_of_draws() {
        assert_eq!(Draws::parse(b"5"), Ok(Draws::Distinct(5)));
        assert_eq!(Draws::parse(b"-5"), Ok(Draws::Repeated(5)));
        assert_eq!(Draws::parse(b"9223372036854775807"), Ok(Draws::Distinct(i64::MAX as usize)));
        let whole = Error::NotBetween { min: -i64::MAX, max: i64::MAX };
        assert_eq!(Draws::parse(b"-9223372036854775808"), Err(whole));
        assert_eq!(Draws::parse(b"x"), Err(Error::NotInteger));
        assert_eq!(Draws::parse_pairs(b"4611686018427387904"), Err(Error::OutOfRange));
        assert_eq!(Draws::parse_pairs(b"-4611686018427387904"), Err(Error::OutOfRange));
        assert_eq!(Draws::parse_pairs(b"4611686018427387903"), Ok(Draws::Distinct((1 << 62) - 1)));
    }

    /// As many draws as anybody can ask for take neither time nor memory.
    #[test]
    fn a_reply_that_never_ends_is_refused() {
        let mut output = Output::new();
        let mut reply = Reply::new(&mut output, Version::V2);
        let mut drawn = 0;
        for count in [u64::MAX, 1 << 62, 1000] {
            let result = draw_repeatedly(&mut reply, count, 5999, |_| drawn += 1);
            assert_eq!(result, Err(Error::ReplyTooLong));
        }
        assert_eq!(drawn, 0);
        let result = draw_repeatedly(&mut reply, 999, 5999, |reply| reply.bulk(&[b'x'; 100]));
        assert_eq!(result, Err(Error::ReplyTooLong));
        assert!(output.len() < 6200);
        assert_eq!(draw_repeatedly(&mut Reply::new(&mut output, Version::V2), 999, 5999, |_| drawn += 1), Ok(()));
        assert_eq!(drawn, 999);
    }
}
