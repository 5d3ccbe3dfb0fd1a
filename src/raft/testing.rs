//! What the tests of raft have in common.

use std::path::Path;

use openraft::storage::RaftLogStorage;

use super::command::{Command, Profile};
use super::image::Image;
use super::log_store::LogStore;
use super::stored::Change;
use super::types::{Entry, IoFlushed, LeaderId, LogId, Payload};
use crate::log::disk::Disk;

pub const IDENTITY: u128 = 0x1d << 100 | 7;

pub fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

pub fn profile(host: &str) -> Profile {
    Profile { host: host.into(), port: 6379, bus_port: 16379, rack: "a".into(), weight: 1, ..Profile::default() }
}

/// An entry whose content tells which one it is.
pub fn entry(term: u64, index: u64) -> Entry {
    let command = Command::Join { identity: u128::from(term) << 64 | u128::from(index), profile: profile("host") };
    Entry { log_id: id(term, index), payload: Payload::Normal(command) }
}

/// A log with segments so small that a few records fill one.
pub fn open_small(disk: Disk, dir: &Path) -> LogStore {
    LogStore::open_on(disk, dir, IDENTITY, 600).unwrap()
}

/// Appends and waits until it is durable.
pub async fn append(store: &mut LogStore, entries: impl IntoIterator<Item = Entry>) -> std::io::Result<()> {
    let (sender, receiver) = <super::runtime::Oneshot as openraft_rt::Oneshot>::channel();
    store.append(entries, IoFlushed::signal(sender)).await?;
    receiver.await.unwrap_or_else(|_| Err(std::io::Error::other("nobody called back")))
}

/// Waits until all is written.
pub async fn close(store: LogStore) {
    let closing = store.closing();
    drop(store);
    closing.done().await.unwrap();
}

/// Executes a change in a log in memory.
pub fn change(image: &mut Image, change: Change) {
    image.check(&change).unwrap();
    image.apply(change, 1);
}

/// Everything that a log says.
pub fn said(image: &Image) -> String {
    format!("{:?} {:?}", image.tip(), image.read(&.., usize::MAX))
}
