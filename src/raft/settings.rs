//! The numbers that openraft runs with, each with its reason, in one place.
//!
//! No state.

use std::sync::Arc;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// How quickly a leader is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// A new leader after about half a second: for control cores that share a CPU with a data core, or disks that take
    /// tens of milliseconds to sync now and then.
    #[default]
    Steady,
    /// After about a third of a second: for control cores with a CPU of their own and disks that sync in a millisecond.
    Brisk,
}

/// Heartbeats come at least three times in the shortest election timeout, so one that is lost starts no election. The
/// longest is twice the shortest: of three nodes two seldom begin at once.
struct Times {
    heartbeat_ms: u64,
    election_min_ms: u64,
    election_max_ms: u64,
}

const STEADY: Times = Times { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 };
const BRISK: Times = Times { heartbeat_ms: 30, election_min_ms: 100, election_max_ms: 200 };
const _: () = assert!(STEADY.heartbeat_ms * 3 <= STEADY.election_min_ms);
const _: () = assert!(BRISK.heartbeat_ms * 3 <= BRISK.election_min_ms);

/// Entries after which the state is written down. The state is about a hundred kilobytes, an entry some hundred bytes: a
/// start replays no more than this.
const SNAPSHOT_ENTRIES: u64 = 2_000;

/// Entries that stay in the log though a snapshot has them: a node that was away for a while gets these, not the snapshot.
/// They also keep the log in step with a snapshot that is being sent.
const KEPT_ENTRIES: u64 = 1_000;

/// Entries by which a node may be behind before it is sent a snapshot. It has to be more than a snapshot leaves behind.
const LAG_ENTRIES: u64 = SNAPSHOT_ENTRIES + KEPT_ENTRIES;
const _: () = assert!(LAG_ENTRIES > SNAPSHOT_ENTRIES);

/// Most entries in one message, and in one write.
pub const MESSAGE_ENTRIES_MAX: u64 = 64;

/// How long a snapshot may take to arrive and be installed.
const SNAPSHOT_PATIENCE_MS: u64 = 10_000;

/// Requests that wait for raft, and what waits for the state. A control plane has few; more than this is a flood that has
/// to wait.
const QUEUE_LENGTH: u64 = 1_024;

/// Notifications that wait for raft: openraft's own number. Its core takes from this queue and also puts into it, waiting
/// for room when it is full. While it waits for the disk, each tick and each answer adds one; a queue that is filled in one
/// stall of the disk is never emptied again, as the only one who could waits for room. So it has to outlast any stall.
const NOTIFICATIONS_MAX: u64 = 65_536;

/// openraft's configuration.
pub fn config(cluster: &str, pace: Pace) -> Result<Arc<Config>, ConfigError> {
    let times = match pace {
        Pace::Steady => STEADY,
        Pace::Brisk => BRISK,
    };
    let config = Config {
        cluster_name: cluster.into(),
        heartbeat_interval: times.heartbeat_ms,
        election_timeout_min: times.election_min_ms,
        election_timeout_max: times.election_max_ms,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        replication_lag_threshold: LAG_ENTRIES,
        install_snapshot_timeout: SNAPSHOT_PATIENCE_MS,
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        max_append_entries: Some(MESSAGE_ENTRIES_MAX),
        api_channel_size: Some(QUEUE_LENGTH),
        notification_channel_size: Some(NOTIFICATIONS_MAX),
        state_machine_channel_size: Some(QUEUE_LENGTH),
        // A leader that was restarted would lead on with what it had committed before, and answer reads from a state that
        // others have left behind: it stands for election as everybody else.
        enable_leader_restore: Some(false),
        // A node that was cut off must not depose a healthy leader when it comes back.
        enable_pre_vote: Some(true),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openraft_accepts_the_settings() {
        for pace in [Pace::Steady, Pace::Brisk] {
            let config = config("test", pace).unwrap();
            assert_eq!(config.enable_leader_restore, Some(false));
            assert_eq!(config.enable_pre_vote, Some(true));
            assert!(config.max_in_snapshot_log_to_keep >= 1_000);
            assert_eq!(config.notification_channel_size, Config::default().notification_channel_size);
        }
    }
}
