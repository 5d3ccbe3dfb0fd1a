//! Scores and cuts in arguments.

use crate::collection::sorted::Cut;
use crate::command::number::{parse_double, parse_double_prefix};
use crate::resp::Error;

/// A score, an increment or a weight.
#[inline]
pub fn parse_score(text: &[u8]) -> Result<f64, Error> {
    parse_double(text).ok_or(Error::NotFloat)
}

/// The ends of a range of scores, of which `(` leaves the score itself out.
pub fn parse_score_range(min: &[u8], max: &[u8]) -> Result<(Cut<'static>, Cut<'static>), Error> {
    let parse = |text: &[u8]| match text {
        [b'(', rest @ ..] => Some((parse_double_prefix(rest)?, true)),
        _ => Some((parse_double_prefix(text)?, false)),
    };
    let (Some((min, min_out)), Some((max, max_out))) = (parse(min), parse(max)) else {
        return Err(Error::NotScoreRange);
    };
    Ok((Cut::Score { score: min, equal: min_out }, Cut::Score { score: max, equal: !max_out }))
}

/// The ends of a range of names: `[name`, `(name`, which leaves it out, `-` and `+` for the ends of all names.
pub fn parse_lex_range<'a>(min: &'a [u8], max: &'a [u8]) -> Result<(Cut<'a>, Cut<'a>), Error> {
    let parse = |text: &'a [u8], is_min: bool| match text {
        // What comes after a NUL is nothing to C.
        [b'-'] | [b'-', 0, ..] => Ok(Cut::Start),
        [b'+'] | [b'+', 0, ..] => Ok(Cut::End),
        [b'[', member @ ..] => Ok(Cut::Member { member, equal: !is_min }),
        [b'(', member @ ..] => Ok(Cut::Member { member, equal: is_min }),
        _ => Err(Error::NotLexRange),
    };
    Ok((parse(min, true)?, parse(max, false)?))
}
