//! Is a list what its appends have made it?
//!
//! Each append pushes a number of its own (RPUSH), so where it stands in the list at the end says when it was executed.
//! Then nothing has to be searched: acknowledged appends are in the list once, at the place that their reply named; those of
//! which nobody knows once or not at all; those that were refused never. What was answered before another was sent stands
//! before it. And each read is how the list began at a moment between its question and its answer.

use std::collections::HashMap;

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// When it was answered, ns, and the length that the list had then.
    Acknowledged {
        at: u64,
        length: i64,
    },
    /// Not executed.
    Refused,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    pub client: usize,
    pub number: i64,
    /// Before it was sent, ns.
    pub invoked: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub client: usize,
    pub invoked: u64,
    pub answered: u64,
    pub items: Vec<i64>,
}

/// What is wrong, as far as it is there; the first of each kind.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    Twice(i64),
    /// Nobody has appended it, or it was refused.
    Foreign(i64),
    Lost(Append),
    /// Its reply named another place.
    Place {
        append: Append,
        place: usize,
    },
    /// The second stands behind the first, and was answered before that was sent.
    Order(Append, Append),
    /// How long the read is, and the place at which it differs from the list.
    NoPrefix {
        client: usize,
        invoked: u64,
        length: usize,
        at: usize,
    },
    /// The read lacks what had been acknowledged.
    Stale {
        client: usize,
        invoked: u64,
        length: usize,
        lacks: Append,
    },
    /// The read has what was not sent yet.
    Early {
        client: usize,
        answered: u64,
        has: Append,
    },
    /// A read is shorter than one that was answered before.
    Shrunk {
        client: usize,
        invoked: u64,
        length: usize,
        before: usize,
    },
}

/// What is wrong with a list that is `found` at the end.
pub fn check(appends: &[Append], reads: &[Read], found: &[i64]) -> Vec<Wrong> {
    let by_number: HashMap<i64, &Append> = appends.iter().map(|append| (append.number, append)).collect();
    let mut places: HashMap<i64, usize> = HashMap::new();
    let mut wrong = Vec::new();
    for (place, &number) in found.iter().enumerate() {
        if places.insert(number, place).is_some() {
            wrong.push(Wrong::Twice(number));
        }
        if by_number.get(&number).is_none_or(|append| append.outcome == Outcome::Refused) {
            wrong.push(Wrong::Foreign(number));
        }
    }
    for &append in appends {
        let Outcome::Acknowledged { length, .. } = append.outcome else { continue };
        match places.get(&append.number) {
            None => wrong.push(Wrong::Lost(append)),
            Some(&place) if place as i64 + 1 != length => wrong.push(Wrong::Place { append, place }),
            Some(_) => {}
        }
    }
    // Unknown numbers have been named already.
    let list: Vec<&Append> = found.iter().filter_map(|number| by_number.get(number).copied()).collect();
    if list.len() == found.len() {
        wrong.extend(order(&list));
        wrong.extend(of_reads(reads, &list));
    }
    let mut kinds = Vec::new();
    wrong.retain(|wrong| {
        let kind = std::mem::discriminant(wrong);
        let first = !kinds.contains(&kind);
        kinds.push(kind);
        first
    });
    wrong
}

fn answered(append: &Append) -> u64 {
    match append.outcome {
        Outcome::Acknowledged { at, .. } => at,
        _ => u64::MAX,
    }
}

fn order(list: &[&Append]) -> Option<Wrong> {
    let mut earliest: Option<&Append> = None;
    for &append in list.iter().rev() {
        if let Some(later) = earliest.filter(|later| answered(later) < append.invoked) {
            return Some(Wrong::Order(*append, *later));
        }
        if earliest.is_none_or(|earliest| answered(append) < answered(earliest)) {
            earliest = Some(append);
        }
    }
    None
}

fn of_reads(reads: &[Read], list: &[&Append]) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for &Read { client, invoked, answered: until, ref items } in reads {
        let length = items.len();
        let same = items.iter().zip(list).take_while(|(item, append)| **item == append.number).count();
        if same < length {
            wrong.push(Wrong::NoPrefix { client, invoked, length, at: same });
            continue;
        }
        if let Some(&&lacks) = list[length..].iter().find(|append| answered(append) < invoked) {
            wrong.push(Wrong::Stale { client, invoked, length, lacks });
        }
        if let Some(&&has) = list[..length].iter().find(|append| append.invoked > until) {
            wrong.push(Wrong::Early { client, answered: until, has });
        }
    }
    // In the order of questions; what was answered before each of them.
    let (mut asked, mut told): (Vec<&Read>, Vec<&Read>) = (reads.iter().collect(), reads.iter().collect());
    asked.sort_by_key(|read| read.invoked);
    told.sort_by_key(|read| read.answered);
    let (mut told, mut before) = (told.into_iter().peekable(), 0);
    for read in asked {
        while let Some(earlier) = told.next_if(|earlier| earlier.answered < read.invoked) {
            before = before.max(earlier.items.len());
        }
        let length = read.items.len();
        if length < before {
            wrong.push(Wrong::Shrunk { client: read.client, invoked: read.invoked, length, before });
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(number: i64, times: [u64; 2], length: i64) -> Append {
        Append { client: 1, number, invoked: times[0], outcome: Outcome::Acknowledged { at: times[1], length } }
    }

    fn unknown(number: i64, invoked: u64) -> Append {
        Append { client: 1, number, invoked, outcome: Outcome::Unknown }
    }

    fn refused(number: i64, invoked: u64) -> Append {
        Append { client: 1, number, invoked, outcome: Outcome::Refused }
    }

    fn read(times: [u64; 2], items: &[i64]) -> Read {
        Read { client: 2, invoked: times[0], answered: times[1], items: items.into() }
    }

    #[test]
    fn a_good_list() {
        assert_eq!(check(&[], &[], &[]), []);
        let appends = [
            acknowledged(1, [0, 10], 1),
            unknown(2, 3),
            acknowledged(3, [11, 20], 3),
            refused(4, 12),
            unknown(5, 13),
            // They overlap, and stand in the other order.
            acknowledged(6, [25, 40], 5),
            acknowledged(7, [26, 39], 4),
        ];
        let reads = [
            read([0, 1], &[]),
            read([5, 12], &[1]),
            read([8, 30], &[1, 2, 3]),
            read([30, 39], &[1, 2, 3, 7]),
            read([41, 42], &[1, 2, 3, 7, 6]),
        ];
        assert_eq!(check(&appends, &reads, &[1, 2, 3, 7, 6]), []);
    }

    #[test]
    fn what_is_lost_or_twice_or_should_not_be_there() {
        let [one, two] = [acknowledged(1, [0, 10], 1), acknowledged(2, [11, 20], 2)];
        assert_eq!(check(&[one, two], &[], &[1]), [Wrong::Lost(two)]);
        let wrong = check(&[one, two], &[], &[2]);
        assert!(wrong.contains(&Wrong::Lost(one)) && wrong.contains(&Wrong::Place { append: two, place: 0 }));
        assert_eq!(check(&[one, two], &[], &[1, 2, 2])[0], Wrong::Twice(2));
        assert_eq!(check(&[one, unknown(3, 4)], &[], &[1, 3, 3])[0], Wrong::Twice(3));
        assert_eq!(check(&[one, refused(3, 4)], &[], &[1, 3]), [Wrong::Foreign(3)]);
        assert_eq!(check(&[one], &[], &[1, 3]), [Wrong::Foreign(3)]);
    }

    #[test]
    fn an_order_that_cannot_be() {
        let [one, two] = [acknowledged(1, [0, 10], 2), acknowledged(2, [11, 20], 1)];
        assert_eq!(check(&[one, two], &[], &[2, 1]), [Wrong::Order(two, one)]);
        // Also with what nobody knows: it was sent after the other was answered.
        let (one, ghost) = (acknowledged(1, [0, 10], 2), unknown(2, 11));
        assert_eq!(check(&[one, ghost], &[], &[2, 1]), [Wrong::Order(ghost, one)]);
    }

    #[test]
    fn reads_that_cannot_be() {
        let appends = [acknowledged(1, [0, 10], 1), acknowledged(2, [11, 20], 2), unknown(3, 30)];
        let check = |reads: &[Read]| check(&appends, reads, &[1, 2, 3]);
        assert_eq!(check(&[read([21, 22], &[1, 2])]), []);
        assert_eq!(check(&[read([12, 22], &[2])]), [Wrong::NoPrefix { client: 2, invoked: 12, length: 1, at: 0 }]);
        let longer = read([12, 22], &[1, 2, 3, 4]);
        assert!(matches!(check(&[longer])[..], [Wrong::NoPrefix { length: 4, at: 3, .. }]));
        assert!(matches!(check(&[read([21, 22], &[1])])[..], [Wrong::Stale { lacks: Append { number: 2, .. }, .. }]));
        assert!(matches!(check(&[read([5, 6], &[1, 2])])[..], [Wrong::Early { has: Append { number: 2, .. }, .. }]));
        // Each alone is possible.
        let [long, short] = [read([31, 32], &[1, 2, 3]), read([33, 34], &[1, 2])];
        assert_eq!(check(std::slice::from_ref(&short)), []);
        assert!(matches!(check(&[short, long])[..], [Wrong::Shrunk { length: 2, before: 3, .. }]));
    }
}
