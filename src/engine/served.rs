//! In builds with debug assertions: which partitions a core serves, in which epoch and when, so that a test can look for two
//! nodes that have served one at the same time.
//!
//! With `KEYLOOM_SERVED_LOG` each data core appends lines to a file `PID-CORE` in that directory: a partition, its epoch, and
//! between which moments something of it was executed, in ns of CLOCK_BOOTTIME, which all processes of a machine share. The second moment is before
//! it was looked whether the node may serve; what it may not show then is not in there.
//!
//! Owned by one core.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::route::CoreId;

/// See the module.
#[derive(Debug, Default)]
pub struct Served {
    file: Option<File>,
    /// What was executed since it was looked last.
    executed: Vec<(u16, u64, i64)>,
    lines: String,
}

/// CLOCK_BOOTTIME.
pub fn boot_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

impl Served {
    pub fn new(core: CoreId) -> Served {
        let file = std::env::var_os("KEYLOOM_SERVED_LOG").and_then(|dir| {
            let path = Path::new(&dir).join(format!("{}-{core}", std::process::id()));
            File::options().create(true).append(true).open(path).ok()
        });
        Served { file, ..Served::default() }
    }

    pub fn is_on(&self) -> bool {
        self.file.is_some()
    }

    /// Something of a partition is about to be executed.
    pub fn begins(&mut self, partition: u16, epoch: u64) {
        if !self.executed.iter().any(|&(p, e, _)| (p, e) == (partition, epoch)) {
            self.executed.push((partition, epoch, boot_ns()));
        }
    }

    /// It was looked, after this moment, whether the node may serve.
    pub fn looked(&mut self, until_ns: i64, valid: bool) {
        self.lines.clear();
        for (partition, epoch, since_ns) in self.executed.drain(..).filter(|_| valid) {
            let _ = writeln!(self.lines, "{partition} {epoch} {since_ns} {until_ns}");
        }
        if let Some(file) = &mut self.file
            && !self.lines.is_empty()
        {
            let _ = file.write_all(self.lines.as_bytes());
        }
    }
}
