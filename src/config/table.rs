//! The table of directives: every setting, how it is read and printed, and whether it can change while the node runs.
//!
//! Longer than other files, because it is one list, to be read as such.

use std::borrow::Cow;

use super::choice::{AppendFsync, ControlCore, DebugCommand, LogFormat, LogLevel, MaxmemoryPolicy};
use super::value::{self, OutputClass, Unit};
use super::{Config, load};
use crate::cluster::{COPIES_MAX, WEIGHT_MAX};
use crate::collection::pack;
use crate::log::durability::Durability;
use crate::raft::stored::{OLDEST, VERSION};
use crate::shard::Classes;

/// Whether CONFIG SET may change a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only at start.
    Immutable,
    Live,
}
use Change::{Immutable, Live};

/// How a directive is read and printed.
pub enum Kind {
    Bool {
        get: fn(&Config) -> bool,
        set: fn(&mut Config, bool),
    },
    Int {
        unit: Unit,
        min: i64,
        max: i64,
        get: fn(&Config) -> i64,
        set: fn(&mut Config, i64),
    },
    /// One of `names`; getter and setter use the position.
    Choice {
        names: &'static [&'static str],
        get: fn(&Config) -> usize,
        set: fn(&mut Config, usize),
    },
    /// One word.
    Word {
        get: fn(&Config) -> String,
        set: fn(&mut Config, &str) -> Result<(), String>,
    },
    /// Any number of words; printed as one or several lines of the file.
    Words {
        lines: fn(&Config) -> Vec<String>,
        set: fn(&mut Config, &[&str]) -> Result<(), String>,
    },
    /// A directive of Redis whose only supported value is `value`; `why` tells what happens to others.
    Only {
        value: &'static str,
        why: &'static str,
    },
    /// A directive of Redis that tunes what does not exist here: checked, remembered, and without effect.
    Taken {
        default: &'static str,
        check: Check,
    },
}

/// What values a [`Kind::Taken`] has.
#[derive(Clone, Copy)]
pub enum Check {
    YesNo,
    /// From 0 on.
    Number,
    OneOf(&'static [&'static str]),
    FileName,
}

/// One setting.
pub struct Directive {
    /// In lower case.
    pub name: &'static str,
    pub change: Change,
    pub kind: Kind,
}

impl Directive {
    const fn new(name: &'static str, change: Change, kind: Kind) -> Self {
        Directive { name, change, kind }
    }

    /// The value, as CONFIG GET shows it.
    pub fn get(&self, config: &Config) -> String {
        self.lines(config).join(" ")
    }

    /// The value as lines of a file, without the name and, but for [`Kind::Words`], unquoted.
    pub fn lines(&self, config: &Config) -> Vec<String> {
        match &self.kind {
            Kind::Bool { get, .. } => vec![if get(config) { "yes" } else { "no" }.to_string()],
            Kind::Int { unit, get, .. } => vec![value::print_int(get(config), *unit)],
            Kind::Choice { names, get, .. } => vec![names[get(config)].to_string()],
            Kind::Word { get, .. } => vec![get(config)],
            Kind::Words { lines, .. } => lines(config),
            Kind::Only { value, .. } => vec![value.to_string()],
            Kind::Taken { default, .. } => {
                vec![config.taken.get(self.name).map_or(*default, String::as_str).to_string()]
            }
        }
    }

    /// Applies the arguments of a line. The error says what is wrong with them.
    pub fn set_words(&self, config: &mut Config, words: &[Vec<u8>]) -> Result<(), String> {
        // Numbers and names of choices are no longer any where bytes were replaced, and are refused as such.
        let is_text = matches!(self.kind, Kind::Word { .. } | Kind::Words { .. });
        if is_text && words.iter().any(|word| std::str::from_utf8(word).is_err()) {
            return Err("argument must be valid UTF-8".into());
        }
        let words: Vec<Cow<str>> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let words: Vec<&str> = words.iter().map(Cow::as_ref).collect();
        if let Kind::Words { set, .. } = &self.kind {
            return if words.is_empty() { Err("wrong number of arguments".into()) } else { set(config, &words) };
        }
        let [word] = words[..] else { return Err("wrong number of arguments".into()) };
        match &self.kind {
            Kind::Bool { set, .. } => set(config, value::parse_bool(word)?),
            Kind::Int { unit, min, max, set, .. } => set(config, value::parse_int(word, *unit, *min, *max)?),
            Kind::Choice { names, set, .. } => set(config, value::parse_choice(word, names)?),
            Kind::Word { set, .. } => set(config, word)?,
            Kind::Words { .. } => unreachable!("returned above"),
            Kind::Only { value, why } => {
                if !word.eq_ignore_ascii_case(value) {
                    return Err((*why).into());
                }
            }
            Kind::Taken { check, .. } => {
                let value = match *check {
                    Check::YesNo => if value::parse_bool(word)? { "yes" } else { "no" }.to_string(),
                    Check::Number => value::parse_int(word, Unit::Plain, 0, I32_MAX)?.to_string(),
                    Check::OneOf(names) => names[value::parse_choice(word, names)?].to_string(),
                    Check::FileName => file_name(word)?,
                };
                config.taken.insert(self.name, value);
            }
        }
        Ok(())
    }

    /// Applies a line of a file, which stands beside other lines: save points add up, whatever else replaces what was said
    /// before.
    pub fn add_words(&self, config: &mut Config, words: &[Vec<u8>]) -> Result<(), String> {
        let before = config.save.clone();
        self.set_words(config, words)?;
        if self.name == "save" && !config.save.is_empty() {
            config.save.splice(..0, before);
        }
        Ok(())
    }

    /// Applies a value that came as one string (CONFIG SET): directives of several words are cut at blanks.
    pub fn set_value(&self, config: &mut Config, value: &[u8]) -> Result<(), String> {
        match self.kind {
            Kind::Words { .. } if !value.is_empty() => {
                let words = value.split(|b| *b == b' ').filter(|w| !w.is_empty());
                self.set_words(config, &words.map(<[u8]>::to_vec).collect::<Vec<_>>())
            }
            _ => self.set_words(config, &[value.to_vec()]),
        }
    }
}

/// The directive called `name`, in any case.
pub fn find(name: &[u8]) -> Option<&'static Directive> {
    let alias = ALIASES.iter().find(|(alias, _)| alias.as_bytes().eq_ignore_ascii_case(name));
    let name = alias.map_or(name, |(_, name)| name.as_bytes());
    DIRECTIVES.iter().find(|directive| directive.name.as_bytes().eq_ignore_ascii_case(name))
}

/// Other names of directives, those of older versions of Redis: they can be written wherever a name can.
pub static ALIASES: &[(&str, &str)] = &[
    ("hash-max-ziplist-entries", "hash-max-listpack-entries"),
    ("hash-max-ziplist-value", "hash-max-listpack-value"),
    ("list-max-ziplist-size", "list-max-listpack-size"),
    ("min-slaves-max-lag", "min-replicas-max-lag"),
    ("min-slaves-to-write", "min-replicas-to-write"),
    ("repl-ping-slave-period", "repl-ping-replica-period"),
    ("slave-announce-ip", "replica-announce-ip"),
    ("slave-announce-port", "replica-announce-port"),
    ("slave-lazy-flush", "replica-lazy-flush"),
    ("slave-priority", "replica-priority"),
    ("slave-read-only", "replica-read-only"),
    ("slave-serve-stale-data", "replica-serve-stale-data"),
    ("slaveof", "replicaof"),
    ("zset-max-ziplist-entries", "zset-max-listpack-entries"),
    ("zset-max-ziplist-value", "zset-max-listpack-value"),
];

/// The known name that is most like `name`, if one is close enough to be what was meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let name = name.trim_start_matches('-').split('=').next().unwrap_or("").replace('_', "-");
    let known = DIRECTIVES.iter().map(|directive| directive.name).chain(ALIASES.iter().map(|(alias, _)| *alias));
    let distances = known.map(|known| (distance(&name, known), known));
    let (distance, nearest) = distances.min()?;
    (distance <= 1 + name.len() / 4).then_some(nearest)
}

/// Levenshtein's distance: the fewest bytes to insert, remove or replace that make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + (x != y) as usize;
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

macro_rules! yes_no {
    ($field:ident) => {
        Kind::Bool { get: |c| c.$field, set: |c, v| c.$field = v }
    };
}

// The bounds of each row fit its field's type, so the conversions lose nothing.
macro_rules! int {
    ($($field:ident).+, $unit:ident, $min:expr, $max:expr) => {
        Kind::Int {
            unit: Unit::$unit,
            min: $min,
            max: $max,
            get: |c| c.$($field).+ as i64,
            set: |c, v| c.$($field).+ = v as _,
        }
    };
}

macro_rules! choice {
    ($field:ident, $type:ident) => {
        Kind::Choice { names: $type::NAMES, get: |c| c.$field as usize, set: |c, v| c.$field = $type::ALL[v] }
    };
}

macro_rules! text {
    ($field:ident) => {
        Kind::Word {
            get: |c| c.$field.clone(),
            set: |c, v| {
                c.$field = v.into();
                Ok(())
            },
        }
    };
}

macro_rules! only {
    ($value:literal, $why:literal) => {
        Kind::Only { value: $value, why: $why }
    };
}

macro_rules! taken {
    ($default:literal, $check:expr) => {
        Kind::Taken { default: $default, check: $check }
    };
}

/// As many databases as a database number of the mesh's messages (one byte) can name.
const DATABASES_MAX: i64 = 256;
/// Longest string, 1 GiB: positions in a core's buffers have 32 bits.
const BULK_LEN_MAX: i64 = 1 << 30;
/// Elements of a collection that is one piece: a hash and a sorted set need two items of a pack for each.
const PACKED_ENTRIES_MAX: i64 = pack::ITEMS_MAX as i64 / 2;
const MIB: i64 = 1 << 20;
const I32_MAX: i64 = i32::MAX as i64;
const U32_MAX: i64 = u32::MAX as i64;

/// Every directive, sorted by name.
pub static DIRECTIVES: &[Directive] = &[
    Directive::new("admin-bind", Immutable, ADMIN_BIND),
    Directive::new("admin-port", Immutable, int!(admin_port, Plain, 0, 65535)),
    Directive::new("aof-load-truncated", Live, AOF_LOAD_TRUNCATED),
    Directive::new("aof-rewrite-incremental-fsync", Live, taken!("yes", Check::YesNo)),
    Directive::new("aof-timestamp-enabled", Live, taken!("no", Check::YesNo)),
    Directive::new("aof-use-rdb-preamble", Live, taken!("yes", Check::YesNo)),
    Directive::new("appenddirname", Immutable, FILE_NAME_OF_LOG),
    Directive::new("appendfilename", Immutable, APPENDFILENAME),
    Directive::new("appendfsync", Live, choice!(appendfsync, AppendFsync)),
    Directive::new("appendonly", Live, yes_no!(appendonly)),
    Directive::new("auto-aof-rewrite-min-size", Live, int!(auto_aof_rewrite_min_size, Memory, 0, i64::MAX)),
    Directive::new("auto-aof-rewrite-percentage", Live, int!(auto_aof_rewrite_percentage, Plain, 0, I32_MAX)),
    Directive::new("bind", Immutable, BIND),
    Directive::new("client-output-buffer-limit", Live, OUTPUT_LIMITS),
    Directive::new("client-query-buffer-limit", Live, int!(client_query_buffer_limit, Memory, MIB, i64::MAX)),
    Directive::new("cluster-allow-local-crossslot", Live, yes_no!(cluster_allow_local_crossslot)),
    Directive::new("cluster-announce-bus-port", Immutable, int!(cluster_announce_bus_port, Plain, 0, 65535)),
    Directive::new("cluster-announce-core-port", Immutable, int!(cluster_announce_core_port, Plain, 0, 65535)),
    Directive::new("cluster-announce-ip", Live, text!(cluster_announce_ip)),
    Directive::new("cluster-announce-port", Live, int!(cluster_announce_port, Plain, 0, 65535)),
    Directive::new("cluster-copies", Live, int!(cluster_copies, Plain, 1, COPIES_MAX as i64)),
    Directive::new("cluster-copy-rate", Live, int!(cluster_copy_rate, Memory, 0, i64::MAX)),
    Directive::new("cluster-enabled", Immutable, yes_no!(cluster_enabled)),
    Directive::new("cluster-name", Immutable, text!(cluster_name)),
    Directive::new("cluster-port", Immutable, int!(cluster_port, Plain, 0, 65535)),
    Directive::new("cluster-rack", Immutable, text!(cluster_rack)),
    Directive::new("cluster-secret", Immutable, text!(cluster_secret)),
    Directive::new("cluster-version", Immutable, int!(cluster_version, Plain, OLDEST as i64, VERSION as i64)),
    Directive::new("cluster-weight", Immutable, int!(cluster_weight, Plain, 1, WEIGHT_MAX as i64)),
    Directive::new("control-core", Immutable, choice!(control_core, ControlCore)),
    Directive::new("core-endpoints", Immutable, yes_no!(core_endpoints)),
    Directive::new("core-port", Immutable, int!(core_port, Plain, 0, 65535)),
    Directive::new("cpus", Immutable, CPUS),
    Directive::new("daemonize", Immutable, only!("no", "not supported: let a service manager run it, only 'no' is")),
    Directive::new("databases", Immutable, int!(databases, Plain, 1, DATABASES_MAX)),
    Directive::new("dbfilename", Immutable, FILE_NAME_OF_DUMP),
    Directive::new("dir", Immutable, DIR),
    Directive::new("enable-debug-command", Immutable, choice!(enable_debug_command, DebugCommand)),
    Directive::new(
        "hash-max-listpack-entries",
        Live,
        int!(thresholds.hash_max_listpack_entries, Plain, 0, PACKED_ENTRIES_MAX),
    ),
    Directive::new("hash-max-listpack-value", Live, int!(thresholds.hash_max_listpack_value, Memory, 0, I32_MAX)),
    Directive::new("insync-timeout", Live, int!(insync_timeout_ms, Plain, 10, I32_MAX)),
    Directive::new("latency-monitor-threshold", Live, int!(latency_monitor_threshold_ms, Plain, 0, i64::MAX)),
    Directive::new("latency-tracking", Live, yes_no!(latency_tracking)),
    Directive::new("latency-tracking-info-percentiles", Live, PERCENTILES),
    Directive::new("lazyfree-lazy-user-del", Live, yes_no!(lazyfree_lazy_user_del)),
    Directive::new("lazyfree-lazy-user-flush", Live, yes_no!(lazyfree_lazy_user_flush)),
    Directive::new("lfu-decay-time", Live, int!(lfu_decay_time_minutes, Plain, 0, I32_MAX)),
    Directive::new("lfu-log-factor", Live, int!(lfu_log_factor, Plain, 0, I32_MAX)),
    Directive::new("list-compress-depth", Live, only!("0", "lists are not compressed, only '0' is")),
    Directive::new(
        "list-max-listpack-size",
        Live,
        int!(thresholds.list_max_listpack_size, Plain, -5, PACKED_ENTRIES_MAX),
    ),
    Directive::new("log-format", Immutable, choice!(log_format, LogFormat)),
    Directive::new("logfile", Immutable, text!(logfile)),
    Directive::new("loglevel", Live, choice!(loglevel, LogLevel)),
    Directive::new("masterauth", Live, text!(masterauth)),
    Directive::new("masteruser", Live, text!(masteruser)),
    Directive::new("maxclients", Live, int!(maxclients, Plain, 1, U32_MAX)),
    Directive::new("maxmemory", Live, int!(maxmemory_bytes, Memory, 0, i64::MAX)),
    Directive::new("maxmemory-policy", Live, choice!(maxmemory_policy, MaxmemoryPolicy)),
    Directive::new("maxmemory-samples", Live, int!(maxmemory_samples, Plain, 1, I32_MAX)),
    Directive::new("min-insync", Live, int!(min_insync, Plain, 1, 64)),
    Directive::new("min-replicas-max-lag", Live, int!(min_replicas_max_lag_s, Plain, 0, I32_MAX)),
    Directive::new("min-replicas-to-write", Live, int!(min_replicas_to_write, Plain, 0, 64)),
    Directive::new("no-appendfsync-on-rewrite", Live, NO_APPENDFSYNC),
    Directive::new("notify-keyspace-events", Live, NOTIFY),
    Directive::new("partitions", Immutable, PARTITIONS),
    Directive::new("pidfile", Immutable, text!(pidfile)),
    Directive::new("port", Immutable, int!(port, Plain, 0, 65535)),
    Directive::new("protected-mode", Live, yes_no!(protected_mode)),
    Directive::new("proto-max-bulk-len", Live, int!(proto_max_bulk_len, Memory, MIB, BULK_LEN_MAX)),
    Directive::new("rdb-del-sync-files", Live, taken!("no", Check::YesNo)),
    Directive::new("rdb-save-incremental-fsync", Live, taken!("yes", Check::YesNo)),
    Directive::new("rdbchecksum", Immutable, only!("yes", "snapshots always have checksums, only 'yes' is supported")),
    Directive::new("rdbcompression", Live, taken!("yes", Check::YesNo)),
    Directive::new("repl-backlog-size", Live, int!(repl_backlog_size, Memory, 16 << 10, i64::MAX)),
    Directive::new("repl-backlog-ttl", Live, taken!("3600", Check::Number)),
    Directive::new("repl-disable-tcp-nodelay", Live, taken!("no", Check::YesNo)),
    Directive::new("repl-diskless-load", Live, taken!("disabled", Check::OneOf(DISKLESS_LOAD))),
    Directive::new("repl-diskless-sync", Live, taken!("yes", Check::YesNo)),
    Directive::new("repl-diskless-sync-delay", Live, taken!("5", Check::Number)),
    Directive::new("repl-diskless-sync-max-replicas", Live, taken!("0", Check::Number)),
    Directive::new("repl-ping-replica-period", Live, taken!("10", Check::Number)),
    Directive::new("repl-timeout", Live, int!(repl_timeout_s, Plain, 1, I32_MAX)),
    Directive::new(
        "replica-announce-ip",
        Live,
        only!("", "a replica is known by the address that it connects from, only '' is supported"),
    ),
    Directive::new("replica-announce-port", Live, int!(replica_announce_port, Plain, 0, 65535)),
    Directive::new("replica-announced", Live, only!("yes", "all replicas are told of, only 'yes' is supported")),
    Directive::new("replica-lazy-flush", Live, taken!("no", Check::YesNo)),
    Directive::new("replica-priority", Live, taken!("100", Check::Number)),
    Directive::new("replica-read-only", Live, only!("yes", "replicas are read-only, only 'yes' is")),
    Directive::new(
        "replica-serve-stale-data",
        Live,
        only!("yes", "replicas answer while their primary is away, only 'yes' is supported"),
    ),
    Directive::new("replicaof", Immutable, REPLICAOF),
    Directive::new("requirepass", Live, text!(requirepass)),
    Directive::new("save", Live, SAVE),
    Directive::new(
        "set-max-intset-entries",
        Live,
        int!(thresholds.set_max_intset_entries, Plain, 0, PACKED_ENTRIES_MAX),
    ),
    Directive::new(
        "set-max-listpack-entries",
        Live,
        int!(thresholds.set_max_listpack_entries, Plain, 0, PACKED_ENTRIES_MAX),
    ),
    Directive::new("set-max-listpack-value", Live, int!(thresholds.set_max_listpack_value, Memory, 0, I32_MAX)),
    Directive::new("shutdown-on-sigint", Live, SHUTDOWN_ON_SIGINT),
    Directive::new("shutdown-on-sigterm", Live, SHUTDOWN_ON_SIGTERM),
    Directive::new("shutdown-timeout", Live, int!(shutdown_timeout_s, Plain, 0, I32_MAX)),
    Directive::new("slowlog-log-slower-than", Live, int!(slowlog_log_slower_than_us, Plain, -1, i64::MAX)),
    Directive::new("slowlog-max-len", Live, int!(slowlog_max_len, Plain, 0, i64::MAX)),
    Directive::new("stop-writes-on-bgsave-error", Live, yes_no!(stop_writes_on_bgsave_error)),
    Directive::new("supervised", Immutable, only!("no", "not supported, only 'no' is")),
    Directive::new("tcp-backlog", Immutable, int!(tcp_backlog, Plain, 0, I32_MAX)),
    Directive::new("tcp-keepalive", Live, int!(tcp_keepalive_s, Plain, 0, I32_MAX)),
    Directive::new("timeout", Live, int!(timeout_s, Plain, 0, I32_MAX)),
    Directive::new("unixsocket", Immutable, UNIXSOCKET),
    Directive::new("unixsocketperm", Immutable, int!(unixsocketperm, Octal, 0, 0o777)),
    Directive::new("wal-max-size", Live, int!(wal_max_size, Memory, MIB, i64::MAX)),
    Directive::new("wal-segment-size", Immutable, int!(wal_segment_size, Memory, MIB, 1 << 30)),
    Directive::new("write-durability", Live, choice!(write_durability, Durability)),
    Directive::new(
        "zset-max-listpack-entries",
        Live,
        int!(thresholds.zset_max_listpack_entries, Plain, 0, PACKED_ENTRIES_MAX),
    ),
    Directive::new("zset-max-listpack-value", Live, int!(thresholds.zset_max_listpack_value, Memory, 0, I32_MAX)),
];

const ADMIN_BIND: Kind = Kind::Word {
    get: |c| c.admin_bind.clone(),
    set: |c, v| {
        value::check_bind(v)?;
        c.admin_bind = v.into();
        Ok(())
    },
};

const BIND: Kind = Kind::Words {
    lines: |c| vec![c.bind.join(" ")],
    set: |c, words| {
        if words.len() > value::BIND_ADDRS_MAX {
            return Err("Too many bind addresses specified.".into());
        }
        let words = words.iter().filter(|w| !w.is_empty());
        c.bind = words.map(|w| value::check_bind(w).map(|_| w.to_string())).collect::<Result<_, _>>()?;
        Ok(())
    },
};

const OUTPUT_LIMITS: Kind = Kind::Words {
    lines: |c| {
        let classes = [
            ("normal", c.client_output_buffer_limit_normal),
            ("slave", c.client_output_buffer_limit_replica),
            ("pubsub", c.client_output_buffer_limit_pubsub),
        ];
        let line =
            |(class, l): (&str, super::OutputLimit)| format!("{class} {} {} {}", l.hard_bytes, l.soft_bytes, l.soft_s);
        classes.into_iter().map(line).collect()
    },
    set: |c, words| {
        for (class, limit) in value::parse_output_limits(words)? {
            match class {
                OutputClass::Normal => c.client_output_buffer_limit_normal = limit,
                OutputClass::Replica => c.client_output_buffer_limit_replica = limit,
                OutputClass::Pubsub => c.client_output_buffer_limit_pubsub = limit,
            }
        }
        Ok(())
    },
};

const CPUS: Kind = Kind::Word {
    get: |c| if c.cpus_all { "all".into() } else { value::print_cpus(&c.cpus) },
    set: |c, v| {
        c.cpus_all = v.eq_ignore_ascii_case("all");
        c.cpus = if c.cpus_all { load::allowed_cpus() } else { value::parse_cpus(v)? };
        Ok(())
    },
};

const DIR: Kind = Kind::Word {
    get: |c| c.dir.clone(),
    set: |c, v| {
        // Collecting the components drops `.` and doubled slashes.
        let path: std::path::PathBuf = c.started_in.join(v).components().collect();
        c.dir = path.to_str().ok_or("argument must be valid UTF-8")?.into();
        Ok(())
    },
};

const PERCENTILES: Kind = Kind::Words {
    lines: |c| vec![c.latency_tracking_info_percentiles.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")],
    set: |c, words| {
        c.latency_tracking_info_percentiles = value::parse_percentiles(words)?;
        Ok(())
    },
};

const NOTIFY: Kind = Kind::Word {
    get: |c| c.notify_keyspace_events.to_string(),
    set: |c, v| {
        c.notify_keyspace_events = Classes::parse(v).ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
        Ok(())
    },
};

const PARTITIONS: Kind = Kind::Word {
    get: |c| c.partitions.to_string(),
    set: |c, v| {
        c.partitions = value::parse_partitions(v)?;
        c.partitions_chosen = true;
        Ok(())
    },
};

/// A name without a path.
fn file_name(name: &str) -> Result<String, String> {
    match name.is_empty() || name.contains('/') || name == "." || name == ".." {
        true => Err("can't be a path, just a filename".into()),
        false => Ok(name.into()),
    }
}

const FILE_NAME_OF_LOG: Kind =
    Kind::Word { get: |c| c.appenddirname.clone(), set: |c, v| file_name(v).map(|name| c.appenddirname = name) };

const FILE_NAME_OF_DUMP: Kind =
    Kind::Word { get: |c| c.dbfilename.clone(), set: |c, v| file_name(v).map(|name| c.dbfilename = name) };

const DISKLESS_LOAD: &[&str] = &["disabled", "on-empty-db", "swapdb"];

const AOF_LOAD_TRUNCATED: Kind =
    only!("yes", "an end of the log that a crash has cut short is always cut off, only 'yes' is supported");

const APPENDFILENAME: Kind = Kind::Taken { default: "appendonly.aof", check: Check::FileName };

const NO_APPENDFSYNC: Kind =
    only!("no", "a snapshot does not hold up the log's syncs, which go on during it: only 'no' is supported");

macro_rules! shutdown_on {
    ($field:ident) => {
        Kind::Words {
            lines: |c| vec![c.$field.to_string()],
            set: |c, words| {
                c.$field = value::parse_shutdown_on(words)?;
                Ok(())
            },
        }
    };
}

const SHUTDOWN_ON_SIGINT: Kind = shutdown_on!(shutdown_on_sigint);

const SHUTDOWN_ON_SIGTERM: Kind = shutdown_on!(shutdown_on_sigterm);

const SAVE: Kind = Kind::Words {
    lines: |c| {
        vec![c.save.iter().map(|(seconds, changes)| format!("{seconds} {changes}")).collect::<Vec<_>>().join(" ")]
    },
    set: |c, words| {
        c.save = value::parse_save(words)?;
        Ok(())
    },
};

const REPLICAOF: Kind = Kind::Words {
    lines: |c| vec![c.replicaof.as_ref().map_or(String::new(), |(host, port)| format!("{host} {port}"))],
    set: |c, words| {
        c.replicaof = value::parse_replicaof(words)?;
        Ok(())
    },
};

const UNIXSOCKET: Kind = Kind::Word {
    get: |c| c.unixsocket.clone().unwrap_or_default(),
    set: |c, v| {
        c.unixsocket = (!v.is_empty()).then(|| v.to_string());
        Ok(())
    },
};
