//! Newer views, the lease and copies, with whole cores.

use std::sync::Arc;

use super::forward::{Batch, Forwarded, Message};
use super::testing::{Cores, PARTITIONS, Peer, key, mine, moved, theirs, view};
use super::window::RequestKey;
use crate::borrow::{Loan, Wants};
use crate::cluster::Roles;
use crate::command::{Owned, table};
use crate::config::Config;
use crate::log::durability::{Lane, LaneMap, Lanes, Progress};
use crate::log::feed::{Content, Seq};
use crate::net::forward::Atomic;
use crate::resp::Version;
use crate::route::{CoreId, Hasher, PartitionSet};
use crate::shard::{FOLLOWED, LED, Shard};

/// Partitions of the first core, and of the second.
const FIRST: u16 = 1;
const SECOND: u16 = PARTITIONS - 2;

fn two_cores() -> Cores {
    Cores::in_cluster(2, Config::default())
}

/// This node leads all but these.
fn without(lost: &'static [u16]) -> impl Fn(u16) -> Roles {
    move |partition| if lost.contains(&partition) { theirs() } else { mine() }
}

fn owner(partition: u16) -> CoreId {
    (partition >= PARTITIONS / 2) as CoreId
}

fn keys_in(shard: &Shard, db: usize, partition: u16) -> usize {
    shard.partition_size(db, partition)
}

/// Lets the lease end while a command runs that takes some milliseconds; false if it ended before or behind that.
fn lapses_during(cores: &mut Cores, peer: &mut Peer, line: &str) -> bool {
    cores.node.state.lease.set(cores.now_ms() + 2);
    peer.send(line);
    match cores.reply(peer).as_str() {
        "" => true,
        "-CLUSTERDOWN The cluster is down" => false,
        reply => !reply.starts_with(':') && panic!("{}", &reply[..reply.len().min(100)]),
    }
}

#[test]
fn a_core_tells_what_it_is_charged_after_every_turn() {
    let mut cores = two_cores();
    cores.see(1, without(&[]));
    let mut client = cores.connect(0);
    for partition in [FIRST, SECOND] {
        for bytes in [10_000, 100] {
            cores.expect(&mut client, &format!("SET {} {}", key(partition), "v".repeat(bytes)), "+OK");
            for (core, pump) in cores.pumps.iter().enumerate() {
                assert_eq!(cores.node.state.budget.charged_bytes(core), pump.engine.shard.memory() as u64);
            }
        }
    }
}

#[test]
fn a_newer_view_is_followed_by_every_core_and_said_in_the_feed() {
    let mut cores = two_cores();
    cores.tell_all(|| Message::Record(true));
    cores.see(1, without(&[]));
    let mut clients = [cores.connect(0), cores.connect(1)];
    for partition in [FIRST, SECOND] {
        for client in &mut clients {
            cores.expect(client, &format!("SET {} v", key(partition)), "+OK");
        }
    }
    cores.see(2, without(&[FIRST, SECOND]));
    for partition in [FIRST, SECOND] {
        for client in &mut clients {
            cores.expect(client, &format!("GET {}", key(partition)), &moved(&key(partition)));
        }
        let shard = &cores.pumps[owner(partition) as usize].engine.shard;
        assert_eq!((keys_in(shard, LED, partition), keys_in(shard, FOLLOWED, partition)), (0, 1));
    }
    cores.expect(&mut clients[0], "DBSIZE", ":0");
    let units: Vec<u32> =
        cores.fed.iter().filter(|(core, _)| *core == 0).map(|(_, chunk)| units(chunk.content)).collect();
    let seen =
        cores.fed.iter().filter(|(core, _)| *core == 0).position(|(_, c)| c.content == Content::Seen { view: 2 });
    assert_eq!(units[..seen.unwrap()].iter().sum::<u32>(), 2, "what was executed before is said before");
    cores.see(3, without(&[]));
    cores.expect(&mut clients[0], &format!("GET {}", key(SECOND)), "$1|v");
}

fn units(content: Content) -> u32 {
    if let Content::Units(count) = content { count } else { 0 }
}

#[test]
fn what_was_forwarded_under_an_older_view_is_not_executed() {
    let mut cores = two_cores();
    cores.see(1, without(&[]));
    let newer = Arc::new(view(2, without(&[FIRST])));
    cores.tell(0, Message::View(newer));
    cores.rest();
    let mut client = cores.connect(1);
    let (here, there) = (key(FIRST), key(SECOND));
    cores.expect(&mut client, &format!("SET {here} v"), &moved(&here));
    cores.expect(&mut client, &format!("SET {there} v"), "+OK");
    // Its own core does not know better than that it is elsewhere.
    cores.expect(&mut client, "MULTI", "+OK");
    cores.expect(&mut client, &format!("SET {here} v"), "+QUEUED");
    cores.expect(&mut client, "EXEC", "-CLUSTERDOWN Hash slot not served");
    assert_eq!(cores.pumps[0].engine.shard.size(LED).keys, 0);
}

/// A core that has seen a view asks no other one for what is elsewhere by that.
#[test]
fn who_knows_better_asks_no_core_that_does_not() {
    let mut cores = two_cores();
    cores.see(1, without(&[]));
    let there = key(SECOND);
    let mut client = cores.connect(0);
    for (line, reply) in [("MULTI", "+OK"), (&format!("SET {there} v"), "+QUEUED"), ("PUBLISH c m", "+QUEUED")] {
        cores.expect(&mut client, line, reply);
    }
    let newer = Arc::new(view(2, without(&[SECOND])));
    cores.tell(0, Message::View(newer));
    cores.wait_until("one core has seen it", |cores| cores.seen(2) == [0]);
    cores.expect(&mut client, "EXEC", &moved(&there));
    assert_eq!(cores.pumps[1].engine.shard.size(LED).keys, 0);
}

#[test]
fn a_transaction_runs_where_all_of_its_keys_are_led_or_not_at_all() {
    let mut cores = Cores::in_cluster(2, Config { cluster_allow_local_crossslot: true, ..Config::default() });
    cores.see(1, without(&[]));
    let (here, there) = (key(FIRST), key(SECOND));
    let mut clients = [cores.connect(0), cores.connect(1)];
    for client in &mut clients {
        cores.expect(client, &format!("WATCH {there}"), "+OK");
        cores.expect(client, "MULTI", "+OK");
        cores.expect(client, &format!("SET {here} v"), "+QUEUED");
    }
    let mut other = cores.connect(0);
    cores.expect(&mut other, "MULTI", "+OK");
    cores.expect(&mut other, &format!("SET {there} v"), "+QUEUED");
    cores.see(2, without(&[SECOND]));
    for client in &mut clients {
        cores.expect(client, "EXEC", &moved(&there));
        cores.expect(client, &format!("GET {here}"), "$-1");
    }
    cores.expect(&mut other, "EXEC", &moved(&there));
    cores.expect(&mut other, "PING", "+PONG");
    assert_eq!(cores.pumps[1].engine.shard.watched_keys(), 0);
}

/// A transaction that was begun before a view may be executed after it; then the view is said behind it.
#[test]
fn a_view_is_said_when_older_transactions_are_through() {
    let mut cores = Cores::in_cluster(2, Config { cluster_allow_local_crossslot: true, ..Config::default() });
    cores.tell_all(|| Message::Record(true));
    cores.see(1, without(&[]));
    let mut client = cores.connect(0);
    let (here, there) = (key(FIRST), key(SECOND));
    for key in [&here, &key(SECOND - 1)] {
        cores.expect(&mut client, &format!("SET {key} v"), "+OK");
    }
    // A message goes to all cores, so this one coordinates.
    for (line, reply) in [("MULTI", "+OK"), (&format!("SET {there} 2"), "+QUEUED"), ("PUBLISH c m", "+QUEUED")] {
        cores.expect(&mut client, line, reply);
    }
    let loan = Box::new(Loan { wants: Wants::Whole, ..Loan::default() });
    cores.tell(1, Message::Borrow { transaction: 9, loan });
    cores.wait_until("a loan", |cores| !cores.lent.is_empty());
    client.send("EXEC");
    cores.rest();
    let newer = Arc::new(view(2, without(&[FIRST, SECOND - 1])));
    cores.tell_all(|| Message::View(Arc::clone(&newer)));
    cores.rest();
    assert!(cores.seen(2).is_empty(), "one core is lent as a whole, and a transaction of the other one waits for it");
    let dropped: Arc<PartitionSet> = Arc::new([SECOND - 1].into_iter().collect());
    cores.tell(1, Message::Drop(dropped));
    let mut other = cores.connect(0);
    cores.expect(&mut other, &format!("GET {here}"), &moved(&here));
    let (core, ticket) = cores.lent[0];
    cores.tell(core, Message::Return { ticket, entries: Vec::new(), keep: false, seq: 0 });
    // It was granted while the node led everything.
    assert_eq!(cores.reply(&mut client), "*2|+OK|:0");
    cores.wait_until("both cores have seen it", |cores| cores.seen(2).len() == 2);
    let said = |cores: &Cores, core: CoreId| -> Vec<Content> {
        cores.fed.iter().filter(|(from, _)| *from == core).map(|(_, chunk)| chunk.content).collect()
    };
    let said = said(&cores, 0);
    let unit = said.iter().rposition(|content| *content == Content::Units(1)).unwrap();
    assert_eq!(said.iter().map(|content| units(*content)).sum::<u32>(), 2);
    let seen = said.iter().position(|content| *content == Content::Seen { view: 2 }).unwrap();
    assert!(unit < seen, "{said:?}");
    assert_eq!(keys_in(&cores.pumps[0].engine.shard, FOLLOWED, FIRST), 1);
    let shard = &cores.pumps[1].engine.shard;
    assert_eq!([LED, FOLLOWED].map(|db| keys_in(shard, db, SECOND - 1)), [0, 0], "dropped when it had moved");
}

#[test]
fn who_waits_for_an_element_of_what_has_moved_is_sent_there() {
    let mut cores = two_cores();
    cores.see(1, without(&[]));
    let (here, there) = (key(FIRST), key(SECOND));
    let mut waiting = [cores.connect(0), cores.connect(1), cores.connect(0)];
    for (client, key) in waiting.iter_mut().zip([&here, &here, &there]) {
        client.send(&format!("BLPOP {key} 0"));
    }
    cores.rest();
    cores.see(2, without(&[FIRST]));
    let [first, second, stays] = &mut waiting;
    for client in [first, second] {
        assert_eq!(cores.reply(client), moved(&here));
        cores.expect(client, "PING", "+PONG");
    }
    assert_eq!(stays.received(), None);
    let mut client = cores.connect(1);
    cores.expect(&mut client, &format!("RPUSH {there} x"), ":1");
    assert_eq!(cores.reply(stays), format!("*2|${}|{there}|$1|x", there.len()));
}

#[test]
fn subscriptions_to_shard_channels_end_where_their_slots_have_moved() {
    let mut cores = two_cores();
    cores.see(1, without(&[]));
    let (here, there) = (key(FIRST), key(SECOND));
    let mut client = cores.connect(1);
    for (count, channel) in [(1, &here), (2, &there)] {
        let told = format!("*3|$10|ssubscribe|${}|{channel}|:{count}", channel.len());
        cores.expect(&mut client, &format!("SSUBSCRIBE {channel}"), &told);
    }
    cores.see(2, without(&[FIRST]));
    assert_eq!(cores.reply(&mut client), format!("*3|$12|sunsubscribe|${}|{here}|:1", here.len()));
    let mut publisher = cores.connect(0);
    cores.expect(&mut publisher, &format!("SPUBLISH {here} m"), &moved(&here));
    cores.expect(&mut publisher, &format!("SPUBLISH {there} m"), ":1");
}

#[test]
fn without_a_lease_nothing_is_shown_of_keys() {
    let mut cores = two_cores();
    cores.see(1, without(&[]));
    let (here, there) = (key(FIRST), key(SECOND));
    let mut clients = [cores.connect(0), cores.connect(1)];
    cores.expect(&mut clients[0], &format!("SET {here} 1"), "+OK");
    clients[1].send(&format!("BLPOP {there} 0"));
    cores.rest();
    cores.node.state.lease.set(cores.now_ms());
    let down = "-CLUSTERDOWN The cluster is down";
    for line in [&format!("GET {here}"), &format!("SET {there} 1"), "DBSIZE", &format!("WATCH {here}"), "FLUSHALL"] {
        cores.expect(&mut clients[0], line, down);
    }
    cores.expect(&mut clients[0], "PING", "+PONG");
    cores.expect(&mut clients[0], "PUBLISH c m", ":0");
    cores.expect(&mut clients[0], "MULTI", "+OK");
    cores.expect(&mut clients[0], &format!("GET {here}"), down);
    cores.expect(&mut clients[0], "EXEC", "-EXECABORT Transaction discarded because of previous errors.");
    assert_eq!(clients[1].received(), None, "who waits goes on to wait");
    cores.node.state.lease.set(cores.now_ms() + 60_000);
    cores.expect(&mut clients[0], &format!("GET {here}"), "$1|1");
    cores.expect(&mut clients[0], &format!("RPUSH {there} x"), ":1");
    assert_eq!(cores.reply(&mut clients[1]), format!("*2|${}|{there}|$1|x", there.len()));
}

/// The lease ends while a command runs: its reply is not sent, whichever core has run it.
#[test]
fn what_was_executed_when_the_lease_had_ended_is_shown_to_nobody() {
    let mut cores = two_cores();
    cores.see(1, without(&[]));
    let tag = key(FIRST);
    let value = "abcdefghij".repeat(1_100);
    let mut client = cores.connect(0);
    for name in ["a", "b"] {
        cores.expect(&mut client, &format!("SET {{{tag}}}{name} {value}"), "+OK");
    }
    for core in [0, 1] {
        let line = format!("LCS {{{tag}}}a {{{tag}}}b LEN");
        let closed = (0..200).any(|_| {
            cores.node.state.lease.set(cores.now_ms() + 60_000);
            let mut client = cores.connect(core);
            cores.expect(&mut client, "PING", "+PONG");
            lapses_during(&mut cores, &mut client, &line)
        });
        assert!(closed, "core {core}");
    }
    cores.node.state.lease.set(cores.now_ms() + 60_000);
    cores.expect(&mut client, "PING", "+PONG");
    cores.expect(&mut client, &format!("STRLEN {{{tag}}}a"), ":11000");
}

#[test]
fn replies_that_wait_for_what_has_moved_are_not_sent() {
    let mut cores = two_cores();
    cores.tell_all(|| Message::Record(true));
    cores.see(1, without(&[]));
    let (here, also, there) = (key(FIRST), key(FIRST + 1), key(SECOND));
    let mut clients = [cores.connect(0), cores.connect(0), cores.connect(1), cores.connect(1)];
    for client in &mut clients {
        cores.expect(client, "CLIENT DURABILITY quorum", "+OK");
    }
    for (client, key) in clients.iter_mut().zip([&here, &also, &here, &there]) {
        client.send(&format!("SET {key} v"));
    }
    cores.rest();
    assert!(clients.iter_mut().all(|client| client.received().is_none()));
    cores.see(2, without(&[FIRST]));
    let all = Progress { replicated: u64::MAX / 2, ..Progress::default() };
    cores.tell_all(|| Message::Progress(all.clone()));
    let [here, also, far, there] = &mut clients;
    assert_eq!([cores.reply(here), cores.reply(far)], ["", ""], "written or not, the next leader knows");
    assert_eq!([cores.reply(also), cores.reply(there)], ["+OK", "+OK"]);
}

/// Two lanes: these partitions, of which replicas have received so much, and the others, of which they have nothing.
fn ahead(partitions: &[u16], replicated: Seq) -> Message {
    let of = (0..PARTITIONS).map(|partition| partitions.contains(&partition) as u8).collect();
    let lanes = Box::new([Lane::default(), Lane { replicated, ..Lane::default() }]);
    let lanes = Some(Arc::new(Lanes { map: Arc::new(LaneMap { number: 1, of }), lanes }));
    Message::Progress(Progress { lanes, ..Progress::default() })
}

#[test]
fn replies_wait_for_those_who_follow_what_they_tell_of() {
    let mut cores = Cores::in_cluster(2, Config { cluster_allow_local_crossslot: true, ..Config::default() });
    cores.tell_all(|| Message::Record(true));
    cores.see(1, without(&[]));
    let [slow, quick, far] = [FIRST, FIRST + 1, SECOND].map(key);
    let also = key(FIRST + 2);
    let clients = [0, 0, 1, 1, 0, 0, 0, 0];
    let mut clients = clients.map(|core| cores.connect(core));
    let mut writers = [cores.connect(0), cores.connect(0)];
    for client in clients.iter_mut().chain(&mut writers) {
        cores.expect(client, "CLIENT DURABILITY quorum", "+OK");
    }
    let lane = [FIRST + 1, FIRST + 2, SECOND];
    cores.tell_all(|| ahead(&lane, 0));
    for (writer, key) in writers.iter_mut().zip([&slow, &quick]) {
        writer.send(&format!("SET {key} v"));
    }
    cores.rest();
    let lines = [
        format!("GET {quick}"),
        format!("GET {slow}"),
        format!("GET {quick}"),
        format!("GET {slow}"),
        // In one turn, what is quick alone, and both. A command with keys of several partitions waits for all.
        format!("SET {also} v\r\nGET {quick}"),
        format!("SET {also} v\r\nGET {slow}"),
        format!("MGET {also} {quick}"),
        format!("MGET {also} {slow}"),
    ];
    for (client, line) in clients.iter_mut().zip(&lines) {
        client.send(line);
    }
    cores.rest();
    assert!(clients.iter_mut().chain(&mut writers).all(|client| client.received().is_none()));
    cores.tell_all(|| ahead(&lane, u64::MAX / 2));
    let mut other = cores.connect(0);
    cores.expect(&mut other, &format!("SET {far} v"), "+OK");
    let replies: Vec<Option<String>> = {
        cores.rest();
        clients.iter_mut().chain(&mut writers).map(|client| client.received()).collect()
    };
    let replies: Vec<Option<&str>> = replies.iter().map(|reply| reply.as_deref()).collect();
    let both = Some("+OK|$1|v");
    assert_eq!(replies[..8], [Some("$1|v"), None, Some("$1|v"), None, both, None, None, None]);
    assert_eq!(replies[8..], [None, Some("+OK")]);
    cores.tell_all(|| Message::Progress(Progress { replicated: u64::MAX / 2, ..Progress::default() }));
    let [_, slow, _, far, _, both, mgets @ ..] = &mut clients;
    assert_eq!([slow, far].map(|client| cores.reply(client)), ["$1|v", "$1|v"]);
    assert_eq!(cores.reply(both), "+OK|$1|v");
    assert!(mgets.iter_mut().all(|client| cores.reply(client) == "*2|$1|v|$1|v"));
    assert_eq!(cores.reply(&mut writers[0]), "+OK");
}

/// A batch of statements of a log.
fn applied(lines: &[&str], unit: bool) -> Box<Batch> {
    let hasher = Hasher::new(PARTITIONS, [1, 2, 3, 4]);
    let mut batch = Box::<Batch>::default();
    batch.applies = true;
    let mut locks = Vec::new();
    for line in lines {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let key = hasher.key(args[1]);
        locks.push((0, key.hash));
        let request = Forwarded {
            row: table().resolve(&args).unwrap().id,
            db: 0,
            version: Version::V2,
            no_touch: true,
            counted: false,
            argc: args.len() as u32,
            key: Some(RequestKey { at: 1, partition: key.partition, hash: key.hash }),
        };
        batch.push(request, &args, &Owned::default());
    }
    if unit {
        let loan = Loan { wants: Wants::Keys(locks), ..Loan::default() };
        batch.transaction = Some(Box::new(Atomic::new(0, loan)));
    }
    batch
}

#[test]
fn copies_are_kept_and_read_by_who_says_so() {
    let mut cores = two_cores();
    cores.tell_all(|| Message::Record(true));
    cores.see(1, without(&[FIRST]));
    let here = key(FIRST);
    let (set, count) = (format!("SET {here} 1"), format!("INCR {here}"));
    cores.tell(0, Message::Requests(applied(&[&set, &count], false)));
    cores.tell(0, Message::Requests(applied(&[&count, &count], true)));
    cores.wait_until("both are applied", |cores| cores.back.len() == 2);
    let needs: Vec<u64> = cores.back.iter().map(|batch| batch.needs).collect();
    cores.pumps[0].engine.hurry_feed();
    cores.wait_until("the feed has it", |cores| {
        cores.fed.iter().any(|(core, chunk)| *core == 0 && chunk.last_seq >= needs[1])
    });
    let (mut statements, mut ends) = (Vec::new(), Vec::new());
    for (_, chunk) in cores.fed.iter().filter(|(core, chunk)| *core == 0 && units(chunk.content) > 0) {
        for effect in crate::shard::effect::decode(&chunk.bytes) {
            let args: Vec<String> = effect.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
            statements.push((effect.db, effect.unit, args.join(" ")));
        }
        ends.push(chunk.last_seq);
    }
    let expected = [(0, &set), (1, &count), (2, &count), (2, &count)];
    assert_eq!(statements, expected.map(|(unit, text)| (FOLLOWED as u8, unit, text.clone())));
    assert_eq!((needs[0] + 1, ends.last()), (needs[1], Some(&needs[1])), "the batches were three units in all");
    let mut clients = [cores.connect(0), cores.connect(1)];
    for client in &mut clients {
        cores.expect(client, &format!("GET {here}"), &moved(&here));
        cores.expect(client, "READONLY", "+OK");
        cores.expect(client, &format!("GET {here}"), "$1|4");
        cores.expect(client, &format!("STRLEN {here}"), ":1");
        cores.expect(client, &format!("MGET {here} {here}"), "*2|$1|4|$1|4");
        cores.expect(client, &count, &moved(&here));
        cores.expect(client, "DBSIZE", ":0");
        cores.expect(client, "READWRITE", "+OK");
        cores.expect(client, &format!("GET {here}"), &moved(&here));
    }
    let dropped: PartitionSet = [FIRST].into_iter().collect();
    let dropped = Arc::new(dropped);
    cores.tell_all(|| Message::Drop(Arc::clone(&dropped)));
    cores.rest();
    assert_eq!(keys_in(&cores.pumps[0].engine.shard, FOLLOWED, FIRST), 0);
}
