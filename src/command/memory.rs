//! MEMORY: where the bytes of the process are.

use tikv_jemalloc_ctl::stats_print::{Options, stats_print};

use super::latency::merged;
use super::{Args, Ask, Command, Flags, Flow, Home, help};
use crate::admin::process::{self, Process};
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

/// Data below which nothing is judged, and a resident set above this multiple of it is told, bytes.
const JUDGED_BYTES_MIN: u64 = 16 << 20;
const RESIDENT_RATIO_MAX: f64 = 1.5;

fn doctor(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_all(Ask::Snapshot, |_home, answers, reply| {
        let process = Process::read();
        let (used, resident) = (process.allocated_bytes + merged(answers).heap_bytes as u64, process.rss_bytes);
        let text = if used < JUDGED_BYTES_MIN {
            "Too little memory is in use to judge it.\n".to_string()
        } else if resident as f64 > used as f64 * RESIDENT_RATIO_MAX {
            format!(
                "{resident} bytes are in RAM for {used} bytes in use. MEMORY PURGE returns free pages at once; if the \
                 difference stays, the sizes of values have shifted and pages are partly filled.\n"
            )
        } else {
            "Nothing is odd about memory.\n".to_string()
        };
        reply.verbatim(b"txt", text.as_bytes());
        Ok(Flow::Done)
    }))
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
