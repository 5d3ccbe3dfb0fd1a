//! INFO: the numbers of the node as text, in the sections and with the names of Redis.
//!
//! What the server does not do has its neutral value (no replicas, nothing loading); a number that is not counted is
//! left out rather than invented.
//!
//! Longer than other files: one section after the other, as INFO prints them.

use std::fmt::{Display, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::latency::merged;
use super::log::{LogAnswer, LogAsk, LogNumbers};
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, member, table};
use crate::admin::process::{self, Process};
use crate::config::Config;
use crate::pubsub::Kind;
use crate::resp::{Error, Reply};
use crate::state::{KEYLOOM_VERSION, NodeState, REDIS_VERSION};
use crate::stats::{RATE_INTERVAL_MS, Snapshot};

pub static COMMANDS: &[Command] = &[Command::session(
    "info",
    -1,
    Flags::LOADING.or(Flags::STALE).or(Flags::DANGEROUS),
    info,
)
.doc("server", "1.0.0", "O(N) in cores", "Returns numbers about the server.")];

/// What the sections are written from.
struct Facts<'a> {
    config: &'a Config,
    node: &'a NodeState,
    cores: u16,
    sum: Snapshot,
    log: LogNumbers,
    process: Process,
    /// Bytes in use.
    used_bytes: u64,
    peak_bytes: u64,
    now_us: u64,
}

type Section = (&'static str, bool, fn(&Facts, &mut Text));

/// Sections in their order; whether they are shown without being asked for; what writes them.
static SECTIONS: &[Section] = &[
    ("Server", true, server),
    ("Clients", true, clients),
    ("Memory", true, memory),
    ("Persistence", true, persistence),
    ("Stats", true, stats),
    ("Replication", true, replication),
    ("CPU", true, cpu),
    ("Modules", true, |_, _| {}),
    ("Commandstats", false, commandstats),
    ("Errorstats", true, errorstats),
    ("Latencystats", false, latencystats),
    ("Cluster", true, cluster),
    ("Keyspace", true, keyspace),
];

/// INFO [section ...]; `default`, `all` and `everything` are sets of sections. Unknown names show nothing.
fn info(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let is = |arg: &[u8], name: &str| arg.eq_ignore_ascii_case(name.as_bytes());
    let wanted = |(name, by_default, _): &Section| {
        let names = &args[1..];
        let all = names.iter().any(|arg| is(arg, "all") || is(arg, "everything"));
        let default = names.is_empty() || names.iter().any(|arg| is(arg, "default"));
        all || (default && *by_default) || names.iter().any(|arg| is(arg, name))
    };
    let sections: Vec<&Section> = SECTIONS.iter().filter(|section| wanted(section)).collect();
    let control = home.engine.router.cores();
    let data_cores = (0..control).map(|core| (core, Ask::Snapshot));
    let questions = data_cores.chain([(control, Ask::Log(LogAsk::Numbers))]).collect();
    let finish = move |home: &mut Home, mut answers: Vec<Answer>, reply: &mut Reply| {
        let log = match answers.pop() {
            Some(Answer::Log(LogAnswer::Numbers(numbers))) => *numbers,
            _ => LogNumbers::default(),
        };
        let (sum, process) = (merged(answers), Process::read());
        let used_bytes = process.allocated_bytes + sum.heap_bytes as u64;
        let facts = Facts {
            config: &home.engine.config,
            node: &home.engine.node,
            cores: home.engine.router.cores(),
            sum,
            log,
            process,
            used_bytes,
            peak_bytes: home.engine.node.note_memory(used_bytes),
            now_us: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64),
        };
        let mut text = Text(String::new());
        for (name, _, write) in sections {
            if !text.0.is_empty() {
                text.0.push_str("\r\n");
            }
            let _ = write!(text.0, "# {name}\r\n");
            write(&facts, &mut text);
        }
        reply.verbatim(b"txt", text.0.as_bytes());
        Ok(Flow::Done)
    };
    Ok(Flow::Ask(questions, Box::new(finish)))
}

/// The text under construction.
struct Text(String);

impl Text {
    fn field(&mut self, name: &str, value: impl Display) {
        let _ = write!(self.0, "{name}:{value}\r\n");
    }

    /// Features that are absent: each name with the value 0.
    fn zeros(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.field(name, 0));
    }

    /// A number of bytes, and the same for people.
    fn bytes(&mut self, name: &str, bytes: u64) {
        self.field(name, bytes);
        self.field(&format!("{name}_human"), human(bytes));
    }
}

/// `1.50M`
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "K", "M", "G", "T"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.2}P")
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// What Redis calls the way in which a node runs.
pub(super) fn mode(config: &Config) -> &'static str {
    if config.cluster_enabled { "cluster" } else { "standalone" }
}

fn server(facts: &Facts, text: &mut Text) {
    let uptime_s = facts.node.started.elapsed().as_secs();
    let executable = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    let config_file = facts.config.config_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    text.field("redis_version", REDIS_VERSION);
    text.field("keyloom_version", KEYLOOM_VERSION);
    text.field("redis_git_sha1", "00000000");
    text.field("redis_git_dirty", 0);
    text.field("redis_mode", mode(facts.config));
    text.field("os", process::os());
    text.field("arch_bits", usize::BITS);
    text.field("multiplexing_api", "io_uring");
    text.field("process_id", std::process::id());
    text.field("process_supervised", "no");
    text.field("run_id", &facts.node.run_id);
    text.field("tcp_port", facts.config.port);
    text.field("server_time_usec", facts.now_us);
    text.field("uptime_in_seconds", uptime_s);
    text.field("uptime_in_days", uptime_s / 86_400);
    text.field("hz", 1000 / RATE_INTERVAL_MS);
    text.field("configured_hz", 1000 / RATE_INTERVAL_MS);
    // The clock of Redis' LRU: seconds in 24 bits.
    text.field("lru_clock", (facts.now_us / 1_000_000) & 0xff_ffff);
    text.field("executable", executable);
    text.field("config_file", config_file);
    text.field("io_threads_active", 0);
    text.field("data_cores", facts.cores);
    text.field("partitions", facts.config.partitions);
}

fn clients(facts: &Facts, text: &mut Text) {
    let net = &facts.sum.net;
    text.field("connected_clients", net.clients);
    text.field("cluster_connections", 0);
    text.field("maxclients", facts.config.maxclients);
    text.field("client_recent_max_input_buffer", net.client_input_bytes_max);
    text.field("client_recent_max_output_buffer", net.client_output_bytes_max);
    text.field("blocked_clients", net.clients_blocked);
    text.field("tracking_clients", 0);
    text.field("pubsub_clients", facts.sum.pubsub.clients);
    text.zeros(&["watching_clients", "clients_in_timeout_table"]);
    text.zeros(&["total_watched_keys", "total_blocking_keys", "total_blocking_keys_on_nokey"]);
    text.field("monitoring_clients", net.clients_monitoring);
}

fn memory(facts: &Facts, text: &mut Text) {
    let process = &facts.process;
    let (used, peak, startup) = (facts.used_bytes, facts.peak_bytes, facts.node.startup_bytes());
    let dataset = (facts.sum.memory as u64).min(used);
    let frag = |a: u64, b: u64| (format!("{:.2}", ratio(a, b)), a as i64 - b as i64);
    text.bytes("used_memory", used);
    text.bytes("used_memory_rss", process.rss_bytes);
    text.bytes("used_memory_peak", peak);
    text.field("used_memory_peak_perc", format!("{:.2}%", ratio(used, peak) * 100.0));
    text.field("used_memory_overhead", used - dataset);
    text.field("used_memory_startup", startup);
    text.field("used_memory_dataset", dataset);
    let share = ratio(dataset, used.saturating_sub(startup)).min(1.0) * 100.0;
    text.field("used_memory_dataset_perc", format!("{share:.2}%"));
    text.field("heap_live", facts.sum.heap_bytes);
    text.field("heap_mapped", facts.sum.mapped_bytes);
    text.field("allocator_allocated", process.allocated_bytes);
    text.field("allocator_active", process.active_bytes);
    text.field("allocator_resident", process.resident_bytes);
    text.bytes("total_system_memory", process.system_bytes);
    text.zeros(&["used_memory_lua", "used_memory_vm_eval", "used_memory_scripts", "used_memory_functions"]);
    text.zeros(&["number_of_cached_scripts", "number_of_functions", "number_of_libraries"]);
    text.bytes("maxmemory", facts.config.maxmemory_bytes);
    text.field("maxmemory_policy", facts.config.maxmemory_policy.name());
    for (name, (ratio, bytes)) in [
        ("allocator_frag", frag(process.active_bytes, process.allocated_bytes)),
        ("allocator_rss", frag(process.resident_bytes, process.active_bytes)),
        ("rss_overhead", frag(process.rss_bytes, process.resident_bytes)),
        ("mem_fragmentation", frag(process.rss_bytes, used)),
    ] {
        text.field(&format!("{name}_ratio"), ratio);
        text.field(&format!("{name}_bytes"), bytes);
    }
    text.field("mem_not_counted_for_evict", 0);
    text.field("mem_replication_backlog", facts.log.backlog_bytes);
    text.field("mem_total_replication_buffers", facts.log.backlog_bytes);
    text.field("mem_clients_slaves", 0);
    text.field("mem_clients_normal", facts.sum.net.client_memory_bytes);
    let links = facts.log.member.iter().flat_map(|member| &member.links);
    text.field("mem_cluster_links", links.map(|link| link.allocated_bytes).sum::<usize>());
    text.field("mem_aof_buffer", facts.log.unwritten_bytes);
    text.field("mem_allocator", "jemalloc");
    text.zeros(&["active_defrag_running", "lazyfree_pending_objects", "lazyfreed_objects"]);
}

fn persistence(facts: &Facts, text: &mut Text) {
    let log = &facts.log;
    let now_s = (facts.now_us / 1_000_000) as i64;
    let status = |ok: bool| if ok { "ok" } else { "err" };
    let seconds = |since_s: Option<i64>| since_s.map_or(-1, |since_s| (now_s - since_s).max(0));
    // What rewrites the log's older part is the snapshot.
    let rewriting = log.wal && log.saving;
    text.zeros(&["loading", "async_loading", "current_cow_peak", "current_cow_size", "current_cow_size_age"]);
    text.field("current_fork_perc", "0.00");
    text.zeros(&["current_save_keys_processed", "current_save_keys_total"]);
    text.field("rdb_changes_since_last_save", facts.sum.changes.saturating_sub(log.changes_saved));
    text.field("rdb_bgsave_in_progress", log.saving as u8);
    text.field("rdb_last_save_time", log.last_save_s);
    text.field("rdb_last_bgsave_status", status(log.last_save_ok));
    text.field("rdb_last_bgsave_time_sec", log.last_save_took_s.unwrap_or(-1));
    text.field("rdb_current_bgsave_time_sec", seconds(log.saving_since_s));
    text.field("rdb_saves", log.saves);
    text.zeros(&["rdb_last_cow_size", "rdb_last_load_keys_expired"]);
    text.field("aof_enabled", log.wal as u8);
    text.field("aof_rewrite_in_progress", rewriting as u8);
    text.field("aof_rewrite_scheduled", log.save_scheduled as u8);
    text.field("aof_last_rewrite_time_sec", log.last_save_took_s.filter(|_| log.wal).unwrap_or(-1));
    text.field("aof_current_rewrite_time_sec", seconds(log.saving_since_s.filter(|_| rewriting)));
    text.field("aof_last_bgrewrite_status", status(log.last_save_ok));
    text.field("aof_rewrites", if log.wal { log.saves } else { 0 });
    text.field("aof_last_write_status", status(log.disk_error.is_none()));
    text.zeros(&["aof_last_cow_size", "module_fork_in_progress", "module_fork_last_cow_size"]);
    if log.wal {
        text.field("aof_current_size", log.wal_bytes);
        text.field("aof_base_size", log.last_save_bytes);
        text.field("aof_pending_rewrite", log.wal_starting as u8);
        text.field("aof_buffer_length", log.unwritten_bytes);
        text.field("aof_pending_bio_fsync", (log.durable < log.end) as u8);
        text.field("aof_delayed_fsync", 0);
        text.field("log_durable_index", log.durable);
        text.field("log_unwritten_bytes", log.unwritten_bytes);
    }
    text.field("log_end_index", log.end);
    text.field("log_history", format!("{:032x}", log.history));
    text.field("log_disk_error", log.disk_error.as_deref().unwrap_or(""));
}

fn stats(facts: &Facts, text: &mut Text) {
    let (sum, net) = (&facts.sum, &facts.sum.net);
    let kbps = |bytes_per_s: f64| format!("{:.2}", bytes_per_s / 1024.0);
    text.field("total_connections_received", net.connections_received);
    text.field("total_commands_processed", sum.calls());
    text.field("instantaneous_ops_per_sec", sum.rates.ops.round() as u64);
    text.field("total_net_input_bytes", net.input_bytes);
    text.field("total_net_output_bytes", net.output_bytes);
    text.zeros(&["total_net_repl_input_bytes", "total_net_repl_output_bytes"]);
    text.field("instantaneous_input_kbps", kbps(sum.rates.input_bytes));
    text.field("instantaneous_output_kbps", kbps(sum.rates.output_bytes));
    text.field("instantaneous_input_repl_kbps", "0.00");
    text.field("instantaneous_output_repl_kbps", "0.00");
    text.field("rejected_connections", net.connections_rejected);
    let syncs = facts.log.replication.syncs;
    text.field("sync_full", syncs.full);
    text.field("sync_partial_ok", syncs.partial);
    text.field("sync_partial_err", syncs.refused);
    text.field("expired_keys", sum.counters.expired);
    text.field("expired_subkeys", sum.counters.expired_fields);
    text.field("expired_time_cap_reached_count", sum.counters.expire_cap_reached);
    for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("max", 100.0)] {
        text.field(&format!("expire_lag_{name}_ms"), sum.expiry_lag.percentile(percent) / 1_000_000);
    }
    text.field("evicted_keys", sum.counters.evicted);
    text.field("evicted_clients", 0);
    text.field("keyspace_hits", sum.counters.hits);
    text.field("keyspace_misses", sum.counters.misses);
    text.field("pubsub_channels", sum.pubsub.of(Kind::Channel));
    text.field("pubsub_patterns", sum.pubsub.of(Kind::Pattern));
    text.field("pubsubshard_channels", sum.pubsub.of(Kind::Shard));
    text.zeros(&["latest_fork_usec", "total_forks"]);
    text.zeros(&["migrate_cached_sockets", "slave_expires_tracked_keys"]);
    text.zeros(&["tracking_total_keys", "tracking_total_items", "tracking_total_prefixes"]);
    text.field("total_error_replies", sum.errors.total());
    text.field("total_reads_processed", net.reads);
    text.field("total_writes_processed", net.writes);
    text.field("client_query_buffer_limit_disconnections", net.query_limit_disconnects);
    text.field("client_output_buffer_limit_disconnections", net.output_limit_disconnects);
    text.field("acl_access_denied_auth", sum.auth_failures);
    text.zeros(&["acl_access_denied_cmd", "acl_access_denied_key", "acl_access_denied_channel"]);
    text.field("core_hops", net.hops_out);
    text.field("core_hop_usec_p50", format!("{:.3}", net.hop_latency.percentile(50.0) as f64 / 1000.0));
    text.field("core_hop_usec_p99", format!("{:.3}", net.hop_latency.percentile(99.0) as f64 / 1000.0));
    text.field("core_queue_depth", net.queue_depths.iter().sum::<u64>());
}

fn replication(facts: &Facts, text: &mut Text) {
    super::replication::describe(&facts.log, facts.config, |name, value| text.field(name, value));
    if let Some(member) = &facts.log.member {
        member::describe_streams(member, |name, value| text.field(name, value));
    }
}

fn cpu(facts: &Facts, text: &mut Text) {
    let process = &facts.process;
    for (name, seconds) in [
        ("used_cpu_sys", process.cpu_system_s),
        ("used_cpu_user", process.cpu_user_s),
        ("used_cpu_sys_children", process.children_system_s),
        ("used_cpu_user_children", process.children_user_s),
    ] {
        text.field(name, format!("{seconds:.6}"));
    }
}

fn commandstats(facts: &Facts, text: &mut Text) {
    for (row, stats) in table().rows().iter().zip(&facts.sum.commands).filter(|(_, stats)| stats.is_used()) {
        let micros = stats.nanos as f64 / 1000.0;
        let per_call = if stats.calls == 0 { 0.0 } else { micros / stats.calls as f64 };
        text.field(
            &format!("cmdstat_{}", row.full_name),
            format!(
                "calls={},usec={micros:.0},usec_per_call={per_call:.2},rejected_calls={},failed_calls={}",
                stats.calls, stats.rejected, stats.failed
            ),
        );
    }
}

fn errorstats(facts: &Facts, text: &mut Text) {
    for (code, count) in facts.sum.errors.iter() {
        text.field(&format!("errorstat_{code}"), format!("count={count}"));
    }
}

fn latencystats(facts: &Facts, text: &mut Text) {
    for (row, stats) in table().rows().iter().zip(&facts.sum.commands).filter(|(_, s)| s.latency.count() > 0) {
        let percentiles: Vec<String> = facts
            .config
            .latency_tracking_info_percentiles
            .iter()
            .map(|percent| format!("p{percent}={:.3}", stats.latency.percentile(*percent) as f64 / 1000.0))
            .collect();
        text.field(&format!("latency_percentiles_usec_{}", row.full_name), percentiles.join(","));
    }
}

fn cluster(facts: &Facts, text: &mut Text) {
    text.field("cluster_enabled", facts.config.cluster_enabled as u8);
    if let Some(member) = &facts.log.member {
        member::describe_cluster(member, |name, value| text.field(name, value));
    }
}

fn keyspace(facts: &Facts, text: &mut Text) {
    for (db, size) in facts.sum.keyspace.iter().enumerate().filter(|(_, size)| size.keys > 0) {
        text.field(&format!("db{db}"), format!("keys={},expires={},avg_ttl=0,subexpiry=0", size.keys, size.expires));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::command::transcript::{Client, NOW_MS};

    /// Sections with their fields, parsed as clients do.
    fn parsed(reply: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut current = String::new();
        for line in reply.split('|').skip(1).filter(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix("# ") {
                current = name.to_string();
                assert!(sections.insert(current.clone(), BTreeMap::new()).is_none(), "{name} twice");
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line}"));
            let old = sections.get_mut(&current).unwrap().insert(name.to_string(), value.to_string());
            assert!(old.is_none(), "{name} twice");
        }
        sections
    }

    /// INFO whose subcommand names do not clash with the `|` of transcripts.
    fn info(client: &mut Client, line: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let text = String::from_utf8(client.run_raw(&args)).unwrap().replace('|', ".").replace("\r\n", "|");
        parsed(&text)
    }

    #[test]
    fn sections_are_chosen_by_name() {
        let mut client = Client::new();
        let names = |map: BTreeMap<String, _>| map.into_keys().collect::<Vec<_>>();
        assert_eq!(info(&mut client, "info").len(), 11);
        assert_eq!(info(&mut client, "info default").len(), 11);
        assert_eq!(info(&mut client, "info ALL").len(), SECTIONS.len());
        assert_eq!(info(&mut client, "info everything").len(), SECTIONS.len());
        assert_eq!(names(info(&mut client, "info keyspace CPU")), ["CPU", "Keyspace"]);
        assert_eq!(info(&mut client, "info commandstats default").len(), 12);
        client.expect("info nosuch", "$0|");
    }

    #[test]
    fn fields_tell_what_happened() {
        let mut client = Client::new();
        client.run("set a 1");
        client.run("get a");
        client.run("get b");
        client.run("get");
        client.run("client setname x");
        client.run("nosuch");
        client.engine.net.clients = 2;
        client.engine.net.input_bytes = 77;
        let all = info(&mut client, "info all");
        let field = |section: &str, name: &str| all[section][name].as_str();
        assert_eq!(field("Server", "redis_version"), REDIS_VERSION);
        assert_eq!(field("Server", "keyloom_version"), KEYLOOM_VERSION);
        assert_eq!(field("Clients", "connected_clients"), "2");
        assert_eq!(field("Stats", "total_net_input_bytes"), "77");
        // INFO itself is counted already: it is a command that has run when the answers are in.
        assert_eq!(field("Stats", "total_commands_processed"), "5");
        assert_eq!((field("Stats", "keyspace_hits"), field("Stats", "keyspace_misses")), ("1", "1"));
        assert_eq!(field("Stats", "total_error_replies"), "2");
        assert_eq!(field("Errorstats", "errorstat_ERR"), "count=2");
        assert_eq!(field("Keyspace", "db0"), "keys=1,expires=0,avg_ttl=0,subexpiry=0");
        assert_eq!(field("Replication", "role"), "master");
        assert_eq!(field("Cluster", "cluster_enabled"), "0");
        assert_eq!(field("Persistence", "loading"), "0");
        assert_eq!(field("Persistence", "rdb_changes_since_last_save"), "1");
        assert_eq!(field("Persistence", "rdb_last_bgsave_time_sec"), "-1");
        // Without a log its sizes are not told.
        assert!(!all["Persistence"].contains_key("aof_current_size"));
        let get = field("Commandstats", "cmdstat_get");
        assert!(get.starts_with("calls=2,usec=") && get.ends_with(",rejected_calls=1,failed_calls=0"), "{get}");
        assert!(all["Commandstats"].contains_key("cmdstat_client.setname"));
        let percentiles = field("Latencystats", "latency_percentiles_usec_get");
        assert!(percentiles.starts_with("p50=") && percentiles.contains(",p99.9="), "{percentiles}");
        for (section, name) in [("Memory", "used_memory_rss"), ("Memory", "used_memory"), ("Server", "process_id")] {
            assert!(field(section, name).parse::<u64>().unwrap() > 0, "{name}");
        }
        assert!(field("CPU", "used_cpu_user").parse::<f64>().is_ok());
    }

    #[test]
    fn keys_expire_without_being_looked_at_and_info_says_how_late() {
        let mut client = Client::new();
        for i in 0..200 {
            client.run(&format!("set key:{i} v px 5"));
        }
        client.run("set lasting v ex 5");
        client.engine.shard.set_now(NOW_MS + 12);
        client.engine.expire_due();
        let stats = &info(&mut client, "info stats")["Stats"];
        let field = |name: &str| stats[name].as_str();
        // The first of two turns.
        assert_eq!((field("expired_keys"), field("expired_time_cap_reached_count")), ("128", "1"));
        assert_eq!((field("expire_lag_p50_ms"), field("expire_lag_max_ms")), ("7", "7"));
        assert!(client.engine.next_expiry_ms() <= NOW_MS + 12);
        client.engine.expire_due();
        assert!((NOW_MS + 13..=NOW_MS + 5000).contains(&client.engine.next_expiry_ms()));
        client.expect("dbsize", ":1");
        client.expect("get lasting", "$1|v");
        client.expect("config resetstat", "+OK");
        assert_eq!(info(&mut client, "info stats")["Stats"]["expire_lag_max_ms"], "0");
    }

    #[test]
    fn ops_per_second_come_from_samples() {
        let mut client = Client::new();
        for tick in 0..=crate::stats::RATE_SAMPLES as i64 {
            client.engine.cron(NOW_MS + tick * RATE_INTERVAL_MS);
            for _ in 0..20 {
                client.run("ping");
            }
        }
        assert_eq!(info(&mut client, "info stats")["Stats"]["instantaneous_ops_per_sec"], "200");
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(1536), "1.50K");
        assert_eq!(human(3 << 20), "3.00M");
        assert_eq!(human(u64::MAX), "16384.00P");
    }
}
