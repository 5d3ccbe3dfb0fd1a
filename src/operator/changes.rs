//! What is different between two looks at a cluster, in words.
//!
//! Pure: what members say ([`Seen::read`]) goes in, lines come out.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::{NodeId, PARTITIONS_MAX};

/// What counts of what a member says.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    raft_leader: Option<NodeId>,
    raft_term: u64,
    nodes: BTreeMap<NodeId, NodeSeen>,
    /// By partition: who leads it, and in which epoch.
    roles: Vec<(Option<NodeId>, u64)>,
    /// Who says so: lags are of those who follow this node.
    me: Option<NodeId>,
}

#[derive(Clone, Debug, Default)]
struct NodeSeen {
    address: String,
    state: String,
    incarnation: u64,
    in_sync: u64,
    lag_ms: Option<u64>,
}

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// What an operator may want to know later, too.
    pub events: Vec<String>,
    /// What goes up and down all the time.
    pub drifts: Vec<String>,
}

impl Seen {
    /// None: that is no status.
    pub fn read(text: &str) -> Option<Seen> {
        let status: Value = serde_json::from_str(text).ok()?;
        let node = |node: &Value| {
            let seen = NodeSeen {
                address: format!("{}:{}", node["host"].as_str()?, node["port"].as_u64()?),
                state: node["state"].as_str()?.into(),
                incarnation: node["incarnation"].as_u64().unwrap_or(0),
                in_sync: node["in_sync"].as_u64().unwrap_or(0),
                lag_ms: node["lag_ms"].as_u64(),
            };
            Some((node["node"].as_u64()?, seen))
        };
        Some(Seen {
            raft_leader: status["raft_leader"].as_u64(),
            raft_term: status["raft_term"].as_u64().unwrap_or(0),
            nodes: status["nodes"].as_array()?.iter().map(node).collect::<Option<_>>()?,
            roles: roles(&status),
            me: status["me"].as_u64(),
        })
    }

    /// Who says this.
    pub fn me(&self) -> Option<NodeId> {
        self.me
    }

    /// Where all nodes are reached but one.
    pub fn addresses_without(&self, node: NodeId) -> Vec<String> {
        let others = self.nodes.iter().filter(|(other, _)| **other != node);
        others.map(|(_, seen)| seen.address.clone()).collect()
    }

    /// Where all nodes are reached, the one that says this first.
    pub fn addresses(&self) -> Vec<String> {
        let first = self.me.and_then(|me| self.nodes.get(&me));
        let others = self.nodes.iter().filter(|(node, _)| Some(**node) != self.me).map(|(_, seen)| seen);
        first.into_iter().chain(others).map(|node| node.address.clone()).collect()
    }

    /// What is different since `before`.
    pub fn since(&self, before: &Seen) -> Changes {
        let mut changes = Changes::default();
        if self.raft_leader != before.raft_leader {
            let leader = name(self.raft_leader);
            changes.events.push(format!("{leader} leads raft in term {}", self.raft_term));
        }
        self.nodes_since(before, &mut changes);
        changes.events.extend(self.roles_since(before));
        changes
    }

    fn nodes_since(&self, before: &Seen, changes: &mut Changes) {
        for (node, now) in &self.nodes {
            let Some(then) = before.nodes.get(node) else {
                changes.events.push(format!("node {node} has joined, at {}", now.address));
                continue;
            };
            if now.incarnation != then.incarnation {
                changes.events.push(format!("node {node} has started again"));
            }
            if now.state != then.state {
                changes.events.push(format!("node {node} is {}", now.state));
            }
            if now.in_sync != then.in_sync {
                changes.drifts.push(format!("node {node} is in sync in {}, before in {}", now.in_sync, then.in_sync));
            }
            // Another node tells of other followers.
            if self.me == before.me && now.lag_ms != then.lag_ms {
                let ms = |lag: Option<u64>| lag.map_or("-".into(), |ms| ms.to_string());
                changes.drifts.push(format!("node {node} lags {} ms, before {}", ms(now.lag_ms), ms(then.lag_ms)));
            }
        }
        for node in before.nodes.keys().filter(|node| !self.nodes.contains_key(node)) {
            changes.events.push(format!("node {node} is no member any more"));
        }
    }

    /// Roles that have moved, those together that have gone the same way.
    fn roles_since(&self, before: &Seen) -> Vec<String> {
        let mut ways: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        let mut renewed = 0;
        for ((now, epoch), (then, old_epoch)) in self.roles.iter().zip(&before.roles) {
            if now != then {
                let (moved, highest) = ways.entry((*then, *now)).or_default();
                *moved += 1;
                *highest = (*highest).max(*epoch);
            } else if epoch != old_epoch {
                renewed += 1;
            }
        }
        let way = |((from, to), (moved, highest)): (_, (u64, u64))| {
            let (from, to) = (name(from), name(to));
            format!("{moved} {} moved from {from} to {to}, up to epoch {highest}", plural(moved, "role"))
        };
        let mut lines: Vec<String> = ways.into_iter().map(way).collect();
        if renewed > 0 {
            lines.push(format!("{renewed} {} in a new epoch with the same primary", plural(renewed, "partition")));
        }
        lines
    }
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { noun.into() } else { format!("{noun}s") }
}

fn name(node: Option<NodeId>) -> String {
    node.map_or("nobody".into(), |node| format!("node {node}"))
}

/// Who leads each partition in which epoch. A node of an earlier version does not say.
pub(super) fn roles(status: &Value) -> Vec<(Option<NodeId>, u64)> {
    let Some(groups) = status["roles"].as_array() else { return Vec::new() };
    let count = status["partitions"].as_u64().map_or(0, |count| PARTITIONS_MAX.min(count as usize));
    let mut roles = vec![(None, 0); count];
    for group in groups {
        let role = (group["primary"].as_u64(), group["epoch"].as_u64().unwrap_or(0));
        for range in group["partitions"].as_str().into_iter().flat_map(|text| text.split(',')) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { continue };
            if first <= last && last < count {
                roles[first..=last].fill(role);
            }
        }
    }
    roles
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(me: u64, leader: Option<u64>, states: [&str; 2], roles: Value) -> Seen {
        let node = |(at, state): (usize, &&str)| json!({ "node": at + 1, "host": "10.0.0.1", "port": 7000 + at, "state": state, "in_sync": 4, "incarnation": 1, "lag_ms": at * 10 });
        let nodes: Vec<Value> = states.iter().enumerate().map(node).collect();
        let status =
            json!({ "me": me, "raft_leader": leader, "raft_term": 2, "partitions": 4, "nodes": nodes, "roles": roles });
        Seen::read(&status.to_string()).unwrap()
    }

    fn role(primary: Option<u64>, epoch: u64, partitions: &str) -> Value {
        json!({ "primary": primary, "epoch": epoch, "partitions": partitions })
    }

    #[test]
    fn what_has_changed_is_told_in_words() {
        let before = status(1, Some(1), ["alive", "alive"], json!([role(Some(1), 1, "0-1"), role(Some(2), 1, "2-3")]));
        assert_eq!(before.since(&before), Changes::default());
        assert_eq!(before.addresses(), ["10.0.0.1:7000", "10.0.0.1:7001"]);
        let now = status(
            2,
            Some(2),
            ["dead", "alive"],
            json!([role(Some(2), 3, "0,2"), role(None, 2, "1"), role(Some(2), 1, "3")]),
        );
        assert_eq!(now.addresses(), ["10.0.0.1:7001", "10.0.0.1:7000"]);
        let changes = now.since(&before);
        assert_eq!(
            changes.events,
            [
                "node 2 leads raft in term 2",
                "node 1 is dead",
                "1 role moved from node 1 to nobody, up to epoch 2",
                "1 role moved from node 1 to node 2, up to epoch 3",
                "1 partition in a new epoch with the same primary",
            ]
        );
        assert_eq!(changes.drifts, [""; 0], "lags that another node tells of are others");
    }

    #[test]
    fn nodes_come_and_go_and_fall_behind() {
        let two = status(1, None, ["alive", "alive"], json!([]));
        let mut one = two.clone();
        one.nodes.remove(&2);
        assert_eq!(two.since(&one).events, ["node 2 has joined, at 10.0.0.1:7001"]);
        assert_eq!(one.since(&two).events, ["node 2 is no member any more"]);
        let mut later = two.clone();
        let node = later.nodes.get_mut(&2).unwrap();
        (node.lag_ms, node.in_sync, node.incarnation) = (Some(35), 3, 2);
        let changes = later.since(&two);
        assert_eq!(changes.events, ["node 2 has started again"]);
        assert_eq!(changes.drifts, ["node 2 is in sync in 3, before in 4", "node 2 lags 35 ms, before 10"]);
    }

    #[test]
    fn nonsense_is_no_status_and_breaks_nothing() {
        for text in ["", "{}", "[]", r#"{"nodes":[{}]}"#] {
            assert!(Seen::read(text).is_none(), "{text}");
        }
        let odd = json!([role(Some(1), 1, "3-1,x,2-9,,0")]);
        assert_eq!(status(1, None, ["alive"; 2], odd).roles, [(Some(1), 1), (None, 0), (None, 0), (None, 0)]);
    }
}
