//! Leader and node face to face, as transcripts.
//!
//! Longer than other files: each transcript is short, and all begin with the same cluster and its steps.

use std::collections::{BTreeMap, BTreeSet};

use super::roles::NOT_BEGUN_MS;
use super::turns::{COPIES_END_MS, COPIES_TURN_MS};
use super::*;
use crate::cluster;
use crate::raft::command::{Command, InSyncChange, Member, Move, Order, Placement, Profile, Reply};
use crate::raft::settle::SETTLING_VERSION;
use crate::raft::state::State;
use crate::raft::successors::NAMING_VERSION;
use crate::raft::testing::profile;
use crate::raft::types::Peer;

/// A governor that leads, with a state that has `applied` entries.
pub(super) struct Leader {
    pub governor: Governor,
    pub state: State,
    pub applied: u64,
    pub voters: BTreeSet<NodeId>,
    pub nodes: BTreeMap<NodeId, Peer>,
    /// Nodes give away the roles that they are asked for.
    pub generous: bool,
    /// A node that is asked for roles begins with so many of them at the most, and says so.
    pub begins: usize,
    /// The version that all of them speak.
    pub speaks: u16,
}

fn peer() -> Peer {
    Peer { host: "host".into(), bus_port: 16379 }
}

impl Leader {
    /// Nodes 1 to `count`, partitions on all of them, led by node 1, and all in sync.
    pub fn new(count: u64, partitions: u16) -> Leader {
        let mut leader = Leader {
            governor: Governor::new(Settings::new(1, 300)),
            state: State::default(),
            applied: 0,
            voters: (1..=count).collect(),
            nodes: (1..=count).map(|node| (node, peer())).collect(),
            generous: false,
            begins: usize::MAX,
            speaks: 0,
        };
        for node in 1..=count {
            leader.join(node, "");
        }
        leader.apply(Command::Create { partitions });
        let replicas: Vec<NodeId> = (1..=count.min(3)).collect();
        let place = |partition| Placement { partition, replicas: replicas.clone() };
        leader.apply(Command::Place { version: 0, changes: (0..partitions).map(place).collect() });
        leader.all_in_sync();
        leader
    }

    pub fn apply(&mut self, command: Command) -> Reply {
        self.applied += 1;
        self.state.apply(&command)
    }

    pub fn join(&mut self, node: NodeId, rack: &str) {
        let profile = Profile { rack: rack.into(), ..profile("host") };
        let identity = u128::from(node);
        assert_eq!(self.apply(Command::Join { identity, profile: profile.clone() }), Reply::Joined { node });
        self.apply(Command::Register { node, identity, boot: 1, after: 0, profile });
    }

    fn restart(&mut self, node: NodeId) {
        let (after, identity) = (self.state.node(node).unwrap().incarnation, u128::from(node));
        let boot = u128::from(after) + 1;
        self.apply(Command::Register { node, identity, boot, after, profile: profile("host") });
    }

    /// All that are alive, according to the governor, catch up.
    fn all_in_sync(&mut self) {
        self.some_in_sync(usize::MAX);
    }

    /// Likewise, in so many partitions at the most.
    fn some_in_sync(&mut self, count_max: usize) {
        let mut changes = Vec::new();
        for (partition, is) in (0..).zip(self.state.partitions()) {
            if is.primary.is_some() && is.in_sync.len() < is.replicas.len() && changes.len() < count_max {
                let alive = |node: &&NodeId| self.governor.is_alive(**node) != Some(false);
                let in_sync = is.replicas.iter().filter(alive).filter_map(|node| self.state.member(*node)).collect();
                changes.push(InSyncChange { partition, epoch: is.epoch, version: is.in_sync_version, in_sync });
            }
        }
        if !changes.is_empty() {
            self.apply(Command::SetInSync { changes });
        }
    }

    fn asks(&mut self, now_ms: i64, node: NodeId) -> LeaseAnswer {
        let of_state = self.state.node(node).unwrap();
        let (incarnation, boot) = (of_state.incarnation, of_state.boot);
        let request = LeaseRequest { node, incarnation, boot, applied: self.applied, ready: true, speaks: self.speaks };
        self.governor.request(now_ms, &self.state, self.applied, Some(now_ms), &request)
    }

    fn ticks(&mut self, now_ms: i64) -> Vec<Action> {
        self.ticks_with(now_ms, Some(now_ms))
    }

    fn ticks_with(&mut self, now_ms: i64, quorum_ms: Option<i64>) -> Vec<Action> {
        let members = Members { voters: &self.voters, nodes: &self.nodes, settled: true };
        let seen = Seen { state: &self.state, applied: self.applied, quorum_ms, members };
        self.governor.tick(now_ms, &seen)
    }

    /// Until then these nodes ask all 60 ms; what the governor wants is done at once. In words.
    pub fn runs(&mut self, from_ms: i64, to_ms: i64, alive: &[NodeId]) -> Vec<String> {
        let mut said = Vec::new();
        for now_ms in from_ms..to_ms {
            if now_ms % 60 == 0 {
                for node in alive {
                    if self.state.node(*node).is_some() {
                        self.asks(now_ms, *node);
                    }
                }
            }
            if now_ms % 10 == 0 {
                let actions = self.ticks(now_ms);
                let asks = actions.iter().filter(|action| matches!(action, Action::AskForRoles { .. }));
                assert!(asks.count() <= 1, "one node at a time is asked for roles");
                for action in actions {
                    said.extend(self.does(now_ms, action));
                }
            }
        }
        said
    }

    fn does(&mut self, now_ms: i64, action: Action) -> Option<String> {
        let (ticket, outcome, said) = match action {
            Action::Propose { ticket, command } => {
                let reply = self.apply(command.clone());
                (ticket, Outcome::Reply(reply.clone()), format!("{command}: {reply:?}"))
            }
            Action::AddLearner { ticket, node, peer } => {
                self.nodes.insert(node, peer);
                (ticket, Outcome::Done, format!("node {node} learns"))
            }
            Action::SetPeer { ticket, node, peer } => {
                let said = format!("node {node} is at {}", peer.host);
                self.nodes.insert(node, peer);
                (ticket, Outcome::Done, said)
            }
            Action::RemoveLearner { ticket, node } => {
                self.nodes.remove(&node);
                (ticket, Outcome::Done, format!("node {node} is gone"))
            }
            Action::ChangeVoters { ticket, voters } => {
                self.voters.clone_from(&voters);
                (ticket, Outcome::Done, format!("{voters:?} vote"))
            }
            Action::LetLead { node } => return Some(format!("{now_ms}: node {node} is to lead raft")),
            Action::AskForRoles { .. } if !self.generous => return None,
            Action::AskForRoles { primary, request } => {
                assert_eq!(request.check(), Ok(()));
                let said = format!("{now_ms}: node {primary} is asked for {} roles", request.moves.len());
                let (first, begun) = (request.moves[0], self.begins.min(request.moves.len()));
                if begun > 0 {
                    self.apply(Command::Lead { moves: request.moves[..begun].to_vec(), to: request.to });
                }
                self.governor.roles_begun(primary, first, begun);
                return Some(said);
            }
            Action::Plan { ticket, members, rule, previous } => {
                self.governor.planned(ticket, cluster::place(&members, rule, previous.as_ref()));
                return None;
            }
        };
        self.governor.done(ticket, &outcome);
        Some(format!("{now_ms}: {said}"))
    }

    /// Promotions only.
    fn promotes(&mut self, from_ms: i64, to_ms: i64, alive: &[NodeId]) -> Vec<String> {
        let mut said = self.runs(from_ms, to_ms, alive);
        said.retain(|said| said.contains("promote"));
        said
    }

    pub fn primaries(&self) -> Vec<Option<NodeId>> {
        self.state.partitions().iter().map(|partition| partition.primary).collect()
    }
}

const GRANTED: u32 = 300;

fn refused(why: LeaseRefusal) -> LeaseAnswer {
    LeaseAnswer::Refused(why)
}

#[test]
fn a_lease_is_for_the_process_that_the_node_is_now() {
    let mut leader = Leader::new(3, 1);
    assert_eq!(leader.asks(0, 1), refused(LeaseRefusal::NotLeading));
    leader.governor.lead(0);
    let after = leader.applied;
    assert_eq!(leader.asks(10, 1), LeaseAnswer::Granted { length_ms: GRANTED, after });
    let asks = |leader: &mut Leader, request| leader.governor.request(10, &leader.state, after, Some(10), &request);
    let request = LeaseRequest { node: 2, incarnation: 1, boot: 1, applied: 0, ready: false, speaks: 0 };
    assert_eq!(asks(&mut leader, LeaseRequest { node: 9, ..request }), refused(LeaseRefusal::Unknown));
    assert_eq!(asks(&mut leader, LeaseRequest { boot: 2, ..request }), refused(LeaseRefusal::Boot));
    let other = refused(LeaseRefusal::Incarnation { incarnation: 1 });
    assert_eq!(asks(&mut leader, LeaseRequest { incarnation: 2, ..request }), other);
    // Without a quorum behind it the leader grants less and less.
    let mut granted = |quorum_ms| leader.governor.request(1_000, &leader.state, after, quorum_ms, &request);
    assert_eq!(granted(None), refused(LeaseRefusal::NoQuorum));
    assert_eq!(granted(Some(707)), LeaseAnswer::Granted { length_ms: GRANTED, after });
    assert_eq!(granted(Some(500)), LeaseAnswer::Granted { length_ms: 93, after });
    assert_eq!(granted(Some(400)), refused(LeaseRefusal::NoQuorum));
    // The next process waits for the end of the lease of the last one.
    leader.asks(1_000, 2);
    leader.restart(2);
    assert_eq!(leader.asks(1_307, 2), refused(LeaseRefusal::Earlier));
    assert!(matches!(leader.asks(1_308, 2), LeaseAnswer::Granted { length_ms: GRANTED, .. }));
    leader.governor.resign();
    assert_eq!(leader.asks(1_400, 1), refused(LeaseRefusal::NotLeading));
}

#[test]
fn a_dead_primary_is_followed_when_its_lease_has_ended() {
    let mut leader = Leader::new(3, 2);
    leader.governor.lead(0);
    assert_eq!(leader.promotes(0, 1_201, &[1, 2, 3]), [""; 0]);
    // Node 1 has asked at 1200 for the last time. Its lease ends at 1508.
    let said = leader.promotes(1_201, 2_000, &[2, 3]);
    assert_eq!(said, ["1510: promote for 1 dead nodes: Promoted { promoted: 2, stuck: 0 }"]);
    assert_eq!(leader.primaries(), [Some(2); 2]);
    // It comes back as it was: it knows less than it must.
    let after = leader.applied;
    assert_eq!(leader.asks(2_000, 1), LeaseAnswer::Granted { length_ms: GRANTED, after });
}

#[test]
fn who_is_dead_is_not_waited_for_by_those_who_settle_a_loss() {
    let mut leader = Leader::new(4, 2);
    let starts = leader.state.starts();
    leader.apply(Command::Order(Order::Raise { version: SETTLING_VERSION, starts }));
    leader.governor.lead(0);
    assert_eq!(leader.promotes(0, 1_201, &[1, 2, 3, 4]), [""; 0]);
    assert_eq!(leader.promotes(1_201, 2_000, &[2, 3, 4]).len(), 1);
    // Node 3 leads nothing: whether it is dead concerns nobody, until somebody waits for what it has to say.
    assert_eq!(leader.promotes(2_000, 4_000, &[2, 4]), [""; 0]);
    let of = Move { partition: 0, epoch: 1 };
    let by = Member { node: 2, incarnation: 1 };
    assert_eq!(leader.apply(Command::Reach { of, by, reached: 7, lacking: vec![] }), Reply::Reached);
    assert_eq!(leader.state.settlements().of(0, 1).unwrap().floor, None);
    assert_eq!(leader.promotes(4_000, 4_100, &[2, 4]).len(), 1);
    assert_eq!(leader.state.settlements().of(0, 1).unwrap().floor, Some(7));
    assert_eq!(leader.state.partition(0).unwrap().in_sync, [2]);
    assert_eq!(leader.promotes(4_100, 6_000, &[2, 4]), [""; 0], "it is said once");
}

/// Node 1 leads, and node 2 may lead next.
fn named(leader: &mut Leader) {
    let starts = leader.state.starts();
    leader.apply(Command::Order(Order::Raise { version: NAMING_VERSION, starts }));
    let moves = vec![Move { partition: 0, epoch: 1 }];
    let reply = leader.apply(Command::Name { moves, to: Member { node: 2, incarnation: 1 } });
    assert_eq!(reply, Reply::Named { named: 1, stale: 0 });
}

#[test]
fn a_dead_primary_is_followed_by_nobody_but_its_successor() {
    let mut leader = Leader::new(3, 1);
    leader.governor.lead(0);
    assert_eq!(leader.promotes(0, 1_201, &[1, 2, 3]), [""; 0]);
    named(&mut leader);
    // Node 3 is in sync and ready, but node 2 may have begun, and still have a lease.
    assert_eq!(leader.promotes(1_201, 1_400, &[3]), [""; 0]);
    let said = leader.promotes(1_400, 2_000, &[2, 3]);
    assert_eq!(said, ["1510: promote for 1 dead nodes: Promoted { promoted: 1, stuck: 0 }"]);
    assert_eq!(leader.primaries(), [Some(2)]);
}

#[test]
fn a_primary_is_told_that_its_successor_is_gone() {
    for starts_anew in [false, true] {
        let mut leader = Leader::new(3, 1);
        leader.governor.lead(0);
        assert_eq!(leader.promotes(0, 1_201, &[1, 2, 3]), [""; 0]);
        named(&mut leader);
        if starts_anew {
            leader.restart(2);
        }
        // Not before its lease has ended.
        let said = leader.promotes(1_201, 4_000, &[1, 3]);
        let dead = u64::from(!starts_anew);
        assert_eq!(said, [format!("1510: promote for {dead} dead nodes: Promoted {{ promoted: 0, stuck: 0 }}")]);
        assert!(leader.state.successor(0).unwrap().gone, "and it is said once");
        assert_eq!(leader.primaries(), [Some(1)]);
    }
}

#[test]
fn all_dead_are_named_at_once_and_a_new_leader_waits() {
    let mut leader = Leader::new(3, 2);
    leader.governor.lead(1_000);
    // It hears of node 3 only. The other two may have got leases from its predecessor just now.
    let said = leader.promotes(1_000, 2_000, &[3]);
    assert_eq!(said, ["1310: promote for 2 dead nodes: Promoted { promoted: 2, stuck: 0 }"]);
    assert_eq!(leader.primaries(), [Some(3); 2]);
    // Nobody is left in sync but node 3. When that dies, it stays the primary, and goes on when it is back.
    assert_eq!(leader.promotes(2_000, 4_000, &[1, 2]), [""; 0]);
    assert_eq!(leader.promotes(4_000, 4_500, &[1, 2, 3]), [""; 0]);
}

#[test]
fn a_dead_primary_that_nobody_can_follow_is_deposed_in_the_end() {
    let mut leader = Leader::new(3, 2);
    leader.governor.lead(1_000);
    leader.promotes(1_000, 2_000, &[3]);
    assert_eq!(leader.primaries(), [Some(3); 2]);
    let said = leader.promotes(2_000, 20_000, &[1, 2]);
    assert_eq!(said, ["12290: promote for 1 dead nodes: Promoted { promoted: 0, stuck: 2 }"]);
    assert_eq!(leader.primaries(), [None; 2]);
    // It still is the only one that may lead.
    let said = leader.promotes(20_000, 20_500, &[1, 2, 3]);
    assert_eq!(said, ["20040: promote for 0 dead nodes: Promoted { promoted: 2, stuck: 0 }"]);
    assert_eq!(leader.primaries(), [Some(3); 2]);
}

#[test]
fn who_is_being_called_dead_gets_no_lease() {
    let mut leader = Leader::new(3, 1);
    leader.governor.lead(0);
    leader.promotes(0, 601, &[1, 2, 3]);
    leader.promotes(601, 910, &[2, 3]);
    let [Action::Propose { ticket, .. }] = &leader.ticks(910)[..] else {
        panic!("nobody is promoted {:?}", leader.governor.status(910))
    };
    assert_eq!(leader.asks(911, 1), refused(LeaseRefusal::Deposing));
    assert!(matches!(leader.asks(911, 2), LeaseAnswer::Granted { .. }));
    assert_eq!(leader.ticks(920), [], "one promotion at a time");
    // Refused for sure: it may have a lease again. Then executed: it must know of it.
    leader.governor.done(*ticket, &Outcome::Failed);
    let after = leader.applied;
    assert_eq!(leader.asks(921, 1), LeaseAnswer::Granted { length_ms: GRANTED, after });
    // A result that is not known ends the lead.
    leader.promotes(921, 1_230, &[2, 3]);
    let mut proposed = Vec::new();
    for now_ms in (1_230..2_000).step_by(10) {
        leader.asks(now_ms, 2);
        proposed.extend(leader.ticks(now_ms));
    }
    let [Action::Propose { ticket, command: Command::Promote { dead, .. } }] = &proposed[..] else {
        panic!("{proposed:?}")
    };
    assert_eq!(dead.iter().map(|member| member.node).collect::<Vec<_>>(), [1]);
    leader.governor.done(*ticket, &Outcome::Unknown);
    assert!(!leader.governor.leads());
}

#[test]
fn what_a_restarted_node_led_waits_for_the_lease_of_its_earlier_process() {
    let mut leader = Leader::new(3, 1);
    leader.governor.lead(0);
    leader.promotes(0, 601, &[1, 2, 3]);
    leader.restart(1);
    assert_eq!(leader.primaries(), [None]);
    let said = leader.promotes(601, 1_000, &[1, 2, 3]);
    assert_eq!(said, ["910: promote for 0 dead nodes: Promoted { promoted: 1, stuck: 0 }"]);
    // A start that comes between the proposal and its execution refuses it.
    leader.restart(2);
    leader.promotes(1_000, 1_250, &[1, 2, 3]);
    let actions = leader.ticks(1_270);
    let [Action::Propose { ticket, command }] = &actions[..] else { panic!("{actions:?}") };
    leader.restart(3);
    let reply = leader.apply(command.clone());
    assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
    leader.governor.done(*ticket, &Outcome::Reply(reply));
    assert_eq!(leader.primaries(), [None]);
}

#[test]
fn a_leader_that_hears_of_nobody_blames_itself_first() {
    let mut leader = Leader::new(3, 1);
    leader.governor.lead(0);
    leader.promotes(0, 601, &[1, 2, 3]);
    // It was stopped. All that has happened meanwhile is yet to be read.
    assert_eq!(leader.ticks(2_000), []);
    assert_eq!(leader.promotes(2_000, 2_500, &[1, 2, 3]), [""; 0]);
    // It is cut off: what it proposes would be executed when it is back.
    for now_ms in (2_500..4_000).step_by(10) {
        assert_eq!(
            leader.ticks_with(now_ms, Some(2_480)).iter().filter(|a| matches!(a, Action::Propose { .. })).count(),
            0
        );
    }
}

#[test]
fn a_long_pause_does_not_make_it_patient() {
    let mut leader = Leader::new(3, 1);
    leader.governor.lead(0);
    leader.promotes(0, 120, &[1, 2, 3]);
    leader.promotes(120, 1_000, &[2, 3]);
    leader.promotes(1_000, 1_300, &[1, 2, 3]);
    let said = leader.promotes(1_300, 5_000, &[1, 3]);
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn the_first_placement_is_on_all_that_are_there() {
    let mut leader = Leader::new(0, 1);
    leader.state = State::default();
    leader.governor.set_placement(3, 3, 30_000);
    leader.governor.lead(0);
    for node in 1..=2 {
        leader.join(node, "");
        leader.nodes.insert(node, peer());
    }
    leader.voters.insert(1);
    leader.apply(Command::Create { partitions: 8 });
    assert_eq!(leader.runs(0, 500, &[1, 2]), [""; 0]);
    leader.join(3, "");
    let said = leader.runs(500, 1_000, &[1, 2, 3]);
    assert_eq!(
        said,
        ["500: node 3 learns", "510: place 8 partitions after 0: Placed { version: 1 }", "510: {1, 2, 3} vote"]
    );
    let led = |node| leader.primaries().iter().filter(|primary| **primary == Some(node)).count();
    assert!((1..=3).all(|node| (2..=3).contains(&led(node))));
    assert!(leader.state.partitions().iter().all(|is| is.replicas.len() == 3));
}

#[test]
fn copies_of_a_dead_node_go_to_others_and_come_back() {
    let mut leader = Leader { generous: true, ..Leader::new(4, 16) };
    leader.governor.lead(0);
    let held =
        |leader: &Leader, node| leader.state.partitions().iter().filter(|is| is.replicas.contains(&node)).count();
    // Node 4 is new: it gets its share, also of what node 1 has led.
    settle(&mut leader, 0, 30, &[1, 2, 3, 4]);
    assert_eq!((held(&leader, 1), held(&leader, 4)), (12, 12));
    assert!(leader.state.partitions().iter().all(|is| is.replicas.len() == 3 && is.in_sync.len() == 3));
    // Node 4 is dead for a while, and keeps its copies; then others have them.
    settle(&mut leader, 3_000, 100, &[1, 2, 3]);
    assert_eq!(held(&leader, 4), 12);
    settle(&mut leader, 13_000, 250, &[1, 2, 3]);
    assert_eq!(held(&leader, 4), 0);
    // When there are fewer nodes than copies, a dead one keeps its own.
    settle(&mut leader, 38_000, 400, &[1, 2]);
    assert_eq!(held(&leader, 3), 16);
    settle(&mut leader, 78_000, 30, &[1, 2, 3, 4]);
    assert_eq!(held(&leader, 4), 12);
}

/// Time passes, and copies catch up every now and then.
pub(super) fn settle(leader: &mut Leader, from_ms: i64, rounds: i64, alive: &[NodeId]) {
    for at in 0..rounds {
        leader.runs(from_ms + at * 100, from_ms + (at + 1) * 100, alive);
        leader.all_in_sync();
    }
}

#[test]
fn roles_are_evened_and_then_left_alone() {
    let mut leader = Leader { generous: true, ..Leader::new(3, 16) };
    leader.governor.lead(0);
    let led = |leader: &Leader| {
        [1, 2, 3].map(|node| leader.primaries().iter().filter(|primary| **primary == Some(node)).count())
    };
    assert_eq!(led(&leader), [16, 0, 0]);
    settle(&mut leader, 0, 10, &[1, 2, 3]);
    let even = led(&leader);
    assert!(even.iter().all(|led| (5..=6).contains(led)), "{even:?}");
    // What somebody moves by hand, stays there.
    let at = leader.primaries().iter().position(|primary| *primary == Some(1)).unwrap();
    let epoch = leader.state.partitions()[at].epoch;
    let to = leader.state.member(2).unwrap();
    leader.apply(Command::Lead { moves: vec![Move { partition: at as u16, epoch }], to });
    settle(&mut leader, 1_000, 50, &[1, 2, 3]);
    assert_eq!(led(&leader), [even[0] - 1, even[1] + 1, even[2]]);
    // A node that was dead leads again when it is back, and in sync.
    settle(&mut leader, 6_000, 30, &[1, 2]);
    assert_eq!(led(&leader)[2], 0);
    leader.runs(9_000, 9_500, &[1, 2, 3]);
    assert_eq!(led(&leader)[2], 0, "it is in sync nowhere");
    settle(&mut leader, 9_500, 20, &[1, 2, 3]);
    assert_eq!(led(&leader), even);
}

/// What a node could not begin with is asked for again soon: no request has waited for that.
#[test]
fn roles_that_were_not_begun_with_are_asked_for_again_soon() {
    let mut leader = Leader { generous: true, begins: 0, ..Leader::new(2, 16) };
    leader.governor.lead(0);
    let asked = |said: Vec<String>| said.iter().filter(|said| said.contains("is asked for")).count() as i64;
    let before = asked(leader.runs(0, 1_000, &[1, 2]));
    assert!(before > 3 && before <= 1_000 / NOT_BEGUN_MS, "{before}");
    leader.begins = 3;
    let after = asked(leader.runs(1_000, 2_000, &[1, 2]));
    assert_eq!((after, leader.primaries().iter().filter(|primary| **primary == Some(2)).count()), (3, 8));
}

#[test]
fn nobody_is_given_roles_who_is_not_ready() {
    let mut leader = Leader { generous: true, ..Leader::new(2, 4) };
    leader.governor.lead(0);
    for now_ms in (0..3_000).step_by(10) {
        if now_ms % 60 == 0 {
            leader.asks(now_ms, 1);
            let of_state = leader.state.node(2).unwrap();
            let (incarnation, boot) = (of_state.incarnation, of_state.boot);
            let request = LeaseRequest { node: 2, incarnation, boot, applied: leader.applied, ready: false, speaks: 0 };
            leader.governor.request(now_ms, &leader.state, leader.applied, Some(now_ms), &request);
        }
        for action in leader.ticks(now_ms) {
            leader.does(now_ms, action);
        }
    }
    assert_eq!(leader.primaries(), [Some(1); 4]);
    leader.runs(3_000, 4_000, &[1, 2]);
    assert_eq!(leader.primaries().iter().filter(|primary| **primary == Some(2)).count(), 2);
}

#[test]
fn only_so_many_copies_move_at_a_time() {
    let mut leader = Leader { generous: true, ..Leader::new(3, 128) };
    leader.governor.lead(0);
    leader.join(4, "");
    // Roles have their turn first.
    leader.runs(0, 1_000, &[1, 2, 3, 4]);
    let coming = leader.state.partitions().iter().filter(|is| is.replicas.contains(&4)).count();
    assert_eq!(coming, INCOMING_MAX);
    assert!(leader.governor.status(1_000).unwrap().moving > INCOMING_MAX);
    for _ in 0..3 {
        leader.all_in_sync();
        leader.runs(1_000, 2_000, &[1, 2, 3, 4]);
    }
    assert!(leader.state.partitions().iter().filter(|is| is.replicas.contains(&4)).count() > INCOMING_MAX);
}

fn is_asked(said: &[String]) -> bool {
    said.iter().any(|said| said.contains("is asked for"))
}

fn received(leader: &Leader) -> usize {
    leader.state.partitions().iter().filter(|is| is.replicas.contains(&4)).count()
}

/// A fourth node gets copies, and as some end, others begin; until it is the roles' turn. Also: what time it is.
fn until_it_is_the_roles_turn() -> (Leader, i64) {
    const ROLES_MS: i64 = 2_500;
    let mut leader = Leader { generous: true, ..Leader::new(3, 1_024) };
    leader.governor.lead(0);
    leader.join(4, "");
    assert!(is_asked(&leader.runs(0, ROLES_MS, &[1, 2, 3, 4])), "some need no copy");
    let end_ms = COPIES_TURN_MS + 1_000;
    for now_ms in (ROLES_MS..end_ms).step_by(500) {
        let before = received(&leader);
        leader.some_in_sync(INCOMING_MAX / 2);
        assert!(!is_asked(&leader.runs(now_ms, now_ms + 500, &[1, 2, 3, 4])));
        assert!(received(&leader) > before, "others begin");
    }
    leader.runs(end_ms, end_ms + ROLES_MS, &[1, 2, 3, 4]);
    (leader, end_ms + ROLES_MS)
}

#[test]
fn roles_move_when_copies_have_ended() {
    let (mut leader, now_ms) = until_it_is_the_roles_turn();
    let before = received(&leader);
    leader.some_in_sync(INCOMING_MAX / 2);
    assert!(!is_asked(&leader.runs(now_ms, now_ms + 500, &[1, 2, 3, 4])), "some have not");
    assert_eq!(received(&leader), before, "no other one begins");
    leader.all_in_sync();
    assert!(is_asked(&leader.runs(now_ms + 500, now_ms + 1_000, &[1, 2, 3, 4])));
    assert!(received(&leader) > before);
}

/// Nor does an old copy go away: all that is proposed wakes those that a role is waiting for.
#[test]
fn nothing_about_copies_is_proposed_while_roles_move() {
    let (mut leader, now_ms) = until_it_is_the_roles_turn();
    leader.generous = false;
    leader.all_in_sync();
    assert_eq!(leader.runs(now_ms, now_ms + 1_000, &[1, 2, 3, 4]), [""; 0]);
    assert!(leader.governor.status(now_ms).unwrap().roles_moving > 0);
    leader.generous = true;
    let said = leader.runs(now_ms + 1_000, now_ms + 5_000, &[1, 2, 3, 4]);
    assert!(said.iter().any(|said| said.contains("who is in sync")), "{said:?}");
}

#[test]
fn roles_do_not_wait_for_a_copy_that_never_ends() {
    let (mut leader, now_ms) = until_it_is_the_roles_turn();
    assert!(is_asked(&leader.runs(now_ms, now_ms + COPIES_END_MS, &[1, 2, 3, 4])));
}

#[test]
fn voters_are_odd_alive_and_apart() {
    let mut leader = Leader::new(3, 1);
    leader.voters = BTreeSet::from([1]);
    leader.governor.lead(0);
    let said = leader.runs(0, 400, &[1, 2, 3]);
    assert_eq!(said, ["310: {1, 2, 3} vote"]);
    leader.join(4, "");
    assert_eq!(leader.runs(400, 500, &[1, 2, 3, 4])[0], "400: node 4 learns");
    assert_eq!(leader.voters.len(), 3);
    // A dead voter is replaced after ten seconds.
    leader.runs(500, 9_000, &[1, 2, 4]);
    assert_eq!(leader.voters, BTreeSet::from([1, 2, 3]));
    leader.runs(9_000, 12_000, &[1, 2, 4]);
    assert_eq!(leader.voters, BTreeSet::from([1, 2, 4]));
    // Two more: five. Without them for long: three.
    leader.join(5, "a");
    leader.join(6, "a");
    leader.runs(12_000, 13_000, &[1, 2, 4, 5, 6]);
    assert_eq!(leader.voters, BTreeSet::from([1, 2, 4, 5, 6]));
    leader.runs(13_000, 25_000, &[1, 2, 4]);
    assert_eq!(leader.voters, BTreeSet::from([1, 2, 4]));
    // And never fewer, if they are not there.
    leader.runs(25_000, 40_000, &[1, 2]);
    assert_eq!(leader.voters, BTreeSet::from([1, 2, 4]));
}

#[test]
fn voters_spread_over_racks() {
    let mut leader = Leader::new(1, 1);
    for (node, rack) in [(2, "a"), (3, "a"), (4, "b"), (5, "b")] {
        leader.join(node, rack);
    }
    leader.governor.lead(0);
    leader.runs(0, 600, &[1, 2, 3, 4]);
    // Node 5 was never heard of. Of four, three vote.
    assert_eq!(leader.voters, BTreeSet::from([1, 2, 4]));
}

#[test]
fn a_member_that_was_removed_or_has_moved_is_noticed() {
    let mut leader = Leader::new(3, 1);
    leader.nodes.insert(4, peer());
    leader.nodes.insert(2, Peer { host: "old".into(), bus_port: 1 });
    leader.governor.lead(0);
    assert_eq!(leader.runs(0, 400, &[1, 2, 3]), ["310: node 4 is gone", "320: node 2 is at host"]);
    let members = Members { voters: &leader.voters, nodes: &leader.nodes, settled: false };
    let seen = Seen { state: &leader.state, applied: leader.applied, quorum_ms: Some(400), members };
    let actions = leader.governor.tick(400, &seen);
    assert!(matches!(&actions[..], [Action::ChangeVoters { voters, .. }] if *voters == leader.voters));
}

#[test]
fn what_cannot_be_is_refused() {
    let request = LeaseRequest { node: 1, incarnation: 1, boot: 0, applied: 0, ready: true, speaks: 0 };
    assert_eq!(request.check(), Ok(()));
    for wrong in [
        LeaseRequest { node: 0, ..request },
        LeaseRequest { incarnation: 0, ..request },
        LeaseRequest { applied: u64::MAX, ..request },
    ] {
        assert!(wrong.check().is_err(), "{wrong:?}");
    }
    assert!(LeaseAnswer::Granted { length_ms: LEASE_MS_MAX + 1, after: 0 }.check().is_err());
    assert!(LeaseAnswer::Granted { length_ms: LEASE_MS_MAX, after: 9 }.check().is_ok());
    let member = Member { node: 1, incarnation: 1 };
    assert_eq!(Leader::new(1, 1).state.member(1), Some(member));
}
