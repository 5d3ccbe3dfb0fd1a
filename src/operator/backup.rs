//! `keyloom cluster backup`: files of all partitions, each from a node that leads it.
//!
//! All nodes that lead something make their files at the same time, and each is fetched as soon as it is complete. What nobody
//! gave, as roles have moved meanwhile, is asked for again. At the end every file is replayed, and the manifest says what is in
//! it. A directory without a manifest is no backup; what was fetched for one that failed is removed.
//!
//! Plain blocking code, a thread for each node.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;

use super::changes::roles;
use super::client::{Client, ClientError};
use super::contents::{Contents, ContentsError};
use super::manifest::{FilePart, Manifest, Part};
use crate::cluster::NodeId;
use crate::command::backup::READ_BYTES_MAX;
use crate::log::files::{self, Named};
use crate::resp::read::Value;
use crate::route::PartitionSet;

/// What names of directories begin with that have the file of a node.
const NODE: &str = "node-";

/// So often nodes are asked for what is missing.
const ROUNDS_MAX: usize = 20;

/// Rounds in a row that nodes may have answered, and not one has made a file: a full disk does not get better by that.
const FAILED_ROUNDS_MAX: usize = 5;

/// Between two rounds: a failover takes about as long.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// How long a node may get no further with its file.
const STALL_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a file that is being made.
const LOOK: Duration = Duration::from_millis(50);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("'{}' is not an empty directory: name one that is empty, or that does not exist", .0.display())]
    NotEmpty(PathBuf),
    #[error("cannot write '{}': {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("no node of the cluster answers: {0}")]
    Silent(ClientError),
    #[error("node {node} says what cannot be understood: {said}")]
    Nonsense { node: String, said: String },
    #[error("{count} partitions ({partitions}) were given by nobody in {rounds} rounds; the last reason: {why}")]
    Partitions { count: usize, partitions: String, rounds: usize, why: String },
    #[error("the file of node {node} cannot be used: {source}")]
    File { node: NodeId, source: ContentsError },
}

/// Why a node gives nothing this time.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{node}: {why}")]
    Failed { node: String, why: String },
    #[error("{0}: the backup gets no further")]
    Stalled(String),
    #[error("{0}: the state of the backup makes no sense")]
    Nonsense(String),
    /// That ends the backup.
    #[error("cannot write '{}': {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// What a member says of the cluster.
struct Cluster {
    name: String,
    addresses: BTreeMap<NodeId, String>,
    /// Who leads each partition.
    leaders: Vec<Option<NodeId>>,
}

/// What has come of a backup.
pub(super) struct Made {
    pub manifest: Manifest,
    pub rounds: usize,
}

/// Makes a backup of the cluster that has a member at `node` in the directory `to`.
pub(super) fn backup(node: &str, to: &Path, password: &str) -> Result<Made, BackupError> {
    let write = |source| BackupError::Write { path: to.into(), source };
    let existed = match fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(BackupError::NotEmpty(to.into())),
        Ok(false) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(BackupError::NotEmpty(to.into())),
        Err(error) => return Err(write(error)),
    };
    let cluster = look(&[node.to_string()], password)?;
    fs::create_dir_all(to).map_err(write)?;
    let made = gather(cluster, to, password);
    if made.is_err() {
        // It was empty: what has such a name by now is of this backup.
        let ours = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(NODE.as_bytes());
        let files = fs::read_dir(to).into_iter().flatten().flatten().filter(ours);
        files.for_each(|entry| drop(fs::remove_dir_all(entry.path())));
        if !existed {
            let _ = fs::remove_dir(to);
        }
    }
    made
}

fn gather(mut cluster: Cluster, to: &Path, password: &str) -> Result<Made, BackupError> {
    let count = cluster.leaders.len() as u16;
    let mut missing: PartitionSet = (0..count).collect();
    let mut files: Vec<FilePart> = Vec::new();
    let (mut rounds, mut failed_rounds, mut why) = (0, 0, String::from("nobody leads them"));
    let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    // A node makes it anew if it has one of this name that nobody could drop.
    let name = format!("backup-{started_ms}");
    while !missing.is_empty() {
        if rounds > 0 {
            std::thread::sleep(ROUND_PAUSE);
            let known: Vec<String> = cluster.addresses.values().cloned().collect();
            match look(&known, password) {
                Ok(seen) if seen.leaders.len() == usize::from(count) => cluster = seen,
                Ok(_) => why = "the number of partitions has changed".into(),
                Err(error) => why = error.to_string(),
            }
        }
        if rounds == ROUNDS_MAX || failed_rounds == FAILED_ROUNDS_MAX {
            let (count, partitions) = (missing.len(), missing.to_string());
            return Err(BackupError::Partitions { count, partitions, rounds, why });
        }
        rounds += 1;
        let given = std::thread::scope(|scope| {
            let leads = |node: NodeId| missing.iter().any(|p| cluster.leaders[usize::from(p)] == Some(node));
            let asked = cluster.addresses.iter().filter(|(node, _)| leads(**node));
            let begun: Vec<_> = asked
                .map(|(&node, address)| {
                    let dir = if rounds == 1 { format!("{NODE}{node}") } else { format!("{NODE}{node}-{rounds}") };
                    let (missing, name) = (&missing, &name);
                    scope.spawn(move || Giver { node, address, password, name, to }.give(missing, count, dir))
                })
                .collect();
            begun.into_iter().map(|giver| giver.join()).collect::<Vec<_>>()
        });
        let failed = |given: &Result<_, _>| matches!(given, Ok(Err(GiveError::Failed { .. })));
        failed_rounds = if !given.is_empty() && given.iter().all(failed) { failed_rounds + 1 } else { 0 };
        for given in given {
            match given {
                Ok(Ok(file)) => take(&mut files, file, &mut missing),
                Ok(Err(GiveError::Write { path, source })) => return Err(BackupError::Write { path, source }),
                Ok(Err(error)) => why = error.to_string(),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }
    let unused = |file: &FilePart| file.partitions.is_empty();
    for file in files.iter().filter(|file| unused(file)) {
        let dir = to.join(&file.dir);
        fs::remove_dir_all(&dir).map_err(|source| BackupError::Write { path: dir, source })?;
    }
    files.retain(|file| !unused(file));
    let manifest = describe(cluster.name, count, files, to)?;
    manifest.write(to).map_err(|source| BackupError::Write { path: to.into(), source })?;
    Ok(Made { manifest, rounds })
}

/// Takes what is missing from a file. If two nodes have given a partition in one round, it is that of the later leader.
fn take(files: &mut Vec<FilePart>, mut file: FilePart, missing: &mut PartitionSet) {
    file.partitions.retain(|partition, part| {
        if missing.remove(*partition) {
            return true;
        }
        let earlier =
            files.iter_mut().find(|file| file.partitions.get(partition).is_some_and(|p| p.epoch < part.epoch));
        earlier.is_some_and(|earlier| earlier.partitions.remove(partition).is_some())
    });
    files.push(file);
}

/// Replays all files, and says what is in them.
fn describe(cluster: String, count: u16, mut files: Vec<FilePart>, to: &Path) -> Result<Manifest, BackupError> {
    let digests_at_ms = files.iter().map(|file| file.moment_ms).max().unwrap_or(0);
    for file in &mut files {
        let wanted = file.partitions.keys().copied().collect();
        let contents = Contents::load(&file.path(to), file.bytes, count, wanted, digests_at_ms);
        let contents = contents.map_err(|source| BackupError::File { node: file.node, source })?;
        for (partition, digest) in contents.digests(digests_at_ms) {
            file.partitions.entry(partition).and_modify(|part| part.digest = digest);
        }
    }
    Ok(Manifest { cluster, partitions: count, digests_at_ms, files })
}

/// What the first of these nodes says that answers.
fn look(nodes: &[String], password: &str) -> Result<Cluster, BackupError> {
    let mut silent = None;
    for node in nodes {
        let said = Client::connect(node, password).and_then(|mut client| client.text(&["CLUSTER", "STATUS"]));
        match said {
            Ok(said) => {
                let nonsense = || BackupError::Nonsense { node: node.clone(), said: said.chars().take(200).collect() };
                return Cluster::read(&said).ok_or_else(nonsense);
            }
            Err(error) => silent = Some(error),
        }
    }
    Err(BackupError::Silent(silent.unwrap_or_else(|| ClientError::Address(String::new()))))
}

impl Cluster {
    fn read(said: &str) -> Option<Cluster> {
        let status: Json = serde_json::from_str(said).ok()?;
        let address = |node: &Json| {
            let (host, port) = (node["host"].as_str()?, node["port"].as_u64()?);
            Some((node["node"].as_u64()?, format!("{host}:{port}")))
        };
        let leaders: Vec<_> = roles(&status).into_iter().map(|(leader, _)| leader).collect();
        Some(Cluster {
            name: status["name"].as_str()?.into(),
            addresses: status["nodes"].as_array()?.iter().map(address).collect::<Option<_>>()?,
            leaders,
        })
        .filter(|cluster| cluster.leaders.len().is_power_of_two())
    }
}

/// A node that is asked for a file.
struct Giver<'a> {
    node: NodeId,
    address: &'a str,
    password: &'a str,
    /// What the backup is called there.
    name: &'a str,
    to: &'a Path,
}

impl Giver<'_> {
    /// Lets the node make a file of what it leads of these partitions, and fetches it.
    fn give(&self, wanted: &PartitionSet, count: u16, dir: String) -> Result<FilePart, GiveError> {
        let mut client = Client::connect(self.address, self.password)?;
        client.ask(&["CLUSTER", "BACKUP", "START", self.name, &wanted.to_string()])?;
        let given = self.wait(&mut client, count, dir).and_then(|file| self.fetch(&mut client, &file).map(|()| file));
        // It takes room there; a node that is gone has dropped it, too.
        let _ = client.ask(&["CLUSTER", "BACKUP", "DROP", self.name]);
        given
    }

    /// Waits until the file is complete.
    fn wait(&self, client: &mut Client, count: u16, dir: String) -> Result<FilePart, GiveError> {
        let (mut last, mut moved_at) = (String::new(), Instant::now());
        loop {
            let said = client.text(&["CLUSTER", "BACKUP", "STATUS", self.name])?;
            let status: Json = serde_json::from_str(&said).unwrap_or_default();
            match status["state"].as_str() {
                Some("done") => {
                    let file = file_of(&status, self.node, count, dir);
                    return file.ok_or_else(|| GiveError::Nonsense(self.address.into()));
                }
                Some("running") => {}
                Some("failed") => {
                    let why = status["error"].as_str().unwrap_or("it does not say why").into();
                    return Err(GiveError::Failed { node: self.address.into(), why });
                }
                _ => return Err(GiveError::Nonsense(self.address.into())),
            }
            if said != last {
                (last, moved_at) = (said, Instant::now());
            } else if moved_at.elapsed() > STALL_PATIENCE {
                return Err(GiveError::Stalled(self.address.into()));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn fetch(&self, client: &mut Client, file: &FilePart) -> Result<(), GiveError> {
        let (dir, path) = (self.to.join(&file.dir), file.path(self.to));
        let write = |source| GiveError::Write { path: path.clone(), source };
        fs::create_dir(&dir).map_err(write)?;
        let mut output = File::create_new(&path).map_err(write)?;
        let (mut offset, count) = (0, READ_BYTES_MAX.to_string());
        while offset < file.bytes {
            let command = ["CLUSTER", "BACKUP", "READ", self.name, &offset.to_string(), &count];
            match client.ask(&command) {
                Ok(Value::Bulk(bytes)) if !bytes.is_empty() => {
                    output.write_all(&bytes).map_err(write)?;
                    offset += bytes.len() as u64;
                }
                other => {
                    // It is asked for again, perhaps by another name.
                    fs::remove_dir_all(&dir).map_err(write)?;
                    other?;
                    return Err(GiveError::Nonsense(self.address.into()));
                }
            }
        }
        output.sync_all().map_err(write)?;
        files::sync_dir(&dir).map_err(write)
    }
}

/// What the state of a backup says of its file.
fn file_of(status: &Json, node: NodeId, count: u16, dir: String) -> Option<FilePart> {
    // A name from elsewhere, which must not lead anywhere.
    let name = status["file"].as_str().filter(|name| matches!(files::named(name), Some(Named::Snapshot(_))))?;
    let mut partitions = BTreeMap::new();
    for group in status["partitions"].as_array()? {
        let part = Part { epoch: group["epoch"].as_u64()?, ..Part::default() };
        let set = PartitionSet::parse(group["partitions"].as_str()?, count)?;
        partitions.extend(set.iter().map(|partition| (partition, part)));
    }
    Some(FilePart {
        dir,
        name: name.into(),
        node,
        moment_ms: status["moment_ms"].as_i64()?,
        bytes: status["bytes"].as_u64()?,
        partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(node: NodeId, partitions: &[(u16, u64)]) -> FilePart {
        let part = |&(partition, epoch): &(u16, u64)| (partition, Part { epoch, ..Part::default() });
        FilePart {
            dir: format!("node-{node}"),
            name: files::snapshot_name(1),
            node,
            moment_ms: 0,
            bytes: 0,
            partitions: partitions.iter().map(part).collect(),
        }
    }

    #[test]
    fn each_partition_is_taken_once_of_the_later_leader() {
        let (mut files, mut missing) = (Vec::new(), (0..4).collect());
        take(&mut files, file(1, &[(0, 1), (1, 5), (2, 1)]), &mut missing);
        take(&mut files, file(2, &[(1, 4), (2, 2)]), &mut missing);
        let expected = [file(1, &[(0, 1), (1, 5)]), file(2, &[(2, 2)])];
        assert_eq!((files, missing.to_string()), (expected.to_vec(), "3".into()));
    }

    #[test]
    fn what_a_node_says_of_its_file_is_checked() {
        let status = |file: &str, partitions: &str| {
            let json = serde_json::json!({ "file": file, "moment_ms": 5, "bytes": 9,
                "partitions": [{ "epoch": 3, "partitions": partitions }] });
            file_of(&json, 1, 4, "node-1".into())
        };
        let name = files::snapshot_name(1);
        let expected = FilePart { moment_ms: 5, bytes: 9, ..file(1, &[(1, 3), (2, 3)]) };
        assert_eq!(status(&name, "1-2"), Some(expected));
        assert_eq!(status("../snapshot-00000000000000000001.kl", "1-2"), None);
        assert_eq!(status(&name, "1-4"), None);
        assert!(Cluster::read("{}").is_none());
    }
}
