//! Numbers about the process as a whole, from the kernel and from the allocator.
//!
//! Any core may ask; each call reads a file or makes a system call, so it is for INFO, MEMORY and metrics only. What
//! cannot be read is zero.

use std::fs;

use tikv_jemalloc_ctl::{epoch, stats};

/// Memory and CPU time of this process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Bytes in RAM.
    pub rss_bytes: u64,
    /// Bytes that the program holds, pages they lie in, pages in RAM: as the allocator counts them.
    pub allocated_bytes: u64,
    pub active_bytes: u64,
    pub resident_bytes: u64,
    /// RAM of the machine.
    pub system_bytes: u64,
    pub cpu_user_s: f64,
    pub cpu_system_s: f64,
    /// The same of children that have ended.
    pub children_user_s: f64,
    pub children_system_s: f64,
}

impl Process {
    pub fn read() -> Process {
        let (cpu_user_s, cpu_system_s) = cpu_seconds(libc::RUSAGE_SELF);
        let (children_user_s, children_system_s) = cpu_seconds(libc::RUSAGE_CHILDREN);
        Process {
            rss_bytes: kilobytes_of("/proc/self/status", "VmRSS:"),
            allocated_bytes: allocated_bytes(),
            active_bytes: stats::active::read().unwrap_or(0) as u64,
            resident_bytes: stats::resident::read().unwrap_or(0) as u64,
            system_bytes: kilobytes_of("/proc/meminfo", "MemTotal:"),
            cpu_user_s,
            cpu_system_s,
            children_user_s,
            children_system_s,
        }
    }
}

/// Bytes that the program holds at this moment.
pub fn allocated_bytes() -> u64 {
    // The allocator's numbers stand still until its epoch moves.
    let _ = epoch::advance();
    stats::allocated::read().unwrap_or(0) as u64
}

/// Gives pages that the allocator keeps for later back to the kernel.
pub fn purge() -> bool {
    // SAFETY: the name is a NUL-terminated constant and the control takes no value in or out. 4096 is jemalloc's
    // MALLCTL_ARENAS_ALL: every arena.
    let code = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"arena.4096.purge".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        )
    };
    code == 0
}

/// Name and release of the operating system, and the machine: `Linux 6.1.0 x86_64`.
pub fn os() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} {}", release.trim(), std::env::consts::ARCH)
}

/// The value of a `Name:  123 kB` line, in bytes.
fn kilobytes_of(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// User and system time, seconds.
fn cpu_seconds(who: libc::c_int) -> (f64, f64) {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is writable memory of the right type, and all zeros is a valid `rusage` if the call fails.
    let usage = unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    (seconds(usage.ru_utime), seconds(usage.ru_stime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let process = Process::read();
        assert!(process.rss_bytes > 100_000);
        assert!(process.system_bytes > process.rss_bytes);
        assert!(process.cpu_user_s + process.cpu_system_s > 0.0);
        assert!(os().starts_with("Linux ") && os().split(' ').count() == 3);
    }
}
