//! LATENCY: histograms of execution times per command, and the monitor of moments that were slow ([`crate::stats::events`]).

use super::table::Row;
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, help, table};
use crate::resp::{Error, Reply, shown};
use crate::stats::events::{Sample, Series};
use crate::stats::{CommandStats, Event, LatencyEvents, Snapshot};

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
    Command::session("history", 3, FLAGS, history).doc(
        "server",
        "2.8.13",
        "O(1)",
        "Returns the samples of a latency event.",
    ),
    Command::session("latest", 2, FLAGS, latest).doc(
        "server",
        "2.8.13",
        "O(1)",
        "Returns the newest sample of each latency event.",
    ),
    Command::session("reset", -2, FLAGS, reset).doc(
        "server",
        "2.8.13",
        "O(N) in cores",
        "Forgets latency events, all of them or those that are named.",
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

/// What all cores have noted, with which the reply is written.
fn with_events(
    home: &mut Home,
    ask: Ask,
    write: impl FnOnce(&mut Home, &LatencyEvents, &mut Reply) -> Result<(), Error> + 'static,
) -> Result<Flow, Error> {
    Ok(home.ask_all(ask, move |home, answers, reply| {
        let mut events = LatencyEvents::default();
        for answer in answers {
            if let Answer::LatencyEvents(noted) = answer {
                events.merge(&noted);
            }
        }
        write(home, &events, reply).map(|()| Flow::Done)
    }))
}

/// LATENCY LATEST: name, time of the newest sample (Unix, s), its length and that of the longest, ms, of each event.
fn latest(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    with_events(home, Ask::LatencyEvents, |_home, events, reply| {
        reply.array(events.iter().count());
        for (event, series) in events.iter() {
            let newest = series.samples().last();
            reply.array(4);
            reply.bulk(event.name().as_bytes());
            reply.int(newest.map_or(0, |sample| sample.unix_s));
            reply.int(newest.map_or(0, |sample| sample.millis as i64));
            reply.int(series.millis_max() as i64);
        }
        Ok(())
    })
}

/// LATENCY HISTORY event
fn history(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let event = Event::named(args[2]);
    with_events(home, Ask::LatencyEvents, move |_home, events, reply| {
        let samples = event.and_then(|event| events.of(event)).map_or(&[][..], Series::samples);
        reply.array(samples.len());
        for sample in samples {
            reply.array(2);
            reply.int(sample.unix_s);
            reply.int(sample.millis as i64);
        }
        Ok(())
    })
}

/// LATENCY RESET [event ...]: for how many events there was something to forget.
fn reset(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let events = match &args[2..] {
        [] => Event::ALL.to_vec(),
        names => names.iter().filter_map(|name| Event::named(name)).collect(),
    };
    with_events(home, Ask::TakeLatencyEvents(events), |_home, taken, reply| {
        reply.int(taken.iter().count() as i64);
        Ok(())
    })
}

/// LATENCY GRAPH event
fn graph(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let (event, name) = (Event::named(args[2]), shown(args[2], 128));
    with_events(home, Ask::LatencyEvents, move |home, events, reply| {
        let found = event.and_then(|event| Some((event, events.of(event)?)));
        let (event, series) =
            found.ok_or_else(|| Error::text(format!("ERR No samples available for event '{name}'")))?;
        reply.verbatim(b"txt", draw(event, series, home.engine.shard.now_ms() / 1000).as_bytes());
        Ok(())
    })
}

/// The newest samples that a graph shows, one a column, and its rows.
const GRAPH_COLUMNS: usize = 80;
const GRAPH_ROWS: u64 = 4;

/// The newest samples as columns, whose height is their place between the shortest and the longest, with their ages below.
fn draw(event: Event, series: &Series, now_s: i64) -> String {
    let samples = series.samples();
    let samples = &samples[samples.len().saturating_sub(GRAPH_COLUMNS)..];
    let lengths = || samples.iter().map(|sample| sample.millis);
    let (low, high) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
    let mut text = format!(
        "{} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n",
        event.name(),
        series.millis_max(),
        "-".repeat(GRAPH_COLUMNS)
    );
    // A row has two steps: half full and full. The shortest is one step high.
    let steps = |millis: u64| 1 + (millis - low) * (2 * GRAPH_ROWS - 1) / (high - low).max(1);
    for row in (0..GRAPH_ROWS).rev() {
        text.extend(lengths().map(|millis| match steps(millis).saturating_sub(2 * row) {
            0 => ' ',
            1 => '_',
            _ => '#',
        }));
        text.push('\n');
    }
    let ages: Vec<String> = samples.iter().map(|sample| age(now_s - sample.unix_s)).collect();
    for line in 0..ages.iter().map(String::len).max().unwrap_or(0) {
        text.push('\n');
        text.extend(ages.iter().map(|age| age.as_bytes().get(line).map_or(' ', |&byte| byte as char)));
    }
    text.push('\n');
    text
}

/// How long ago, in the largest unit of which there is one.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// LATENCY DOCTOR
fn doctor(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    with_events(home, Ask::LatencyEvents, |home, events, reply| {
        let threshold_ms = home.engine.config.latency_monitor_threshold_ms;
        reply.verbatim(b"txt", report(events, threshold_ms).as_bytes());
        Ok(())
    })
}

/// What was slow, how often and how long, and what may help.
fn report(events: &LatencyEvents, threshold_ms: u64) -> String {
    let mut text = match threshold_ms {
        0 => "The latency monitor is off: CONFIG SET latency-monitor-threshold <milliseconds> switches it on.\n"
            .to_string(),
        _ => format!("The latency monitor notes what takes {threshold_ms} ms or longer.\n"),
    };
    if events.iter().next().is_none() {
        text.push_str("No latency events are noted. LATENCY HISTOGRAM shows how long commands take.\n");
        return text;
    }
    for (event, series) in events.iter() {
        let samples = series.samples();
        let count = samples.len() as u64;
        let mean_ms = samples.iter().map(|sample| sample.millis).sum::<u64>() / count.max(1);
        let span_s = |first: &Sample, last: &Sample| (last.unix_s - first.unix_s) as u64 / (count - 1).max(1);
        let period = match samples {
            [first, .., last] => format!(", one every {} s", span_s(first, last)),
            _ => String::new(),
        };
        let worst_ms = series.millis_max();
        text.push_str(&format!(
            "{}: {count} in different seconds{period}, {mean_ms} ms on average, {worst_ms} ms at worst. ",
            event.name()
        ));
        text.push_str(match event {
            Event::Command => "SLOWLOG GET shows which commands were slow: ask them for less at a time.\n",
            Event::FastCommand => {
                "Such a command is never slow by itself: `keyloom doctor` says whether the machine is at fault.\n"
            }
            Event::ExpireCycle => "Many keys expire in the same moment: give them different times to live.\n",
            Event::EvictionCycle => {
                "Tables grow, large values are freed, or memory is short: see evicted_keys in INFO.\n"
            }
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{draw, report};
    use crate::command::lookup;
    use crate::command::transcript::Client;
    use crate::config::{Config, DebugCommand};
    use crate::stats::{Event, LatencyEvents};

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        for (line, reply) in [
            ("latency foo", "-ERR unknown subcommand 'foo'. Try LATENCY HELP."),
            ("latency latest", "*0"),
            ("latency history foo", "*0"),
            ("latency graph foo", "-ERR No samples available for event 'foo'"),
            ("latency reset foo", ":0"),
            ("latency reset", ":0"),
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
        client.expect("config resetstat", "+OK");
        client.expect("latency histogram get", "*0");
    }

    /// A client whose monitor has noted `command` at these times, s and ms, and `expire-cycle` once.
    fn with_samples(samples: &[(i64, u64)]) -> LatencyEvents {
        let mut events = LatencyEvents::default();
        samples.iter().for_each(|&(unix_s, millis)| events.add(Event::Command, unix_s, millis));
        events.add(Event::ExpireCycle, 7, 12);
        events
    }

    #[test]
    fn slow_commands_are_noted_until_they_are_forgotten() {
        let mut client = Client::with(Config { enable_debug_command: DebugCommand::Yes, ..Config::default() });
        client.expect("debug sleep 0.002", "+OK");
        client.expect("latency latest", "*0");
        client.expect("config set latency-monitor-threshold 2", "+OK");
        client.expect("debug sleep 0.002", "+OK");
        let latest = client.run("latency latest");
        assert!(latest.starts_with("*1|*4|$7|command|:"), "{latest}");
        assert!(client.run("latency history command").starts_with("*1|*2|:"));
        client.expect("latency history fast-command", "*0");
        assert!(client.run("latency graph command").contains("command - high"));
        assert!(client.run("latency doctor").contains("command: 1 in different seconds"));
        client.expect("latency reset expire-cycle nosuch", ":0");
        client.expect("latency reset expire-cycle command", ":1");
        client.expect("latency latest", "*0");
    }

    #[test]
    fn graphs_and_reports_can_be_read() {
        let events = with_samples(&[(10, 1), (40, 8), (70, 4)]);
        let graph = draw(Event::Command, events.of(Event::Command).unwrap(), 3615);
        let rows: Vec<&str> = graph.lines().collect();
        assert_eq!(rows[0], "command - high 8 ms, low 1 ms (all time high 8 ms)");
        assert_eq!(rows[2..], [" # ", " # ", " ##", "_##", "", "155", "h99", " mm"]);
        let text = report(&events, 100);
        assert!(
            text.contains("command: 3 in different seconds, one every 30 s, 4 ms on average, 8 ms at worst."),
            "{text}"
        );
        assert!(text.contains("expire-cycle: 1 in different seconds, 12 ms on average"), "{text}");
        assert!(report(&LatencyEvents::default(), 0).starts_with("The latency monitor is off"));
    }
}
