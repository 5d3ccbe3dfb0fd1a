//! `keyloom bench --cluster`: a load on all primaries of a cluster, and how long nobody served what one of them had.
//!
//! # A client
//!
//! A client draws its requests as without a cluster, computes the slot of each one's key, and sends it to the primary of
//! that slot, on a connection of its own to each primary. So there are threads x clients x primaries connections, and
//! `--pipeline` is a bound for each of them. In a closed loop a client goes on to its next request as soon as the
//! connection for that one has room; it stands still while nobody serves it, as one does who waits for an answer. In an open
//! loop requests for a primary that is gone wait beside the others, and their waiting counts from when they were due.
//!
//! # What fails
//!
//! | a request that | is |
//! | --- | --- |
//! | is refused: MOVED, CLUSTERDOWN, TRYAGAIN, LOADING, READONLY, MASTERDOWN, NOREPLICAS | not executed, and sent again: after MOVED at once, otherwise when there is a new table of slots |
//! | is in flight when its connection ends, or is given up because nothing came for [`GIVE_UP_MS`] ms | lost: it may have been executed, so it is never sent again |
//! | is answered UNCERTAIN | the same |
//! | finds no connection, or no node that serves its slot | not sent yet |
//!
//! Each failure is counted by kind. Latencies are those of requests that were served in the end, from when they were due
//! (closed loop: from when they could have been sent, had somebody been there); lost ones are in no percentile. ASK is not
//! followed: it is an error reply like any other.
//!
//! What fails makes a newer table wanted, at most every [`REFRESH_MS_MIN`] ms. It is asked of the known nodes in turn, by
//! a thread that does nothing else, so that no load waits for it.
//!
//! # Gaps
//!
//! The failover gap of a primary is the time from the last answer that it gave until the first write that another node
//! has accepted on one of its slots (any answer, if the workload has no writes). Beside it, an interruption ends with the
//! same node. Both are seen by clients: a gap is no shorter than the time between two requests to that primary, and includes
//! what it takes to learn who leads now. [`gaps`] says it exactly.
//!
//! # Reading order
//!
//! [`routes`] is the table of slots, [`gaps`] the gap book, [`client`] one client without its sockets: all pure. [`worker`]
//! is the event loop of a thread, [`scout`] asks for tables, [`report`] has the results.
//!
//! redis-benchmark and memtier_benchmark have modes for clusters, too. The first gives every client one node and makes keys
//! that belong there, and ends when a connection does. The second routes as this does, and neither tells what a failover
//! costs.

pub mod client;
pub mod gaps;
pub mod report;
pub mod routes;
pub mod run;
pub mod scout;
pub mod worker;

use gaps::{Gap, Gaps};
use routes::Routes;

use super::plan::Op;

/// Least time between two questions for the table of slots, ms.
pub const REFRESH_MS_MIN: u64 = 10;
/// A connection with requests in flight that brings nothing for this long has begun to fail: the table may know more, ms.
pub const SILENT_MS: u64 = 250;
/// After this long it is given up, and so is an attempt to connect, ms.
pub const GIVE_UP_MS: u64 = 2_000;
/// A run in which nothing is served for this long, while requests wait, ends, ms.
pub const UNSERVED_MS_MAX: u64 = 60_000;

/// How a request can fail that is no fault of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Moved,
    ClusterDown,
    TryAgain,
    Loading,
    ReadOnly,
    MasterDown,
    NoReplicas,
    Uncertain,
    /// In flight on a connection that ended, or no connection at all.
    Lost,
    /// In flight on a connection that brought nothing for too long.
    Silent,
}

impl Kind {
    pub const COUNT: usize = 10;
    pub const ALL: [Kind; Kind::COUNT] = [
        Kind::Moved,
        Kind::ClusterDown,
        Kind::TryAgain,
        Kind::Loading,
        Kind::ReadOnly,
        Kind::MasterDown,
        Kind::NoReplicas,
        Kind::Uncertain,
        Kind::Lost,
        Kind::Silent,
    ];

    /// The kind of an error reply; None if it is about the request itself.
    pub fn of(error: &[u8]) -> Option<Kind> {
        let word = error.split(|&byte| byte == b' ').next()?;
        Some(match word {
            b"MOVED" => Kind::Moved,
            b"CLUSTERDOWN" => Kind::ClusterDown,
            b"TRYAGAIN" => Kind::TryAgain,
            b"LOADING" => Kind::Loading,
            b"READONLY" => Kind::ReadOnly,
            b"MASTERDOWN" => Kind::MasterDown,
            b"NOREPLICAS" => Kind::NoReplicas,
            b"UNCERTAIN" => Kind::Uncertain,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Moved => "moved",
            Kind::ClusterDown => "cluster down",
            Kind::TryAgain => "try again",
            Kind::Loading => "loading",
            Kind::ReadOnly => "read only",
            Kind::MasterDown => "master down",
            Kind::NoReplicas => "no replicas",
            Kind::Uncertain => "uncertain",
            Kind::Lost => "connection lost",
            Kind::Silent => "no answer",
        }
    }

    /// The request was not executed, and is sent again.
    pub fn is_sent_again(self) -> bool {
        !matches!(self, Kind::Uncertain | Kind::Lost | Kind::Silent)
    }
}

/// What the clients of one thread know and have seen.
#[derive(Debug)]
pub struct View {
    pub routes: Routes,
    pub gaps: Gaps,
    /// Whether an answer to each operation shows that a slot is served.
    counts: [bool; Op::COUNT],
    /// Failures by [`Kind`].
    failed: [u64; Kind::COUNT],
    /// Served requests by number of the node.
    answers: Vec<u64>,
    /// Requests that were refused after sending had stopped.
    unsent: u64,
}

impl View {
    /// `writes` says of each operation whether it may change data.
    pub fn new(routes: Routes, writes: [bool; Op::COUNT]) -> View {
        let any = writes.contains(&true);
        let (failed, counts) = ([0; Kind::COUNT], writes.map(|writes| writes || !any));
        let gaps = Gaps::new(|slot| routes.leader_of(slot));
        View { routes, gaps, counts, failed, answers: Vec::new(), unsent: 0 }
    }

    fn served(&mut self, node: usize) {
        if node >= self.answers.len() {
            self.answers.resize(node + 1, 0);
        }
        self.answers[node] += 1;
    }

    /// What there is to tell at the end.
    pub fn finish(self) -> Sight {
        let names: Vec<String> = self.routes.nodes().iter().map(|node| node.name.to_string()).collect();
        let (gaps, more_gaps) = self.gaps.finish();
        let gaps = gaps.into_iter().map(|gap| gap.map(|node| names[node].clone())).collect();
        let answers = names.into_iter().zip(self.answers).collect();
        Sight { failed: self.failed, answers, gaps, more_gaps, ..Sight::default() }
    }
}

/// What clients have seen of a cluster, over the whole run, warm-up included.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Failures by [`Kind`].
    pub failed: [u64; Kind::COUNT],
    /// Served requests by node.
    pub answers: Vec<(String, u64)>,
    pub gaps: Vec<Gap<String>>,
    /// Gaps beyond those that are kept.
    pub more_gaps: u64,
    /// Attempts to connect again that failed.
    pub failed_connects: u64,
    /// Nothing was served for [`UNSERVED_MS_MAX`].
    pub gave_up: bool,
}

impl Sight {
    /// How many requests failed in this way.
    pub fn failed(&self, kind: Kind) -> u64 {
        self.failed[kind as usize]
    }

    /// What two threads have seen.
    pub fn add(&mut self, other: Sight) {
        for (sum, failed) in self.failed.iter_mut().zip(other.failed) {
            *sum += failed;
        }
        for (node, answers) in other.answers {
            match self.answers.iter_mut().find(|known| known.0 == node) {
                Some(known) => known.1 += answers,
                None => self.answers.push((node, answers)),
            }
        }
        self.gaps.extend(other.gaps);
        self.more_gaps += other.more_gaps;
        self.failed_connects += other.failed_connects;
        self.gave_up |= other.gave_up;
    }
}
