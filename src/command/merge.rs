//! Making one reply of the partial replies of several cores.

use super::Merge;
use crate::resp::read::skip_value;
use crate::resp::{Output, Reply, Version};

/// Merges `parts`, each one whole RESP value, into `out`; `random` decides a draw, and `order` tells for each key which part
/// has its element.
pub fn merge(how: Merge, parts: &[Vec<u8>], order: &[u16], version: Version, random: u64, out: &mut Output) {
    if let Some(error) = parts.iter().find(|part| part.first() == Some(&b'-')) {
        return out.push(error);
    }
    match how {
        Merge::First => out.push(&parts[0]),
        Merge::Sum => {
            let sum = parts.iter().map(|part| header(part).0).sum();
            Reply::new(out, version).int(sum);
        }
        Merge::Concat => {
            let len: i64 = parts.iter().map(|part| header(part).0).sum();
            Reply::new(out, version).array(len as usize);
            for part in parts {
                out.push(&part[header(part).1..]);
            }
        }
        Merge::InKeyOrder => in_key_order(parts, order, version, out),
        Merge::Draw => draw(parts, version, random, out),
    }
}

fn in_key_order(parts: &[Vec<u8>], order: &[u16], version: Version, out: &mut Output) {
    let mut rests: Vec<&[u8]> = parts.iter().map(|part| &part[header(part).1..]).collect();
    Reply::new(out, version).array(order.len());
    for &part in order {
        let rest = &mut rests[part as usize];
        let (element, after) = split_value(rest);
        out.push(element);
        *rest = after;
    }
}

/// Each part is `[weight, value or nil]`: picks a value with a probability in proportion to its weight.
fn draw(parts: &[Vec<u8>], version: Version, random: u64, out: &mut Output) {
    let candidates: Vec<(u64, &[u8])> = (parts.iter())
        .filter_map(|part| {
            let inside = &part[header(part).1..];
            let (weight, after) = (header(inside).0, &inside[header(inside).1..]);
            let (value, _) = split_value(after);
            let nil = value.starts_with(b"_") || value.starts_with(b"$-1");
            (weight > 0 && !nil).then_some((weight as u64, value))
        })
        .collect();
    let total: u64 = candidates.iter().map(|c| c.0).sum();
    let mut at = if total == 0 { 0 } else { random % total };
    for (weight, value) in candidates {
        if at < weight {
            return out.push(value);
        }
        at -= weight;
    }
    Reply::new(out, version).null();
}

/// The number in the first line of a value, and where the next line starts.
fn header(value: &[u8]) -> (i64, usize) {
    let end = memchr::memchr(b'\n', value).expect("a part is a whole value");
    let text = std::str::from_utf8(&value[1..end - 1]).expect("headers are ASCII");
    (text.parse().expect("a part has a numeric header"), end + 1)
}

fn split_value(bytes: &[u8]) -> (&[u8], &[u8]) {
    let len = skip_value(bytes).ok().flatten().expect("a part holds whole values");
    bytes.split_at(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(how: Merge, parts: &[&str], random: u64) -> String {
        let parts: Vec<_> = parts.iter().map(|p| p.as_bytes().to_vec()).collect();
        let mut out = Output::new();
        merge(how, &parts, &[1, 0, 1], Version::V2, random, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn parts_become_one_reply() {
        assert_eq!(merged(Merge::Sum, &[":2\r\n", ":0\r\n", ":5\r\n"], 0), ":7\r\n");
        let arrays = ["*1\r\n$1\r\na\r\n", "*2\r\n$-1\r\n$1\r\nb\r\n"];
        assert_eq!(merged(Merge::InKeyOrder, &arrays, 0), "*3\r\n$-1\r\n$1\r\na\r\n$1\r\nb\r\n");
        assert_eq!(merged(Merge::First, &["+OK\r\n", "+OK\r\n"], 0), "+OK\r\n");
        assert_eq!(merged(Merge::First, &["+OK\r\n", "-ERR no\r\n"], 0), "-ERR no\r\n");
        assert_eq!(
            merged(Merge::Concat, &["*1\r\n$1\r\na\r\n", "*0\r\n", "*1\r\n$1\r\nb\r\n"], 0),
            "*2\r\n$1\r\na\r\n$1\r\nb\r\n"
        );
    }

    #[test]
    fn a_draw_is_weighted_and_skips_empty_parts() {
        let parts = ["*2\r\n:1\r\n$1\r\na\r\n", "*2\r\n:0\r\n$-1\r\n", "*2\r\n:3\r\n$1\r\nb\r\n"];
        let draws: Vec<_> = (0..4).map(|r| merged(Merge::Draw, &parts, r)).collect();
        assert_eq!(draws, ["$1\r\na\r\n", "$1\r\nb\r\n", "$1\r\nb\r\n", "$1\r\nb\r\n"]);
        assert_eq!(merged(Merge::Draw, &["*2\r\n:0\r\n$-1\r\n"], 9), "$-1\r\n");
    }
}
