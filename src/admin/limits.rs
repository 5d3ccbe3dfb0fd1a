//! Open files: the process' limit raised to what its clients need, as far as it may be.
//!
//! Called by the thread that starts the node, before any core runs, and when CONFIG SET raises `maxclients`.

use std::io;

use rlimit::Resource;

/// Files that a node needs without any client: logs, listeners, the control core.
const FILES_RESERVED: u64 = 64;
/// Rings, eventfds and timers of one core.
const FILES_PER_CORE: u64 = 24;

/// Why a node cannot have the open files it needs.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error("can't read the limit of open files: {0}")]
    Read(io::Error),
    #[error(
        "the limit of open files is {hard}, and {needed} are needed before the first client; raise it: ulimit -n 65536"
    )]
    TooFew { hard: u64, needed: u64 },
}

/// What the limit of open files allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit that is in force.
    pub limit: u64,
    /// So many clients fit; at most what was asked for.
    pub maxclients: usize,
}

/// Files that `maxclients` clients on `cores` cores need.
pub fn files_needed(maxclients: usize, cores: usize) -> u64 {
    files_without_clients(cores) + maxclients as u64
}

fn files_without_clients(cores: usize) -> u64 {
    FILES_RESERVED + FILES_PER_CORE * cores as u64
}

/// Raises the soft limit of open files to what `maxclients` clients on `cores` cores need: beyond the hard limit if
/// the process may, up to it otherwise. Fewer clients than asked for is for the caller to tell.
pub fn raise_open_files(maxclients: usize, cores: usize) -> Result<OpenFiles, LimitError> {
    let needed = files_needed(maxclients, cores);
    let (soft, hard) = Resource::NOFILE.get().map_err(LimitError::Read)?;
    if soft < needed && Resource::NOFILE.set(needed, hard.max(needed)).is_err() {
        // Only privileged processes raise the hard limit. Whatever could be raised counts: it is read back.
        let _ = Resource::NOFILE.set(hard.min(needed), hard);
    }
    let (limit, hard) = Resource::NOFILE.get().map_err(LimitError::Read)?;
    let clients = clients_within(limit, cores);
    if clients == 0 {
        return Err(LimitError::TooFew { hard, needed: files_without_clients(cores) + 1 });
    }
    Ok(OpenFiles { limit, maxclients: maxclients.min(clients) })
}

/// How many clients `limit` open files leave room for.
pub fn clients_within(limit: u64, cores: usize) -> usize {
    limit.saturating_sub(files_without_clients(cores)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_node_does_not_need() {
        assert_eq!(clients_within(files_needed(10_000, 8), 8), 10_000);
        assert_eq!(clients_within(1024, 2), 912);
        assert_eq!(clients_within(100, 2), 0);
        assert_eq!(clients_within(u64::MAX, 1), usize::MAX - 88);
    }

    #[test]
    fn the_soft_limit_is_raised() {
        let before = Resource::NOFILE.get().unwrap();
        let files = raise_open_files(16, 1).unwrap();
        assert_eq!(files.maxclients, 16);
        assert!(files.limit >= files_needed(16, 1).min(before.1));
        assert!(files.limit >= before.0, "never lowered");
    }
}
