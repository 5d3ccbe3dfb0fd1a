//! The few file operations that the log is written with.
//!
//! On the control core, over glommio: nothing blocks. In tests a disk in memory stands in, which fails where it is told
//! to, and forgets what was not synced when its power is cut.
//!
//! No state of its own.

use std::io;
use std::path::Path;

use glommio::io::{BufferedFile, Directory, OpenOptions};

use super::files::{self, Listing};

#[cfg(test)]
use super::disk_sim::{SimulatedDisk, SimulatedFile};

/// Where files lie.
#[derive(Clone)]
pub enum Disk {
    System,
    #[cfg(test)]
    Simulated(std::rc::Rc<SimulatedDisk>),
}

/// An open file.
pub enum DiskFile {
    System(BufferedFile),
    #[cfg(test)]
    Simulated(SimulatedFile),
}

impl Disk {
    /// Makes an empty file, in place of any that has this name.
    pub async fn create(&self, path: &Path) -> io::Result<DiskFile> {
        match self {
            Disk::System => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true);
                Ok(DiskFile::System(options.buffered_open(path).await?))
            }
            #[cfg(test)]
            Disk::Simulated(disk) => disk.create(path).map(DiskFile::Simulated),
        }
    }

    /// Opens a file that is there for writing: what a write says is written is durable. One operation instead of two.
    pub async fn open_through(&self, path: &Path) -> io::Result<DiskFile> {
        match self {
            Disk::System => {
                let mut options = OpenOptions::new();
                options.write(true).custom_flags(libc::O_DSYNC);
                Ok(DiskFile::System(options.buffered_open(path).await?))
            }
            #[cfg(test)]
            Disk::Simulated(disk) => disk.open_through(path).map(DiskFile::Simulated),
        }
    }

    /// Opens a file for reading.
    pub async fn open(&self, path: &Path) -> io::Result<DiskFile> {
        match self {
            Disk::System => Ok(DiskFile::System(BufferedFile::open(path).await?)),
            #[cfg(test)]
            Disk::Simulated(disk) => disk.open(path).map(DiskFile::Simulated),
        }
    }

    /// Gives a file another name; one that has it already is gone.
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self {
            Disk::System => Ok(glommio::io::rename(from, to).await?),
            #[cfg(test)]
            Disk::Simulated(disk) => disk.rename(from, to),
        }
    }

    pub async fn remove(&self, path: &Path) -> io::Result<()> {
        match self {
            Disk::System => Ok(glommio::io::remove(path).await?),
            #[cfg(test)]
            Disk::Simulated(disk) => disk.remove(path),
        }
    }

    /// Makes the names in a directory durable.
    pub async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self {
            Disk::System => {
                let dir = Directory::open(dir).await?;
                let synced = dir.sync().await;
                dir.close().await?;
                Ok(synced?)
            }
            #[cfg(test)]
            Disk::Simulated(disk) => disk.sync_dir(),
        }
    }

    /// Looks what is there; a few system calls that do not wait for the device.
    pub fn list(&self, dir: &Path) -> io::Result<Listing> {
        match self {
            Disk::System => files::list(dir),
            #[cfg(test)]
            Disk::Simulated(disk) => Ok(disk.list()),
        }
    }
}

impl DiskFile {
    /// Writes at a position; may write less, as the system call.
    pub async fn write_at(&self, bytes: Vec<u8>, position: u64) -> io::Result<usize> {
        match self {
            DiskFile::System(file) => Ok(file.write_at(bytes, position).await?),
            #[cfg(test)]
            DiskFile::Simulated(file) => file.write_at(&bytes, position).await,
        }
    }

    /// Reads up to `count` bytes; fewer only at the end.
    pub async fn read_at(&self, position: u64, count: usize) -> io::Result<Vec<u8>> {
        match self {
            DiskFile::System(file) => {
                let mut bytes = file.read_at(position, count).await?.to_vec();
                while !bytes.is_empty() && bytes.len() < count {
                    let more = file.read_at(position + bytes.len() as u64, count - bytes.len()).await?;
                    if more.is_empty() {
                        break;
                    }
                    bytes.extend_from_slice(&more);
                }
                Ok(bytes)
            }
            #[cfg(test)]
            DiskFile::Simulated(file) => file.read_at(position, count),
        }
    }

    /// Makes what was written durable (fdatasync).
    pub async fn sync(&self) -> io::Result<()> {
        match self {
            DiskFile::System(file) => Ok(file.fdatasync().await?),
            #[cfg(test)]
            DiskFile::Simulated(file) => file.sync().await,
        }
    }

    /// Whatever closing says: what had to be durable is synced before.
    pub async fn close(self) {
        match self {
            DiskFile::System(file) => drop(file.close().await),
            #[cfg(test)]
            DiskFile::Simulated(_) => {}
        }
    }
}
