//! Metrics in Prometheus' text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! A pure function from the snapshots of the cores to text. What is counted on a core carries its number as the label
//! `core`, so that an uneven load shows; commands and errors are merged, or there would be too many series.

mod member;

use std::fmt::{Display, Write};
use std::time::Duration;

use super::process::Process;
use crate::command::log::{LogNumbers, ReplicaNumbers, ReplicationNumbers};
use crate::command::table;
use crate::pubsub::Kind;
use crate::state::{KEYLOOM_VERSION, REDIS_VERSION};
use crate::stats::{Latency, Snapshot};

/// Value of the `Content-Type` header.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the buckets of histograms, ns: 1 us to 1 s.
const BUCKETS_NS: [u64; 14] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
];

/// What does not belong to a core.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    pub process: Process,
    pub uptime_s: u64,
    pub maxmemory_bytes: u64,
    pub maxclients: u64,
    pub log_dropped_lines: u64,
    pub log: LogNumbers,
    /// How old the snapshot of each core is, in the order of the snapshots.
    pub snapshot_ages: Vec<Duration>,
}

type PerCore = (&'static str, &'static str, &'static str, fn(&Snapshot) -> f64);

/// Name, type, help, value.
static PER_CORE: &[PerCore] = &[
    ("keyloom_commands_total", "counter", "Commands executed.", |s| s.calls() as f64),
    ("keyloom_connected_clients", "gauge", "Connected clients.", |s| s.net.clients as f64),
    ("keyloom_blocked_clients", "gauge", "Clients that wait for an event, or for the end of CLIENT PAUSE.", |s| {
        s.net.clients_blocked as f64
    }),
    ("keyloom_monitoring_clients", "gauge", "Clients in MONITOR.", |s| s.net.clients_monitoring as f64),
    ("keyloom_client_memory_bytes", "gauge", "Memory of connections.", |s| s.net.client_memory_bytes as f64),
    ("keyloom_connections_received_total", "counter", "Connections accepted.", |s| s.net.connections_received as f64),
    ("keyloom_connections_rejected_total", "counter", "Connections closed because of maxclients.", |s| {
        s.net.connections_rejected as f64
    }),
    ("keyloom_query_limit_disconnects_total", "counter", "Clients disconnected for sending too much.", |s| {
        s.net.query_limit_disconnects as f64
    }),
    ("keyloom_output_limit_disconnects_total", "counter", "Clients disconnected for reading too little.", |s| {
        s.net.output_limit_disconnects as f64
    }),
    ("keyloom_auth_failures_total", "counter", "Failed authentications.", |s| s.auth_failures as f64),
    ("keyloom_net_input_bytes_total", "counter", "Bytes received from clients.", |s| s.net.input_bytes as f64),
    ("keyloom_net_output_bytes_total", "counter", "Bytes sent to clients.", |s| s.net.output_bytes as f64),
    ("keyloom_net_reads_total", "counter", "Receive completions with data.", |s| s.net.reads as f64),
    ("keyloom_net_writes_total", "counter", "Sends to clients.", |s| s.net.writes as f64),
    ("keyloom_hops_out_total", "counter", "Commands sent to other cores.", |s| s.net.hops_out as f64),
    ("keyloom_hops_in_total", "counter", "Commands executed for other cores.", |s| s.net.hops_in as f64),
    ("keyloom_keyspace_hits_total", "counter", "Reads that found their key.", |s| s.counters.hits as f64),
    ("keyloom_keyspace_misses_total", "counter", "Reads that found no key.", |s| s.counters.misses as f64),
    ("keyloom_expired_keys_total", "counter", "Keys removed at their expiry.", |s| s.counters.expired as f64),
    ("keyloom_expired_fields_total", "counter", "Fields of hashes removed at their expiry.", |s| {
        s.counters.expired_fields as f64
    }),
    ("keyloom_expire_cap_reached_total", "counter", "Turns that left expired keys for the next one.", |s| {
        s.counters.expire_cap_reached as f64
    }),
    ("keyloom_evicted_keys_total", "counter", "Keys removed to free memory.", |s| s.counters.evicted as f64),
    ("keyloom_keyspace_memory_bytes", "gauge", "Memory charged to keys and values.", |s| s.memory as f64),
    ("keyloom_keyspace_heap_bytes", "gauge", "The part of it that does not come from the allocator.", |s| {
        s.heap_bytes as f64
    }),
    ("keyloom_keyspace_mapped_bytes", "gauge", "Memory mapped for that part.", |s| s.mapped_bytes as f64),
    ("keyloom_memory_share_bytes", "gauge", "The core's share of maxmemory; 0 is no limit.", |s| s.share_bytes as f64),
    ("keyloom_pubsub_clients", "gauge", "Clients with subscriptions.", |s| s.pubsub.clients as f64),
    ("keyloom_slowlog_length", "gauge", "Slow commands kept.", |s| s.slowlog_len as f64),
];

/// The page of all metrics.
pub fn render(cores: &[Snapshot], facts: &NodeFacts) -> String {
    let mut page = Page(String::new());
    page.head("keyloom_build_info", "gauge", "Always 1; the labels tell the versions.");
    page.sample("keyloom_build_info", &[("version", KEYLOOM_VERSION), ("redis_version", REDIS_VERSION)], 1);
    node(&mut page, facts);
    persistence(&mut page, &facts.log, cores.iter().map(|core| core.changes).sum());
    replication(&mut page, &facts.log.replication);
    if let Some(numbers) = &facts.log.member {
        member::render(&mut page, numbers);
    }
    for (name, kind, help, value) in PER_CORE {
        page.head(name, kind, help);
        for core in cores {
            page.sample(name, &[("core", &core.core.to_string())], value(core));
        }
    }
    page.head(
        "keyloom_core_snapshot_age_seconds",
        "gauge",
        "Time since the core told its numbers; it grows while busy.",
    );
    for (core, age) in cores.iter().zip(&facts.snapshot_ages) {
        page.sample("keyloom_core_snapshot_age_seconds", &[("core", &core.core.to_string())], age.as_secs_f64());
    }
    queues(&mut page, cores);
    page.head("keyloom_hop_duration_seconds", "histogram", "From sending commands to another core to its replies.");
    for core in cores {
        let label = [("core", &*core.core.to_string())];
        page.histogram("keyloom_hop_duration_seconds", &label, &core.net.hop_latency);
    }
    page.head("keyloom_expire_lag_seconds", "histogram", "How late keys were removed that nobody looked at.");
    for core in cores {
        let label = [("core", &*core.core.to_string())];
        page.histogram("keyloom_expire_lag_seconds", &label, &core.expiry_lag);
    }
    let sum = Snapshot::merged(cores);
    commands(&mut page, &sum);
    keyspace(&mut page, &sum);
    pubsub(&mut page, &sum);
    page.0
}

fn node(page: &mut Page, facts: &NodeFacts) {
    let process = &facts.process;
    for (name, kind, help, value) in [
        ("keyloom_uptime_seconds", "gauge", "Time since the start.", facts.uptime_s as f64),
        ("keyloom_maxclients", "gauge", "Most clients allowed.", facts.maxclients as f64),
        ("keyloom_maxmemory_bytes", "gauge", "Memory limit of the keyspace; 0 is none.", facts.maxmemory_bytes as f64),
        (
            "keyloom_memory_allocated_bytes",
            "gauge",
            "Bytes that the allocator has given out.",
            process.allocated_bytes as f64,
        ),
        ("keyloom_memory_active_bytes", "gauge", "Pages in use.", process.active_bytes as f64),
        ("keyloom_memory_resident_bytes", "gauge", "Bytes in RAM, of the whole process.", process.rss_bytes as f64),
        ("keyloom_cpu_user_seconds_total", "counter", "CPU time of the process in user mode.", process.cpu_user_s),
        ("keyloom_cpu_system_seconds_total", "counter", "CPU time of the process in the kernel.", process.cpu_system_s),
        (
            "keyloom_log_dropped_lines_total",
            "counter",
            "Lines that the log lost because its writer was behind.",
            facts.log_dropped_lines as f64,
        ),
    ] {
        page.head(name, kind, help);
        page.sample(name, &[], value);
    }
}

/// The log and the snapshots.
fn persistence(page: &mut Page, log: &LogNumbers, changes: u64) {
    let unsaved = changes.saturating_sub(log.changes_saved) as f64;
    let one = |yes: bool| yes as u8 as f64;
    for (name, kind, help, value) in [
        ("keyloom_log_enabled", "gauge", "1 if the log is written to disk.", one(log.wal)),
        ("keyloom_log_end_index", "gauge", "Index of the last unit of the log.", log.end as f64),
        ("keyloom_log_durable_index", "gauge", "Index of the last unit that is synced here.", log.durable as f64),
        ("keyloom_log_size_bytes", "gauge", "Bytes of the log's files.", log.wal_bytes as f64),
        ("keyloom_log_unwritten_bytes", "gauge", "Bytes of the log that are not synced.", log.unwritten_bytes as f64),
        ("keyloom_log_appended_bytes_total", "counter", "Bytes added to the log on disk.", log.appended_bytes as f64),
        ("keyloom_log_healthy", "gauge", "0 while the log cannot be written.", one(log.disk_error.is_none())),
        ("keyloom_log_backlog_bytes", "gauge", "Bytes of the log kept in memory.", log.backlog_bytes as f64),
        ("keyloom_snapshots_total", "counter", "Snapshots completed.", log.saves as f64),
        ("keyloom_snapshot_in_progress", "gauge", "1 while a snapshot is made.", one(log.saving)),
        ("keyloom_snapshot_last_success", "gauge", "0 if the last snapshot failed.", one(log.last_save_ok)),
        ("keyloom_snapshot_last_size_bytes", "gauge", "Size of the last snapshot.", log.last_save_bytes as f64),
        (
            "keyloom_snapshot_last_time_seconds",
            "gauge",
            "Unix time of the last snapshot, or of the start.",
            log.last_save_s as f64,
        ),
        ("keyloom_changes_since_snapshot", "gauge", "Changes of keys that no snapshot has.", unsaved),
    ] {
        page.head(name, kind, help);
        page.sample(name, &[], value);
    }
}

/// Who follows this node, and whom it follows. Offsets are indices of the log.
fn replication(page: &mut Page, numbers: &ReplicationNumbers) {
    let one = |yes: bool| yes as u8 as f64;
    let follows = numbers.primary.is_some();
    for (name, help, value) in [
        ("keyloom_replication_leads", "1 if this node follows no other.", one(!follows)),
        ("keyloom_replication_connected_replicas", "Replicas that are connected.", numbers.replicas.len() as f64),
        ("keyloom_replication_in_sync_replicas", "Replicas that could take over.", numbers.in_sync as f64),
        ("keyloom_replication_good_replicas", "Replicas that count for min-replicas-to-write.", numbers.good as f64),
        ("keyloom_replication_commit_index", "Index up to which enough replicas have the log.", numbers.commit as f64),
        (
            "keyloom_replication_failover_in_progress",
            "1 while the lead is handed over.",
            one(!matches!(numbers.failover, "" | "no-failover")),
        ),
    ] {
        page.head(name, "gauge", help);
        page.sample(name, &[], value);
    }
    for (name, help, value) in [
        ("keyloom_replication_full_syncs_total", "Replicas that needed a copy.", numbers.syncs.full),
        ("keyloom_replication_partial_syncs_total", "Replicas that went on where they were.", numbers.syncs.partial),
    ] {
        page.head(name, "counter", help);
        page.sample(name, &[], value);
    }
    if follows {
        for (name, help, value) in [
            ("keyloom_replication_link_up", "1 while the primary's log is followed.", one(numbers.link_up)),
            ("keyloom_replication_copy_in_progress", "1 while a copy is received.", one(numbers.receiving)),
            ("keyloom_replication_received_index", "Last index received.", numbers.received as f64),
            ("keyloom_replication_applied_index", "Last index applied.", numbers.applied as f64),
            (
                "keyloom_replication_lag_entries",
                "Units that the primary has and this node has not.",
                numbers.lag as f64,
            ),
            (
                "keyloom_replication_suspicion",
                "Phi: how sure it is that the primary is dead.",
                finite(numbers.suspicion),
            ),
        ] {
            page.head(name, "gauge", help);
            page.sample(name, &[], value);
        }
    }
    type PerReplica = (&'static str, &'static str, fn(&ReplicaNumbers) -> f64);
    let per_replica: [PerReplica; 7] = [
        ("keyloom_replica_online", "1 if it follows the log.", |r| r.streaming as u8 as f64),
        ("keyloom_replica_in_sync", "1 if it could take over.", |r| r.in_sync as u8 as f64),
        ("keyloom_replica_received_index", "Last index that it has.", |r| r.received as f64),
        ("keyloom_replica_lag_entries", "Units that it has not acknowledged.", |r| r.entries as f64),
        ("keyloom_replica_lag_bytes", "Bytes that it has not acknowledged.", |r| r.bytes as f64),
        ("keyloom_replica_lag_seconds", "For how long it has been behind.", |r| r.ms as f64 / 1000.0),
        ("keyloom_replica_suspicion", "Phi: how sure it is that it is dead.", |r| finite(r.suspicion)),
    ];
    for (name, help, value) in per_replica {
        page.head(name, "gauge", help);
        for replica in &numbers.replicas {
            let node = format!("{}:{}", replica.host, replica.port);
            page.sample(name, &[("replica", &node)], value(replica));
        }
    }
}

/// Suspicion has no end; a scraper wants a number.
fn finite(suspicion: f64) -> f64 {
    if suspicion.is_finite() { suspicion } else { f64::MAX }
}

fn queues(page: &mut Page, cores: &[Snapshot]) {
    page.head("keyloom_mesh_queue_depth", "gauge", "Messages that wait in the ring from one core to another.");
    for core in cores {
        for (to, depth) in core.net.queue_depths.iter().enumerate().filter(|(to, _)| *to != core.core as usize) {
            let labels = [("from", &*core.core.to_string()), ("to", &*to.to_string())];
            page.sample("keyloom_mesh_queue_depth", &labels, depth);
        }
    }
}

fn commands(page: &mut Page, sum: &Snapshot) {
    let used = || table().rows().iter().zip(&sum.commands).filter(|(_, stats)| stats.is_used());
    page.head("keyloom_command_rejected_total", "counter", "Commands refused before they ran.");
    for (row, stats) in used() {
        page.sample("keyloom_command_rejected_total", &[("command", &row.full_name)], stats.rejected);
    }
    page.head("keyloom_command_failed_total", "counter", "Commands that ran and answered an error.");
    for (row, stats) in used() {
        page.sample("keyloom_command_failed_total", &[("command", &row.full_name)], stats.failed);
    }
    page.head("keyloom_command_duration_seconds", "histogram", "Execution times of commands.");
    for (row, stats) in used().filter(|(_, stats)| stats.latency.count() > 0) {
        let label = [("command", &*row.full_name)];
        page.histogram("keyloom_command_duration_seconds", &label, &stats.latency);
    }
    page.head("keyloom_errors_total", "counter", "Error replies by their code.");
    for (code, count) in sum.errors.iter() {
        page.sample("keyloom_errors_total", &[("code", code)], count);
    }
}

fn keyspace(page: &mut Page, sum: &Snapshot) {
    let used = || sum.keyspace.iter().enumerate().filter(|(_, size)| size.keys > 0);
    page.head("keyloom_db_keys", "gauge", "Keys of a database.");
    used().for_each(|(db, size)| page.sample("keyloom_db_keys", &[("db", &db.to_string())], size.keys));
    page.head("keyloom_db_expiring_keys", "gauge", "Keys of a database that have an expiry.");
    used().for_each(|(db, size)| page.sample("keyloom_db_expiring_keys", &[("db", &db.to_string())], size.expires));
}

/// What several cores have counts once.
fn pubsub(page: &mut Page, sum: &Snapshot) {
    for (name, help, kind) in [
        ("keyloom_pubsub_channels", "Channels with subscribers.", Kind::Channel),
        ("keyloom_pubsub_patterns", "Patterns with subscribers.", Kind::Pattern),
        ("keyloom_pubsub_shard_channels", "Shard channels with subscribers.", Kind::Shard),
    ] {
        page.head(name, "gauge", help);
        page.sample(name, &[], sum.pubsub.of(kind));
    }
}

/// The text under construction.
struct Page(String);

impl Page {
    /// The lines in front of the samples of one metric.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if i == 0 { '{' } else { ',' }, escape(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], times: &Latency) {
        self.histogram_with(&BUCKETS_NS, name, labels, times);
    }

    fn histogram_with(&mut self, bounds_ns: &[u64], name: &str, labels: &[(&str, &str)], times: &Latency) {
        let bucket = format!("{name}_bucket");
        for &bound_ns in bounds_ns {
            let bound = (bound_ns as f64 / 1e9).to_string();
            let with_bound: Vec<_> = labels.iter().copied().chain([("le", &*bound)]).collect();
            self.sample(&bucket, &with_bound, times.count_up_to(bound_ns));
        }
        let with_bound: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        self.sample(&bucket, &with_bound, times.count());
        self.sample(&format!("{name}_sum"), labels, times.sum_nanos() / 1e9);
        self.sample(&format!("{name}_count"), labels, times.count());
    }
}

/// Label values are quoted: backslash, quote and line feed are escaped.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::command::member::tests::member;
    use crate::command::transcript::Client;

    fn facts() -> NodeFacts {
        let replica = ReplicaNumbers {
            host: "10.0.0.2".into(),
            port: 7000,
            ms: 1500,
            suspicion: f64::INFINITY,
            ..ReplicaNumbers::default()
        };
        let second = ReplicaNumbers { port: 7001, streaming: true, ..replica.clone() };
        let primary = Some(("10.0.0.1".to_string(), 6379));
        let replication =
            ReplicationNumbers { primary, lag: 3, replicas: vec![replica, second], ..ReplicationNumbers::default() };
        NodeFacts {
            process: Process::read(),
            uptime_s: 5,
            maxmemory_bytes: 0,
            maxclients: 10_000,
            log_dropped_lines: 0,
            log: LogNumbers {
                end: 7,
                durable: 5,
                wal: true,
                changes_saved: 1,
                replication,
                member: Some(Box::new(member())),
                ..LogNumbers::default()
            },
            snapshot_ages: vec![Duration::ZERO, Duration::from_millis(1500)],
        }
    }

    /// Checks the page as a scraper does; returns the samples by name and labels.
    fn check(page: &str) -> HashMap<String, f64> {
        let mut kinds: HashMap<String, String> = HashMap::new();
        let mut samples = HashMap::new();
        let mut closed: HashSet<String> = HashSet::new();
        let mut open = String::new();
        assert!(page.ends_with('\n'));
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind));
                assert!(closed.insert(open.clone()) || open.is_empty(), "{open} in two places");
                open = name.to_string();
                assert!(kinds.insert(name.into(), kind.into()).is_none(), "{name} has two types");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let metric = if kinds.get(&open).is_some_and(|kind| kind == "histogram") {
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap()
            } else {
                name
            };
            assert_eq!(metric, open, "a sample outside of its metric");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
                assert!(labels.starts_with('{') && labels.ends_with("\"}"), "{series}");
                assert_eq!(labels.matches('"').count() % 2, 0, "{series}");
            }
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(value.is_finite());
            assert!(samples.insert(series.to_string(), value).is_none(), "{series} twice");
        }
        samples
    }

    #[test]
    fn the_page_is_well_formed_and_true() {
        let mut client = Client::new();
        client.run("set a 1");
        client.run("get a");
        client.run("client setname x");
        client.run("nosuch");
        client.run("set brief 1 px 1");
        client.engine.shard.set_now(client.engine.shard.now_ms() + 4);
        client.engine.expire_due();
        client.engine.net.hop_latency.record(3_000);
        client.engine.net.queue_depths = vec![0, 4];
        let mut other = Snapshot { core: 1, ..Snapshot::default() };
        other.net.clients = 3;
        let samples = check(&render(&[client.engine.snapshot(), other], &facts()));
        for (series, value) in [
            ("keyloom_commands_total{core=\"0\"}", 4.0),
            ("keyloom_commands_total{core=\"1\"}", 0.0),
            ("keyloom_connected_clients{core=\"1\"}", 3.0),
            ("keyloom_log_end_index", 7.0),
            ("keyloom_log_durable_index", 5.0),
            ("keyloom_log_healthy", 1.0),
            ("keyloom_snapshot_in_progress", 0.0),
            // SET twice, and one of both is in the snapshot.
            ("keyloom_changes_since_snapshot", 1.0),
            ("keyloom_keyspace_hits_total{core=\"0\"}", 1.0),
            ("keyloom_errors_total{code=\"ERR\"}", 1.0),
            ("keyloom_db_keys{db=\"0\"}", 1.0),
            ("keyloom_mesh_queue_depth{from=\"0\",to=\"1\"}", 4.0),
            ("keyloom_command_duration_seconds_count{command=\"client|setname\"}", 1.0),
            ("keyloom_command_duration_seconds_bucket{command=\"get\",le=\"+Inf\"}", 1.0),
            ("keyloom_hop_duration_seconds_bucket{core=\"0\",le=\"0.0000025\"}", 0.0),
            ("keyloom_hop_duration_seconds_bucket{core=\"0\",le=\"0.000005\"}", 1.0),
            ("keyloom_core_snapshot_age_seconds{core=\"1\"}", 1.5),
            ("keyloom_expired_keys_total{core=\"0\"}", 1.0),
            ("keyloom_expire_cap_reached_total{core=\"0\"}", 0.0),
            ("keyloom_expire_lag_seconds_bucket{core=\"0\",le=\"0.001\"}", 0.0),
            ("keyloom_expire_lag_seconds_bucket{core=\"0\",le=\"0.005\"}", 1.0),
            ("keyloom_uptime_seconds", 5.0),
            ("keyloom_replication_leads", 0.0),
            ("keyloom_replication_lag_entries", 3.0),
            ("keyloom_replication_connected_replicas", 2.0),
            ("keyloom_replica_lag_seconds{replica=\"10.0.0.2:7000\"}", 1.5),
            ("keyloom_replica_online{replica=\"10.0.0.2:7001\"}", 1.0),
            ("keyloom_cluster_raft_role{role=\"leader\"}", 1.0),
            ("keyloom_cluster_raft_leader", 1.0),
            ("keyloom_cluster_lease_left_seconds", 0.25),
            ("keyloom_cluster_partitions_led", 342.0),
            ("keyloom_cluster_leases_lapsed_total", 3.0),
            ("keyloom_cluster_promotions_total", 12.0),
            ("keyloom_cluster_handovers_completed_total", 4.0),
            ("keyloom_cluster_handover_pause_seconds_count", 3.0),
            ("keyloom_follower_lag_seconds{node=\"2\"}", 1.5),
            ("keyloom_follower_suspicion{node=\"2\"}", f64::MAX),
            ("keyloom_upstream_connected{node=\"3\"}", 0.0),
            ("keyloom_cluster_member_alive{node=\"2\"}", 0.0),
            ("keyloom_cluster_member_lease_left_seconds{node=\"1\"}", 0.28),
        ] {
            assert_eq!(samples.get(series), Some(&value), "{series}");
        }
        // Nobody knows for how long it has been silent.
        assert!(!samples.contains_key("keyloom_upstream_silent_seconds{node=\"3\"}"));
        let sum = samples["keyloom_hop_duration_seconds_sum{core=\"0\"}"];
        assert!((2.9e-6..3.1e-6).contains(&sum), "{sum}");
    }

    #[test]
    fn a_node_that_did_nothing_has_a_page_too() {
        check(&render(&[], &facts()));
        let mut alone = facts();
        alone.log.member = None;
        assert!(!check(&render(&[], &alone)).keys().any(|series| series.starts_with("keyloom_cluster")));
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\\b\"c\nd|e"), "a\\\\b\\\"c\\nd|e");
    }
}
