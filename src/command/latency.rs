//! LATENCY: histograms of execution times per command, and the event monitor, which has no events.

use super::table::Row;
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, help, table};
use crate::resp::{Error, Reply, shown};
use crate::stats::{CommandStats, Snapshot};

const FLAGS: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::LOADING).or(Flags::STALE);

pub static COMMANDS: &[Command] = &[Command::container("latency", -2, Flags::NONE, SUBCOMMANDS).doc(
    "server",
    "2.8.13",
    "Depends on subcommand.",
    "A container for latency diagnostics commands.",
)];

static SUBCOMMANDS: &[Command] = &[
    Command::session("doctor", 2, FLAGS, doctor).doc("server", "2.8.13", "O(1)", "Explains latency events."),
    Command::session("graph", 3, FLAGS, graph).doc("server", "2.8.13", "O(1)", "Draws the samples of a latency event."),
    help::row("server", Flags::NONE),
    Command::session("histogram", -2, FLAGS, histogram).doc(
        "server",
        "7.0.0",
        "O(N) in commands",
        "Returns the cumulative distribution of the execution times of commands, us.",
    ),
    Command::session("history", 3, FLAGS, none).doc(
        "server",
        "2.8.13",
        "O(1)",
        "Returns the samples of a latency event.",
    ),
    Command::session("latest", 2, FLAGS, none).doc(
        "server",
        "2.8.13",
        "O(1)",
        "Returns the newest sample of each latency event.",
    ),
    Command::session("reset", -2, FLAGS, reset).doc(
        "server",
        "2.8.13",
        "O(N) in cores",
        "Forgets latency events, and without arguments the histograms too.",
    ),
];

/// First upper bound of the histogram, ns; the next ones double.
const FIRST_BOUND_NS: u64 = 1024;

/// LATENCY HISTOGRAM [command ...]
fn histogram(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let rows: Vec<&'static Row> =
        if args.len() == 2 { table().rows().iter().collect() } else { rows_named(&args[2..]) };
    Ok(home.ask_all(Ask::Snapshot, move |_home, answers, reply| {
        let sum = merged(answers);
        let used = |row: &&Row| sum.commands[row.id as usize].latency.count() > 0;
        let rows: Vec<&Row> = rows.into_iter().filter(used).collect();
        reply.map(rows.len());
        for row in rows {
            reply.bulk(row.full_name.as_bytes());
            write_distribution(&sum.commands[row.id as usize], reply);
        }
        Ok(Flow::Done)
    }))
}

/// The rows that the names mean; a container stands for its subcommands. Unknown names are left out.
fn rows_named(names: &[&[u8]]) -> Vec<&'static Row> {
    let mut rows: Vec<&'static Row> = Vec::new();
    for name in names {
        let Some(row) = table().lookup_full(name) else { continue };
        rows.push(row);
        if row.parent.is_none() {
            rows.extend(table().subs(row));
        }
    }
    rows.sort_unstable_by_key(|row| row.id);
    rows.dedup_by_key(|row| row.id);
    rows
}

/// `calls`, and how many calls took at most so many us; bounds that add nothing are left out.
fn write_distribution(stats: &CommandStats, reply: &mut Reply) {
    let histogram = stats.latency.histogram();
    let calls = stats.latency.count();
    let mut points = Vec::new();
    let mut before = 0;
    let mut bound_ns = FIRST_BOUND_NS;
    while let Some(histogram) = &histogram
        && before < calls
    {
        // A histogram's own buckets do not end at powers of two; the one that holds the bound counts whole.
        let end_ns = histogram.highest_equivalent(bound_ns);
        let count = histogram.count_between(0, end_ns);
        if count > before {
            points.push((end_ns / 1000, count));
            before = count;
        }
        bound_ns *= 2;
    }
    reply.map(2);
    reply.bulk(b"calls");
    reply.int(calls as i64);
    reply.bulk(b"histogram_usec");
    reply.map(points.len());
    for (micros, count) in points {
        reply.int(micros as i64);
        reply.int(count as i64);
    }
}

/// The numbers of the node from the answers of its cores.
pub fn merged(answers: Vec<Answer>) -> Snapshot {
    let mut sum = Snapshot { commands: vec![CommandStats::default(); table().rows().len()], ..Snapshot::default() };
    for answer in answers {
        if let Answer::Snapshot(snapshot) = answer {
            sum.merge(&snapshot);
        }
    }
    sum
}

/// LATENCY RESET [event ...]: the number of event series that were forgotten. There are none to forget.
fn reset(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    if args.len() > 2 {
        reply.int(0);
        return Ok(Flow::Done);
    }
    Ok(home.ask_all(Ask::ResetHistograms, |_home, _answers, reply| {
        reply.int(0);
        Ok(Flow::Done)
    }))
}

fn none(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.array(0);
    Ok(Flow::Done)
}

fn graph(_home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Err(Error::text(format!("ERR No samples available for event '{}'", shown(args[2], 128))))
}

fn doctor(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.verbatim(
        b"txt",
        b"No latency events are recorded. LATENCY HISTOGRAM shows how long commands take, SLOWLOG GET which ones were \
          slow.\n",
    );
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use crate::command::lookup;
    use crate::command::transcript::Client;

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        for (line, reply) in [
            ("latency foo", "-ERR unknown subcommand 'foo'. Try LATENCY HELP."),
            ("latency latest", "*0"),
            ("latency history foo", "*0"),
            ("latency graph foo", "-ERR No samples available for event 'foo'"),
            ("latency reset foo", ":0"),
            ("latency histogram foo", "*0"),
            ("latency histogram get", "*0"),
        ] {
            client.expect(line, reply);
        }
    }

    #[test]
    fn distributions_are_cumulative() {
        let mut client = Client::new();
        let id = lookup(b"get").unwrap().id as usize;
        for nanos in [500, 900, 1500, 40_000, 3_000_000] {
            client.engine.stats[id].latency.record(nanos);
        }
        // Bounds of 1, 2, 66 and 4227 us: powers of two ns, rounded up to the histogram's precision.
        let body = "$5|calls|:5|$14|histogram_usec|*8|:1|:2|:2|:3|:66|:4|:4227|:5";
        client.expect("latency histogram GET", &format!("*2|$3|get|*4|{body}"));
        client.expect("latency histogram get get nosuch", &format!("*2|$3|get|*4|{body}"));
        assert!(client.run("latency histogram").contains(body));
        client.run("client id");
        assert!(client.run("latency histogram client").starts_with("*2|$9|client|id|*4|$5|calls|:1|"));
        assert!(client.run("latency histogram client|id").starts_with("*2|$9|client|id|"));
        client.expect("latency reset", ":0");
        client.expect("latency histogram get", "*0");
    }
}
