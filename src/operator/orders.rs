//! Orders of an operator, and how a cluster gets on with them: `leave` and `rebalance`.
//!
//! An order stands in raft's state, so it goes on when whoever gave it, or the node that was asked, is gone.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use super::OperatorError;
use super::changes::Seen;
use super::client::{Client, ClientError};

/// Between two looks at a node that leaves.
const LOOK: Duration = Duration::from_millis(200);

/// How long a member may take to answer while others are there to be asked.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

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

/// Orders a node to leave, and waits until it has left, if that is wanted. `number`: the node; None: the one that is asked.
pub(super) fn leave(
    node: &str,
    password: &str,
    number: Option<u64>,
    waits: bool,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    let mut client = Client::connect(node, password)?;
    let nonsense = |said: &str| OperatorError::Nonsense { node: node.into(), said: said.chars().take(200).collect() };
    let text = client.text(&["CLUSTER", "STATUS"])?;
    let seen = Seen::read(&text).ok_or_else(|| nonsense(&text))?;
    let number = number.or(seen.me()).ok_or_else(|| nonsense(&text))?;
    client.ask(&["CLUSTER", "LEAVE", &number.to_string()])?;
    let _ = writeln!(out, "node {number} is to leave");
    if !waits {
        return Ok(());
    }
    // Others first: whoever leaves ends in the end.
    let others = seen.addresses_without(number);
    let (mut before, mut in_vain, mut leaves) = (None, 0, false);
    loop {
        match ask_any(&others, password).and_then(|text| look(&text, number)) {
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
                    let Left { leads, holds, votes, paused, .. } = left;
                    let votes = if votes { ", votes in raft" } else { "" };
                    let paused = if paused { "; it has to wait, as rebalancing is paused" } else { "" };
                    let _ = writeln!(out, "node {number} leads {leads}, has {holds} copies{votes}{paused}");
                }
            }
            None => {
                in_vain += 1;
                if in_vain > LOOKS_IN_VAIN_MAX {
                    return Err(OperatorError::Alone { node: number });
                }
            }
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
}
