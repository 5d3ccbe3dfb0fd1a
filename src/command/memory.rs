//! MEMORY: where the bytes of the process are.

use tikv_jemalloc_ctl::stats_print::{Options, stats_print};

use super::latency::merged;
use super::{Args, Ask, Command, Flags, Flow, Home, help};
use crate::admin::process::{self, Process};
use crate::config::MaxmemoryPolicy;
use crate::resp::{Error, Reply};

pub static COMMANDS: &[Command] = &[Command::container("memory", -2, Flags::NONE, SUBCOMMANDS).doc(
    "server",
    "4.0.0",
    "Depends on subcommand.",
    "A container for memory diagnostics commands.",
)];

static SUBCOMMANDS: &[Command] = &[
    Command::session("doctor", 2, Flags::NONE, doctor).doc("server", "4.0.0", "O(1)", "Says what is odd about memory."),
    help::row("server", Flags::NONE),
    Command::session("malloc-stats", 2, Flags::NONE, malloc_stats).doc(
        "server",
        "4.0.0",
        "O(1)",
        "Returns the allocator's own report.",
    ),
    Command::session("purge", 2, Flags::NONE, purge).doc(
        "server",
        "4.0.0",
        "O(1)",
        "Gives pages that the allocator keeps for later back to the system.",
    ),
    Command::session("stats", 2, Flags::NONE, stats).doc(
        "server",
        "4.0.0",
        "O(N) in cores",
        "Returns numbers about memory.",
    ),
    super::generic::object::MEMORY_USAGE,
];

/// One number of MEMORY STATS.
enum Number {
    Int(u64),
    Ratio(f64),
}

fn stats(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_all(Ask::Snapshot, |home, answers, reply| {
        let sum = merged(answers);
        let process = Process::read();
        let node = &home.engine.node;
        let used = process.allocated_bytes + sum.heap_bytes as u64;
        let peak = node.note_memory(used);
        let dataset = (sum.memory as u64).min(used);
        let keys: u64 = sum.keyspace.iter().map(|db| db.keys as u64).sum();
        let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        let net = used.saturating_sub(node.startup_bytes());
        let rows = [
            ("peak.allocated", Number::Int(peak)),
            ("total.allocated", Number::Int(used)),
            ("startup.allocated", Number::Int(node.startup_bytes())),
            ("replication.backlog", Number::Int(0)),
            ("clients.slaves", Number::Int(0)),
            ("clients.normal", Number::Int(sum.net.client_memory_bytes)),
            ("overhead.total", Number::Int(used - dataset)),
            ("keys.count", Number::Int(keys)),
            ("keys.bytes-per-key", Number::Int(dataset.checked_div(keys).unwrap_or(0))),
            ("dataset.bytes", Number::Int(dataset)),
            ("dataset.percentage", Number::Ratio(ratio(dataset, net).min(1.0) * 100.0)),
            ("peak.percentage", Number::Ratio(ratio(used, peak) * 100.0)),
            ("heap.live", Number::Int(sum.heap_bytes as u64)),
            ("heap.mapped", Number::Int(sum.mapped_bytes as u64)),
            ("allocator.allocated", Number::Int(process.allocated_bytes)),
            ("allocator.active", Number::Int(process.active_bytes)),
            ("allocator.resident", Number::Int(process.resident_bytes)),
            ("allocator-fragmentation.ratio", Number::Ratio(ratio(process.active_bytes, process.allocated_bytes))),
            (
                "allocator-fragmentation.bytes",
                Number::Int(process.active_bytes.saturating_sub(process.allocated_bytes)),
            ),
            ("fragmentation", Number::Ratio(ratio(process.rss_bytes, used))),
            ("fragmentation.bytes", Number::Int(process.rss_bytes.saturating_sub(used))),
        ];
        reply.map(rows.len());
        for (name, number) in rows {
            reply.bulk(name.as_bytes());
            match number {
                Number::Int(n) => reply.int(n as i64),
                Number::Ratio(x) => reply.double(x),
            }
        }
        Ok(Flow::Done)
    }))
}

/// What MEMORY DOCTOR looks at, bytes.
struct Findings {
    used: u64,
    peak: u64,
    resident: u64,
    /// Live and mapped memory of the heaps.
    heap: u64,
    mapped: u64,
    clients: u64,
    maxmemory: u64,
    evicts: bool,
}

/// Data below which nothing is judged, bytes.
const JUDGED_BYTES_MIN: u64 = 16 << 20;
/// Ratios above which something is told.
const PEAK_RATIO_MAX: f64 = 1.5;
const RESIDENT_RATIO_MAX: f64 = 1.5;
const MAPPED_RATIO_MAX: f64 = 1.2;
const CLIENTS_PART_MAX: f64 = 0.25;
/// Part of maxmemory at which it counts as reached.
const REACHED_PART: f64 = 0.98;

fn doctor(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_all(Ask::Snapshot, |home, answers, reply| {
        let (process, sum) = (Process::read(), merged(answers));
        let used = process.allocated_bytes + sum.heap_bytes as u64;
        let text = judge(&Findings {
            used,
            peak: home.engine.node.note_memory(used),
            resident: process.rss_bytes,
            heap: sum.heap_bytes as u64,
            mapped: sum.mapped_bytes as u64,
            clients: sum.net.client_memory_bytes,
            maxmemory: home.engine.config.maxmemory_bytes,
            evicts: home.engine.config.maxmemory_policy != MaxmemoryPolicy::NoEviction,
        });
        reply.verbatim(b"txt", text.as_bytes());
        Ok(Flow::Done)
    }))
}

/// One line for everything that is odd.
fn judge(of: &Findings) -> String {
    let Findings { used, peak, resident, heap, mapped, clients, maxmemory, .. } = *of;
    let above = |a: u64, b: u64, ratio: f64| a as f64 > b as f64 * ratio;
    let mut text = String::new();
    let mut tell = |odd: bool, line: String| {
        if odd {
            text.push_str(&line);
            text.push('\n');
        }
    };
    tell(
        maxmemory > 0 && !of.evicts && above(used, maxmemory, REACHED_PART),
        format!("{used} bytes are in use of {maxmemory} allowed, and the policy is noeviction: writes are refused."),
    );
    if used >= JUDGED_BYTES_MIN {
        tell(
            above(peak, used, PEAK_RATIO_MAX),
            format!("{peak} bytes were once in use, {used} are now: the resident set may stay larger for a while."),
        );
        tell(
            above(resident, used, RESIDENT_RATIO_MAX),
            format!("{resident} bytes are in RAM for {used} in use. MEMORY PURGE returns free pages at once."),
        );
        tell(
            above(mapped, heap.max(JUDGED_BYTES_MIN), MAPPED_RATIO_MAX),
            format!(
                "{mapped} bytes are mapped for {heap} of entries: sizes have shifted, and slabs are being emptied."
            ),
        );
        tell(
            above(clients, used, CLIENTS_PART_MAX),
            format!("{clients} of {used} bytes in use are buffers of clients: see CLIENT LIST."),
        );
    }
    match text.is_empty() {
        true if used < JUDGED_BYTES_MIN => "Too little memory is in use to judge it.\n".into(),
        true => "Nothing is odd about memory.\n".into(),
        false => text,
    }
}

fn malloc_stats(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let mut text = Vec::new();
    stats_print(&mut text, Options::default()).map_err(|_| Error::text("ERR the allocator has no report"))?;
    reply.verbatim(b"txt", &text);
    Ok(Flow::Done)
}

fn purge(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    if !process::purge() {
        return Err(Error::text("ERR Error purging dirty pages"));
    }
    reply.ok();
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;
    use crate::resp::Version;

    #[test]
    fn replies() {
        let mut client = Client::new();
        client.expect("memory foo", "-ERR unknown subcommand 'foo'. Try MEMORY HELP.");
        client.expect("memory malloc-stats x", "-ERR wrong number of arguments for 'memory|malloc-stats' command");
        client.expect("memory purge", "+OK");
        assert!(client.run("memory malloc-stats").contains("jemalloc"));
        assert!(client.run("memory doctor").starts_with('$'));
    }

    #[test]
    fn the_doctor_tells_what_is_odd() {
        const GIB: u64 = 1 << 30;
        let sound = || Findings {
            used: GIB,
            peak: GIB,
            resident: GIB + GIB / 10,
            heap: GIB / 2,
            mapped: GIB / 2,
            clients: 0,
            maxmemory: 2 * GIB,
            evicts: false,
        };
        assert_eq!(judge(&sound()), "Nothing is odd about memory.\n");
        assert!(judge(&Findings { used: 1 << 20, ..sound() }).starts_with("Too little"));
        for (findings, word) in [
            (Findings { maxmemory: GIB, ..sound() }, "refused"),
            (Findings { peak: 2 * GIB, ..sound() }, "once in use"),
            (Findings { resident: 2 * GIB, ..sound() }, "in RAM"),
            (Findings { mapped: GIB, ..sound() }, "being emptied"),
            (Findings { clients: GIB / 2, ..sound() }, "CLIENT LIST"),
        ] {
            let text = judge(&findings);
            assert!(text.contains(word) && text.lines().count() == 1, "{text}");
        }
        assert_eq!(judge(&Findings { maxmemory: GIB, evicts: true, ..sound() }), "Nothing is odd about memory.\n");
    }

    #[test]
    fn stats_count_keys_and_bytes() {
        let mut client = Client::new();
        client.run("set a 1");
        client.run("set b 2");
        assert!(client.run("memory usage a").starts_with(':'));
        client.expect("memory usage c", "$-1");
        client.session.version = Version::V3;
        let stats = client.run("memory stats");
        let lines: Vec<&str> = stats.split('|').collect();
        let value = |name: &str| lines[lines.iter().position(|line| *line == name).unwrap() + 1];
        assert_eq!(value("keys.count"), ":2");
        assert!(value("total.allocated").starts_with(':'));
        assert!(value("peak.percentage").starts_with(','));
    }
}
