//! Configuration: redis.conf syntax and names.
//!
//! [`table`] names every directive: how it is read, printed, and whether CONFIG SET may change it. [`load`] reads files
//! and the command line, [`rewrite`] writes changes back. A [`Config`] is a plain value: a change makes a new one, which
//! its maker hands to every core ([`crate::command::Ask::Configure`]). Nothing here is on the path of a command.

pub mod choice;
pub mod error;
pub mod load;
pub mod rewrite;
pub mod table;
pub mod value;
pub mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use choice::{AppendFsync, ControlCore, DebugCommand, LogFormat, LogLevel, MaxmemoryPolicy};
pub use error::{LoadError, RewriteError, SetError};
pub use table::{Change, Directive};

use crate::collection::Thresholds;
use crate::command::glob;
use crate::log::durability::Durability;
use crate::raft::stored::VERSION;
use crate::shard::Classes;

/// What the port of the bus is above that of clients, as in Redis.
const BUS_PORT_OFFSET: u16 = 10_000;

/// What the port of the first core is above that of clients.
const CORE_PORT_OFFSET: u16 = 1_000;

/// All settings of one node. The names are those of the directives, with the unit added where there is one.
#[derive(Clone, Debug)]
pub struct Config {
    /// TCP port; 0 is none where there is a Unix socket, and any free one otherwise.
    pub port: u16,
    /// IP addresses, `*` or `::*`; with `-` before it, one that this machine does not have is skipped.
    pub bind: Vec<String>,
    pub unixsocket: Option<String>,
    /// Permissions of the Unix socket; 0 leaves them to the umask.
    pub unixsocketperm: u32,
    pub databases: usize,
    pub maxclients: usize,
    /// Idle clients are disconnected after this; 0 is never.
    pub timeout_s: u64,
    pub tcp_backlog: i32,
    /// 0 is off.
    pub tcp_keepalive_s: u32,
    /// Empty is none.
    pub requirepass: String,
    /// Without a password, refuse clients that are not on this machine.
    pub protected_mode: bool,
    pub proto_max_bulk_len: i64,
    pub client_query_buffer_limit: usize,
    /// Output limits of normal clients: hard bytes, soft bytes, soft seconds; 0 is none.
    pub client_output_buffer_limit_normal: OutputLimit,
    pub client_output_buffer_limit_replica: OutputLimit,
    pub client_output_buffer_limit_pubsub: OutputLimit,
    /// 0 logs every command, -1 none.
    pub slowlog_log_slower_than_us: i64,
    pub slowlog_max_len: usize,
    pub latency_tracking: bool,
    pub latency_tracking_info_percentiles: Vec<f64>,
    /// 0 is off.
    pub latency_monitor_threshold_ms: u64,
    /// 0 is no limit.
    pub maxmemory_bytes: u64,
    pub maxmemory_policy: MaxmemoryPolicy,
    /// Taken for compatibility: victims are not found by sampling.
    pub maxmemory_samples: u32,
    pub lfu_log_factor: u32,
    pub lfu_decay_time_minutes: u32,
    /// When compact collections become large ones.
    pub thresholds: Thresholds,
    /// Events of keys that are recorded for publishing, once somebody takes them; see [`crate::shard::notify`].
    pub notify_keyspace_events: Classes,
    /// DEL frees like UNLINK.
    pub lazyfree_lazy_user_del: bool,
    /// FLUSHDB and FLUSHALL without SYNC or ASYNC mean ASYNC.
    pub lazyfree_lazy_user_flush: bool,
    pub enable_debug_command: DebugCommand,
    pub loglevel: LogLevel,
    /// Empty is the standard output.
    pub logfile: String,
    pub log_format: LogFormat,
    /// Empty is none.
    pub pidfile: String,
    /// Working directory of the process; absolute once loaded.
    pub dir: String,
    /// CPUs of the data cores, one core each. Invariant: ascending, each once, not empty.
    pub cpus: Vec<usize>,
    /// `cpus all`: `cpus` holds what the process may run on.
    pub cpus_all: bool,
    /// Invariant: a power of two up to 16384, and at least one per core.
    pub partitions: u16,
    /// It was chosen, and is not the default of the mode.
    pub partitions_chosen: bool,
    /// The node speaks Redis Cluster's protocol, and has one database.
    pub cluster_enabled: bool,
    /// Commands may have keys of several slots, as long as all are of this node.
    pub cluster_allow_local_crossslot: bool,
    /// Where clients reach this node; empty and 0: where they have reached it.
    pub cluster_announce_ip: String,
    pub cluster_announce_port: u16,
    /// Where other nodes reach this one, if that is not where it listens; 0: it is.
    pub cluster_announce_bus_port: u16,
    pub cluster_announce_core_port: u16,
    /// Nodes talk to each other only if they name the same cluster.
    pub cluster_name: String,
    /// What all nodes of a cluster know; empty: nothing, and whoever reaches the bus is believed.
    pub cluster_secret: String,
    /// TCP port of the bus; 0: that of clients and 10000.
    pub cluster_port: u16,
    /// Clients of the cluster are told of a port of each core.
    pub core_endpoints: bool,
    /// That of the first core; 0: [`CORE_PORT_OFFSET`] beyond the client port.
    pub core_port: u16,
    /// What fails together with others of the same name; empty: nothing.
    pub cluster_rack: String,
    /// This node's share of the partitions, relative to others.
    pub cluster_weight: u16,
    /// Copies of each partition, if there are as many nodes.
    pub cluster_copies: u16,
    /// Bytes of copies that a node takes in a second at the most; 0: whatever comes.
    pub cluster_copy_rate: u64,
    /// The newest version of the formats between nodes that this one speaks.
    pub cluster_version: u16,
    /// TCP port of the metrics endpoint; 0 is off.
    pub admin_port: u16,
    pub admin_bind: String,
    pub control_core: ControlCore,
    /// Writes are kept in a log on disk.
    pub appendonly: bool,
    pub appendfsync: AppendFsync,
    /// A snapshot is made when the log on disk has grown by so much of the last snapshot's size, %; 0 is never.
    pub auto_aof_rewrite_percentage: u32,
    /// The log below which that is not looked at, bytes.
    pub auto_aof_rewrite_min_size: u64,
    /// The log's directory, below `dir`.
    pub appenddirname: String,
    /// A snapshot is made after so many seconds if there were so many changes.
    pub save: Vec<(u64, u64)>,
    /// Writes are refused while the last snapshot by save points failed.
    pub stop_writes_on_bgsave_error: bool,
    pub shutdown_on_sigint: ShutdownOn,
    pub shutdown_on_sigterm: ShutdownOn,
    /// Longest that the end of the node waits for its last snapshot.
    pub shutdown_timeout_s: u64,
    /// Values of [`table::Kind::Taken`] that are not the default.
    pub taken: BTreeMap<&'static str, String>,
    /// A dump of Redis, below `dir`, that is read at start if there is nothing else.
    pub dbfilename: String,
    /// What a reply to a write means to connections that have not chosen.
    pub write_durability: Durability,
    /// Copies, this one included, that `quorum` needs.
    pub min_insync: u16,
    /// A replica that has not acknowledged for so long is not in sync, ms.
    pub insync_timeout_ms: u64,
    pub min_replicas_to_write: u16,
    /// The port at which others reach this node when it is a replica, if not `port`; 0 is `port`.
    pub replica_announce_port: u16,
    pub min_replicas_max_lag_s: u64,
    /// Bytes of the log that are kept in memory for replicas that come back.
    pub repl_backlog_size: u64,
    pub repl_timeout_s: u64,
    /// Host and port of the primary.
    pub replicaof: Option<(String, u16)>,
    pub masterauth: String,
    pub masteruser: String,
    /// Bytes of the log on disk above which a snapshot is made that lets the older part go.
    pub wal_max_size: u64,
    /// Bytes of one file of the log.
    pub wal_segment_size: u64,
    /// The file that was read at start, absolute; CONFIG REWRITE writes it.
    pub config_file: Option<PathBuf>,
    /// Working directory when the process started: relative `dir` in a file starts here.
    pub started_in: PathBuf,
}

/// When a client's unsent replies are too many. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLimit {
    pub hard_bytes: u64,
    /// Over these bytes for `soft_s` seconds on end.
    pub soft_bytes: u64,
    pub soft_s: u64,
}

impl OutputLimit {
    /// The bytes that are never exceeded: with 0, there is no limit.
    pub fn bytes_max(self) -> u64 {
        if self.hard_bytes == 0 { u64::MAX } else { self.hard_bytes }
    }
}

/// How the node ends when a signal, or SHUTDOWN, tells it to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownOn {
    /// Whether a snapshot is made first; None: if there are save points.
    pub save: Option<bool>,
    /// Replicas that lag are not waited for.
    pub now: bool,
    /// What goes wrong does not keep the node from ending.
    pub force: bool,
}

impl fmt::Display for ShutdownOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let save = self.save.map(|save| if save { "save" } else { "nosave" });
        let words = [save, self.now.then_some("now"), self.force.then_some("force")];
        let words: Vec<_> = words.into_iter().flatten().collect();
        f.write_str(if words.is_empty() { "default" } else { "" })?;
        f.write_str(&words.join(" "))
    }
}

const MIB: u64 = 1 << 20;

impl Default for Config {
    fn default() -> Self {
        Config {
            port: 6379,
            bind: vec!["127.0.0.1".into()],
            unixsocket: None,
            unixsocketperm: 0,
            databases: 16,
            maxclients: 10000,
            timeout_s: 0,
            tcp_backlog: 511,
            tcp_keepalive_s: 300,
            requirepass: String::new(),
            protected_mode: true,
            proto_max_bulk_len: 512 * MIB as i64,
            client_query_buffer_limit: 1 << 30,
            client_output_buffer_limit_normal: OutputLimit::default(),
            client_output_buffer_limit_replica: OutputLimit { hard_bytes: 256 * MIB, soft_bytes: 64 * MIB, soft_s: 60 },
            client_output_buffer_limit_pubsub: OutputLimit { hard_bytes: 32 * MIB, soft_bytes: 8 * MIB, soft_s: 60 },
            slowlog_log_slower_than_us: 10_000,
            slowlog_max_len: 128,
            latency_tracking: true,
            latency_tracking_info_percentiles: vec![50.0, 99.0, 99.9],
            latency_monitor_threshold_ms: 0,
            maxmemory_bytes: 0,
            maxmemory_policy: MaxmemoryPolicy::NoEviction,
            maxmemory_samples: 5,
            lfu_log_factor: 10,
            lfu_decay_time_minutes: 1,
            thresholds: Thresholds::default(),
            notify_keyspace_events: Classes::NONE,
            lazyfree_lazy_user_del: false,
            lazyfree_lazy_user_flush: false,
            enable_debug_command: DebugCommand::No,
            loglevel: LogLevel::Notice,
            logfile: String::new(),
            log_format: LogFormat::Text,
            pidfile: String::new(),
            dir: ".".into(),
            cpus: load::allowed_cpus(),
            cpus_all: true,
            partitions: 256,
            partitions_chosen: false,
            cluster_enabled: false,
            cluster_allow_local_crossslot: false,
            cluster_announce_ip: String::new(),
            cluster_announce_port: 0,
            cluster_announce_bus_port: 0,
            cluster_announce_core_port: 0,
            cluster_name: "keyloom".into(),
            cluster_secret: String::new(),
            cluster_port: 0,
            core_endpoints: false,
            core_port: 0,
            cluster_rack: String::new(),
            cluster_weight: 1,
            cluster_copies: 3,
            cluster_copy_rate: 64 << 20,
            cluster_version: VERSION.into(),
            admin_port: 0,
            admin_bind: "127.0.0.1".into(),
            control_core: ControlCore::Shared,
            appendonly: false,
            appendfsync: AppendFsync::EverySec,
            auto_aof_rewrite_percentage: 100,
            auto_aof_rewrite_min_size: 64 * MIB,
            appenddirname: "appendonlydir".into(),
            save: Vec::new(),
            stop_writes_on_bgsave_error: true,
            shutdown_on_sigint: ShutdownOn::default(),
            shutdown_on_sigterm: ShutdownOn::default(),
            shutdown_timeout_s: 10,
            taken: BTreeMap::new(),
            dbfilename: "dump.rdb".into(),
            write_durability: Durability::Memory,
            min_insync: 1,
            insync_timeout_ms: 1000,
            replica_announce_port: 0,
            min_replicas_to_write: 0,
            min_replicas_max_lag_s: 10,
            repl_backlog_size: 10 * MIB,
            repl_timeout_s: 60,
            replicaof: None,
            masterauth: String::new(),
            masteruser: String::new(),
            wal_max_size: 1024 * MIB,
            wal_segment_size: 64 * MIB,
            config_file: None,
            started_in: PathBuf::new(),
        }
    }
}

/// An address of `bind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// As the resolver takes it: `*` and `::*` are those that mean all of a machine.
    pub host: &'a str,
    /// It began with `-`: the node does without it if it cannot be had.
    pub optional: bool,
}

impl Bind<'_> {
    /// Whether it means all addresses of the machine.
    pub fn is_everywhere(&self) -> bool {
        matches!(self.host, "0.0.0.0" | "::")
    }
}

impl Config {
    /// The addresses at which the node listens.
    pub fn binds(&self) -> impl Iterator<Item = Bind<'_>> {
        self.bind.iter().map(|address| {
            let (host, optional) = address.strip_prefix('-').map_or((&address[..], false), |host| (host, true));
            let host = match host {
                "*" => "0.0.0.0",
                "::*" => "::",
                host => host,
            };
            Bind { host, optional }
        })
    }

    /// What a reply to a write means to connections that have not chosen.
    pub fn default_durability(&self) -> Durability {
        match self.write_durability {
            Durability::Memory if self.appendonly && self.appendfsync == AppendFsync::Always => Durability::Disk,
            chosen => chosen,
        }
    }

    /// The port of the bus; None: that of clients leaves no room for it, and none was chosen.
    pub fn bus_port(&self) -> Option<u16> {
        if self.cluster_port > 0 { Some(self.cluster_port) } else { self.port.checked_add(BUS_PORT_OFFSET) }
    }

    /// The port of the first core, if cores have ports of their own and there is room for them.
    pub fn first_core_port(&self) -> Option<u16> {
        if !self.core_endpoints {
            return None;
        }
        let first = if self.core_port > 0 { self.core_port } else { self.port.checked_add(CORE_PORT_OFFSET)? };
        first.checked_add(self.cpus.len() as u16 - 1).map(|_| first)
    }

    /// The core that has this port to itself.
    pub fn core_at(&self, port: u16) -> Option<u16> {
        let core = port.checked_sub(self.first_core_port()?)?;
        (usize::from(core) < self.cpus.len()).then_some(core)
    }

    /// The port of the first core that clients are told of.
    pub fn announced_core_port(&self) -> Option<u16> {
        let first = self.first_core_port()?;
        Some(if self.cluster_announce_core_port > 0 { self.cluster_announce_core_port } else { first })
    }

    /// Databases that a shard has: in a cluster there is one that clients do not have ([`crate::shard::FOLLOWED`]).
    pub fn shard_databases(&self) -> usize {
        if self.cluster_enabled { 2 } else { self.databases }
    }

    /// Replicas that writes need; as in Redis, either directive turns that off.
    pub fn good_replicas_min(&self) -> usize {
        if self.min_replicas_max_lag_s == 0 { 0 } else { self.min_replicas_to_write as usize }
    }

    /// Whether directives fit together that are good each on its own: the one that does not, and why.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let on_disk = matches!(self.write_durability, Durability::Disk | Durability::QuorumDisk);
        if on_disk && !self.appendonly {
            let directive = format!("write-durability {}", self.write_durability.name());
            return Err((directive, "it needs 'appendonly yes': without the log nothing is on disk".into()));
        }
        if self.core_endpoints && !self.cluster_enabled {
            return Err((
                "core-endpoints yes".into(),
                "it needs 'cluster-enabled yes': only a client of a cluster uses them".into(),
            ));
        }
        if self.core_endpoints && (self.port == 0 || self.first_core_port().is_none()) {
            let why = "there are no ports for the cores: 'core-port' names the first of them";
            return Err(("core-endpoints yes".into(), why.into()));
        }
        let cores = self.cpus.len() as u16;
        if self.core_endpoints && self.cluster_announce_core_port.checked_add(cores - 1).is_none() {
            let directive = format!("cluster-announce-core-port {}", self.cluster_announce_core_port);
            return Err((directive, "the ports of the other cores follow: there are none left".into()));
        }
        let others =
            [("port", Some(self.port)), ("cluster-port", self.bus_port()), ("admin-port", Some(self.admin_port))];
        for (directive, port) in others {
            if let Some(port) = port.filter(|&port| self.core_at(port).is_some()) {
                let directive = format!("{directive} {port}");
                return Err((directive, "a core has this port: 'core-port' names the first of them".into()));
            }
        }
        if self.cluster_enabled
            && let Some((host, port)) = &self.replicaof
        {
            let why = "not in cluster mode, where nodes decide by themselves who follows whom".into();
            return Err((format!("replicaof {host} {port}"), why));
        }
        Ok(())
    }

    /// Value of the directive `name` (in any case), as CONFIG GET shows it.
    pub fn get(&self, name: &[u8]) -> Option<String> {
        table::find(name).map(|directive| directive.get(self))
    }

    /// Names and values of all directives that match a glob pattern, in any case.
    pub fn get_matching(&self, pattern: &[u8]) -> Vec<(&'static str, String)> {
        let aliases = table::ALIASES.iter().filter_map(|&(alias, name)| Some((alias, table::find(name.as_bytes())?)));
        table::DIRECTIVES
            .iter()
            .map(|directive| (directive.name, directive))
            .chain(aliases)
            .filter(|(name, _)| glob::matches_ignore_case(pattern, name.as_bytes()))
            .map(|(name, directive)| (name, directive.get(self)))
            .collect()
    }

    /// The configuration after CONFIG SET of all `pairs` of name and value; all of them or none.
    pub fn set(&self, pairs: &[(&[u8], &[u8])]) -> Result<Config, SetError> {
        let mut changes: Vec<(&Directive, &[u8])> = Vec::with_capacity(pairs.len());
        for &(name, value) in pairs {
            let shown = || crate::resp::error::shown(name, 128);
            let failed = |why: &str| SetError::Failed { name: shown(), why: why.into() };
            let directive = table::find(name).ok_or_else(|| SetError::Unknown(shown()))?;
            if directive.change == Change::Immutable {
                return Err(failed("can't set immutable config"));
            }
            if changes.iter().any(|(other, _)| other.name == directive.name) {
                return Err(failed("duplicate parameter"));
            }
            changes.push((directive, value));
        }
        let mut config = self.clone();
        for (directive, value) in changes {
            let failed = |why| SetError::Failed { name: directive.name.into(), why };
            directive.set_value(&mut config, value).map_err(failed)?;
        }
        // What was in conflict before the change (it came from nowhere else) is not its fault.
        match config.check() {
            Err((line, why)) if self.check().is_ok() => {
                let name = line.split(' ').next().unwrap_or_default().into();
                Err(SetError::Failed { name, why })
            }
            _ => Ok(config),
        }
    }
}

#[cfg(test)]
mod tests;
