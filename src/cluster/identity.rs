//! Who a node is in its cluster: a number of 128 bits, drawn once and kept in a file of the working directory.
//!
//! A node that loses the file is a new node: nothing that was said of the old one is true of it. So the file is either
//! whole or not there, and one that holds anything else is never written over. Clients know a node by 40 hexadecimal
//! digits, as in Redis: those of the number, and eight of a checksum, which tells a damaged file.
//!
//! Read once at the start, before there are cores.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Below the working directory: what a node keeps of its cluster, and the identity in it.
pub const DIR: &str = "cluster";
const FILE: &str = "cluster/node-id";

/// Digits of an id: of the number, and of its checksum.
const NUMBER_DIGITS: usize = 32;
const ID_DIGITS: usize = 40;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(pub u128);

/// As clients see it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}{:08x}", self.0, crc32fast::hash(&self.0.to_be_bytes()))
    }
}

/// Why a node does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read or write the node's id in '{}': {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("'{}' does not hold a node's id", .0.display())]
    Damaged(PathBuf),
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
}

/// The identity of the node whose working directory is `dir`; a new one if there is none.
pub fn load(dir: &Path) -> Result<Identity, IdentityError> {
    let path = dir.join(FILE);
    let failed = |source| IdentityError::Io { path: path.clone(), source };
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).ok_or(IdentityError::Damaged(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).map_err(IdentityError::Random)?;
            let identity = Identity(u128::from_ne_bytes(bytes));
            write(&path, identity).map_err(failed)?;
            Ok(identity)
        }
        Err(error) => Err(failed(error)),
    }
}

fn parse(bytes: &[u8]) -> Option<Identity> {
    let text = std::str::from_utf8(bytes.strip_suffix(b"\n")?).ok().filter(|text| text.len() == ID_DIGITS)?;
    let identity = Identity(u128::from_str_radix(text.get(..NUMBER_DIGITS)?, 16).ok()?);
    (identity.to_string() == text).then_some(identity)
}

/// Puts it there whole, so that it is there after a power cut, too.
fn write(path: &Path, identity: Identity) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = path.with_extension("tmp");
    let mut file = File::create(&new)?;
    writeln!(file, "{identity}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()?;
    match folder.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::files::scratch::Scratch;

    #[test]
    fn it_is_drawn_once() {
        let dir = Scratch::new("identity");
        let identity = load(&dir.0).unwrap();
        assert_eq!(identity.to_string().len(), ID_DIGITS);
        assert_eq!(load(&dir.0).unwrap(), identity);
        assert_ne!(load(&Scratch::new("identity").0).unwrap(), identity);
        // It stays what it is over versions of the program.
        assert_eq!(Identity(1).to_string(), "000000000000000000000000000000019bbc7bc3");
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let dir = Scratch::new("identity");
        let identity = load(&dir.0).unwrap();
        let path = dir.0.join(FILE);
        let whole = fs::read(&path).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
        damaged.push([&whole[..], b"\n"].concat());
        damaged.push(whole.to_ascii_uppercase());
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            damaged.push(bytes);
        }
        for bytes in damaged.iter().filter(|bytes| **bytes != whole) {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(load(&dir.0), Err(IdentityError::Damaged(_))), "{bytes:?}");
            assert_eq!(fs::read(&path).unwrap(), *bytes);
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(load(&dir.0).unwrap(), identity);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = Scratch::new("identity");
        fs::write(dir.0.join("cluster"), "a file").unwrap();
        assert!(load(&dir.0).unwrap_err().to_string().contains("cluster/node-id"));
    }
}
