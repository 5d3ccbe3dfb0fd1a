//! What the doctor looks at, as the kernel tells it; nothing is judged here. What cannot be read is `None`.

use std::fs;
use std::path::{Path, PathBuf};

use io_uring::{IoUring, Probe, opcode};
use rlimit::Resource;

use crate::config::Config;
use crate::net::ring::Ring;

/// Depth of the plain ring that is made to see what there is.
const PROBE_RING_ENTRIES: u32 = 8;

/// A machine, as seen by this process.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// /proc/sys/kernel/osrelease
    pub kernel_release: Option<String>,
    pub uring: Uring,
    /// /proc/sys/kernel/io_uring_disabled
    pub uring_disabled: Option<String>,
    /// /proc/self/status
    pub status: Option<String>,
    /// Soft and hard limit, bytes.
    pub memlock_bytes: Option<(u64, u64)>,
    /// Soft and hard limit.
    pub open_files: Option<(u64, u64)>,
    /// /proc/sys/net/core/somaxconn
    pub somaxconn: Option<String>,
    /// /sys/kernel/mm/transparent_hugepage/enabled
    pub huge_pages: Option<String>,
    /// /proc/sys/vm/overcommit_memory
    pub overcommit: Option<String>,
    /// /sys/devices/system/clocksource/clocksource0/current_clocksource
    pub clock_source: Option<String>,
    /// cpufreq/scaling_governor of the first data core's CPU
    pub governor: Option<String>,
    /// `quota period` (both µs, or `max`) of this process' control group and those above it.
    pub cpu_quotas: Vec<String>,
    /// /proc/cpuinfo
    pub cpuinfo: Option<String>,
}

/// What io_uring can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uring {
    /// errno of making a ring without any flag; `None` if it can be made.
    pub plain_errno: Option<i32>,
    /// errno of making the network pump's ring and its ring of provided buffers; `None` if they can be made.
    pub pump_errno: Option<i32>,
    /// Waiting takes a timeout of its own (IORING_FEAT_EXT_ARG).
    pub ext_arg: bool,
    /// Operations that the network pump needs and the kernel does not have.
    pub missing: Vec<&'static str>,
}

impl Facts {
    /// Looks at this machine.
    pub fn read(config: &Config) -> Facts {
        let cpu = config.cpus.first().copied().unwrap_or(0);
        Facts {
            kernel_release: text("/proc/sys/kernel/osrelease"),
            uring: Uring::read(),
            uring_disabled: text("/proc/sys/kernel/io_uring_disabled"),
            status: text("/proc/self/status"),
            memlock_bytes: Resource::MEMLOCK.get().ok(),
            open_files: Resource::NOFILE.get().ok(),
            somaxconn: text("/proc/sys/net/core/somaxconn"),
            huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled"),
            overcommit: text("/proc/sys/vm/overcommit_memory"),
            clock_source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            governor: text(format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")),
            cpu_quotas: cpu_quotas(),
            cpuinfo: text("/proc/cpuinfo"),
        }
    }
}

impl Uring {
    /// Makes a plain ring and one of the pump's, and asks what they can do.
    pub fn read() -> Uring {
        let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        let plain: Result<IoUring, i32> = IoUring::new(PROBE_RING_ENTRIES).map_err(errno);
        // The pump's own ring, so that what is checked cannot differ from what is used.
        let pump = Ring::new().map_err(errno);
        let mut uring =
            Uring { plain_errno: plain.as_ref().err().copied(), pump_errno: pump.err(), ..Uring::default() };
        let Ok(ring) = plain else { return uring };
        uring.ext_arg = ring.params().is_feature_ext_arg();
        let mut probe = Probe::new();
        // On failure the probe stays empty, and every operation counts as missing.
        let _ = ring.submitter().register_probe(&mut probe);
        uring.missing =
            OPERATIONS.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
        uring
    }
}

/// Operations that the network pump needs. The kernel tells operations, not their modes, but multishot accept (5.19)
/// and multishot receive (6.0) are older than the flags that [`Ring::new`] asks for (6.1).
const OPERATIONS: &[(u8, &str)] = &[
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::Read::CODE, "READ"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
];

fn text(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

/// CPU quotas of this process' control group and of all above it, version 2 (`cpu.max`) or 1 (`cpu.cfs_*`).
fn cpu_quotas() -> Vec<String> {
    let groups = text("/proc/self/cgroup").unwrap_or_default();
    let mut quotas = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let mount = match controllers {
            "" => PathBuf::from("/sys/fs/cgroup"),
            _ if controllers.split(',').any(|c| c == "cpu") => Path::new("/sys/fs/cgroup").join(controllers),
            _ => continue,
        };
        let own = mount.join(group.trim_start_matches('/'));
        for folder in own.ancestors().take_while(|folder| folder.starts_with(&mount)) {
            let version_1 = || {
                let quota = text(folder.join("cpu.cfs_quota_us"))?.replace("-1", "max");
                Some(format!("{quota} {}", text(folder.join("cpu.cfs_period_us"))?))
            };
            quotas.extend(text(folder.join("cpu.max")).or_else(version_1));
        }
    }
    quotas
}
