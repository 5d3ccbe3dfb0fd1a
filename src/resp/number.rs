//! Decimal integers as Redis reads them from clients.
//!
//! Strict, after the rules of Redis' `string2ll`: an optional `-`, then digits without leading zeros, and nothing else.
//! A text that is accepted is therefore exactly what the number prints as, which is what makes it safe to store numbers
//! in binary and print them again.

use std::fmt::{self, Write};

/// Most digits that fit an i64 or u64 whatever they are.
const SAFE_DIGITS_MAX: usize = 18;

/// The number that `text` is, or None if it is not one or does not fit. `-0`, `+1`, `01`, ` 1` and the empty text are
/// none.
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let magnitude = parse_u64(digits)?;
    if !negative {
        return i64::try_from(magnitude).ok();
    }
    // `-0` does not print as itself.
    if magnitude == 0 { None } else { 0i64.checked_sub_unsigned(magnitude) }
}

/// As [`parse_i64`], without a sign.
#[inline]
pub fn parse_u64(digits: &[u8]) -> Option<u64> {
    let (&first, rest) = digits.split_first()?;
    let first = first.wrapping_sub(b'0');
    if first > 9 || (first == 0 && !rest.is_empty()) {
        return None;
    }
    if digits.len() > SAFE_DIGITS_MAX {
        return parse_long(digits);
    }
    let mut n = u64::from(first);
    for &byte in rest {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n = n * 10 + u64::from(digit);
    }
    Some(n)
}

/// Numbers that may not fit.
#[cold]
fn parse_long(digits: &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n = n.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(n)
}

/// The text of a double, without an allocation: see [`DoubleText::new`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DoubleText {
    bytes: [u8; DOUBLE_BYTES_MAX],
    len: usize,
}

/// A sign, 17 digits, a point, and `e-308`.
const DOUBLE_BYTES_MAX: usize = 24;
/// Significant digits of a double's text.
const DOUBLE_DIGITS: usize = 17;

impl DoubleText {
    /// The text as Redis 7.0 prints it: C's `%.17g`, with `inf`, `-inf` and `nan`.
    ///
    /// Seventeen significant digits read back as the same double; they are not the shortest that do: 0.1 prints as
    /// `0.10000000000000001`.
    pub fn new(value: f64) -> DoubleText {
        let mut text = DoubleText::default();
        if value.is_nan() {
            text.push(b"nan");
        } else if value.is_infinite() {
            text.push(if value > 0.0 { b"inf" } else { b"-inf" });
        } else {
            text.write_finite(value);
        }
        text
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn write_finite(&mut self, value: f64) {
        // A digit, a point, sixteen digits, `e` and the exponent: the standard library rounds them right.
        let mut scientific = DoubleText::default();
        let written = write!(scientific, "{:.*e}", DOUBLE_DIGITS - 1, value.abs());
        debug_assert!(written.is_ok());
        let mut digits = [0; DOUBLE_DIGITS];
        digits[0] = scientific.bytes[0];
        digits[1..].copy_from_slice(&scientific.bytes[2..1 + DOUBLE_DIGITS]);
        let exponent = std::str::from_utf8(&scientific.as_bytes()[2 + DOUBLE_DIGITS..]);
        let exponent: i32 = exponent.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let significant = digits.iter().rposition(|&digit| digit != b'0').unwrap_or(0) + 1;
        if value.is_sign_negative() {
            self.push(b"-");
        }
        match exponent {
            -4..0 => {
                self.push(&b"0.000"[..1 + exponent.unsigned_abs() as usize]);
                self.push(&digits[..significant]);
            }
            0..17 => {
                let whole = exponent as usize + 1;
                self.push(&digits[..whole]);
                self.push_fraction(&digits[whole..significant.max(whole)]);
            }
            _ => {
                self.push(&digits[..1]);
                self.push_fraction(&digits[1..significant]);
                self.push(if exponent < 0 { b"e-" } else { b"e+" });
                let exponent = exponent.unsigned_abs();
                if exponent < 10 {
                    self.push(b"0");
                }
                self.push(itoa::Buffer::new().format(exponent).as_bytes());
            }
        }
    }

    fn push_fraction(&mut self, digits: &[u8]) {
        if !digits.is_empty() {
            self.push(b".");
            self.push(digits);
        }
    }
}

impl fmt::Write for DoubleText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > DOUBLE_BYTES_MAX - self.len {
            return Err(fmt::Error);
        }
        self.push(text.as_bytes());
        Ok(())
    }
}

/// The text of a double as Redis 7.0 prints it: see [`DoubleText::new`].
pub fn format_double(value: f64) -> String {
    String::from_utf8_lossy(DoubleText::new(value).as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_exactly_what_a_number_prints_as() {
        for n in
            [0, 1, -1, 9, 10, -10, 99, 1 << 31, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1, 999_999_999_999_999_999]
        {
            assert_eq!(parse_i64(n.to_string().as_bytes()), Some(n));
        }
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        let bad: [&[u8]; 16] = [
            b"",
            b"-",
            b"+1",
            b"01",
            b"00",
            b"-0",
            b"-01",
            b" 1",
            b"1 ",
            b"1.0",
            b"1e3",
            b"0x1",
            b"--1",
            b"1\0",
            b"9223372036854775808",
            b"-9223372036854775809",
        ];
        for text in bad {
            assert_eq!(parse_i64(text), None, "{}", text.escape_ascii());
        }
        for text in [&b"18446744073709551616"[..], b"99999999999999999999999", b"-1", b"1234567890123456789x"] {
            assert_eq!(parse_u64(text), None, "{}", text.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn numbers_round_trip(n: i64, u: u64) {
            proptest::prop_assert_eq!(parse_i64(n.to_string().as_bytes()), Some(n));
            proptest::prop_assert_eq!(parse_u64(u.to_string().as_bytes()), Some(u));
        }

        #[test]
        fn other_texts_are_refused(text in "[-+ 0-9a]{0,22}") {
            let printed = text.parse::<i64>().ok().filter(|n| n.to_string() == text);
            proptest::prop_assert_eq!(parse_i64(text.as_bytes()), printed);
        }

        #[test]
        fn doubles_read_back_as_themselves(bits: u64) {
            let value = f64::from_bits(bits);
            let back: f64 = format_double(value).parse().expect("a number");
            proptest::prop_assert!(back == value || (back.is_nan() && value.is_nan()));
        }
    }

    /// Expected texts are those of redis-server 7.0.15 (ZADD, then ZSCORE).
    #[test]
    fn doubles_print_as_in_redis() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.10000000000000001"),
            (3.1, "3.1000000000000001"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e-4, "0.0001"),
            (1e-5, "1.0000000000000001e-05"),
            (1e100, "1e+100"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (5e-324, "4.9406564584124654e-324"),
            (2f64.powi(-25), "2.9802322387695312e-08"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
            (99999999999999999.0, "1e+17"),
            (0.99999999999999999, "1"),
            (-2.2250738585072014e-308, "-2.2250738585072014e-308"),
            (-0.00012345678901234567, "-0.00012345678901234567"),
            (-1234567.125, "-1234567.125"),
        ];
        for (value, text) in cases {
            assert_eq!(format_double(value), text);
        }
    }
}
