//! What there is to tell of a cluster: lines for people, and JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::gaps::Gap;
use super::run::Clustered;
use super::{Kind, UNSERVED_MS_MAX};

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The lines under the table of a run.
pub fn lines(out: &mut String, cluster: &Clustered) {
    let sight = &cluster.sight;
    let _ = writeln!(
        out,
        "Cluster of {} primaries; {} MOVED, table of slots asked for {} times, {} of them in vain",
        cluster.primaries,
        sight.failed(Kind::Moved),
        cluster.asked.answered + cluster.asked.failed,
        cluster.asked.failed,
    );
    let all = sight.answers.iter().map(|node| node.1).sum::<u64>().max(1) as f64;
    let share = |(node, answers): &(String, u64)| format!("{node} {:.1} %", 100.0 * *answers as f64 / all);
    let shares: Vec<String> = sight.answers.iter().map(share).collect();
    let _ = writeln!(out, "Answers by {}", shares.join(", "));
    for (again, what) in [(true, "Refused and sent again"), (false, "Failed and not sent again")] {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_sent_again() == again);
        let counts = kinds.map(|kind| (kind, sight.failed(kind))).filter(|count| count.1 > 0);
        let counts: Vec<String> = counts.map(|(kind, count)| format!("{} {count}", kind.name())).collect();
        if !counts.is_empty() {
            let _ = writeln!(out, "{what}: {}", counts.join(", "));
        }
    }
    for gap in &sight.gaps {
        let _ = writeln!(out, "{}", line(gap));
    }
    if sight.more_gaps > 0 {
        let _ = writeln!(out, "{} more gaps are not shown", sight.more_gaps);
    }
    if sight.gave_up {
        let _ = writeln!(out, "Nothing was served for {} s, and the run was given up", UNSERVED_MS_MAX / 1000);
    }
}

fn line(gap: &Gap<String>) -> String {
    let (primary, at, how) = (&gap.primary, seconds(gap.from_ns), gap.kind.name());
    match (&gap.until, gap.length_ns()) {
        (Some((_, by)), Some(length)) if gap.is_failover() => {
            format!("Failover of {primary} after {at:.3} s ({how}): {:.1} ms until {by} took over", ms(length))
        }
        (Some(_), Some(length)) => {
            format!("Interruption of {primary} after {at:.3} s ({how}): {:.1} ms", ms(length))
        }
        _ => format!("Failure of {primary} after {at:.3} s ({how}): not served again by the end"),
    }
}

/// The same for programs.
pub fn json(cluster: &Clustered) -> Value {
    let sight = &cluster.sight;
    let failed: Map<String, Value> =
        Kind::ALL.into_iter().map(|kind| (kind.name().replace(' ', "_"), json!(sight.failed(kind)))).collect();
    json!({
        "primaries": cluster.primaries,
        "answers": sight.answers.iter().map(|(node, answers)| (node.clone(), json!(answers))).collect::<Map<_, _>>(),
        "failed": failed,
        "moved": sight.failed(Kind::Moved),
        "refreshes": cluster.asked.answered,
        "failed_refreshes": cluster.asked.failed,
        "failed_connects": sight.failed_connects,
        "gaps": sight.gaps.iter().map(gap_json).collect::<Vec<_>>(),
        "more_gaps": sight.more_gaps,
        "gave_up": sight.gave_up,
    })
}

fn gap_json(gap: &Gap<String>) -> Value {
    let until = gap.until.as_ref();
    json!({
        "primary": gap.primary,
        "failover": gap.is_failover(),
        "ms": gap.length_ns().map(ms),
        "from_s": seconds(gap.from_ns),
        "until_s": until.map(|until| seconds(until.0)),
        "by": until.map(|until| &until.1),
        "first_failure": gap.kind.name().replace(' ', "_"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::cluster::Sight;
    use crate::loadgen::cluster::scout::Asked;

    fn clustered() -> Clustered {
        let gap = |from_ns, until: Option<(u64, &str)>| Gap {
            primary: "a:1".to_string(),
            from_ns,
            until: until.map(|(at, by)| (at, by.to_string())),
            kind: Kind::Lost,
        };
        let mut sight = Sight { answers: vec![("a:1".into(), 1), ("b:2".into(), 3)], ..Sight::default() };
        sight.failed[Kind::Moved as usize] = 7;
        sight.failed[Kind::Lost as usize] = 9;
        let ms = 1_000_000;
        sight.gaps = vec![
            gap(1500 * ms, Some((1912 * ms, "b:2"))),
            gap(3000 * ms, Some((3040 * ms, "a:1"))),
            gap(4000 * ms, None),
        ];
        Clustered { primaries: 3, sight, asked: Asked { answered: 4, failed: 1 } }
    }

    #[test]
    fn people_are_told_what_failed_and_for_how_long() {
        let mut text = String::new();
        lines(&mut text, &clustered());
        let expected = "Cluster of 3 primaries; 7 MOVED, table of slots asked for 5 times, 1 of them in vain
Answers by a:1 25.0 %, b:2 75.0 %
Refused and sent again: moved 7
Failed and not sent again: connection lost 9
Failover of a:1 after 1.500 s (connection lost): 412.0 ms until b:2 took over
Interruption of a:1 after 3.000 s (connection lost): 40.0 ms
Failure of a:1 after 4.000 s (connection lost): not served again by the end
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_the_same() {
        let value = json(&clustered());
        assert_eq!((&value["moved"], &value["failed"]["connection_lost"]), (&json!(7), &json!(9)));
        assert_eq!((&value["refreshes"], &value["failed_refreshes"]), (&json!(4), &json!(1)));
        assert_eq!(value["answers"], json!({ "a:1": 1, "b:2": 3 }));
        let gaps = &value["gaps"];
        assert_eq!(
            (&gaps[0]["failover"], &gaps[0]["ms"], &gaps[0]["by"]),
            (&json!(true), &json!(412.0), &json!("b:2"))
        );
        assert_eq!((&gaps[1]["failover"], &gaps[1]["ms"]), (&json!(false), &json!(40.0)));
        assert_eq!((&gaps[2]["failover"], &gaps[2]["ms"], &gaps[2]["by"]), (&json!(false), &Value::Null, &Value::Null));
    }
}
