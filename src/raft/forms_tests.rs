//! What an earlier version has written is still written, byte by byte, and read: nodes of both are in one cluster while it is
//! upgraded.
//!
//! `forms/version-2.txt` was written by a program of version 2, and each of the others, with what came with a version, by one of
//! that version. A line that is not what this program writes is a change that needs a new version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest};
use openraft::raft::{VoteRequest, VoteResponse};

use super::bus::error::{Elsewhere, Failure};
use super::bus::handshake::{Hello, Refused, Step, Welcome};
use super::bus::message::{Answer, Piece, Request};
use super::command::{Command, Force, InSyncChange, Member, Move, Naming, Order, Placement, Refusal, Reply};
use super::govern::{HandOver, LeaseAnswer, LeaseRefusal, LeaseRequest};
use super::snapshot::Content;
use super::state::State;
use super::stored::{Change, StoredError, Tip, VERSION};
use super::testing::{IDENTITY, id, profile};
use super::types::{Entry, Membership, MembershipAt, Payload, Peer, Vote};
use crate::log::frame::HEADER_BYTES;

const VERSION_2: &str = include_str!("forms/version-2.txt");
const VERSION_3: &str = include_str!("forms/version-3.txt");
const VERSION_4: &str = include_str!("forms/version-4.txt");
const VERSION_5: &str = include_str!("forms/version-5.txt");

fn member(node: u64) -> Member {
    Member { node, incarnation: node + 7 }
}

fn commands() -> Vec<(&'static str, Command)> {
    let profile = profile("host.example");
    let lead = vec![Move { partition: 3, epoch: 4 }, Move { partition: 5, epoch: 6 }];
    let change = InSyncChange { partition: 3, epoch: 4, version: 5, in_sync: vec![member(1), member(2)] };
    let force = Force { partition: 3, epoch: 4, from_nothing: true };
    let place = Placement { partition: 3, replicas: vec![1, 2, 3] };
    vec![
        ("create", Command::Create { partitions: 1_024 }),
        ("join", Command::Join { identity: IDENTITY, profile: profile.clone() }),
        ("register", Command::Register { node: 2, identity: IDENTITY, boot: 9, after: 3, profile }),
        ("remove", Command::Remove { node: 2 }),
        ("place", Command::Place { version: 7, changes: vec![place] }),
        ("promote", Command::Promote { starts: 7, dead: vec![member(1)], ready: vec![member(2), member(3)] }),
        ("lead", Command::Lead { moves: lead, to: member(2) }),
        ("set-in-sync", Command::SetInSync { changes: vec![change] }),
        ("force-lead", Command::ForceLead { forced: vec![force], to: member(2), lost: vec![1, 3] }),
    ]
}

fn entry(command: &Command) -> Entry {
    Entry { log_id: id(2, 9), payload: Payload::Normal(command.clone()) }
}

fn membership() -> Membership {
    let peer = |node: u64| (node, Peer { host: format!("host-{node}"), bus_port: 16379 });
    Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1])], BTreeMap::from([1, 2, 3].map(peer))).unwrap()
}

/// What has happened in a cluster.
fn state() -> State {
    let mut state = State::default();
    let join = |identity| Command::Join { identity, profile: profile("host.example") };
    let register = |node, identity| {
        let profile = profile("host.example");
        Command::Register { node, identity, boot: 5, after: 0, profile }
    };
    let place = |partition| Placement { partition, replicas: vec![1, 2] };
    let in_sync = InSyncChange {
        partition: 1,
        epoch: 1,
        version: 1,
        in_sync: [1, 2].map(|node| Member { node, incarnation: 1 }).into(),
    };
    let commands = [
        join(1),
        join(2),
        register(1, 1),
        register(2, 2),
        Command::Create { partitions: 4 },
        Command::Place { version: 0, changes: (0..4).map(place).collect() },
        Command::SetInSync { changes: vec![in_sync] },
    ];
    for command in commands {
        let reply = state.apply(&command);
        assert!(!matches!(reply, Reply::Refused(_)), "{command}: {reply:?}");
    }
    state
}

fn changes() -> Vec<(String, Change)> {
    let commands =
        commands().into_iter().map(|(name, command)| (format!("entry {name}"), Change::Append(entry(&command))));
    let append = |payload| Change::Append(Entry { log_id: id(2, 9), payload });
    let others = [
        ("entry blank", append(Payload::Blank)),
        ("entry membership", append(Payload::Membership(membership()))),
        ("vote", Change::Vote(Vote::new_committed(4, 2))),
        ("committed", Change::Committed(Some(id(2, 9)))),
        ("truncate", Change::Truncate(None)),
        ("purge", Change::Purge(id(2, 9))),
        ("number", Change::Number(3)),
    ];
    commands.chain(others.map(|(name, change)| (name.into(), change))).collect()
}

fn requests() -> Vec<(&'static str, Request)> {
    let vote = Vote::new_committed(3, 1);
    let entries = commands().iter().map(|(_, command)| entry(command)).take(1).collect();
    let append = AppendEntriesRequest { vote, prev_log_id: Some(id(2, 8)), entries, leader_commit: Some(id(1, 1)) };
    let lease = LeaseRequest { node: 2, incarnation: 3, boot: 9, applied: 77, ready: true, speaks: 0 };
    let moves = vec![Move { partition: 7, epoch: 5 }];
    vec![
        ("append", Request::Append(append)),
        ("vote", Request::Vote(VoteRequest::new(Vote::new(4, 1), None))),
        ("pre-vote", Request::PreVote(VoteRequest::new(Vote::new(4, 1), Some(id(3, 3))))),
        ("piece", Request::Piece(Piece { vote, transfer: 1, offset: 2, total: 9, bytes: vec![1, 2, 3] })),
        ("transfer", Request::TransferLeader(TransferLeaderRequest::new(vote, 2, Some(id(3, 3))))),
        ("propose", Request::Propose(commands()[4].1.clone())),
        ("lease", Request::Lease(lease)),
        ("hand-over", Request::HandOver(HandOver { node: 2, to: member(2), moves })),
    ]
}

fn replies() -> Vec<Reply> {
    let refusals = [
        Refusal::AlreadyCreated { partitions: 256 },
        Refusal::UnknownNode(3),
        Refusal::WrongIdentity(3),
        Refusal::AlreadyRegistered(3),
        Refusal::Full,
        Refusal::InUse { node: 3, partition: 4 },
        Refusal::UnknownPartition(4),
        Refusal::StalePlacement { version: 5 },
        Refusal::Stale { partition: 4, epoch: 5, version: 6 },
        Refusal::StaleIncarnation { node: 3, incarnation: 4 },
        Refusal::NotAReplica { partition: 4, node: 3 },
        Refusal::StillInSync { partition: 4, node: 3 },
        Refusal::StaleStarts { starts: 5 },
        Refusal::HasPrimary { partition: 4, primary: 3 },
    ];
    let replies = [
        Reply::Nothing,
        Reply::Created,
        Reply::Joined { node: 3 },
        Reply::Registered { incarnation: 4 },
        Reply::Removed,
        Reply::Placed { version: 5 },
        Reply::Promoted { promoted: 6, stuck: 7 },
        Reply::Forced { partitions: 8 },
        Reply::Moved { moved: 6, stale: 7 },
        Reply::InSync { changed: 6, stale: 7 },
    ];
    replies.into_iter().chain(refusals.map(Reply::Refused)).collect()
}

fn answers() -> Vec<(String, Answer)> {
    let vote = Vote::new_committed(3, 1);
    let peer = Peer { host: "host-2".into(), bus_port: 16379 };
    let others = [
        Answer::Append(AppendEntriesResponse::Success),
        Answer::Append(AppendEntriesResponse::PartialSuccess(Some(id(1, 1)))),
        Answer::Append(AppendEntriesResponse::Conflict),
        Answer::Append(AppendEntriesResponse::HigherVote(vote)),
        Answer::Vote(VoteResponse::new(Vote::new(4, 1), Some(id(3, 3)), true)),
        Answer::Piece,
        Answer::Snapshot(SnapshotResponse::new(vote)),
        Answer::TransferLeader(true),
        Answer::NotLeader(Elsewhere { leader: Some((2, peer)) }),
        Answer::Failed(Failure::Busy),
        Answer::Lease(LeaseAnswer::Granted { length_ms: 300, after: 77 }),
        Answer::Lease(LeaseAnswer::Refused(LeaseRefusal::Incarnation { incarnation: 4 })),
        Answer::HandingOver(5),
    ];
    let proposed = replies().into_iter().map(|reply| Answer::Proposed(9, reply));
    proposed.chain(others).enumerate().map(|(at, answer)| (format!("answer {at}"), answer)).collect()
}

fn steps() -> [(&'static str, Step); 5] {
    let (nonce, proof, cluster) = ([1; 32], [2; 32], String::from("keyloom"));
    let hello = Hello { version: 2, node: 1, target: 2, stream: false, cluster: cluster.clone(), nonce };
    let welcome = Welcome { version: 2, node: 2, cluster, nonce, proof };
    [
        ("hello", Step::Hello(hello)),
        ("welcome", Step::Welcome(welcome)),
        ("proof", Step::Proof(proof)),
        ("accepted", Step::Accepted),
        ("refused", Step::Refused(Refused::Version(2))),
    ]
}

fn tip() -> Tip {
    let (vote, last) = (Some(Vote::new(4, 2)), Some(id(2, 9)));
    Tip { number: Some(2), vote, committed: Some(id(1, 1)), purged: None, last }
}

fn content() -> Content {
    let membership = MembershipAt::new(Some(id(1, 1)), membership());
    Content { applied: Some(id(2, 9)), membership, state: state() }
}

/// All forms of version 2, by name.
fn version_2() -> Vec<(String, Vec<u8>)> {
    let changes = changes().into_iter().map(|(name, change)| (name, change.encode().unwrap()));
    let requests = requests().into_iter().map(|(name, request)| (format!("request {name}"), request.encode().unwrap()));
    let answers = answers().into_iter().map(|(name, answer)| (name, answer.encode().unwrap()));
    let steps = steps().into_iter().map(|(name, step)| (format!("step {name}"), step.encode().unwrap()));
    let tip = ("tip".into(), tip().encode().unwrap());
    let snapshot = content().encode(IDENTITY, 1_700_000_000_000).unwrap();
    let mut written = Vec::new();
    snapshot.write_to(&mut written);
    let snapshot = ("snapshot".into(), written);
    changes.chain(requests).chain(answers).chain(steps).chain([tip, snapshot]).collect()
}

/// As a record, and as what is proposed to another node.
fn both(name: &str, command: Command) -> [(String, Vec<u8>); 2] {
    let record = Change::Append(entry(&command)).encode().unwrap();
    [(format!("entry {name}"), record), (format!("propose {name}"), Request::Propose(command).encode().unwrap())]
}

fn proposed(name: &str, reply: Reply) -> (String, Vec<u8>) {
    (format!("answer {name}"), Answer::Proposed(9, reply).encode().unwrap())
}

fn snapshot(state: &State) -> (String, Vec<u8>) {
    let mut written = Vec::new();
    let content = Content { state: state.clone(), ..content() };
    content.encode(IDENTITY, 1_700_000_000_000).unwrap().write_to(&mut written);
    assert_eq!(Content::decode(&written), Ok(content));
    ("snapshot".into(), written)
}

/// The state in a later version, with orders.
fn ordered(version: u8) -> State {
    let mut state = state();
    for order in [Order::Raise { version, starts: 2 }, Order::Leave { node: 2 }, Order::Rebalance, Order::Pause] {
        assert_eq!(state.apply(&Command::Order(order)), Reply::Ordered);
    }
    state
}

/// What came with version 3.
fn version_3() -> Vec<(String, Vec<u8>)> {
    let orders = [
        ("leave", Order::Leave { node: 2 }),
        ("stay", Order::Stay { node: 2 }),
        ("pause", Order::Pause),
        ("rebalance", Order::Rebalance),
        ("raise", Order::Raise { version: 3, starts: 7 }),
    ];
    let replies = [
        ("ordered", Reply::Ordered),
        ("version", Reply::Refused(Refusal::Version { version: 2 })),
        ("last-node", Reply::Refused(Refusal::LastNode(3))),
        ("stays", Reply::Refused(Refusal::Stays(3))),
    ];
    let orders = orders.into_iter().flat_map(|(name, order)| both(name, Command::Order(order)));
    let replies = replies.into_iter().map(|(name, reply)| proposed(name, reply));
    orders.chain(replies).chain([snapshot(&ordered(3))]).collect()
}

/// What came with version 4.
fn version_4() -> Vec<(String, Vec<u8>)> {
    let mut state = ordered(4);
    let dead = vec![Member { node: 1, incarnation: 1 }];
    let by = Member { node: 2, incarnation: 1 };
    assert!(matches!(state.apply(&Command::Promote { starts: 2, dead, ready: vec![by] }), Reply::Promoted { .. }));
    let of = Move { partition: 1, epoch: 1 };
    let reach = Command::Reach { of, by, reached: 77, lacking: vec![1, 3] };
    assert_eq!(state.apply(&reach), Reply::Reached);
    let settled = state.settlements().of(1, 1).expect("it was lost");
    assert_eq!((settled.floor, &settled.lacking[..]), (Some(77), &[1, 3][..]));
    both("reach", reach).into_iter().chain([proposed("reached", Reply::Reached), snapshot(&state)]).collect()
}

/// What came with version 5.
fn version_5() -> Vec<(String, Vec<u8>)> {
    let mut state = ordered(5);
    let moves = vec![Move { partition: 1, epoch: 1 }];
    let name = Command::Name { moves, to: Member { node: 2, incarnation: 1 } };
    let named = Reply::Named { named: 1, stale: 0 };
    assert_eq!(state.apply(&name), named);
    let keep = Command::Keep { namings: vec![Naming { partition: 1, number: 1 }] };
    let mut kept = state.clone();
    assert_eq!(kept.apply(&keep), named);
    let forms = both("name", name).into_iter().chain(both("keep", keep)).chain([proposed("named", named)]);
    forms.chain([snapshot(&state), snapshot(&kept)]).collect()
}

fn lines(forms: &[(String, Vec<u8>)]) -> Vec<String> {
    forms.iter().map(|(name, bytes)| format!("{name}: {}", hex(bytes))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn what_version_2_can_say_is_said_as_version_2_says_it() {
    let written = lines(&version_2());
    let known: Vec<&str> = VERSION_2.lines().collect();
    for (written, known) in written.iter().zip(&known) {
        assert_eq!(written, known);
    }
    assert_eq!(written.len(), known.len());
}

#[test]
fn what_version_2_says_is_read_as_it_was_meant() {
    let bytes: BTreeMap<String, Vec<u8>> = version_2().into_iter().collect();
    let said = |what: &dyn Debug| format!("{what:?}");
    for (name, change) in changes() {
        assert_eq!(said(&Change::decode(&bytes[&name]).unwrap()), said(&change));
    }
    for (name, request) in requests() {
        assert_eq!(said(&Request::decode(&bytes[&format!("request {name}")]).unwrap()), said(&request));
    }
    for (name, answer) in answers() {
        assert_eq!(Answer::decode(&bytes[&name]), Ok(answer));
    }
    for (name, step) in steps() {
        assert_eq!(Step::decode(&bytes[&format!("step {name}")]), Ok(step));
    }
    assert_eq!(Tip::decode(&bytes["tip"]), Ok(tip()));
    assert_eq!(Content::decode(&bytes["snapshot"]), Ok(content()));
}

#[test]
fn what_came_later_is_said_as_its_version_says_it() {
    let all = [(3, version_3(), VERSION_3), (4, version_4(), VERSION_4), (5, version_5(), VERSION_5)];
    for (version, forms, known) in all {
        assert_eq!(lines(&forms), known.lines().collect::<Vec<_>>(), "version {version}");
    }
}

/// What came with a version bears it, so that a program that does not know it says so, and takes it for nothing else.
#[test]
fn what_version_2_cannot_say_bears_a_later_version() {
    let order = Command::Order(Order::Pause);
    assert_eq!(Change::Append(entry(&order)).encode().unwrap()[0], 3);
    assert_eq!(Request::Propose(order).encode().unwrap()[0], 3);
    let reach = Command::Reach { of: Move { partition: 3, epoch: 4 }, by: member(2), reached: 7, lacking: vec![] };
    assert_eq!(Change::Append(entry(&reach)).encode().unwrap()[0], 4);
    assert_eq!(Request::Propose(reach).encode().unwrap()[0], 4);
    let keep = Command::Keep { namings: vec![Naming { partition: 3, number: 4 }] };
    assert_eq!(Change::Append(entry(&keep)).encode().unwrap()[0], 5);
    assert_eq!(Request::Propose(keep).encode().unwrap()[0], 5);
    let later = [VERSION + 1, 0, 0];
    assert!(matches!(Change::decode(&later), Err(StoredError::Version(version)) if version == VERSION + 1));
    assert!(matches!(Request::decode(&later), Err(StoredError::Version(_))));
    let mut state = state();
    state.apply(&Command::Order(Order::Raise { version: 3, starts: state.starts() }));
    let written = Content { state, ..content() }.encode(IDENTITY, 0).unwrap();
    assert_eq!(written.payload()[0], 3);
    assert_eq!(snapshot(&ordered(4)).1[HEADER_BYTES], 4);
}
