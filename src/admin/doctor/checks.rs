//! What the doctor thinks of a machine. Pure functions from [`Facts`] to a [`Check`].

use super::facts::Facts;
use crate::admin::limits;
use crate::config::{Config, value};

/// DEFER_TASKRUN, the youngest thing that the network pump needs, came with this kernel.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// Locked memory of one executor: its registered buffers and its rings.
const MEMLOCK_BYTES_PER_EXECUTOR: u64 = 80 << 10;
/// The runtime refuses to start below this.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Ok,
    /// Works, but worse than it could.
    Warn,
    /// A node cannot start.
    Fail,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty if there is nothing to do.
    pub advice: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Warn, found: found.into(), advice: advice.into() }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Fail, found: found.into(), advice: advice.into() }
    }
}

/// Every check. Those that can fail come first, and causes before their consequences.
pub fn all(facts: &Facts, config: &Config) -> Vec<Check> {
    vec![
        kernel(facts),
        uring_disabled(facts),
        seccomp(facts),
        uring(facts),
        memlock(facts, config),
        open_files(facts, config),
        somaxconn(facts, config),
        huge_pages(facts),
        overcommit(facts),
        clock_source(facts),
        tsc(facts),
        governor(facts),
        cpus(facts, config),
    ]
}

fn kernel(facts: &Facts) -> Check {
    let Some(release) = &facts.kernel_release else {
        return Check::warn("kernel", "unknown", "Mount /proc, so that the version can be read.");
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        return Check::ok("kernel", release);
    }
    Check::fail("kernel", release, format!("Boot Linux {}.{} or newer.", KERNEL_MIN.0, KERNEL_MIN.1))
}

/// Whether no ring can be made at all.
fn without_uring(facts: &Facts) -> bool {
    facts.uring.plain_errno.is_some()
}

fn uring_disabled(facts: &Facts) -> Check {
    const NAME: &str = "io_uring_disabled";
    match (facts.uring_disabled.as_deref(), without_uring(facts)) {
        (None, _) => Check::ok(NAME, "the kernel has no such switch"),
        (Some("0"), _) => Check::ok(NAME, "0"),
        (Some(value), false) => Check::ok(NAME, format!("{value}, and this user may use io_uring")),
        (Some(value), true) => Check::fail(
            NAME,
            value,
            "The administrator has switched io_uring off; run: sysctl -w kernel.io_uring_disabled=0",
        ),
    }
}

fn seccomp(facts: &Facts) -> Check {
    const NAME: &str = "seccomp";
    let status = facts.status.as_deref().unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    match (mode, facts.uring.plain_errno) {
        (None, _) => Check::ok(NAME, "unknown"),
        (Some("0"), _) => Check::ok(NAME, "no filter"),
        (Some(_), Some(libc::EPERM | libc::ENOSYS | libc::EACCES)) => Check::fail(
            NAME,
            "a filter that refuses io_uring",
            "Start the container with --security-opt seccomp=unconfined, or with a profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register, as deploy/seccomp.json does.",
        ),
        (Some(_), _) => Check::ok(NAME, "a filter that allows io_uring"),
    }
}

fn uring(facts: &Facts) -> Check {
    const NAME: &str = "io_uring";
    let uring = &facts.uring;
    let upgrade = || format!("Boot Linux {}.{} or newer.", KERNEL_MIN.0, KERNEL_MIN.1);
    if let Some(errno) = uring.plain_errno {
        let advice = match errno {
            libc::ENOSYS => "Boot a kernel built with CONFIG_IO_URING, or allow io_uring_setup in the seccomp profile.",
            libc::EPERM | libc::EACCES => {
                "Allow io_uring: sysctl -w kernel.io_uring_disabled=0, and in a container --security-opt \
                 seccomp=unconfined; under SELinux allow it for this domain."
            }
            libc::ENOMEM => "Raise the limit of locked memory: ulimit -l unlimited",
            libc::EMFILE | libc::ENFILE => "Raise the limit of open files: ulimit -n 65536",
            _ => "See errno(3), and what the kernel logged: dmesg | tail",
        };
        return Check::fail(NAME, format!("not available: {}", errno_text(errno)), advice);
    }
    if let Some(errno) = uring.pump_errno {
        let found = format!("no ring with SINGLE_ISSUER, DEFER_TASKRUN and provided buffers: {}", errno_text(errno));
        let advice = match errno {
            libc::ENOMEM => "Raise the limit of locked memory: ulimit -l unlimited".into(),
            _ => upgrade(),
        };
        return Check::fail(NAME, found, advice);
    }
    if !uring.missing.is_empty() || !uring.ext_arg {
        let mut missing = uring.missing.clone();
        missing.extend((!uring.ext_arg).then_some("EXT_ARG"));
        return Check::fail(NAME, format!("without {}", missing.join(", ")), upgrade());
    }
    Check::ok(NAME, "available, with all that is needed")
}

fn memlock(facts: &Facts, config: &Config) -> Check {
    const NAME: &str = "memlock";
    let Some((soft, hard)) = facts.memlock_bytes else { return Check::ok(NAME, "unknown") };
    // The data cores and the control core.
    let executors = config.cpus.len() as u64 + 1;
    let needed = (executors * MEMLOCK_BYTES_PER_EXECUTOR).max(MEMLOCK_BYTES_MIN);
    if soft >= needed {
        return Check::ok(NAME, size(soft));
    }
    let kib = needed.div_ceil(1024);
    let found = format!("{}, {} needed for {executors} executors", size(soft), size(needed));
    let mut advice = format!("Raise the limit: ulimit -l {kib} (systemd: LimitMEMLOCK={kib}K");
    advice.push_str(if hard < needed { "; docker: --ulimit memlock=-1)." } else { ")." });
    if soft < MEMLOCK_BYTES_MIN { Check::fail(NAME, found, advice) } else { Check::warn(NAME, found, advice) }
}

fn open_files(facts: &Facts, config: &Config) -> Check {
    const NAME: &str = "open files";
    let Some((soft, hard)) = facts.open_files else { return Check::ok(NAME, "unknown") };
    let needed = limits::files_needed(config.maxclients, config.cpus.len());
    let found = format!("soft {}, hard {}", number(soft), number(hard));
    if hard >= needed {
        return Check::ok(NAME, found);
    }
    let clients = limits::clients_within(hard, config.cpus.len());
    let advice = format!("Raise the limit: ulimit -n {needed} (systemd: LimitNOFILE={needed})");
    match clients {
        0 => Check::fail(NAME, found, format!("{advice}; there is no room for a client.")),
        _ => Check::warn(NAME, found, format!("{advice}; without it, maxclients is at most {clients}.")),
    }
}

fn somaxconn(facts: &Facts, config: &Config) -> Check {
    const NAME: &str = "somaxconn";
    let backlog = config.tcp_backlog;
    match facts.somaxconn.as_deref().and_then(|text| text.parse::<i64>().ok()) {
        None => Check::ok(NAME, "unknown"),
        Some(limit) if limit >= backlog.into() => Check::ok(NAME, limit.to_string()),
        Some(limit) => Check::warn(
            NAME,
            format!("{limit}, less than tcp-backlog {backlog}"),
            format!("Bursts of connections may be refused; run: sysctl -w net.core.somaxconn={backlog}"),
        ),
    }
}

fn huge_pages(facts: &Facts) -> Check {
    const NAME: &str = "transparent huge pages";
    let Some(text) = &facts.huge_pages else { return Check::ok(NAME, "not in this kernel") };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or(text);
    if chosen != "always" {
        return Check::ok(NAME, chosen);
    }
    Check::warn(
        NAME,
        chosen,
        "Memory may grow and pages may be merged while requests wait; run: \
         echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    )
}

fn overcommit(facts: &Facts) -> Check {
    const NAME: &str = "overcommit_memory";
    match facts.overcommit.as_deref() {
        None => Check::ok(NAME, "unknown"),
        // Nothing forks, so the kernel's heuristic is good enough.
        Some(value @ ("0" | "1")) => Check::ok(NAME, value),
        Some(value) => Check::warn(
            NAME,
            format!("{value}, strict accounting"),
            "Reserved address space counts as used, and allocations may fail early; run: \
             sysctl -w vm.overcommit_memory=1",
        ),
    }
}

fn clock_source(facts: &Facts) -> Check {
    const NAME: &str = "clock source";
    match facts.clock_source.as_deref() {
        None => Check::ok(NAME, "unknown"),
        Some(source @ ("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter")) => {
            Check::ok(NAME, source)
        }
        Some(source) => Check::warn(
            NAME,
            source,
            "Each look at the clock is a system call; if the CPU's counter is reliable, run: echo tsc > \
             /sys/devices/system/clocksource/clocksource0/current_clocksource",
        ),
    }
}

fn tsc(facts: &Facts) -> Check {
    const NAME: &str = "invariant TSC";
    let flags = facts.cpuinfo.as_deref().and_then(|text| {
        text.lines().find(|line| line.starts_with("flags")).and_then(|line| line.split_once(':')).map(|(_, list)| list)
    });
    let Some(flags) = flags else { return Check::ok(NAME, "not this kind of CPU") };
    let has = |name| flags.split_whitespace().any(|flag| flag == name);
    if has("constant_tsc") && has("nonstop_tsc") {
        return Check::ok(NAME, "yes");
    }
    Check::warn(
        NAME,
        "no",
        "Latencies in SLOWLOG and LATENCY are less exact; in a virtual machine, pass the host's CPU through \
         (QEMU: -cpu host,+invtsc).",
    )
}

fn governor(facts: &Facts) -> Check {
    const NAME: &str = "CPU governor";
    match facts.governor.as_deref() {
        None => Check::ok(NAME, "not set by this machine"),
        Some(governor @ ("performance" | "schedutil")) => Check::ok(NAME, governor),
        Some(governor) => Check::warn(
            NAME,
            governor,
            "The clock frequency follows the load late, which shows in latencies; run: cpupower frequency-set -g \
             performance",
        ),
    }
}

fn cpus(facts: &Facts, config: &Config) -> Check {
    const NAME: &str = "CPUs";
    let cores = config.cpus.len();
    let found = format!("{cores} for data ({})", value::print_cpus(&config.cpus));
    let quota = facts.cpu_quotas.iter().filter_map(|text| quota_cpus(text)).min_by(f64::total_cmp);
    match quota {
        Some(quota) if quota < cores as f64 => Check::warn(
            NAME,
            format!("{found}, but the control group's quota is {quota:.2}"),
            format!(
                "Cores will be stopped in the middle of requests; start with fewer CPUs, like --cpus 0-{}, or raise \
                 the quota.",
                (quota as usize).max(1) - 1
            ),
        ),
        _ => Check::ok(NAME, found),
    }
}

/// How many CPUs `quota period` stands for; None is no limit.
fn quota_cpus(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

fn errno_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

fn number(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".into() } else { limit.to_string() }
}

fn size(bytes: u64) -> String {
    if bytes == u64::MAX { "unlimited".into() } else { format!("{} KiB", bytes >> 10) }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
