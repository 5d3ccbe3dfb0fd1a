//! The mesh as it ships, compiled against loom, and what its models share.
//!
//! loom runs a model under every schedule (up to a bound on preemptions) and with every value that the memory model
//! lets a load return. It does not explore load buffering, and treats SeqCst accesses as AcqRel: a passing suite is
//! evidence, not proof. The seeded bugs ([`must_fail`]) are permanent and show that the models can fail at all.

#[path = "../../src/mesh/mod.rs"]
pub mod mesh;
#[path = "../../src/sync.rs"]
pub mod sync;

use loom::sync::{Condvar, Mutex};
use mesh::Wake;
use std::{
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use sync::seed::{self, Seed};

/// Explores `model` with at most `preemptions` forced switches in one schedule, or all schedules with `None`.
/// The environment's `LOOM_MAX_PREEMPTIONS` goes first.
pub fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.check(model);
}

/// Tells a test that it is the child process of [`must_fail`].
const CHILD: &str = "LOOM_TESTS_SEEDED";

/// Asserts that `exploration` fails with `message` when `bug` is planted in the shipped source, or by itself if it
/// contains the bug. `test` is the name of the test that calls this.
///
/// It runs in a process of its own, the same test once more: a deadlock found by loom ends in a panic while panicking.
pub fn must_fail(test: &str, bug: Option<Seed>, message: &str, exploration: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return match bug {
            Some(bug) => seed::with(bug, exploration),
            None => exploration(),
        };
    }
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&[child.stderr, child.stdout].concat()).into_owned();
    assert!(output.contains("running 1 test"), "{test} is not the name of a test: {output}");
    assert!(!child.status.success(), "the planted bug went unnoticed");
    assert!(output.contains(message), "the planted bug was noticed by something else: {output}");
}

/// A doorbell that is remembered until it is heard, as an eventfd's counter is.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.heard.notify_one();
    }

    /// Blocks until it was rung. loom panics when all threads of a model block.
    pub fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.heard.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// One core's bells, by where it sleeps.
#[derive(Default)]
pub struct Bells {
    /// Heard in the pump's ring only.
    pub shallow: Bell,
    /// Heard in the runtime's reactor only.
    pub deep: Bell,
}

impl Bells {
    /// Rings the bell that the mesh asks for.
    pub fn ring(&self, wake: Wake) {
        match wake {
            Wake::None => {}
            Wake::Shallow => self.shallow.ring(),
            Wake::Deep => self.deep.ring(),
        }
    }

    /// Blocks where `park` says.
    pub fn wait(&self, park: mesh::Park) {
        match park {
            mesh::Park::Shallow => self.shallow.wait(),
            mesh::Park::Deep => self.deep.wait(),
        }
    }
}

/// Counts how many tokens were made and dropped. Plain atomics: loom need not explore the counting itself.
#[derive(Clone, Default)]
pub struct Tally(Arc<[AtomicUsize; 2]>);

/// Something that must be dropped exactly once.
pub struct Token {
    /// What tells tokens apart.
    pub id: u32,
    tally: Tally,
}

impl Tally {
    /// A token to be accounted for.
    pub fn token(&self, id: u32) -> Token {
        self.0[0].fetch_add(1, Ordering::SeqCst);
        Token { id, tally: self.clone() }
    }

    /// How many were made so far.
    pub fn made(&self) -> usize {
        self.0[0].load(Ordering::SeqCst)
    }

    /// How many were dropped so far.
    pub fn dropped(&self) -> usize {
        self.0[1].load(Ordering::SeqCst)
    }

    /// Asserts that each of the `made` tokens was dropped once.
    pub fn assert_settled(&self, made: usize) {
        assert_eq!((self.made(), self.dropped()), (made, made), "tokens made and dropped");
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.tally.0[1].fetch_add(1, Ordering::SeqCst);
    }
}
