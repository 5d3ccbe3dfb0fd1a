//! What the engine refuses in a cluster, and what becomes of contents whose role changes.

use std::sync::Arc;

use crate::borrow::{Loan, Verdict};
use crate::cluster::{Endpoint, Roles, View};
use crate::command::transcript::{Client, NOW_MS};
use crate::command::{Owned, table};
use crate::config::Config;
use crate::engine::{Call, Origin};
use crate::log::durability::Durability;
use crate::log::feed::Content;
use crate::resp::{Output, Reply, Version};
use crate::route::slot_of;
use crate::shard::{FOLLOWED, LED, NEVER_MS};

const PARTITIONS: u16 = 256;

/// Of keys `a` and `b`, both of other partitions.
fn partition(key: &str) -> u16 {
    slot_of(key.as_bytes()) / (crate::route::SLOTS / PARTITIONS)
}

fn client() -> Client {
    Client::with(Config { cluster_enabled: true, databases: 1, ..Config::default() })
}

/// The engine sees a view of two nodes; this one is the first.
fn see(client: &mut Client, number: u64, roles: impl Fn(u16) -> Roles) {
    let node =
        |n: u16| Endpoint { id: format!("{n:040x}"), host: format!("10.0.0.{n}"), port: n, alive: true, cores: None };
    let roles = (0..PARTITIONS).map(roles).collect();
    client.engine.see(Arc::new(View::new(vec![node(1), node(2)], 0, roles, number, number)));
    client.engine.settle_roles();
}

fn led() -> Roles {
    Roles { leader: Some(0), ..Roles::default() }
}

fn followed() -> Roles {
    Roles { leader: Some(1), followers: [0].into_iter().collect(), ..Roles::default() }
}

const DOWN: &str = "-CLUSTERDOWN The cluster is down";

#[test]
fn without_a_lease_keys_are_not_served() {
    let mut client = client();
    // A node that is alone needs none.
    client.engine.node.lease.set(0);
    assert!(client.engine.check_lease(NOW_MS));
    client.expect("set a 1 px 100", "+OK");
    see(&mut client, 1, |_| led());
    client.engine.node.lease.set(NOW_MS + 10);
    assert!(client.engine.check_lease(NOW_MS + 9));
    client.expect("get a", "$1|1");
    assert!(!client.engine.check_lease(NOW_MS + 10));
    assert_eq!(client.engine.next_expiry_ms(), NEVER_MS);
    for line in ["get a", "set a 2", "dbsize", "scan 0", "watch a", "flushall", "blpop l 0", "del x"] {
        client.expect(line, DOWN);
    }
    for line in ["ping", "publish c m", "config get port", "client id", "cluster keyslot a", "multi"] {
        assert!(!client.run(line).starts_with('-'), "{line}");
    }
    assert!(client.run("cluster info").contains("cluster_state:fail|"));
    client.session.multi.as_mut().unwrap().slots = crate::command::cluster::Slots::One(1);
    client.expect("exec", DOWN);
    client.engine.node.lease.set(NOW_MS + 20);
    assert!(client.engine.check_lease(NOW_MS + 11));
    client.session.multi = None;
    client.expect("get a", "$1|1");
    assert!(client.engine.next_expiry_ms() < NEVER_MS);
    assert!(client.run("cluster info").contains("cluster_state:ok|"));
}

#[test]
fn a_node_that_has_not_heard_who_leads_names_nobody() {
    let mut client = client();
    let tables = ["cluster slots", "cluster nodes", "cluster shards"];
    see(&mut client, 0, |_| Roles::default());
    tables.iter().for_each(|table| client.expect(table, DOWN));
    // What it knows is of before it has begun.
    see(&mut client, 0, |_| led());
    tables.iter().for_each(|table| client.expect(table, DOWN));
    assert!(client.run("cluster info").contains("cluster_current_epoch:0|"));
    see(&mut client, 1, |_| led());
    client.expect("cluster slots", "*1|*3|:0|:16383|*4|$8|10.0.0.1|:1|$40|0000000000000000000000000000000000000001|*0");
    assert!(tables.iter().all(|table| !client.run(table).starts_with('-')));
}

#[test]
fn writes_that_wait_for_copies_are_refused_where_there_are_few() {
    let mut client = client();
    let few = partition("a");
    see(&mut client, 1, |p| Roles { few_in_sync: p == few, ..led() });
    client.expect("set a 1", "+OK");
    client.session.durability = Some(Durability::Quorum);
    let refused = "-NOREPLICAS Not enough good replicas to write.";
    client.expect("set a 2", refused);
    client.expect("flushall", refused);
    client.expect("set b 2", "+OK");
    client.expect("get a", "$1|1");
    client.expect("multi", "+OK");
    let multi = client.session.multi.as_mut().unwrap();
    (multi.writes, multi.slots) = (true, crate::command::cluster::Slots::One(slot_of(b"a")));
    client.expect("exec", refused);
    client.session.multi.as_mut().unwrap().slots = crate::command::cluster::Slots::One(slot_of(b"b"));
    client.expect("exec", "");
    see(&mut client, 2, |_| led());
    client.session.multi = None;
    client.expect("set a 2", "+OK");
}

#[test]
fn contents_go_where_their_role_is() {
    let mut client = client();
    client.expect("set a 1", "+OK");
    client.expect("set b 1", "+OK");
    let (a, b) = (partition("a"), partition("b"));
    see(&mut client, 1, |p| if p == a { followed() } else { led() });
    client.expect("get a", "$-1");
    client.expect("get b", "$1|1");
    client.expect("dbsize", ":1");
    assert!(!client.engine.is_led(a) && client.engine.is_led(b));
    // What nobody leads any more stays as well.
    see(&mut client, 2, |p| if p == b { Roles::default() } else { led() });
    client.expect("get a", "$1|1");
    client.expect("get b", "$-1");
    client.expect("flushall", "+OK");
    see(&mut client, 3, |_| led());
    client.expect("get b", "$1|1");
    client.expect("get a", "$-1");
}

#[test]
fn copies_that_are_dropped_are_dropped_in_the_log() {
    let mut client = client();
    client.expect("set a 1", "+OK");
    let a = partition("a");
    see(&mut client, 1, |p| if p == a { followed() } else { led() });
    client.engine.switch_feed(true);
    client.engine.drop_partitions(&[a].into_iter().collect());
    let effects: Vec<_> = client.engine.shard.effects.drain().collect();
    assert_eq!(effects.len(), 1);
    assert_eq!((effects[0].db as usize, &effects[0].args[0][..]), (FOLLOWED, &b"FLUSHPARTITION"[..]));
    assert_eq!(partition(std::str::from_utf8(&effects[0].args[1]).unwrap()), a);
    see(&mut client, 2, |_| led());
    client.expect("dbsize", ":0");
}

#[test]
fn what_is_applied_is_a_copy_and_is_logged_as_it_is() {
    let mut client = client();
    let a = partition("a");
    see(&mut client, 1, |p| if p == a { followed() } else { led() });
    client.engine.switch_feed(true);
    client.engine.shard.effects.drain();
    let args: [&[u8]; 5] = [b"SET", b"a", b"1", b"PXAT", b"5"];
    let owned = Owned::default();
    let call = Call {
        row: table().resolve(&args).unwrap(),
        args: &args,
        first: Some(client.engine.hasher.key(b"a")),
        db: 0,
        no_touch: true,
        owned: &owned,
        origin: Origin::Forwarded(0),
        counted: false,
    };
    let before = client.engine.seq();
    client.engine.apply(call, &mut Reply::new(&mut Output::new(), Version::V2));
    assert_eq!(client.engine.applied_seq(), before + 1);
    let effects: Vec<_> = client.engine.shard.effects.drain().collect();
    assert_eq!((effects.len(), effects[0].db as usize), (1, FOLLOWED));
    assert_eq!(effects[0].args, args.map(<[u8]>::to_vec));
    assert_eq!((client.engine.shard.size(LED).keys, client.engine.shard.partition_size(FOLLOWED, a)), (0, 1));
    client.expect("get a", "$-1");
    assert!(client.run("info keyspace").ends_with("# Keyspace|"));
}

#[test]
fn a_loan_for_keys_that_are_elsewhere_is_not_granted() {
    let mut client = client();
    let a = partition("a");
    see(&mut client, 1, |p| if p == a { followed() } else { led() });
    let [a, b] = [slot_of(b"a"), slot_of(b"b")];
    let mut judge = |loan: Loan| client.engine.judge(&mut Loan { serves: true, ..loan });
    assert_eq!(judge(Loan { slots: vec![b], ..Loan::default() }), Verdict::Granted);
    assert_eq!(judge(Loan { slots: vec![b, a], ..Loan::default() }), Verdict::Away { slot: a });
    // Parts of what was granted run to the end.
    assert_eq!(judge(Loan { slots: vec![a], under: Some(1), ..Loan::default() }), Verdict::Granted);
    client.engine.node.lease.set(0);
    client.engine.check_lease(NOW_MS);
    let mut judge = |serves| client.engine.judge(&mut Loan { serves, slots: vec![b], ..Loan::default() });
    assert_eq!([judge(true), judge(false)], [Verdict::Down, Verdict::Granted]);
}

#[test]
fn late_requests_are_refused_like_new_ones() {
    let mut client = client();
    let a = partition("a");
    see(&mut client, 1, |p| if p == a { followed() } else { led() });
    let mut refused = |line: &str, db| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let row = table().resolve(&args).unwrap();
        let at = row.command.keys.positions(&args).next();
        let partition = at.map(|at| client.engine.hasher.key(args[at]).partition);
        client.engine.refuses_away(row, &args, db, partition).map(|error| error.to_string())
    };
    let moved = format!("MOVED {} 10.0.0.2:2", slot_of(b"a"));
    assert_eq!(refused("get a", LED), Some(moved.clone()));
    assert_eq!(refused("mget a {a}b", LED), Some(moved));
    assert_eq!(refused("get b", LED), None);
    assert_eq!(refused("dbsize", LED), None);
    assert_eq!(refused("get a", FOLLOWED), None);
    assert_eq!(refused("get b", FOLLOWED).as_deref(), Some("CLUSTERDOWN Hash slot not served"));
    client.engine.node.lease.set(0);
    client.engine.check_lease(NOW_MS);
    let mut refused = |line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        client.engine.refuses_away(table().resolve(&args).unwrap(), &args, LED, None).is_some()
    };
    assert_eq!(["dbsize", "get b", "publish c m"].map(&mut refused), [true, true, false]);
}

#[test]
fn what_a_readonly_connection_may_read() {
    let mut client = client();
    let a = partition("a");
    see(&mut client, 1, |p| if p == a { followed() } else { led() });
    let reads = |client: &Client, line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        client.engine.reads_copy(table().resolve(&args).unwrap(), &client.session, &args)
    };
    assert!(!reads(&client, "get a"));
    client.session.readonly = true;
    for line in ["get a", "mget a {a}b", "sort_ro a", "object encoding a", "ttl a"] {
        assert!(reads(&client, line), "{line}");
    }
    for line in ["get b", "set a 1", "mget a b", "sort a", "sort_ro a by w_*", "dbsize", "blpop a 0", "watch a", "ping"]
    {
        assert!(!reads(&client, line), "{line}");
    }
    client.session.multi = Some(Default::default());
    assert!(!reads(&client, "get a"), "what is queued runs where it is led");
}

#[test]
fn a_view_is_said_in_the_feed_even_if_nothing_is_recorded() {
    let mut client = client();
    client.engine.tell_seen(7);
    assert_eq!(client.engine.next_chunk().unwrap().content, Content::Seen { view: 7 });
    client.engine.switch_feed(true);
    client.engine.next_chunk();
    client.expect("set a 1", "+OK");
    client.engine.tell_seen(8);
    let mut said = || client.engine.next_chunk().map(|chunk| chunk.content);
    assert_eq!([said(), said(), said()], [Some(Content::Units(1)), Some(Content::Seen { view: 8 }), None]);
}
