//! The manifest of a backup: which file has which partitions, and what was in them.
//!
//! It is JSON, named [`NAME`], and written last: a directory without one is no backup. Each partition is in one file, once.
//! Digests ([`crate::shard::digest`]) are those of one moment, which is not before that of any file.
//!
//! Pure, but for reading and writing it as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::{NodeId, PARTITIONS_MAX};
use crate::log::files::{self, Named};
use crate::shard::UnixMs;
use crate::shard::digest::Digest;
use crate::state::KEYLOOM_VERSION;

/// Its name in the directory of the backup.
pub(super) const NAME: &str = "manifest.json";

/// The version that is written, and the latest one that is read.
const VERSION: u64 = 1;

/// Longest manifest that is read.
const BYTES_MAX: u64 = 64 << 20;

/// Why a directory is no backup.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot read '{}': {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("'{}' has no manifest.json: it is no backup, or one that was never completed", .0.display())]
    Missing(PathBuf),
    #[error("'{}' is of version {version}; this program knows versions up to {VERSION}", .path.display())]
    Newer { path: PathBuf, version: u64 },
    #[error("'{}' is damaged: {what}", .path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The name of the cluster.
    pub cluster: String,
    pub partitions: u16,
    /// The moment of the digests.
    pub digests_at_ms: UnixMs,
    pub files: Vec<FilePart>,
}

/// What one file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePart {
    /// The directory in that of the backup, and the name in it.
    pub dir: String,
    pub name: String,
    /// Who made it, and when by its clock.
    pub node: NodeId,
    pub moment_ms: UnixMs,
    pub bytes: u64,
    pub partitions: BTreeMap<u16, Part>,
}

/// What a partition has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub epoch: u64,
    pub digest: Digest,
}

impl FilePart {
    pub fn path(&self, backup: &Path) -> PathBuf {
        backup.join(&self.dir).join(&self.name)
    }
}

impl Manifest {
    /// That of everything.
    pub fn digest(&self) -> Digest {
        let parts = self.files.iter().flat_map(|file| file.partitions.values());
        parts.fold(Digest::default(), |all, part| all.and(part.digest))
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn to_json(&self) -> Value {
        let part = |(partition, part): (&u16, &Part)| {
            json!({ "partition": partition, "epoch": part.epoch, "keys": part.digest.keys,
                "digest": part.digest.to_string() })
        };
        let file = |file: &FilePart| {
            json!({ "dir": file.dir, "name": file.name, "node": file.node, "moment_ms": file.moment_ms,
                "bytes": file.bytes, "partitions": file.partitions.iter().map(part).collect::<Value>() })
        };
        json!({
            "version": VERSION,
            "keyloom": KEYLOOM_VERSION,
            "cluster": self.cluster,
            "partitions": self.partitions,
            "digests_at_ms": self.digests_at_ms,
            "files": self.files.iter().map(file).collect::<Value>(),
        })
    }

    /// Writes it so that it is there as a whole or not at all.
    pub fn write(&self, backup: &Path) -> io::Result<()> {
        files::write_whole(backup, NAME, format!("{:#}\n", self.to_json()).as_bytes())
    }

    pub fn read(backup: &Path) -> Result<Manifest, ManifestError> {
        let path = backup.join(NAME);
        let mut text = Vec::new();
        match File::open(&path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut text)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ManifestError::Missing(backup.into())),
            Err(source) => return Err(ManifestError::Read { path, source }),
            Ok(_) => {}
        }
        let damaged = |what| ManifestError::Damaged { path: path.clone(), what };
        if text.len() as u64 > BYTES_MAX {
            return Err(damaged("it is too long"));
        }
        let json: Value = serde_json::from_slice(&text).map_err(|_| damaged("it is no JSON"))?;
        // First of all: what else a later version says is not known.
        let version = json["version"].as_u64().ok_or(damaged("it has no version"))?;
        if version > VERSION {
            return Err(ManifestError::Newer { path, version });
        }
        Manifest::of(&json).map_err(damaged)
    }

    fn of(json: &Value) -> Result<Manifest, &'static str> {
        let partitions = json["partitions"].as_u64().ok_or("it has no number of partitions")?;
        let valid = partitions.is_power_of_two() && partitions <= PARTITIONS_MAX as u64;
        let partitions =
            u16::try_from(partitions).ok().filter(|_| valid).ok_or("it has a wrong number of partitions")?;
        let files = json["files"].as_array().ok_or("it has no files")?;
        let files = files.iter().map(|file| file_of(file).ok_or("it has a file that makes no sense"));
        let manifest = Manifest {
            cluster: json["cluster"].as_str().ok_or("it has no name of a cluster")?.into(),
            partitions,
            digests_at_ms: json["digests_at_ms"].as_i64().ok_or("it has no moment")?,
            files: files.collect::<Result<_, _>>()?,
        };
        let mut all: Vec<u16> = manifest.files.iter().flat_map(|file| file.partitions.keys().copied()).collect();
        all.sort_unstable();
        if !all.into_iter().eq(0..partitions) {
            return Err("it does not have every partition once");
        }
        Ok(manifest)
    }
}

fn file_of(json: &Value) -> Option<FilePart> {
    // Names that lead nowhere else.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let dir = json["dir"].as_str().filter(|dir| !dir.is_empty() && dir.bytes().all(plain))?;
    let name = json["name"].as_str().filter(|name| matches!(files::named(name), Some(Named::Snapshot(_))))?;
    let part = |json: &Value| {
        let digest = Digest::parse(json["keys"].as_u64()?, json["digest"].as_str()?)?;
        Some((u16::try_from(json["partition"].as_u64()?).ok()?, Part { epoch: json["epoch"].as_u64()?, digest }))
    };
    let parts = json["partitions"].as_array()?;
    let partitions: BTreeMap<u16, Part> = parts.iter().map(part).collect::<Option<_>>()?;
    Some(FilePart {
        dir: dir.into(),
        name: name.into(),
        node: json["node"].as_u64()?,
        moment_ms: json["moment_ms"].as_i64()?,
        bytes: json["bytes"].as_u64()?,
        partitions,
    })
    .filter(|file| file.partitions.len() == parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::files::scratch::Scratch;

    fn manifest() -> Manifest {
        let part = |epoch, keys, sum| Part { epoch, digest: Digest { keys, sum } };
        let file = |node, partitions: &[(u16, Part)]| FilePart {
            dir: format!("node-{node}"),
            name: files::snapshot_name(node),
            node,
            moment_ms: 1_700_000_000_000,
            bytes: 1000 * node,
            partitions: partitions.iter().copied().collect(),
        };
        Manifest {
            cluster: "keyloom".into(),
            partitions: 4,
            digests_at_ms: 1_700_000_000_001,
            files: vec![
                file(1, &[(0, part(3, 5, u128::MAX)), (2, part(1, 0, 0))]),
                file(2, &[(1, part(9, 1, 7)), (3, part(2, 2, 8))]),
            ],
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let scratch = Scratch::new("manifest");
        assert!(matches!(Manifest::read(&scratch.0), Err(ManifestError::Missing(_))));
        manifest().write(&scratch.0).unwrap();
        assert_eq!(Manifest::read(&scratch.0).unwrap(), manifest());
        assert_eq!((manifest().digest(), manifest().bytes()), (Digest { keys: 8, sum: 14 }, 3000));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let scratch = Scratch::new("manifest");
        let path = scratch.0.join(NAME);
        let refused = |text: String| {
            std::fs::write(&path, text).unwrap();
            Manifest::read(&scratch.0).unwrap_err().to_string()
        };
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut json = manifest().to_json();
            change(&mut json);
            refused(json.to_string())
        };
        assert!(refused("{".into()).ends_with("is damaged: it is no JSON"));
        let newer = changed(&|json| json["version"] = 2.into());
        assert!(newer.ends_with("is of version 2; this program knows versions up to 1"), "{newer}");
        for (what, change) in [
            ("no version", &(|json: &mut Value| json["version"] = Value::Null) as &dyn Fn(&mut Value)),
            ("wrong number of partitions", &|json| json["partitions"] = 3.into()),
            ("wrong number of partitions", &|json| json["partitions"] = 32768.into()),
            ("every partition once", &|json| json["partitions"] = 8.into()),
            ("every partition once", &|json| json["files"][0]["partitions"][0]["partition"] = 1.into()),
            ("makes no sense", &|json| json["files"][0]["partitions"][0]["partition"] = 2.into()),
            ("makes no sense", &|json| json["files"][1]["name"] = "../../etc/passwd".into()),
            ("makes no sense", &|json| json["files"][1]["dir"] = "..".into()),
            ("makes no sense", &|json| json["files"][1]["partitions"][0]["digest"] = "+1".into()),
        ] {
            let said = changed(change);
            assert!(said.contains("is damaged: ") && said.contains(what), "{said}");
        }
    }
}
