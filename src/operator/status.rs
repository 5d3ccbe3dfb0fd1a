//! What a member says of its cluster, as a table.

use std::fmt::Write;

use serde_json::Value;

/// Where other nodes reach the member that says this: host, and port of the bus.
pub(super) fn bus_address(text: &str) -> Option<(String, String)> {
    let status: Value = serde_json::from_str(text).ok()?;
    let me = status["me"].as_u64()?;
    let node = status["nodes"].as_array()?.iter().find(|node| node["node"].as_u64() == Some(me))?;
    Some((node["host"].as_str()?.into(), node["bus_port"].as_u64()?.to_string()))
}

/// A cluster that was founded, and whose data set has not begun, as a member sees it.
pub(super) struct Unfinished {
    /// Ids of its other nodes.
    pub others: Vec<String>,
}

/// None: it has begun.
pub(super) fn unfinished(text: &str) -> Option<Unfinished> {
    let status: Value = serde_json::from_str(text).ok()?;
    let others = status["nodes"].as_array()?.iter().filter(|node| node["node"] != status["me"]);
    let others = others.filter_map(|node| node["id"].as_str().map(str::to_string)).collect();
    (status["partitions"].as_u64() == Some(0)).then_some(Unfinished { others })
}

/// The table, and another one of all partitions if that is wanted; the error is what cannot be understood.
pub(super) fn table(text: &str, partitions: bool) -> Result<String, String> {
    let short = || text.chars().take(200).collect::<String>();
    let status: Value = serde_json::from_str(text).map_err(|_| short())?;
    let nodes = status["nodes"].as_array().ok_or_else(short)?;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut out = String::new();
    if status["lease_ms"].as_u64() == Some(0) {
        let me = number(&status["me"]);
        let _ = writeln!(out, "node {me} has no lease: it serves nothing, and what it says of others may be long past");
    }
    let leader = status["raft_leader"].as_u64();
    let leads = leader.map_or("nobody".into(), |leader| format!("node {leader}"));
    let term = number(&status["raft_term"]);
    let _ = writeln!(
        out,
        "{} partitions, {} served, {} with fewer than {} copies in sync; {leads} leads raft in term {term}",
        number(&status["partitions"]),
        number(&status["served"]),
        number(&status["few_in_sync"]),
        number(&status["copies"]),
    );
    let _ = writeln!(
        out,
        "{:>5}  {:<21}  {:<8}  {:>6}  {:>6}  {:>7}  {:>6}  state",
        "node", "address", "raft", "leads", "copies", "in sync", "lag ms"
    );
    for node in nodes {
        let address = format!("{}:{}", node["host"].as_str().unwrap_or("?"), number(&node["port"]));
        let raft = if leader == node["node"].as_u64() { "leader" } else { node["raft"].as_str().unwrap_or("?") };
        let state = node["state"].as_str().unwrap_or("?");
        let _ = writeln!(
            out,
            "{:>5}  {address:<21}  {raft:<8}  {:>6}  {:>6}  {:>7}  {:>6}  {state}",
            number(&node["node"]),
            number(&node["leads"]),
            number(&node["holds"]),
            number(&node["in_sync"]),
            // How far it is behind the node that says this, if it follows that.
            node["lag_ms"].as_u64().map_or("-".into(), |ms| ms.to_string()),
        );
    }
    if status["rebalancing_paused"].as_bool() == Some(true) {
        let _ = writeln!(out, "rebalancing is paused: copies and roles stay where they are");
    }
    let handing_over = number(&status["handing_over"]);
    if handing_over > 0 {
        let _ = writeln!(out, "node {} hands over {handing_over} roles", number(&status["me"]));
    }
    let waiting = number(&status["waiting_for_memory"]);
    if waiting > 0 {
        let _ = writeln!(out, "node {} has no memory for {waiting} copies that it is to take", number(&status["me"]));
    }
    if partitions {
        let roles = status["roles"].as_array().ok_or_else(short)?;
        roles_table(roles, &mut out);
    }
    Ok(out)
}

/// Partitions with equal roles, a line for each.
fn roles_table(roles: &[Value], out: &mut String) {
    let text = |value: &Value| value.as_u64().map_or("-".into(), |number| number.to_string());
    let list = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(",");
    let titles = ["primary", "epoch", "copies", "in sync", "number"];
    let _ = writeln!(
        out,
        "\n{:>7}  {:>6}  {:<11}  {:<11}  {:>6}  partitions",
        titles[0], titles[1], titles[2], titles[3], titles[4]
    );
    for role in roles {
        let _ = writeln!(
            out,
            "{:>7}  {:>6}  {:<11}  {:<11}  {:>6}  {}",
            text(&role["primary"]),
            text(&role["epoch"]),
            list(&role["replicas"]),
            list(&role["in_sync"]),
            text(&role["count"]),
            role["partitions"].as_str().unwrap_or("?"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_says_is_a_table() {
        let text = r#"{"me":1,"raft_leader":1,"raft_term":3,"partitions":4,"served":3,"few_in_sync":1,"copies":2,"nodes":[
            {"node":1,"host":"10.0.0.1","port":7000,"bus_port":17000,"raft":"voter","leads":2,"holds":4,"in_sync":4,"lag_ms":null,"state":"alive"},
            {"node":2,"host":"10.0.0.2","port":7000,"bus_port":17000,"raft":"voter","leads":1,"holds":4,"in_sync":3,"lag_ms":35,"state":"dead"}],"handing_over":2,"lease_ms":250,
            "roles":[{"primary":null,"epoch":7,"replicas":[1,2],"in_sync":[2],"count":3,"partitions":"0-1,3"}]}"#;
        let table = table(text, false).unwrap();
        let first = "4 partitions, 3 served, 1 with fewer than 2 copies in sync; node 1 leads raft in term 3\n";
        assert!(table.starts_with(first));
        let lines: Vec<Vec<&str>> = table.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["1", "10.0.0.1:7000", "leader", "2", "4", "4", "-", "alive"]);
        assert_eq!(lines[1], ["2", "10.0.0.2:7000", "voter", "1", "4", "3", "35", "dead"]);
        assert!(table.ends_with("\nnode 1 hands over 2 roles\n"));
        assert_eq!(bus_address(text), Some(("10.0.0.1".into(), "17000".into())));
        assert_eq!(bus_address("{}"), None);
        assert!(unfinished(text).is_none() && unfinished("{}").is_none());
        let founded = r#"{"me":1,"partitions":0,"nodes":[{"node":1,"id":"aa"},{"node":2,"id":"bb"}]}"#;
        assert_eq!(unfinished(founded).map(|founded| founded.others), Some(vec!["bb".to_string()]));
        assert_eq!(super::table("nothing", false), Err("nothing".into()));
        let fenced = super::table(&text.replace("250", "0"), false).unwrap();
        let said = "node 1 has no lease: it serves nothing, and what it says of others may be long past\n";
        assert_eq!(fenced.strip_suffix(&table), Some(said));
        let full = super::table(&text.replace("\"lease_ms\"", "\"waiting_for_memory\":7,\"lease_ms\""), false).unwrap();
        assert_eq!(full.strip_prefix(&table), Some("node 1 has no memory for 7 copies that it is to take\n"));
        let more = super::table(text, true).unwrap();
        let last: Vec<&str> = more.lines().last().unwrap().split_whitespace().collect();
        assert_eq!((more.strip_prefix(&table).is_some(), last), (true, vec!["-", "7", "1,2", "2", "3", "0-1,3"]));
    }
}
