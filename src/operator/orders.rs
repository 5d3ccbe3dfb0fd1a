//! Orders of an operator, and how a cluster gets on with them: `leave`, `rebalance` and `failover`.
//!
//! An order to leave or to rebalance stands in raft's state, so it goes on when whoever gave it, or the node that was asked, is gone.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::OperatorError;
use super::changes::Seen;
use super::client::{Client, ClientError};

/// Between two looks at a node that leaves.
const LOOK: Duration = Duration::from_millis(200);

/// How long a member may take to answer while others are there to be asked.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// After so long without any change it is said what may be the reason.
const STUCK: Duration = Duration::from_secs(10);

/// How long nobody may answer.
const LOOKS_IN_VAIN_MAX: u32 = 50;

/// What there is left of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    leads: u64,
    holds: u64,
    votes: bool,
    paused: bool,
    /// It is to leave.
    leaves: bool,
}

/// For how long a command waits until what it has ordered is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    No,
    AtMost(Duration),
    UntilDone,
}

/// Why a node may not get any further with leaving, as a member sees it.
fn reasons(text: &str, number: u64) -> Vec<String> {
    let Ok(status) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let all = |name: &str| status[name].as_array().map_or(&[][..], Vec::as_slice);
    let partitions = |fits: &dyn Fn(&Value) -> bool| -> u64 {
        all("roles").iter().filter(|role| fits(role)).filter_map(|role| role["count"].as_u64()).sum()
    };
    let dead = all("nodes").iter().filter(|node| node["state"].as_str() == Some("dead"));
    let mut reasons: Vec<String> = dead.map(|node| format!("node {} is dead", node["node"])).collect();
    if status["raft_leader"].is_null() {
        reasons.push("nobody leads raft".into());
    }
    let without_primary = partitions(&|role| role["primary"].is_null());
    let only_there = partitions(&|role| role["in_sync"] == serde_json::json!([number]));
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    let copied = partitions(&|role| count(&role["replicas"]) > count(&role["in_sync"]));
    let without_memory = status["waiting_for_memory"].as_u64().unwrap_or(0);
    let counted = [
        (copied, format!("copies of {copied} partitions are under way")),
        (without_primary, format!("nobody leads {without_primary} partitions")),
        (only_there, format!("nobody else has all of {only_there} partitions")),
        (without_memory, format!("node {} has no memory for {without_memory} copies", status["me"])),
    ];
    reasons.extend(counted.into_iter().filter(|(count, _)| *count > 0).map(|(_, reason)| reason));
    reasons.extend(status["governor"]["plan_error"].as_str().map(|error| format!("there is no plan: {error}")));
    reasons
}

/// What a status says of a node, and whether it is that of a member at all; the first is None if the node is none any more.
fn look(text: &str, number: u64) -> Option<Option<Left>> {
    let status: Value = serde_json::from_str(text).ok()?;
    let nodes = status["nodes"].as_array()?;
    let node = nodes.iter().find(|node| node["node"].as_u64() == Some(number));
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    Some(node.map(|node| Left {
        leads: count(&node["leads"]),
        holds: count(&node["holds"]),
        votes: node["raft"].as_str() == Some("voter"),
        paused: status["rebalancing_paused"].as_bool() == Some(true),
        leaves: node["leaving"].as_bool() != Some(false),
    }))
}

/// After so long without a new role a node that takes roles over asks again: one may have stayed where it was, as something was late.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often it asks in vain.
const ASKED_IN_VAIN_MAX: u32 = 5;

/// Lets a node ask for all roles that it could have, and waits until it has them, if that is wanted.
pub(super) fn fail_over(node: &str, password: &str, waits: bool, out: &mut impl Write) -> Result<(), OperatorError> {
    let mut client = Client::connect(node, password)?;
    client.ask(&["CLUSTER", "FAILOVER"])?;
    let _ = writeln!(out, "{node} asks for all roles that it could have");
    if !waits {
        return Ok(());
    }
    let (mut before, mut asked, mut in_vain) = (None, Instant::now(), 0);
    loop {
        let text = client.text(&["CLUSTER", "STATUS"])?;
        let nonsense = || OperatorError::Nonsense { node: node.into(), said: text.chars().take(200).collect() };
        let (number, leads, in_sync) = roles_of_asked(&text).ok_or_else(nonsense)?;
        if before.replace(leads) != Some(leads) {
            (asked, in_vain) = (Instant::now(), 0);
            let _ = writeln!(out, "node {number} leads {leads} of {in_sync} partitions that it has in sync");
        }
        if leads >= in_sync {
            return Ok(());
        }
        if asked.elapsed() >= ASK_AGAIN {
            if in_vain == ASKED_IN_VAIN_MAX {
                return Err(OperatorError::Kept { node: number, leads, in_sync });
            }
            (asked, in_vain) = (Instant::now(), in_vain + 1);
            client.ask(&["CLUSTER", "FAILOVER"])?;
        }
        std::thread::sleep(LOOK);
    }
}

/// The number of the node that says this, of how many partitions it has the role, and of how many it has a copy in sync.
fn roles_of_asked(text: &str) -> Option<(u64, u64, u64)> {
    let status: Value = serde_json::from_str(text).ok()?;
    let number = status["me"].as_u64()?;
    let node = status["nodes"].as_array()?.iter().find(|node| node["node"].as_u64() == Some(number))?;
    Some((number, node["leads"].as_u64()?, node["in_sync"].as_u64()?))
}

/// Orders a node to leave, and waits until it has left, if that is wanted. `number`: the node; None: the one that is asked.
pub(super) fn leave(
    node: &str,
    password: &str,
    number: Option<u64>,
    waits: Waits,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    let mut client = Client::connect(node, password)?;
    let nonsense = |said: &str| OperatorError::Nonsense { node: node.into(), said: said.chars().take(200).collect() };
    let text = client.text(&["CLUSTER", "STATUS"])?;
    let seen = Seen::read(&text).ok_or_else(|| nonsense(&text))?;
    let number = number.or(seen.me()).ok_or_else(|| nonsense(&text))?;
    client.ask(&["CLUSTER", "LEAVE", &number.to_string()])?;
    let _ = writeln!(out, "node {number} is to leave");
    let (begun, patience) = match waits {
        Waits::No => return Ok(()),
        Waits::AtMost(patience) => (Instant::now(), patience),
        Waits::UntilDone => (Instant::now(), Duration::MAX),
    };
    // Others first: whoever leaves ends in the end.
    let others = seen.addresses_without(number);
    let (mut before, mut in_vain, mut leaves, mut changed) = (None, 0, false, begun);
    loop {
        let text = ask_any(&others, password);
        match text.as_deref().and_then(|text| look(text, number)) {
            Some(None) => {
                let _ = writeln!(out, "node {number} has left");
                return Ok(());
            }
            Some(Some(left)) => {
                in_vain = 0;
                // The first answers may be of one that has not heard of it yet.
                leaves |= left.leaves;
                if leaves && !left.leaves {
                    return Err(OperatorError::Stays { node: number });
                }
                if before.replace(left) != Some(left) {
                    changed = Instant::now();
                    let Left { leads, holds, votes, paused, .. } = left;
                    let votes = if votes { ", votes in raft" } else { "" };
                    let paused = if paused { "; it has to wait, as rebalancing is paused" } else { "" };
                    let _ = writeln!(out, "node {number} leads {leads}, has {holds} copies{votes}{paused}");
                } else if changed.elapsed() >= STUCK {
                    changed = Instant::now();
                    let reasons = reasons(&text.unwrap_or_default(), number).join("; ");
                    let why = if reasons.is_empty() { "no reason is known".into() } else { reasons };
                    let _ = writeln!(out, "nothing has changed for {} s: {why}", STUCK.as_secs());
                }
            }
            None => {
                in_vain += 1;
                if in_vain > LOOKS_IN_VAIN_MAX {
                    return Err(OperatorError::Alone { node: number });
                }
            }
        }
        if begun.elapsed() >= patience {
            return Err(OperatorError::Late { node: number });
        }
        std::thread::sleep(LOOK);
    }
}

/// What the first member says that answers.
fn ask_any(addresses: &[String], password: &str) -> Option<String> {
    let ask = |address: &String| -> Result<String, ClientError> {
        Client::connect_within(address, password, ANSWER_PATIENCE)?.text(&["CLUSTER", "STATUS"])
    };
    addresses.iter().find_map(|address| ask(address).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_node_is_read_from_a_status() {
        let text =
            r#"{"nodes":[{"node":4,"leads":3,"holds":9,"raft":"voter","leaving":true}],"rebalancing_paused":true}"#;
        assert_eq!(look(text, 4), Some(Some(Left { leads: 3, holds: 9, votes: true, paused: true, leaves: true })));
        assert_eq!(look(text, 5), Some(None));
        assert_eq!(look("{}", 4), None);
    }

    #[test]
    fn what_a_node_that_leaves_may_wait_for_is_read_from_a_status() {
        let text = r#"{"me":1,"raft_leader":1,"waiting_for_memory":7,"governor":{"plan_error":"too few"},
            "nodes":[{"node":1,"state":"alive"},{"node":3,"state":"dead"},{"node":4,"state":"leaving"}],
            "roles":[{"primary":null,"in_sync":[3],"count":2},{"primary":4,"in_sync":[4],"count":5},
            {"primary":4,"in_sync":[1,4],"replicas":[1,2,4],"count":11}]}"#;
        let expected = [
            "node 3 is dead",
            "copies of 11 partitions are under way",
            "nobody leads 2 partitions",
            "nobody else has all of 5 partitions",
            "node 1 has no memory for 7 copies",
            "there is no plan: too few",
        ];
        assert_eq!(reasons(text, 4), expected);
        assert_eq!(reasons(r#"{"raft_leader":null}"#, 4), ["nobody leads raft"]);
        assert_eq!(reasons("", 4), [""; 0]);
    }
}
