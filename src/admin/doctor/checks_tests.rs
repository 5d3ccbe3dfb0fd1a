//! Tests of the judgements, from texts as machines have them.

use super::*;
use crate::admin::doctor::facts::Uring;

fn good() -> Facts {
    Facts {
        kernel_release: Some("6.18.44-generic".into()),
        uring: Uring { ext_arg: true, ..Uring::default() },
        uring_disabled: Some("0".into()),
        status: Some("Name:\tkeyloom\nSeccomp:\t0\nSeccomp_filters:\t0".into()),
        memlock_bytes: Some((8 << 20, 8 << 20)),
        open_files: Some((1024, 1 << 20)),
        somaxconn: Some("4096".into()),
        huge_pages: Some("always [madvise] never".into()),
        overcommit: Some("0".into()),
        clock_source: Some("tsc".into()),
        governor: Some("performance".into()),
        cpu_quotas: vec!["max 100000".into()],
        cpuinfo: Some("processor : 0\nflags\t\t: fpu constant_tsc nonstop_tsc avx".into()),
    }
}

fn config() -> Config {
    Config { cpus: vec![0, 1], cpus_all: false, ..Config::default() }
}

/// The findings that are not ok, after `change`.
fn findings(change: impl Fn(&mut Facts)) -> Vec<(&'static str, Verdict)> {
    let mut facts = good();
    change(&mut facts);
    let checks = all(&facts, &config());
    for check in &checks {
        assert_eq!(check.verdict == Verdict::Ok, check.advice.is_empty(), "{check:?}");
        assert!(!check.found.is_empty(), "{check:?}");
    }
    checks.into_iter().filter(|c| c.verdict != Verdict::Ok).map(|c| (c.name, c.verdict)).collect()
}

#[test]
fn a_good_machine_passes() {
    assert_eq!(findings(|_| {}), []);
}

#[test]
fn what_cannot_be_read_stops_nobody() {
    let facts = Facts { uring: good().uring, ..Facts::default() };
    assert!(all(&facts, &config()).iter().all(|check| check.verdict < Verdict::Fail));
}

#[test]
fn kernels() {
    for (release, fails) in
        [("6.1.0", false), ("6.0.19", true), ("5.15.0-100-generic", true), ("10.0", false), ("garbage", true)]
    {
        let expected: &[_] = if fails { &[("kernel", Verdict::Fail)] } else { &[] };
        assert_eq!(findings(|f| f.kernel_release = Some(release.into())), expected, "{release}");
    }
}

#[test]
fn missing_io_uring_names_its_cause() {
    let no_ring =
        |f: &mut Facts, errno| f.uring = Uring { plain_errno: Some(errno), pump_errno: Some(errno), ..good().uring };
    assert_eq!(findings(|f| no_ring(f, libc::ENOSYS)), [("io_uring", Verdict::Fail)]);
    assert_eq!(
        findings(|f| {
            no_ring(f, libc::EPERM);
            f.uring_disabled = Some("2".into());
        }),
        [("io_uring_disabled", Verdict::Fail), ("io_uring", Verdict::Fail)]
    );
    assert_eq!(
        findings(|f| {
            no_ring(f, libc::EPERM);
            f.status = Some("Seccomp:\t2".into());
        }),
        [("seccomp", Verdict::Fail), ("io_uring", Verdict::Fail)]
    );
    // A switch or a filter that lets this process through is no finding.
    assert_eq!(findings(|f| f.uring_disabled = Some("1".into())), []);
    assert_eq!(findings(|f| f.status = Some("Seccomp:\t2".into())), []);
}

#[test]
fn io_uring_of_an_old_kernel() {
    assert_eq!(findings(|f| f.uring.pump_errno = Some(libc::EINVAL)), [("io_uring", Verdict::Fail)]);
    assert_eq!(findings(|f| f.uring.missing = vec!["SENDMSG"]), [("io_uring", Verdict::Fail)]);
    assert_eq!(findings(|f| f.uring.ext_arg = false), [("io_uring", Verdict::Fail)]);
}

#[test]
fn locked_memory_is_judged_by_the_number_of_executors() {
    assert_eq!(findings(|f| f.memlock_bytes = Some((64 << 10, 64 << 10))), [("memlock", Verdict::Fail)]);
    assert_eq!(findings(|f| f.memlock_bytes = Some((512 << 10, 512 << 10))), []);
    assert_eq!(findings(|f| f.memlock_bytes = Some((u64::MAX, u64::MAX))), []);
    let many = Config { cpus: (0..64).collect(), ..config() };
    let facts = Facts { memlock_bytes: Some((512 << 10, 512 << 10)), ..good() };
    let check = memlock(&facts, &many);
    assert_eq!(check.verdict, Verdict::Warn);
    assert!(check.advice.contains("ulimit -l 5200 "), "{}", check.advice);
}

#[test]
fn open_files_are_judged_by_the_hard_limit() {
    assert_eq!(findings(|f| f.open_files = Some((256, 4096))), [("open files", Verdict::Warn)]);
    assert_eq!(findings(|f| f.open_files = Some((64, 64))), [("open files", Verdict::Fail)]);
    let facts = Facts { open_files: Some((256, 4096)), ..good() };
    assert!(open_files(&facts, &config()).advice.contains("ulimit -n 10112 "));
    assert!(open_files(&facts, &config()).advice.contains("maxclients is at most 3984"));
}

#[test]
fn what_makes_it_slower_is_a_warning() {
    assert_eq!(findings(|f| f.somaxconn = Some("128".into())), [("somaxconn", Verdict::Warn)]);
    assert_eq!(
        findings(|f| f.huge_pages = Some("[always] madvise never".into())),
        [("transparent huge pages", Verdict::Warn)]
    );
    assert_eq!(findings(|f| f.overcommit = Some("2".into())), [("overcommit_memory", Verdict::Warn)]);
    assert_eq!(findings(|f| f.clock_source = Some("hpet".into())), [("clock source", Verdict::Warn)]);
    assert_eq!(findings(|f| f.governor = Some("powersave".into())), [("CPU governor", Verdict::Warn)]);
    assert_eq!(findings(|f| f.cpuinfo = Some("flags : fpu tsc".into())), [("invariant TSC", Verdict::Warn)]);
    assert_eq!(findings(|f| f.cpuinfo = Some("Features : fp asimd".into())), []);
}

#[test]
fn the_smallest_quota_counts() {
    assert_eq!(findings(|f| f.cpu_quotas = vec!["200000 100000".into()]), []);
    assert_eq!(
        findings(|f| f.cpu_quotas = vec!["max 100000".into(), "150000 100000".into(), "400000 100000".into()]),
        [("CPUs", Verdict::Warn)]
    );
    assert_eq!(quota_cpus("50000 100000"), Some(0.5));
    assert_eq!(quota_cpus("max 100000"), None);
}
