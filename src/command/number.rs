//! Numbers in arguments and values: 64-bit integers, and the long doubles of INCRBYFLOAT.
//!
//! Pure functions; no core owns anything here. INCRBYFLOAT computes in the x87 80-bit format, because its digits are
//! visible to clients and replicas: the same inputs must give the same text on every machine.

use rustc_apfloat::ieee::{Double, X87DoubleExtended};
use rustc_apfloat::{Float, Round, Status};

use crate::resp::Error;

/// A number of INCRBYFLOAT: sign, 15-bit exponent, 64-bit significand.
pub type LongDouble = X87DoubleExtended;

/// Texts of this many bytes or more are not numbers.
const LONG_DOUBLE_BYTES_MAX: usize = 5 * 1024;

/// Digits after the point in the text of a long double.
const FRACTION_DIGITS: u32 = 17;

/// Exponent of the lowest bit of a significand whose biased exponent is 0.
const LOW_BIT_EXPONENT: i32 = -16383 - 63;

/// A canonical decimal integer: no plus sign, no leading zeros, no spaces, no `-0`.
#[inline]
pub fn canonical_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Nineteen digits are less than 2^64.
        value = value * 10 + (digit - b'0') as u64;
    }
    if negative {
        if value <= 1 << 63 { Some((value as i64).wrapping_neg()) } else { None }
    } else {
        i64::try_from(value).ok()
    }
}

/// An integer argument, as strict as Redis: see [`canonical_i64`].
#[inline]
pub fn parse_i64(text: &[u8]) -> Result<i64, Error> {
    canonical_i64(text).ok_or(Error::NotInteger)
}

/// Parses what C's `strtold` accepts as a whole: decimal and hexadecimal numbers with exponents, and infinity. Not
/// accepted: surrounding space, NaN, numbers that overflow, and non-zero numbers that underflow to zero.
pub fn parse_long_double(text: &[u8]) -> Result<LongDouble, Error> {
    parse_float(text).ok_or(Error::NotFloat)
}

fn parse_float(text: &[u8]) -> Option<LongDouble> {
    if text.len() >= LONG_DOUBLE_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let (negative, magnitude) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let value = if magnitude.eq_ignore_ascii_case("inf") || magnitude.eq_ignore_ascii_case("infinity") {
        LongDouble::INFINITY
    } else if magnitude.len() > 1 && magnitude.as_bytes()[..2].eq_ignore_ascii_case(b"0x") {
        parse_hexadecimal(&magnitude[2..])?
    } else {
        is_number(magnitude.as_bytes(), u8::is_ascii_digit, b'e').then_some(())?;
        finite(magnitude)?
    };
    Some(if negative { -value } else { value })
}

fn parse_hexadecimal(magnitude: &str) -> Option<LongDouble> {
    is_number(magnitude.as_bytes(), u8::is_ascii_hexdigit, b'p').then_some(())?;
    let exponent = if magnitude.bytes().any(|b| b.eq_ignore_ascii_case(&b'p')) { "" } else { "p0" };
    finite(&format!("0x{magnitude}{exponent}"))
}

/// Whether `text` is digits with at most one point, then optionally an exponent of at least one digit.
fn is_number(text: &[u8], is_digit: fn(&u8) -> bool, exponent_mark: u8) -> bool {
    let end = text.iter().position(|b| b.eq_ignore_ascii_case(&exponent_mark)).unwrap_or(text.len());
    let (mantissa, exponent) = text.split_at(end);
    let points = mantissa.iter().filter(|&&b| b == b'.').count();
    let digits = mantissa.iter().filter(|b| is_digit(b)).count();
    let exponent_ok = match exponent {
        [] => true,
        [_, b'+' | b'-', digits @ ..] | [_, digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
    };
    digits > 0 && points <= 1 && digits + points == mantissa.len() && exponent_ok
}

fn finite(magnitude: &str) -> Option<LongDouble> {
    let parsed = LongDouble::from_str_r(magnitude, Round::NearestTiesToEven).ok()?;
    let lost = parsed.value.is_infinite() || (parsed.value.is_zero() && parsed.status.intersects(Status::INEXACT));
    if lost { None } else { Some(parsed.value) }
}

/// Parses what C's `strtod` accepts as a whole, as [`parse_long_double`] does for `strtold`: the scores of sorted sets.
#[inline]
pub fn parse_double(text: &[u8]) -> Option<f64> {
    // Fifteen digits and a sign are exact.
    if text.len() <= 16
        && let Some(whole) = canonical_i64(text)
    {
        return Some(whole as f64);
    }
    read_double(text).filter(|(_, lost)| !lost).map(|(value, _)| value)
}

/// Parses what C's `strtod` accepts up to the end of a C string: blanks before the number are fine, nothing at all is 0,
/// and what overflows is infinite. The ends of ranges of scores.
pub fn parse_double_prefix(text: &[u8]) -> Option<f64> {
    let text = &text[..memchr::memchr(0, text).unwrap_or(text.len())];
    let blanks = text.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b'\x0b').count();
    match &text[blanks..] {
        // Of blanks alone nothing is read, so that they are left over.
        [] => (blanks == 0).then_some(0.0),
        number => read_double(number).map(|(value, _)| value),
    }
}

/// A double, and whether it has become infinite or zero for want of range. NaN is none.
fn read_double(text: &[u8]) -> Option<(f64, bool)> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, magnitude) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if magnitude.eq_ignore_ascii_case("inf") || magnitude.eq_ignore_ascii_case("infinity") {
        return Some((sign * f64::INFINITY, false));
    }
    let is_hexadecimal = magnitude.len() > 1 && magnitude.as_bytes()[..2].eq_ignore_ascii_case(b"0x");
    let (value, end): (f64, _) = if is_hexadecimal {
        is_number(&magnitude.as_bytes()[2..], u8::is_ascii_hexdigit, b'p').then_some(())?;
        let exponent = if magnitude.bytes().any(|b| b.eq_ignore_ascii_case(&b'p')) { "" } else { "p0" };
        let value =
            Double::from_str_r(&format!("0x{}{exponent}", &magnitude[2..]), Round::NearestTiesToEven).ok()?.value;
        (f64::from_bits(value.to_bits() as u64), b'p')
    } else {
        is_number(magnitude.as_bytes(), u8::is_ascii_digit, b'e').then_some(())?;
        (magnitude.parse().ok()?, b'e')
    };
    let digits = magnitude.bytes().skip(2 * is_hexadecimal as usize).take_while(|b| !b.eq_ignore_ascii_case(&end));
    let is_zero = digits.into_iter().all(|b| matches!(b, b'0' | b'.'));
    Some((sign * value, value.is_infinite() || (value == 0.0 && !is_zero)))
}

/// `value + increment`, refused if the result is not finite.
pub fn add_long_double(value: LongDouble, increment: LongDouble) -> Result<LongDouble, Error> {
    let sum = (value + increment).value;
    if sum.is_finite() { Ok(sum) } else { Err(Error::IncrNan) }
}

/// The text of a finite number as C's `%.17Lf` prints it, without trailing zeros and without a negative zero.
pub fn format_long_double(value: LongDouble) -> Vec<u8> {
    assert!(value.is_finite());
    let bits = value.to_bits();
    let significand = bits as u64;
    // Subnormal numbers have the exponent of the smallest normal ones.
    let exponent = LOW_BIT_EXPONENT + ((bits >> 64) as i32 & 0x7fff).max(1);
    let mut text = Vec::with_capacity(48);
    if value.is_negative() {
        text.push(b'-');
    }
    if exponent >= 0 {
        write_shifted(&mut text, significand, exponent as u32);
    } else {
        write_fraction(&mut text, significand, exponent.unsigned_abs());
    }
    if text == b"-0" {
        text.remove(0);
    }
    text
}

/// Writes `significand / 2^shift`, rounded half to even on its exact value.
fn write_fraction(text: &mut Vec<u8>, significand: u64, shift: u32) {
    // Below 2^64 * 2^57: no overflow.
    let scaled = significand as u128 * 10u128.pow(FRACTION_DIGITS);
    let rounded = if shift >= 128 {
        0
    } else {
        let (whole, rest, half) = (scaled >> shift, scaled & ((1 << shift) - 1), 1 << (shift - 1));
        whole + (rest > half || (rest == half && whole & 1 == 1)) as u128
    };
    let one = 10u128.pow(FRACTION_DIGITS);
    let mut digits = itoa::Buffer::new();
    text.extend_from_slice(digits.format(rounded / one).as_bytes());
    let fraction = rounded % one;
    if fraction > 0 {
        text.extend_from_slice(format!(".{fraction:0width$}", width = FRACTION_DIGITS as usize).as_bytes());
        while text.last() == Some(&b'0') {
            text.pop();
        }
    }
}

/// Writes `significand * 2^shift`. The format ends at 2^16384, so the number has at most 4933 digits.
fn write_shifted(text: &mut Vec<u8>, significand: u64, shift: u32) {
    const LIMB: u128 = 1_000_000_000_000_000_000;
    // Base 10^18, lowest limb first.
    let mut limbs = vec![(significand as u128 % LIMB) as u64, (significand as u128 / LIMB) as u64];
    let mut left = shift;
    while left > 0 {
        let step = left.min(64);
        let mut carry = 0u128;
        for limb in &mut limbs {
            let product = ((*limb as u128) << step) + carry;
            *limb = (product % LIMB) as u64;
            carry = product / LIMB;
        }
        while carry > 0 {
            limbs.push((carry % LIMB) as u64);
            carry /= LIMB;
        }
        left -= step;
    }
    while limbs.len() > 1 && limbs.last() == Some(&0) {
        limbs.pop();
    }
    let mut limbs = limbs.iter().rev();
    if let Some(first) = limbs.next() {
        text.extend_from_slice(first.to_string().as_bytes());
    }
    for limb in limbs {
        text.extend_from_slice(format!("{limb:018}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_canonical() {
        for n in [0, 1, -1, 42, i64::MAX, i64::MIN, i64::MIN + 1] {
            assert_eq!(parse_i64(n.to_string().as_bytes()), Ok(n));
        }
        for text in [
            "",
            "-",
            "+1",
            "-0",
            "00",
            "01",
            "-01",
            " 1",
            "1 ",
            "1a",
            "1.0",
            "0x1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "18446744073709551617",
        ] {
            assert_eq!(parse_i64(text.as_bytes()), Err(Error::NotInteger), "{text}");
        }
    }

    /// What INCRBYFLOAT answers to `value` plus `increment`.
    fn sum(value: &str, increment: &str) -> Result<String, Error> {
        let sum = add_long_double(parse_long_double(value.as_bytes())?, parse_long_double(increment.as_bytes())?)?;
        Ok(String::from_utf8(format_long_double(sum)).expect("digits"))
    }

    #[test]
    fn sums_have_the_digits_of_an_x87() {
        for (value, increment, expected) in [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0", "0.1", "0.1"),
            ("3", "1.123456789012345678", "4.12345678901234568"),
            ("-0", "-0", "0"),
            ("-1e-18", "0", "0"),
            ("0x10", "0", "16"),
            ("0x.8p1", "0", "1"),
            (".5", "5.", "5.5"),
            ("+1", "-1", "0"),
            ("1e20", "0", "100000000000000000000"),
            ("1e30", "0", "1000000000000000000024696061952"),
            ("17179869184.000000001", "0", "17179869184.00000000186264515"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("0e99999999999", "7", "7"),
            ("1e-4940", "2", "2"),
        ] {
            assert_eq!(sum(value, increment).as_deref(), Ok(expected), "{value} + {increment}");
        }
        assert_eq!(sum("1e4932", "0").map(|s| s.len()), Ok(4933));
    }

    #[test]
    fn doubles_are_read_as_strtod_reads_them() {
        for (text, value) in [
            ("0", 0.0),
            ("-7", -7.0),
            ("123456789012345", 123456789012345.0),
            ("9007199254740993", 9007199254740992.0),
            ("1e3", 1000.0),
            ("+.5", 0.5),
            ("5.", 5.0),
            ("0x1p-1074", 5e-324),
            ("-0X.8", -0.5),
            ("0xA", 10.0),
            ("5e-324", 5e-324),
            ("0e999", 0.0),
            ("INF", f64::INFINITY),
            ("-infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(parse_double(text.as_bytes()), Some(value), "{text}");
        }
        assert_eq!(parse_double(b"-0").map(f64::to_bits), Some((-0.0f64).to_bits()));
        for text in [
            "",
            " 1",
            "1 ",
            "1\0",
            "nan",
            "-nan",
            "1e400",
            "-1e400",
            "1e-400",
            "0x1p2000",
            "0x1p-2000",
            "0x",
            "e1",
            ".",
            "+",
            "--1",
            "1f",
            "infi",
        ] {
            assert_eq!(parse_double(text.as_bytes()), None, "{text}");
        }
        for (text, value) in [("", 0.0), ("\0x", 0.0), (" \t1", 1.0), ("1e400", f64::INFINITY), ("2\0x", 2.0)] {
            assert_eq!(parse_double_prefix(text.as_bytes()), Some(value), "{text:?}");
        }
        for text in [" ", "1 ", "nan", "x", "1x"] {
            assert_eq!(parse_double_prefix(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_a_float() {
        for text in [
            "", " 1", "1 ", "nan", "-nan", "nan(1)", "1e", "1e+", "e1", ".", "-", "+-1", "0x", "0xg", "0x1p", "1.2.3",
            "1e5000", "-1e5000", "1e-5000", "1\0", "infin", "1f",
        ] {
            assert_eq!(sum(text, "1"), Err(Error::NotFloat), "{text:?}");
        }
        assert_eq!(sum("inf", "1"), Err(Error::IncrNan));
        assert_eq!(sum("-Infinity", "1"), Err(Error::IncrNan));
        assert_eq!(sum("1.1e4932", "1.1e4932"), Err(Error::IncrNan));
        assert_eq!(sum(&"1".repeat(LONG_DOUBLE_BYTES_MAX), "1"), Err(Error::NotFloat));
    }
}
