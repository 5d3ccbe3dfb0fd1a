//! A disk in memory for tests: operations fail where they are told to, and a power cut takes what was not synced.
//!
//! As real disks do, a failed sync loses what it should have written and says nothing of it at the next one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use futures_lite::future::yield_now;

use super::files::{self, Listing, Named};

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Works,
    Fails(i32),
    /// A write that takes only so many bytes of a thousand.
    Short(u16),
}

#[derive(Default)]
struct Content {
    /// As programs see it.
    now: Vec<u8>,
    /// As it is on the device.
    durable: Vec<u8>,
    /// Bytes from here on were lost by a failed sync: the next one does not write them.
    lost: Vec<(usize, usize)>,
    dirty: Vec<(usize, usize)>,
}

type Shared = Rc<RefCell<Content>>;

pub struct SimulatedDisk {
    names: RefCell<BTreeMap<String, Shared>>,
    /// The names that a power cut leaves.
    durable_names: RefCell<BTreeMap<String, Shared>>,
    fate: RefCell<Box<dyn FnMut(Op) -> Fate>>,
    pause: RefCell<Box<dyn Fn() -> Pause>>,
    pub operations: Cell<u32>,
}

type Pause = Pin<Box<dyn Future<Output = ()>>>;

pub struct SimulatedFile {
    disk: Rc<SimulatedDisk>,
    content: Shared,
    /// A write ends when it is durable.
    through: bool,
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_string()
}

impl SimulatedDisk {
    pub fn new(fate: impl FnMut(Op) -> Fate + 'static) -> Rc<SimulatedDisk> {
        Rc::new(SimulatedDisk {
            names: RefCell::default(),
            durable_names: RefCell::default(),
            fate: RefCell::new(Box::new(fate)),
            pause: RefCell::new(Box::new(|| Box::pin(yield_now()))),
            operations: Cell::new(0),
        })
    }

    /// What the device takes for a write or a sync: others run meanwhile.
    pub fn set_pause(&self, pause: impl Fn() -> Pause + 'static) {
        *self.pause.borrow_mut() = Box::new(pause);
    }

    fn pause(&self) -> Pause {
        (self.pause.borrow())()
    }

    pub fn set_fate(&self, fate: impl FnMut(Op) -> Fate + 'static) {
        *self.fate.borrow_mut() = Box::new(fate);
    }

    fn fate(&self, op: Op) -> io::Result<Fate> {
        self.operations.set(self.operations.get() + 1);
        match (self.fate.borrow_mut())(op) {
            Fate::Fails(code) => Err(io::Error::from_raw_os_error(code)),
            fate => Ok(fate),
        }
    }

    fn no_entry() -> io::Error {
        io::Error::from_raw_os_error(libc::ENOENT)
    }

    pub fn create(self: &Rc<Self>, path: &Path) -> io::Result<SimulatedFile> {
        self.fate(Op::Create)?;
        let content = Shared::default();
        self.names.borrow_mut().insert(name(path), Rc::clone(&content));
        Ok(SimulatedFile { disk: Rc::clone(self), content, through: false })
    }

    pub fn open_through(self: &Rc<Self>, path: &Path) -> io::Result<SimulatedFile> {
        Ok(SimulatedFile { through: true, ..self.open(path)? })
    }

    pub fn open(self: &Rc<Self>, path: &Path) -> io::Result<SimulatedFile> {
        let content = self.names.borrow().get(&name(path)).cloned().ok_or_else(Self::no_entry)?;
        Ok(SimulatedFile { disk: Rc::clone(self), content, through: false })
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fate(Op::Rename)?;
        let mut names = self.names.borrow_mut();
        let content = names.remove(&name(from)).ok_or_else(Self::no_entry)?;
        names.insert(name(to), content);
        Ok(())
    }

    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.fate(Op::Remove)?;
        self.names.borrow_mut().remove(&name(path)).map(drop).ok_or_else(Self::no_entry)
    }

    pub fn sync_dir(&self) -> io::Result<()> {
        self.fate(Op::SyncDir)?;
        *self.durable_names.borrow_mut() = self.names.borrow().clone();
        Ok(())
    }

    pub fn list(&self) -> Listing {
        let mut listing = Listing::default();
        for name in self.names.borrow().keys() {
            match files::named(name) {
                Some(Named::Segment(first)) => listing.segments.push(first),
                Some(Named::Snapshot(end)) => listing.snapshots.push(end),
                _ => {}
            }
        }
        listing
    }

    /// Takes the files of a real directory: all of them durable.
    pub fn load(&self, dir: &Path) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            let content = Content { now: bytes.clone(), durable: bytes, ..Content::default() };
            let name = entry.file_name().into_string().unwrap();
            self.names.borrow_mut().insert(name, Rc::new(RefCell::new(content)));
        }
        *self.durable_names.borrow_mut() = self.names.borrow().clone();
    }

    /// Writes what a power cut now would leave to a real directory. `chance` says for a name that changed, and for each
    /// 512 bytes that were not synced, whether they made it.
    pub fn cut_power(&self, dir: &Path, mut chance: impl FnMut() -> bool) {
        let (now, durable) = (self.names.borrow(), self.durable_names.borrow());
        // The journal of the file system keeps the order of names: all new ones, or all old ones.
        let names = if chance() { &*now } else { &*durable };
        for (name, content) in names {
            let content = content.borrow();
            let mut bytes = content.durable.clone();
            for &(from, to) in content.dirty.iter().chain(&content.lost) {
                for from in (from..to).step_by(512) {
                    let to = to.min(from + 512);
                    if !chance() {
                        continue;
                    }
                    if bytes.len() < to {
                        bytes.resize(to, 0);
                    }
                    bytes[from..to].copy_from_slice(&content.now[from..to]);
                }
            }
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    }

    /// Writes everything as programs see it: the process was killed, the machine goes on.
    pub fn kill(&self, dir: &Path) {
        for (name, content) in &*self.names.borrow() {
            std::fs::write(dir.join(name), &content.borrow().now).unwrap();
        }
    }
}

impl SimulatedFile {
    pub async fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.disk.pause().await;
        let mut count = bytes.len();
        if let Fate::Short(permille) = self.disk.fate(Op::Write)? {
            count = (count * permille as usize / 1000).max(1).min(count);
        }
        let (from, to) = (position as usize, position as usize + count);
        {
            let mut content = self.content.borrow_mut();
            if content.now.len() < to {
                content.now.resize(to, 0);
            }
            content.now[from..to].copy_from_slice(&bytes[..count]);
            content.dirty.push((from, to));
        }
        if self.through {
            // Until it ends, a power cut may leave any part of it.
            let synced = self.sync_ranges(vec![(from, to)]).await;
            self.content.borrow_mut().dirty.retain(|range| *range != (from, to));
            synced?;
        }
        Ok(count)
    }

    pub fn read_at(&self, position: u64, count: usize) -> io::Result<Vec<u8>> {
        let content = self.content.borrow();
        let from = (position as usize).min(content.now.len());
        Ok(content.now[from..(from + count).min(content.now.len())].to_vec())
    }

    pub async fn sync(&self) -> io::Result<()> {
        let dirty = std::mem::take(&mut self.content.borrow_mut().dirty);
        self.sync_ranges(dirty).await
    }

    async fn sync_ranges(&self, dirty: Vec<(usize, usize)>) -> io::Result<()> {
        // What is written meanwhile is not part of it.
        self.disk.pause().await;
        let fate = self.disk.fate(Op::Sync);
        let content = &mut *self.content.borrow_mut();
        if let Err(error) = fate {
            content.lost.extend(dirty);
            return Err(error);
        }
        for (from, to) in dirty {
            if content.durable.len() < to {
                content.durable.resize(to, 0);
            }
            content.durable[from..to].copy_from_slice(&content.now[from..to]);
        }
        Ok(())
    }
}
