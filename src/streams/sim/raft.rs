//! Raft, as the machines see it: one agreed log of commands, which every node learns of after its own delay.

use crate::raft::command::{Command, Order, Placement, Profile, Refusal, Reply};
use crate::raft::state::State;
use crate::streams::{InSyncChange, Member, NodeId};

/// What somebody has proposed.
#[derive(Debug)]
pub struct Proposal {
    pub at_ms: u64,
    pub from: NodeId,
    pub boot: u64,
    pub command: Command,
    pub change: Option<InSyncChange>,
}

#[derive(Debug, Default)]
pub struct Raft {
    pub log: Vec<Command>,
    /// After all of the log.
    pub agreed: State,
    pub proposals: Vec<Proposal>,
}

impl Raft {
    pub fn execute(&mut self, command: Command) -> Reply {
        let reply = self.agreed.apply(&command);
        self.log.push(command);
        self.agreed.validate().expect("raft's state keeps its invariants");
        reply
    }

    /// The members of these nodes that are registered.
    pub fn members(&self, nodes: &[NodeId]) -> Vec<Member> {
        let member = |node: &NodeId| {
            let known = self.agreed.node(*node)?;
            Some(Member { node: *node, incarnation: known.incarnation })
        };
        nodes.iter().filter_map(member).filter(|member| member.incarnation > 0).collect()
    }

    /// `gathered`: the first node leads everything, and what follows it is on all others.
    /// The cluster uses this version of its formats.
    pub fn found(nodes: u64, partitions: u16, copies: usize, gathered: bool, version: u8) -> Raft {
        let mut raft = Raft::default();
        for node in 1..=nodes {
            let identity = u128::from(node);
            raft.execute(Command::Join { identity, profile: profile(node) });
            raft.execute(register(node, 0, 1));
        }
        let starts = raft.agreed.starts();
        raft.execute(Command::Order(Order::Raise { version, starts }));
        raft.execute(Command::Create { partitions });
        let place = |partition: u16| {
            let first = u64::from(partition) % nodes;
            let place = |at| match gathered {
                true if at == 0 => 1,
                true => 2 + (u64::from(partition) + at) % (nodes - 1),
                false => 1 + (first + at) % nodes,
            };
            let replicas = (0..copies as u64).map(place).collect();
            Placement { partition, replicas }
        };
        raft.execute(Command::Place { version: 0, changes: (0..partitions).map(place).collect() });
        raft
    }
}

pub fn profile(node: NodeId) -> Profile {
    Profile { host: format!("n{node}"), port: 1, bus_port: 2, rack: String::new(), weight: 1, ..Profile::default() }
}

pub fn register(node: NodeId, after: u64, boot: u64) -> Command {
    Command::Register { node, identity: u128::from(node), boot: u128::from(boot), after, profile: profile(node) }
}

/// Whether a reply says for certain that nothing comes of it.
pub fn is_refused(reply: &Reply) -> bool {
    match reply {
        Reply::Refused(refusal) => !matches!(refusal, Refusal::Malformed(_)),
        Reply::InSync { stale, .. } => *stale > 0,
        _ => false,
    }
}
