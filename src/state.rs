//! What the cores of one node have in common, off the path of requests.
//!
//! Built once at start and shared as an `Arc`. Nothing in here is touched by a command that reads or writes keys: the
//! lock serialises CONFIG SET and CONFIG REWRITE over the node, the atomics belong to slow commands and to a sampler
//! that runs a few times a second.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::budget::Budget;
use crate::cluster::{Identity, Lease};
use crate::config::Config;
use crate::mesh::EXECUTORS_MAX;

/// The version of Redis whose commands and replies are spoken; clients choose their behaviour by it.
pub const REDIS_VERSION: &str = "7.4.0";

/// What HELLO calls the server; clients take anything else for an unknown product.
pub const SERVER_NAME: &str = "redis";

/// This program's own version.
pub const KEYLOOM_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The configuration of a node, numbered so that cores can tell which of two is newer.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Ascends with every change.
    pub number: u64,
    pub config: Arc<Config>,
}

/// The one place where the configuration of the node is changed.
///
/// Every core works with an `Arc` of its own. CONFIG SET makes the next configuration from the latest one under this
/// lock and then sends it to all cores; two CONFIG SETs on two cores would otherwise lose one another's change.
#[derive(Debug)]
pub struct ConfigStore(Mutex<Configured>);

impl ConfigStore {
    pub fn new(config: Arc<Config>) -> Self {
        ConfigStore(Mutex::new(Configured { number: 0, config }))
    }

    /// The newest configuration.
    pub fn latest(&self) -> Configured {
        self.lock().clone()
    }

    /// Replaces the configuration by what `change` makes of it.
    pub fn change<E>(&self, change: impl FnOnce(&Config) -> Result<Config, E>) -> Result<Configured, E> {
        let mut latest = self.lock();
        let config = Arc::new(change(&latest.config)?);
        *latest = Configured { number: latest.number + 1, config };
        Ok(latest.clone())
    }

    /// Looks at the newest configuration while nobody can change it.
    pub fn with<R>(&self, look: impl FnOnce(&Config) -> R) -> R {
        look(&self.lock().config)
    }

    /// A panic under the lock leaves a whole value behind, so poisoning means nothing here.
    fn lock(&self) -> MutexGuard<'_, Configured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the cores of one node have in common.
#[derive(Debug)]
pub struct NodeState {
    pub config: ConfigStore,
    /// 40 hexadecimal digits, new at every start.
    pub run_id: String,
    /// Who it is in its cluster; None: the node runs alone.
    pub identity: Option<Identity>,
    /// It was a member of a cluster of several nodes when it started.
    pub member: bool,
    /// Until when it may serve what it leads.
    pub lease: Lease,
    pub started: Instant,
    startup_bytes: AtomicU64,
    slowlog_id: AtomicU64,
    /// The division of maxmemory between the cores.
    pub budget: Budget,
    memory_peak_bytes: AtomicU64,
    sent_elsewhere: AtomicU64,
    /// Steady ms of the last warning about an HTTP client.
    attack_logged_ms: AtomicI64,
}

/// How often a client that speaks HTTP is worth a line in the log, ms.
const ATTACK_LOG_INTERVAL_MS: i64 = 60_000;

impl NodeState {
    pub fn new(config: Arc<Config>) -> Self {
        NodeState {
            config: ConfigStore::new(config),
            run_id: random_hex(),
            identity: None,
            member: false,
            lease: Lease::unlimited(),
            started: Instant::now(),
            startup_bytes: AtomicU64::new(0),
            slowlog_id: AtomicU64::new(0),
            budget: Budget::new(EXECUTORS_MAX),
            memory_peak_bytes: AtomicU64::new(0),
            sent_elsewhere: AtomicU64::new(0),
            attack_logged_ms: AtomicI64::new(0),
        }
    }

    /// The id of the next entry of the slow log. Only a command that took long enough to be logged comes here.
    pub fn next_slowlog_id(&self) -> u64 {
        self.slowlog_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes how much memory is in use when a core has started; the last one to start tells the most.
    pub fn note_startup(&self, bytes: u64) {
        self.startup_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Allocated bytes when the cores had started.
    pub fn startup_bytes(&self) -> u64 {
        self.startup_bytes.load(Ordering::Relaxed)
    }

    /// Notes how much memory is in use and returns the most there ever was.
    pub fn note_memory(&self, bytes: u64) -> u64 {
        self.memory_peak_bytes.fetch_max(bytes, Ordering::Relaxed).max(bytes)
    }

    /// A client has asked for a key of which another node leads the slot.
    pub fn note_sent_elsewhere(&self) {
        self.sent_elsewhere.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub fn sent_elsewhere(&self) -> u64 {
        self.sent_elsewhere.load(Ordering::Relaxed)
    }

    /// Whether a client that speaks HTTP should be logged now; true once per interval over all cores.
    pub fn log_attack(&self, now_ms: i64) -> bool {
        let last = self.attack_logged_ms.load(Ordering::Relaxed);
        now_ms - last >= ATTACK_LOG_INTERVAL_MS
            && self.attack_logged_ms.compare_exchange(last, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// 40 random hexadecimal digits. Without a source of randomness, digits of the clock: the id only tells runs apart.
fn random_hex() -> String {
    let mut bytes = [0u8; 20];
    if getrandom::fill(&mut bytes).is_err() {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        bytes[..16].copy_from_slice(&nanos.to_be_bytes());
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_build_on_each_other() {
        let store = ConfigStore::new(Arc::new(Config::default()));
        let first = store.change(|c| Ok::<_, ()>(Config { maxclients: 7, ..c.clone() })).unwrap();
        let second = store.change(|c| Ok::<_, ()>(Config { timeout_s: 9, ..c.clone() })).unwrap();
        assert!(second.number > first.number);
        assert_eq!((second.config.maxclients, second.config.timeout_s), (7, 9));
        assert_eq!(store.change(|_| Err("no")).unwrap_err(), "no");
        assert_eq!(store.latest().number, second.number);
    }

    #[test]
    fn an_attack_is_logged_once_a_minute() {
        let state = NodeState::new(Arc::new(Config::default()));
        assert!(state.log_attack(1_000_000));
        assert!(!state.log_attack(1_000_001));
        assert!(state.log_attack(1_000_000 + ATTACK_LOG_INTERVAL_MS));
        assert_eq!(state.run_id.len(), 40);
    }
}
