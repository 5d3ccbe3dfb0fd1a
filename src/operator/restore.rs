//! `keyloom cluster restore`: the keys of a backup, into an empty cluster of any number of nodes and partitions.
//!
//! First the manifest and every file are checked. Then the files are replayed once more, one after the other, and their keys sent
//! with RESTORE to whoever leads their slots. At the end digests say whether the cluster has what the files hold: those of each
//! partition, or, if it has another number of partitions, those of all together.
//!
//! Keys and fields that expire meanwhile must not count as lost, and clocks differ: so digests of both sides leave out what
//! expires until a moment that is later than all of it ([`COMPARED_AFTER`]).
//!
//! Plain blocking code. It takes the memory that the data of the largest file takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::client::ClientError;
use super::contents::{Contents, ContentsError, Dumped};
use super::manifest::{Manifest, ManifestError};
use super::routes::{Request, RouteError, Routes};
use crate::resp::read::{Value, encode_command};
use crate::route::slot_of;
use crate::shard::UnixMs;
use crate::shard::digest::Digest;

/// What gathers before it is sent.
const BATCH_KEYS_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 4 << 20;

/// What expires so soon after all keys were sent is not compared. A longer time is tried if nodes need more than that to compute
/// digests.
const COMPARED_AFTER: [Duration; 3] = [Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3600)];

/// Partitions whose digests are asked for at once: the core that computes them does nothing else meanwhile.
const DIGEST_PARTITIONS: u16 = 8;

/// So often digests are asked for anew, as roles may move meanwhile.
const COMPARE_ATTEMPTS: usize = 5;

/// Between two of these.
const COMPARE_PAUSE: Duration = Duration::from_millis(500);

/// Partitions that are named if they differ.
const NAMED_MAX: usize = 8;

/// Why a backup is not restored, or not whole.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    #[error("{0}")]
    Contents(#[from] ContentsError),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Route(#[from] RouteError),
    #[error("not all slots are served by the cluster of {0}")]
    Incomplete(String),
    #[error("{node} has {keys} keys: a backup is restored into a cluster without any")]
    NotEmpty { node: String, keys: i64 },
    #[error("{node} does not say what its '{name}' is")]
    Unsaid { node: String, name: &'static str },
    #[error(
        "\"{key}\" takes {bytes} bytes as a whole, and the cluster takes {limit}: raise 'proto-max-bulk-len' on its nodes"
    )]
    TooLarge { key: String, bytes: usize, limit: u64 },
    #[error("the cluster has {found} keys of {expected} that it should have, or others: {what}")]
    Differs { expected: u64, found: u64, what: String },
}

/// What was restored.
pub(super) struct Restored {
    pub keys: u64,
    /// Those of them whose digests were compared: they did not expire until then.
    pub compared: u64,
    pub partitions: u16,
    /// The cluster has as many partitions: each was compared by itself.
    pub by_partition: bool,
}

/// What partitions have, by number.
type Digests = BTreeMap<u16, Digest>;

/// Checks a backup without any cluster.
pub(super) fn verify(dir: &Path) -> Result<Manifest, RestoreError> {
    let manifest = Manifest::read(dir)?;
    for file in &manifest.files {
        Contents::load_part(dir, file, manifest.partitions, manifest.digests_at_ms)?;
    }
    Ok(manifest)
}

/// Restores a backup into the cluster that has a member at `node`.
pub(super) fn restore(dir: &Path, node: &str, password: &str) -> Result<Restored, RestoreError> {
    let manifest = verify(dir)?;
    let mut routes = Routes::of(node, password)?;
    if !routes.wait_until_complete() {
        return Err(RestoreError::Incomplete(node.into()));
    }
    for leader in routes.leaders() {
        match routes.ask(&leader, &["DBSIZE"])? {
            Value::Int(0) => {}
            Value::Int(keys) => return Err(RestoreError::NotEmpty { node: leader, keys }),
            _ => return Err(unexpected(&leader, &["DBSIZE"]).into()),
        }
    }
    let partitions = setting(&mut routes, node, "partitions")? as u16;
    let value_bytes_max = setting(&mut routes, node, "proto-max-bulk-len")?;
    let mut keys = 0;
    for file in &manifest.files {
        let contents = Contents::load_part(dir, file, manifest.partitions, manifest.digests_at_ms)?;
        keys += send(contents, &mut routes, value_bytes_max)?;
    }
    let by_partition = partitions == manifest.partitions;
    let compared = compare(dir, &manifest, &mut routes, partitions)?;
    Ok(Restored { keys, compared, partitions, by_partition })
}

/// Sends all keys of a file; how many.
fn send(mut contents: Contents, routes: &mut Routes, value_bytes_max: u64) -> Result<u64, RestoreError> {
    let (mut keys, mut bytes, mut batch) = (0, 0, Vec::new());
    contents.each_key(|dumped| {
        if dumped.payload.len() as u64 > value_bytes_max {
            let (key, bytes) = (dumped.key.escape_ascii().to_string(), dumped.payload.len());
            return Err(RestoreError::TooLarge { key, bytes, limit: value_bytes_max });
        }
        let request = request(dumped);
        keys += 1;
        bytes += request.bytes.len();
        batch.push(request);
        if batch.len() >= BATCH_KEYS_MAX || bytes >= BATCH_BYTES_MAX {
            bytes = 0;
            routes.deliver(std::mem::take(&mut batch))?;
        }
        Ok(())
    })?;
    routes.deliver(batch)?;
    Ok(keys)
}

fn request(dumped: Dumped) -> Request {
    let Dumped { key, expire_at, payload } = dumped;
    let moment = expire_at.map_or(0, |moment| moment.max(1)).to_string();
    let mut bytes = Vec::with_capacity(key.len() + payload.len() + 128);
    let command: [&[u8]; 6] = [b"RESTORE", &key, moment.as_bytes(), &payload, b"ABSTTL", b"REPLACE"];
    encode_command(&command, &mut bytes);
    Request { slot: slot_of(&key), key, bytes }
}

/// Compares what the cluster has with the files, but for what expires soon; how many keys that were.
fn compare(dir: &Path, manifest: &Manifest, routes: &mut Routes, partitions: u16) -> Result<u64, RestoreError> {
    let mut last = None;
    for after in COMPARED_AFTER {
        let at = latest_clock(routes)? + after.as_millis() as UnixMs;
        let mut expected = Digests::new();
        for file in &manifest.files {
            expected.extend(Contents::load_part(dir, file, manifest.partitions, manifest.digests_at_ms)?.digests(at));
        }
        let all = total(&expected);
        for attempt in 0..COMPARE_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(COMPARE_PAUSE);
                let _ = routes.look();
            }
            match digests(routes, partitions, at) {
                Ok(found) => match difference(&expected, &found, partitions == manifest.partitions) {
                    None => return Ok(all.keys),
                    Some(what) => {
                        let (expected, found) = (all.keys, total(&found).keys);
                        last = Some(RestoreError::Differs { expected, found, what });
                    }
                },
                Err(ClientError::Refused { said, .. }) if said.contains("this moment is over") => break,
                Err(error) => last = Some(error.into()),
            }
        }
        if let Some(error) = last {
            return Err(error);
        }
    }
    Err(RestoreError::Differs { expected: 0, found: 0, what: "its nodes take too long to compute digests".into() })
}

/// How two differ, if they do.
fn difference(expected: &Digests, found: &Digests, by_partition: bool) -> Option<String> {
    if !by_partition {
        return (total(expected) != total(found)).then(|| "the digest of all is another one".into());
    }
    let of = |digests: &Digests, partition: &u16| digests.get(partition).copied().unwrap_or_default();
    let all: std::collections::BTreeSet<u16> = expected.keys().chain(found.keys()).copied().collect();
    let differ: Vec<String> =
        all.iter().filter(|p| of(expected, p) != of(found, p)).map(|partition| partition.to_string()).collect();
    let named = differ[..differ.len().min(NAMED_MAX)].join(", ");
    let more = if differ.len() > NAMED_MAX { ", ..." } else { "" };
    (!differ.is_empty()).then(|| format!("different partitions: {} ({named}{more})", differ.len()))
}

fn total(digests: &Digests) -> Digest {
    digests.values().fold(Digest::default(), |all, digest| all.and(*digest))
}

/// What all who lead anything say of the partitions at a moment.
fn digests(routes: &mut Routes, partitions: u16, at: UnixMs) -> Result<Digests, ClientError> {
    let (mut digests, at) = (Digests::new(), at.to_string());
    for leader in routes.leaders() {
        for first in (0..partitions).step_by(usize::from(DIGEST_PARTITIONS)) {
            let last = (first + (DIGEST_PARTITIONS - 1)).min(partitions - 1);
            let command = ["CLUSTER", "DIGEST", "AT", &at, &format!("{first}-{last}")];
            let said = routes.ask(&leader, &command)?;
            let said = read_digests(&said).ok_or_else(|| unexpected(&leader, &command))?;
            for (partition, digest) in said {
                let known = digests.entry(partition).or_default();
                *known = known.and(digest);
            }
        }
    }
    Ok(digests)
}

/// What CLUSTER DIGEST answers.
fn read_digests(said: &Value) -> Option<Vec<(u16, Digest)>> {
    let Value::Array(rows) = said else { return None };
    let row = |row: &Value| {
        let Value::Array(row) = row else { return None };
        let [Value::Int(partition), Value::Int(keys), Value::Bulk(sum)] = &row[..] else { return None };
        let digest = Digest::parse(u64::try_from(*keys).ok()?, std::str::from_utf8(sum).ok()?)?;
        Some((u16::try_from(*partition).ok()?, digest))
    };
    rows.iter().map(row).collect()
}

/// The latest moment that any clock of the cluster shows.
fn latest_clock(routes: &mut Routes) -> Result<UnixMs, ClientError> {
    let mut latest = 0;
    for leader in routes.leaders() {
        let said = routes.ask(&leader, &["TIME"])?;
        let seconds = match &said {
            Value::Array(time) => time.first(),
            _ => None,
        };
        let seconds = seconds.and_then(|seconds| match seconds {
            Value::Bulk(text) => std::str::from_utf8(text).ok()?.parse::<i64>().ok(),
            _ => None,
        });
        latest = latest.max(seconds.ok_or_else(|| unexpected(&leader, &["TIME"]))?);
    }
    Ok((latest + 1) * 1000)
}

/// A number in the configuration of a node.
fn setting(routes: &mut Routes, node: &str, name: &'static str) -> Result<u64, RestoreError> {
    let said = routes.ask(node, &["CONFIG", "GET", name])?;
    let number = match &said {
        Value::Array(pair) => match &pair[..] {
            [_, Value::Bulk(text)] => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
            _ => None,
        },
        _ => None,
    };
    number.filter(|&number| number > 0).ok_or_else(|| RestoreError::Unsaid { node: node.into(), name })
}

fn unexpected(node: &str, command: &[&str]) -> ClientError {
    ClientError::Answer { node: node.into(), command: command.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let digest = |keys, sum| Digest { keys, sum };
        let expected = Digests::from([(0, digest(2, 5)), (1, digest(1, 7)), (2, Digest::default())]);
        assert_eq!(difference(&expected, &expected, true), None);
        let without_empty = Digests::from([(0, digest(2, 5)), (1, digest(1, 7))]);
        assert_eq!(difference(&expected, &without_empty, true), None);
        let other = Digests::from([(0, digest(2, 7)), (1, digest(1, 5))]);
        assert_eq!(difference(&expected, &other, true).unwrap(), "different partitions: 2 (0, 1)");
        assert_eq!(difference(&expected, &other, false), None);
        assert!(difference(&expected, &Digests::from([(0, digest(3, 13))]), false).is_some());
        let many: Digests = (0..10).map(|partition| (partition, digest(1, 1))).collect();
        let said = difference(&many, &Digests::new(), true).unwrap();
        assert_eq!(said, "different partitions: 10 (0, 1, 2, 3, 4, 5, 6, 7, ...)");
    }
}
