//! The gap book: for how long a primary's slots were not served.
//!
//! Pure. It knows by whom each slot was served last, and of tables only the first. When a node fails a request to
//! a slot that it has served last, a gap of that node begins, at the last answer that it has given before. It ends with the first answer that counts, of
//! another node on any of its slots (a failover), or of itself on what failed (an interruption). A write counts; if the
//! workload has none, any answer does.
//!
//! An answer to a request that was sent before the failure was on its way already: it ends no gap, but moves its
//! beginning; unless what failed is that nothing came. After a failover, further failures on slots of a primary that has not answered since belong to the same
//! gap.

use super::Kind;
use super::routes::NODES_MAX;
use crate::route::SLOTS;

/// Gaps that a thread keeps; further ones are counted.
pub const GAPS_MAX: usize = 1000;
const NOBODY: u16 = u16::MAX;
/// With the number of a node: it has not served the slot yet, but it was said to when the run began.
const SAID: u16 = 1 << 15;
const _: () = assert!(NODES_MAX < SAID as usize);

/// A time without service, ns since the start. Nodes are named by `N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap<N> {
    /// Whose slots were not served.
    pub primary: N,
    /// Its last answer.
    pub from_ns: u64,
    /// The first answer that counts, and whose; None if there was none by the end.
    pub until: Option<(u64, N)>,
    /// How the first request failed.
    pub kind: Kind,
}

impl<N: PartialEq> Gap<N> {
    /// Another node has taken over.
    pub fn is_failover(&self) -> bool {
        self.until.as_ref().is_some_and(|(_, by)| *by != self.primary)
    }

    pub fn length_ns(&self) -> Option<u64> {
        self.until.as_ref().map(|(until_ns, _)| until_ns.saturating_sub(self.from_ns))
    }

    pub fn map<M>(self, mut name: impl FnMut(N) -> M) -> Gap<M> {
        Gap {
            primary: name(self.primary),
            from_ns: self.from_ns,
            until: self.until.map(|(until_ns, by)| (until_ns, name(by))),
            kind: self.kind,
        }
    }
}

/// A gap that has not ended.
#[derive(Clone, Copy, Debug)]
struct Open {
    from_ns: u64,
    /// Answers to requests that were sent before were on their way already. 0 if the node was silent: then they end it.
    failed_ns: u64,
    /// What failed: one slot, or all of the node.
    slot: Option<u16>,
    /// Whether an answer to what failed would count.
    counts: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default)]
struct Primary {
    last_answer_ns: Option<u64>,
    open: Option<Open>,
    /// Where the last gap began.
    told_ns: Option<u64>,
}

/// What one thread has seen.
#[derive(Debug)]
pub struct Gaps {
    /// By slot, the node that has served it last; with [`SAID`] if none has yet.
    served_by: Box<[u16]>,
    /// By number, as far as they have answered.
    primaries: Vec<Primary>,
    /// Gaps that have not ended. Invariant: how many of `primaries` have one.
    open: usize,
    found: Vec<Gap<usize>>,
    /// Gaps beyond [`GAPS_MAX`].
    more: u64,
}

impl Gaps {
    /// An empty book; who serves a slot is said by `leader_of` until somebody does.
    pub fn new(leader_of: impl Fn(u16) -> Option<usize>) -> Gaps {
        let said = |slot| leader_of(slot).map_or(NOBODY, |node| node as u16 | SAID);
        Gaps { served_by: (0..SLOTS).map(said).collect(), primaries: Vec::new(), open: 0, found: Vec::new(), more: 0 }
    }

    /// `node` has answered a request to `slot` that was sent at `sent_ns`; `counts` if that shows that the slot is served.
    #[inline]
    pub fn answered(&mut self, slot: u16, node: usize, sent_ns: u64, now_ns: u64, counts: bool) {
        if node >= self.primaries.len() {
            self.primaries.resize(node + 1, Primary::default());
        }
        self.primaries[node].last_answer_ns = Some(now_ns);
        let owner = &mut self.served_by[slot as usize];
        if *owner == NOBODY || self.open == 0 {
            *owner = node as u16;
        }
        if self.open > 0 {
            self.answered_in_a_gap(slot, node, sent_ns, now_ns, counts);
        }
    }

    /// The node whose slot it is. Only for slots that it is not [`NOBODY`]'s.
    fn owner(&self, slot: u16) -> usize {
        (self.served_by[slot as usize] & !SAID) as usize
    }

    fn answered_in_a_gap(&mut self, slot: u16, node: usize, sent_ns: u64, now_ns: u64, counts: bool) {
        let owner = self.owner(slot);
        if let Some(open) = self.primaries.get_mut(owner).and_then(|primary| primary.open.as_mut()) {
            if node == owner && sent_ns < open.failed_ns {
                open.from_ns = now_ns;
                return;
            }
            let other = node == owner && open.slot.is_some_and(|failed| failed != slot);
            // Of one slot a read has failed: then a read is enough.
            let read_again = open.slot == Some(slot) && !open.counts;
            if other || !(counts || read_again) {
                return;
            }
            self.close(owner, Some((now_ns, node)));
        }
        self.served_by[slot as usize] = node as u16;
    }

    /// `node` has failed a request to `slot`; `counts` if an answer to it would have. With a connection, or for want of
    /// any answer, all of the node has failed.
    pub fn failed(&mut self, slot: u16, node: usize, kind: Kind, counts: bool, now_ns: u64) {
        let served_by = self.served_by[slot as usize];
        // What was said at the beginning may have been out of date already.
        if served_by != node as u16 && (served_by != node as u16 | SAID || kind == Kind::Moved) {
            return;
        }
        let Some(primary) = self.primaries.get_mut(node) else { return };
        let whole = matches!(kind, Kind::Lost | Kind::Silent);
        if let Some(open) = &mut primary.open {
            if whole && open.slot.take().is_some() {
                open.failed_ns = now_ns;
            }
            return;
        }
        let Some(from_ns) = primary.last_answer_ns.filter(|&at| primary.told_ns.is_none_or(|told| at > told)) else {
            return;
        };
        let failed_ns = if kind == Kind::Silent { 0 } else { now_ns };
        primary.open = Some(Open { from_ns, failed_ns, slot: (!whole).then_some(slot), counts, kind });
        self.open += 1;
    }

    /// For how long `node` has not answered anything, ns.
    pub fn silence_ns(&self, node: usize, now_ns: u64) -> u64 {
        let last = self.primaries.get(node).and_then(|primary| primary.last_answer_ns);
        now_ns.saturating_sub(last.unwrap_or(0))
    }

    /// The last answer of anybody.
    pub fn last_answer_ns(&self) -> Option<u64> {
        self.primaries.iter().filter_map(|primary| primary.last_answer_ns).max()
    }

    /// All gaps, those included that have not ended, and how many there were beyond.
    pub fn finish(mut self) -> (Vec<Gap<usize>>, u64) {
        for primary in 0..self.primaries.len() {
            self.close(primary, None);
        }
        (self.found, self.more)
    }

    fn close(&mut self, primary: usize, until: Option<(u64, usize)>) {
        let Some(open) = self.primaries[primary].open.take() else { return };
        self.primaries[primary].told_ns = Some(open.from_ns);
        self.open -= 1;
        if self.found.len() < GAPS_MAX {
            self.found.push(Gap { primary, from_ns: open.from_ns, until, kind: open.kind });
        } else {
            self.more += 1;
        }
    }
}

/// The gaps that all threads together have seen: those of one primary that overlap are one, from the last answer that
/// any thread got until the first that counts.
pub fn merged<N: Ord + Clone>(mut all: Vec<Gap<N>>) -> Vec<Gap<N>> {
    all.sort_by(|a, b| (&a.primary, a.from_ns).cmp(&(&b.primary, b.from_ns)));
    let mut merged: Vec<Gap<N>> = Vec::new();
    for gap in all {
        match merged.last_mut() {
            Some(last)
                if last.primary == gap.primary
                    && last.until.as_ref().is_none_or(|(until_ns, _)| gap.from_ns <= *until_ns) =>
            {
                last.from_ns = gap.from_ns;
                last.until = match (last.until.take(), gap.until) {
                    (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
                    (a, b) => a.or(b),
                };
            }
            _ => merged.push(gap),
        }
    }
    merged.sort_by_key(|gap| gap.from_ns);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: usize = 0;
    const B: usize = 1;

    /// Runs a transcript, one line each; at the beginning A was said to serve the slots below 10. `A 5 read 10-20`: node A
    /// has answered a read of slot 5 that was sent at 10, at 20. `A 5 down 30`: it has refused a write to it; `unread`: a
    /// read; `moved`: a write, with MOVED; `lost`: it was lost with the connection; `silent`: it was not answered for long.
    fn gaps(transcript: &str) -> Vec<Gap<usize>> {
        let mut gaps = Gaps::new(|slot| (slot < 10).then_some(A));
        for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, slot, what, time] = words[..] else { panic!("{line}") };
            let number = |text: &str| text.parse::<u64>().unwrap();
            let (node, slot) = (if name == "A" { A } else { B }, number(slot) as u16);
            let (sent, at) = match time.split_once('-') {
                Some((sent, at)) => (number(sent), number(at)),
                None => (0, number(time)),
            };
            let kind = match what {
                "read" | "write" => {
                    gaps.answered(slot, node, sent, at, what == "write");
                    continue;
                }
                "down" | "unread" => Kind::ClusterDown,
                "moved" => Kind::Moved,
                "lost" => Kind::Lost,
                "silent" => Kind::Silent,
                _ => panic!("{line}"),
            };
            gaps.failed(slot, node, kind, what != "unread", at);
        }
        gaps.finish().0
    }

    fn gap(primary: usize, from_ns: u64, until: Option<(u64, usize)>, kind: Kind) -> Gap<usize> {
        Gap { primary, from_ns, until, kind }
    }

    #[test]
    fn from_the_last_answer_to_the_first_write_elsewhere() {
        let found = gaps(
            "A 5 read 0-10
             A 6 write 0-20
             B 19 write 0-25
             A 6 lost 30
             B 5 down 50
             B 19 write 50-60
             B 5 read 60-70
             B 6 write 70-80
             B 5 write 80-90",
        );
        assert_eq!(found, [gap(A, 20, Some((80, B)), Kind::Lost)]);
        assert!(found[0].is_failover() && found[0].length_ns() == Some(60));
    }

    #[test]
    fn what_nobody_has_served_cannot_fail() {
        assert_eq!(gaps("A 5 down 10\nA 5 lost 20\nB 5 write 20-30\nA 6 down 40"), []);
        assert_eq!(gaps("A 5 write 0-10\nA 15 down 20\nA 15 lost 25\nB 15 write 30-40"), []);
    }

    #[test]
    fn a_slot_that_is_asked_for_the_first_time_belongs_to_who_was_said_to_serve_it() {
        let found = gaps("A 5 write 0-10\nA 6 lost 20\nB 7 write 30-40\nB 5 write 50-60");
        assert_eq!(found, [gap(A, 10, Some((40, B)), Kind::Lost)]);
        // Unless what was said was out of date.
        assert_eq!(gaps("A 5 write 0-10\nB 9 write 0-10\nA 6 moved 20\nB 6 write 30-40"), []);
        let found = gaps("A 5 write 0-10\nB 9 write 0-10\nA 5 moved 20\nB 5 write 30-40");
        assert_eq!(found, [gap(A, 10, Some((40, B)), Kind::Moved)]);
    }

    #[test]
    fn answers_on_their_way_end_no_gap() {
        let found = gaps(
            "A 5 write 0-10
             A 5 lost 20
             A 5 write 15-25
             A 5 lost 30
             B 5 write 40-50",
        );
        assert_eq!(found, [gap(A, 25, Some((50, B)), Kind::Lost)]);
    }

    #[test]
    fn a_node_that_comes_back_was_interrupted() {
        // Also when what it answers first is about a slot that nobody has asked for before.
        for known in ["A 6 write 0-10", "A 7 write 0-10"] {
            let found = gaps(&format!("A 5 write 0-9\n{known}\nA 5 lost 20\nA 6 write 30-40\nA 5 write 50-60"));
            assert_eq!(found, [gap(A, 10, Some((40, A)), Kind::Lost)]);
            assert!(!found[0].is_failover());
        }
    }

    #[test]
    fn a_node_that_stood_still_was_interrupted_until_it_answers() {
        assert_eq!(
            gaps("A 5 write 0-10\nA 5 silent 300\nA 5 write 20-400"),
            [gap(A, 10, Some((400, A)), Kind::Silent)]
        );
        let found = gaps("A 5 write 0-10\nA 5 silent 300\nA 5 lost 350\nB 5 write 360-400");
        assert_eq!(found, [gap(A, 10, Some((400, B)), Kind::Silent)]);
    }

    #[test]
    fn one_slot_that_is_refused_is_down_until_it_is_served() {
        let found =
            gaps("A 5 write 0-10\nA 6 write 0-11\nA 5 down 20\nA 6 write 30-40\nA 5 read 41-42\nA 5 write 50-60");
        assert_eq!(found, [gap(A, 11, Some((60, A)), Kind::ClusterDown)]);
        // The connection is lost while it is down: then all of the node is.
        let found = gaps("A 5 write 0-10\nA 6 write 0-11\nA 5 down 20\nA 6 lost 25\nA 6 write 30-40");
        assert_eq!(found, [gap(A, 11, Some((40, A)), Kind::ClusterDown)]);
    }

    #[test]
    fn a_read_that_was_refused_is_down_until_a_read_is_answered() {
        let found = gaps("A 5 read 0-10\nA 6 write 0-11\nA 5 unread 20\nA 6 write 30-40\nA 5 read 50-60");
        assert_eq!(found, [gap(A, 11, Some((60, A)), Kind::ClusterDown)]);
        let found = gaps("A 5 read 0-10\nA 6 write 0-11\nA 5 unread 20\nB 6 read 30-40\nB 5 read 50-60");
        assert_eq!(found, [gap(A, 11, Some((60, B)), Kind::ClusterDown)]);
    }

    #[test]
    fn a_node_fails_nothing_that_is_served_by_another() {
        let taken = "A 5 write 0-10\nA 5 silent 300\nB 5 write 310-320\n";
        let found = gaps(&format!("{taken}A 5 silent 350\nA 5 moved 360\nA 5 lost 370\nB 5 read 380-390"));
        assert_eq!(found, [gap(A, 10, Some((320, B)), Kind::Silent)]);
    }

    #[test]
    fn slots_that_are_taken_over_later_belong_to_the_same_gap() {
        let found = gaps(
            "A 5 write 0-10
             A 6 write 0-11
             A 5 lost 20
             B 5 write 30-40
             B 6 down 50
             A 6 lost 60
             B 6 write 60-70
             B 5 write 70-80",
        );
        assert_eq!(found, [gap(A, 11, Some((40, B)), Kind::Lost)]);
    }

    #[test]
    fn a_second_failover_is_a_second_gap() {
        let found = gaps(
            "A 5 write 0-10
             A 5 lost 20
             B 5 write 30-40
             B 5 write 40-50
             B 5 lost 60
             A 5 write 70-80
             A 5 lost 90",
        );
        assert_eq!(
            found,
            [
                gap(A, 10, Some((40, B)), Kind::Lost),
                gap(B, 50, Some((80, A)), Kind::Lost),
                gap(A, 80, None, Kind::Lost)
            ]
        );
    }

    #[test]
    fn there_is_a_bound() {
        let mut gaps = Gaps::new(|_| None);
        for round in 0..GAPS_MAX as u64 + 5 {
            let at = round * 10;
            gaps.answered(5, A, at, at + 1, true);
            gaps.failed(5, A, Kind::Lost, true, at + 2);
        }
        let (found, more) = gaps.finish();
        assert_eq!((found.len(), more), (GAPS_MAX, 5));
    }

    #[test]
    fn threads_see_one_gap() {
        let seen = |primary, from_ns, until: Option<(u64, usize)>| gap(primary, from_ns, until, Kind::Lost);
        let all = vec![
            seen(A, 900, Some((990, B))),
            seen(A, 100, Some((500, B))),
            seen(B, 110, Some((300, B))),
            seen(A, 105, None),
            seen(A, 103, Some((450, B))),
        ];
        let expected = [seen(A, 105, Some((450, B))), seen(B, 110, Some((300, B))), seen(A, 900, Some((990, B)))];
        assert_eq!(merged(all), expected);
    }
}
