//! What the tests of the log have in common.

use std::future::Future;
use std::path::Path;

use futures_lite::FutureExt;
use glommio::{LocalExecutorBuilder, Placement};

use super::frame::{Frame, HistoryEntry, HistoryId, Index, Kind};
use super::recover::{self, Plan, RecoverError};
use super::replay::replay;
use crate::route::slot_of;
use crate::shard::statement;

/// Runs a future on an executor like the control core's. Boxed: an executor's loop is compiled for each type of future.
pub fn on_executor<T>(future: impl Future<Output = T>) -> T {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).ring_depth(256);
    builder.make().unwrap().run(future.boxed_local())
}

/// A history that everything in a test begins with.
pub const FIRST: HistoryEntry = HistoryEntry { id: 0xabcd << 112 | 1, cut: 0 };

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Appends a unit of one statement.
pub fn unit(out: &mut Vec<u8>, args: &[&[u8]]) {
    let slot = (args.len() > 1).then(|| slot_of(args[1]));
    assert!(statement::encode_unit(out, |out| statement::encode(out, 0, slot, args)));
}

/// A frame with a unit for each value: `SET <index> <value>`.
pub fn log_frame(history: HistoryId, first: Index, values: &[Vec<u8>]) -> Frame {
    let mut payload = Vec::new();
    for (at, value) in values.iter().enumerate() {
        unit(&mut payload, &[b"SET", (first + at as u64).to_string().as_bytes(), value]);
    }
    Frame::new(Kind::Log, history, first, 1_700_000_000_000 + first as i64, values.len() as u32, payload)
}

/// What replaying a directory executes, statement by statement.
pub fn executed(plan: &Plan) -> Result<Vec<Vec<Vec<u8>>>, RecoverError> {
    let mut all = Vec::new();
    let visit = |_, args: &[&[u8]]| {
        all.push(args.iter().map(|arg| arg.to_vec()).collect());
        Ok::<(), &str>(())
    };
    replay(plan, |_| true, visit, |_, _| {})?;
    Ok(all)
}

/// Recovers a directory of [`log_frame`]s: the value of each index, from 1 on.
pub fn recovered(dir: &Path) -> Result<(Plan, Vec<Vec<u8>>), RecoverError> {
    let mut plan = recover::inspect(dir)?;
    plan.settle()?;
    let mut values = Vec::new();
    for args in executed(&plan)? {
        values.push(args[2].clone());
        assert_eq!(args[1], values.len().to_string().as_bytes(), "in order, each once");
    }
    assert_eq!(values.len() as u64, plan.end);
    Ok((plan, values))
}
