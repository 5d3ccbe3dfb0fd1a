//! Values of directives: the words of a line to typed values and back. Pure functions; the texts are Redis'.

use std::net::IpAddr;

use super::{OutputLimit, ShutdownOn};
use crate::resp::number::parse_i64;

/// Most addresses that `bind` takes.
pub const BIND_ADDRS_MAX: usize = 16;
/// CPU numbers go from 0 to one less than this.
const CPUS_MAX: usize = 4096;

/// `yes` or `no`, in any case.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        _ if text.eq_ignore_ascii_case("yes") => Ok(true),
        _ if text.eq_ignore_ascii_case("no") => Ok(false),
        _ => Err("argument must be 'yes' or 'no'".into()),
    }
}

/// How an integer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Plain,
    /// Bytes: `1k` is 1,000, `1kb` 1,024, and so on with m and g.
    Memory,
    /// File permissions.
    Octal,
}

/// An integer within `min..=max`.
pub fn parse_int(text: &str, unit: Unit, min: i64, max: i64) -> Result<i64, String> {
    let value = match unit {
        Unit::Plain => parse_i64(text.as_bytes()).ok_or("argument couldn't be parsed into an integer")?,
        Unit::Memory => parse_memory(text).ok_or("argument must be a memory value")?,
        Unit::Octal => i64::from_str_radix(text, 8).map_err(|_| "argument couldn't be parsed as an octal number")?,
    };
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(match unit {
        Unit::Octal => format!("argument must be between {min:o} and {max:o} inclusive"),
        _ => format!("argument must be between {min} and {max} inclusive"),
    })
}

/// An integer as [`parse_int`] reads it.
pub fn print_int(value: i64, unit: Unit) -> String {
    match unit {
        Unit::Octal => format!("{value:o}"),
        _ => value.to_string(),
    }
}

/// Bytes; None if `text` is no memory size. What does not fit is as large as can be, so that bounds refuse it.
pub fn parse_memory(text: &str) -> Option<i64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: i64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    if number.is_empty() {
        return None;
    }
    Some(number.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(factor))
}

/// Save points: pairs of seconds and changes; an empty word is none. On a command line they may stand in one word.
pub fn parse_save(words: &[&str]) -> Result<Vec<(u64, u64)>, String> {
    if words.is_empty() || words == [""] {
        return Ok(Vec::new());
    }
    let words: Vec<&str> = words.iter().flat_map(|word| word.split_ascii_whitespace()).collect();
    let number = |word: &str, min| u64::try_from(parse_i64(word.as_bytes())?).ok().filter(|&number| number >= min);
    let point = |pair: &[&str]| match pair {
        [seconds, changes] => Some((number(seconds, 1)?, number(changes, 0)?)),
        _ => None,
    };
    words.chunks(2).map(point).collect::<Option<_>>().ok_or_else(|| "Invalid save parameters".into())
}

/// What a signal to end means: `default`, or any of `save`, `nosave`, `now` and `force`.
pub fn parse_shutdown_on(words: &[&str]) -> Result<ShutdownOn, String> {
    let mut on = ShutdownOn::default();
    for word in words {
        match word.to_ascii_lowercase().as_str() {
            "default" if words.len() == 1 => {}
            "save" if on.save.is_none() => on.save = Some(true),
            "nosave" if on.save.is_none() => on.save = Some(false),
            "now" if !on.now => on.now = true,
            "force" if !on.force => on.force = true,
            _ => return Err("argument(s) must be 'default', or of save or nosave, now, force".into()),
        }
    }
    Ok(on)
}

/// A primary: its host and its port; `no one`, or an empty word, is none.
pub fn parse_replicaof(words: &[&str]) -> Result<Option<(String, u16)>, String> {
    match words {
        [] | [""] => Ok(None),
        [no, one] if no.eq_ignore_ascii_case("no") && one.eq_ignore_ascii_case("one") => Ok(None),
        [host, port] => match port.parse() {
            Ok(port) if port > 0 => Ok(Some((host.to_string(), port))),
            _ => Err("Invalid master port".into()),
        },
        _ => Err("wrong number of arguments".into()),
    }
}

/// The position of `text` in `names`, in any case.
pub fn parse_choice(text: &str, names: &[&str]) -> Result<usize, String> {
    names
        .iter()
        .position(|name| name.eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("argument(s) must be one of the following: {}", names.join(", ")))
}

/// A number of partitions: a power of two.
pub fn parse_partitions(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(n) if n.is_power_of_two() && n <= 16384 => Ok(n),
        _ => Err("argument must be a power of two between 1 and 16384".into()),
    }
}

/// CPU numbers like `0-3,8`: ascending, each once. The form is the kernel's.
pub fn parse_cpus(text: &str) -> Result<Vec<usize>, String> {
    let bad = || "argument must be 'all' or a list of CPU numbers and ranges like 0-3,8".to_string();
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| bad())?;
        let last: usize = last.parse().map_err(|_| bad())?;
        if first > last || last >= CPUS_MAX {
            return Err(bad());
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

/// The shortest list that [`parse_cpus`] reads as `cpus`, which ascend.
pub fn print_cpus(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// Checks one address of `bind`: an IP address, `*` or `::*`, perhaps with `-` before it.
pub fn check_bind(text: &str) -> Result<(), String> {
    match text.strip_prefix('-').unwrap_or(text) {
        "*" | "::*" => Ok(()),
        address if address.parse::<IpAddr>().is_ok() => Ok(()),
        _ => Err(format!("'{text}' is not an IP address")),
    }
}

/// Percentiles, 0 to 100.
pub fn parse_percentiles(words: &[&str]) -> Result<Vec<f64>, String> {
    let mut percentiles = Vec::new();
    for word in words.iter().filter(|w| !w.is_empty()) {
        let value: f64 = word.parse().map_err(|_| "Invalid latency-tracking-info-percentiles parameters")?;
        if !(0.0..=100.0).contains(&value) {
            return Err("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]".into());
        }
        percentiles.push(value);
    }
    Ok(percentiles)
}

/// Class of a client, as output limits tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputClass {
    Normal,
    Replica,
    Pubsub,
}

/// Groups of four words: class, hard bytes, soft bytes, soft seconds.
pub fn parse_output_limits(words: &[&str]) -> Result<Vec<(OutputClass, OutputLimit)>, String> {
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    }
    let mut limits = Vec::new();
    for group in words.chunks_exact(4) {
        let class = match group[0].to_ascii_lowercase().as_str() {
            "normal" => OutputClass::Normal,
            "slave" | "replica" => OutputClass::Replica,
            "pubsub" => OutputClass::Pubsub,
            _ => return Err("Invalid client class specified in buffer limit configuration.".into()),
        };
        let bytes = |text: &str| parse_memory(text).filter(|&n| n < i64::MAX).map(|n| n as u64);
        let (Some(hard_bytes), Some(soft_bytes), Ok(soft_s)) =
            (bytes(group[1]), bytes(group[2]), group[3].parse::<u32>())
        else {
            return Err("Error in hard, soft or soft_seconds setting in buffer limit configuration.".into());
        };
        limits.push((class, OutputLimit { hard_bytes, soft_bytes, soft_s: soft_s.into() }));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("17b", Some(17)),
            ("1k", Some(1000)),
            ("1kb", Some(1024)),
            ("2M", Some(2_000_000)),
            ("2mB", Some(2 << 20)),
            ("3g", Some(3_000_000_000)),
            ("3GB", Some(3 << 30)),
            ("99999999999999999999", Some(i64::MAX)),
            ("9999999999gb", Some(i64::MAX)),
            ("", None),
            ("gb", None),
            ("-1", None),
            ("1x", None),
            ("1 mb", None),
            ("1.5gb", None),
        ] {
            assert_eq!(parse_memory(text), expected, "{text:?}");
        }
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpus("0-3"), Ok(vec![0, 1, 2, 3]));
        assert_eq!(parse_cpus("2,0,2"), Ok(vec![0, 2]));
        assert_eq!(parse_cpus("8,0-1,1-2\n"), Ok(vec![0, 1, 2, 8]));
        for bad in ["", "x", "3-1", "1,", "-1", "0-4096", "0-99999999999999999999"] {
            assert!(parse_cpus(bad).is_err(), "{bad:?}");
        }
        assert_eq!(print_cpus(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }

    #[test]
    fn bind_addresses() {
        for good in ["127.0.0.1", "-::1", "*", "-::*"] {
            assert_eq!(check_bind(good), Ok(()), "{good}");
        }
        for bad in ["nowhere", "", "-", "127.0.0.1:80", "--::1"] {
            assert_eq!(check_bind(bad), Err(format!("'{bad}' is not an IP address")));
        }
    }
}
