//! The numbers for people and for programs: progress line, table, JSON.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::cluster;
use super::plan::Op;
use super::run::Outcome;
use super::stats::{OpStats, Stats};

/// The quantiles shown, with their names.
pub const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];
/// A load thread that uses more of its CPU than this probably limits the result.
const CPU_BUSY: f64 = 0.9;

/// Microseconds as milliseconds.
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn per_s(count: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// One line about the last second, `seconds` after the start.
pub fn progress_line(seconds: u64, warmup_s: f64, now: &Stats, total: &Stats) -> String {
    let measured_s = seconds as f64 - warmup_s;
    if measured_s <= 0.0 {
        return format!("[{seconds:>4} s] warming up");
    }
    let (now, total) = (now.total(), total.total());
    format!(
        "[{seconds:>4} s] {:>9} ops/s, average {:>9.0}; now p50 {:.3} ms, p99 {:.3} ms; errors {}",
        now.answered,
        total.answered as f64 / measured_s,
        ms(now.response.value_at_quantile(0.5)),
        ms(now.response.value_at_quantile(0.99)),
        total.errors,
    )
}

/// Names of the operations, in the order of [`Op::ALL`].
pub type Names<'a> = [&'a str; Op::COUNT];

/// The final table, with a line for everything that did not go well.
pub fn table(outcome: &Outcome, names: Names<'_>) -> String {
    let mut out = String::new();
    let total = outcome.stats.total();
    let open_loop = outcome.stats.open_loop();
    let mut rows: Vec<(&str, &OpStats)> =
        Op::ALL.into_iter().filter_map(|op| Some((names[op as usize], outcome.stats.op(op)?))).collect();
    rows.push(("Totals", &total));
    let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0).max(6);
    if open_loop {
        let _ = writeln!(out, "Response time in ms, from when each request was due:");
    }
    let _ = write!(out, "{:<width$} {:>11} {:>11} {:>11}", "Op", "ops/s", "hits/s", "misses/s");
    latency_header(&mut out);
    let _ = writeln!(out, " {:>11}", "KB/s");
    for (name, stats) in &rows {
        let rates = [stats.answered, stats.hits, stats.misses].map(|count| per_s(count, outcome.elapsed));
        let _ = write!(out, "{name:<width$} {:>11.1} {:>11.1} {:>11.1}", rates[0], rates[1], rates[2]);
        latency(&mut out, &stats.response);
        let _ = writeln!(out, " {:>11.1}", per_s(stats.bytes_in + stats.bytes_out, outcome.elapsed) / 1024.0);
    }
    if open_loop {
        let _ = write!(out, "Service time in ms, from when each request was sent:\n{:<width$}{:36}", "Op", "");
        latency_header(&mut out);
        out.push('\n');
        for (name, stats) in &rows {
            if let Some(service) = &stats.service {
                let _ = write!(out, "{name:<width$}{:36}", "");
                latency(&mut out, service);
                out.push('\n');
            }
        }
    }
    let seconds = outcome.elapsed.as_secs_f64();
    let _ = writeln!(out, "{} requests in {seconds:.3} s, {} errors", total.answered, total.errors);
    trouble(&mut out, outcome);
    if let Some(cluster) = &outcome.cluster {
        cluster::report::lines(&mut out, cluster);
    }
    out
}

fn latency_header(out: &mut String) {
    let _ = write!(out, " {:>9}", "mean ms");
    for (name, _) in QUANTILES {
        let _ = write!(out, " {name:>9}");
    }
    let _ = write!(out, " {:>9}", "max");
}

fn latency(out: &mut String, histogram: &Histogram<u64>) {
    let _ = write!(out, " {:>9.3}", histogram.mean() / 1000.0);
    for (_, quantile) in QUANTILES {
        let _ = write!(out, " {:>9.3}", ms(histogram.value_at_quantile(quantile)));
    }
    let _ = write!(out, " {:>9.3}", ms(histogram.max()));
}

fn trouble(out: &mut String, outcome: &Outcome) {
    if let Some(error) = &outcome.stats.first_error {
        let _ = writeln!(out, "First error: {error}");
    }
    if outcome.lost_connections > 0 {
        let why = outcome.first_loss.as_deref().unwrap_or("unknown");
        // In a cluster others take the place of those that are lost.
        let of = if outcome.cluster.is_none() { format!(" of {}", outcome.connections) } else { String::new() };
        let _ = writeln!(out, "Lost {}{of} connections: {why}", outcome.lost_connections);
    }
    if outcome.unanswered > 0 {
        let _ = writeln!(out, "{} requests got no reply and are in no percentile", outcome.unanswered);
    }
    if outcome.unsent > 0 {
        let _ = writeln!(
            out,
            "{} requests were due but not sent by the end: the rate was not reached; the percentiles do not hold them",
            outcome.unsent
        );
    }
    if let Some(cpu) = outcome.cpu.filter(|&cpu| cpu > CPU_BUSY && !outcome.stats.open_loop()) {
        let percent = 100.0 * cpu;
        let _ = writeln!(out, "A load thread used {percent:.0} % of a CPU and may be the limit: try more threads");
    }
    if outcome.interrupted {
        let _ = writeln!(out, "Interrupted");
    }
}

/// The outcome for programs. Times are microseconds, except for `elapsed_s`.
pub fn json(outcome: &Outcome, names: Names<'_>) -> Value {
    let mut ops = Map::new();
    for op in Op::ALL {
        if let Some(stats) = outcome.stats.op(op) {
            ops.insert(names[op as usize].to_lowercase(), op_json(stats, outcome.elapsed));
        }
    }
    json!({
        "elapsed_s": outcome.elapsed.as_secs_f64(),
        "totals": op_json(&outcome.stats.total(), outcome.elapsed),
        "ops": ops,
        "first_error": outcome.stats.first_error,
        "connections": outcome.connections,
        "lost_connections": outcome.lost_connections,
        "first_loss": outcome.first_loss,
        "unanswered": outcome.unanswered,
        "unsent": outcome.unsent,
        "busiest_thread_cpu": outcome.cpu,
        "interrupted": outcome.interrupted,
        "cluster": outcome.cluster.as_ref().map(cluster::report::json),
    })
}

fn op_json(stats: &OpStats, elapsed: Duration) -> Value {
    json!({
        "requests": stats.answered,
        "hits": stats.hits,
        "misses": stats.misses,
        "errors": stats.errors,
        "bytes_sent": stats.bytes_out,
        "bytes_received": stats.bytes_in,
        "ops_per_s": per_s(stats.answered, elapsed),
        "bytes_per_s": per_s(stats.bytes_out + stats.bytes_in, elapsed),
        "response_us": histogram_json(&stats.response),
        "service_us": stats.service.as_ref().map(histogram_json),
    })
}

fn histogram_json(histogram: &Histogram<u64>) -> Value {
    let mut map = Map::new();
    map.insert("mean".into(), json!(histogram.mean()));
    map.insert("stddev".into(), json!(histogram.stdev()));
    map.insert("min".into(), json!(histogram.min()));
    for (name, quantile) in QUANTILES {
        map.insert(name.into(), json!(histogram.value_at_quantile(quantile)));
    }
    map.insert("max".into(), json!(histogram.max()));
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::reply;
    use crate::loadgen::stats::Answer;

    fn outcome(open_loop: bool) -> Outcome {
        let mut stats = Stats::new(open_loop);
        for i in 1..=1000u64 {
            for (op, outcome) in [(Op::Set, reply::Outcome::Value), (Op::Get, reply::Outcome::Miss)] {
                let response_ns = i * 1000;
                let answer = Answer { op, outcome, response_ns, service_ns: 1000, bytes_out: 1024, bytes_in: 1024 };
                stats.record(&answer);
            }
        }
        Outcome {
            stats,
            elapsed: Duration::from_secs(2),
            connections: 4,
            lost_connections: 1,
            first_loss: Some("reset".into()),
            unanswered: 3,
            unsent: 5,
            cpu: Some(0.95),
            interrupted: true,
            cluster: None,
        }
    }

    #[test]
    fn table_shows_rates_percentiles_and_trouble() {
        let text = table(&outcome(false), ["SET", "GET", "custom"]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let head = "Op ops/s hits/s misses/s mean ms p50 p90 p95 p99 p99.9 p99.99 max KB/s";
        assert_eq!(rows[0].join(" "), head);
        let latency = "0.500 0.500 0.900 0.950 0.990 0.999 1.000 1.000";
        assert_eq!(rows[1].join(" "), format!("SET 500.0 0.0 0.0 {latency} 1000.0"));
        assert_eq!(rows[2].join(" "), format!("GET 500.0 0.0 500.0 {latency} 1000.0"));
        assert_eq!(rows[3].join(" "), format!("Totals 1000.0 0.0 500.0 {latency} 2000.0"));
        for part in ["2000 requests in 2.000 s", "Lost 1 of 4", "3 requests got no", "5 requests were due", "95 %"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("Service time"));
        assert!(table(&outcome(true), ["SET", "GET", "custom"]).contains("Service time"));
    }

    #[test]
    fn json_has_all_numbers() {
        let value = json(&outcome(true), ["SET", "GET", "custom"]);
        assert_eq!(value["ops"]["set"]["requests"], 1000);
        assert_eq!(value["ops"]["get"]["misses"], 1000);
        assert_eq!(value["totals"]["ops_per_s"], 1000.0);
        assert_eq!(value["totals"]["response_us"]["p99"], 990);
        assert_eq!(value["totals"]["service_us"]["max"], 1);
        assert!(value["ops"].get("custom").is_none());
        assert!(json(&outcome(false), ["SET", "GET", "custom"])["totals"]["service_us"].is_null());
    }

    #[test]
    fn progress_line_tells_warm_up() {
        let stats = outcome(false).stats;
        assert!(progress_line(1, 2.0, &stats, &stats).contains("warming up"));
        assert!(progress_line(4, 2.0, &stats, &stats).contains("average      1000; now p50 0.500 ms, p99 0.990 ms"));
    }
}
