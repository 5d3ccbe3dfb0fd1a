//! The name of a node in its cluster: 40 hexadecimal digits, drawn once and kept in a file of the working directory.
//!
//! A node that loses the file is a new node: nothing that was said of the old one is true of it. So the file is either
//! whole or not there, and one that holds anything else is never written over.
//!
//! Read once at the start, before there are cores.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::state::{ID_DIGITS, random_hex};

/// Below the working directory.
const FILE: &str = "cluster/node-id";

/// Why a node does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read or write the node's id in '{}': {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("'{}' does not hold a node's id, {ID_DIGITS} hexadecimal digits", .0.display())]
    Damaged(PathBuf),
}

/// The id of the node whose working directory is `dir`; a new one if there is none.
pub fn load(dir: &Path) -> Result<String, IdentityError> {
    let path = dir.join(FILE);
    let failed = |source| IdentityError::Io { path: path.clone(), source };
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).ok_or(IdentityError::Damaged(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = random_hex();
            write(&path, &id).map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}

fn parse(bytes: &[u8]) -> Option<String> {
    let digits = bytes.strip_suffix(b"\n")?;
    let valid = digits.len() == ID_DIGITS && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| String::from_utf8_lossy(digits).into_owned())
}

/// Puts it there whole, so that it is there after a power cut, too.
fn write(path: &Path, id: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = path.with_extension("tmp");
    let mut file = File::create(&new)?;
    writeln!(file, "{id}")?;
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
        let id = load(&dir.0).unwrap();
        assert_eq!(id.len(), ID_DIGITS);
        assert_eq!(load(&dir.0).unwrap(), id);
        assert_ne!(load(&Scratch::new("identity").0).unwrap(), id);
    }

    #[test]
    fn what_is_no_id_is_refused_and_kept() {
        let dir = Scratch::new("identity");
        let id = load(&dir.0).unwrap();
        let path = dir.0.join(FILE);
        for text in ["", "\n", &id, &format!("{id}0\n"), &format!("{}\n", &id[1..]), &format!("{}\n", "G".repeat(40))] {
            fs::write(&path, text).unwrap();
            assert!(matches!(load(&dir.0), Err(IdentityError::Damaged(_))), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = Scratch::new("identity");
        fs::write(dir.0.join("cluster"), "a file").unwrap();
        assert!(load(&dir.0).unwrap_err().to_string().contains("cluster/node-id"));
    }
}
