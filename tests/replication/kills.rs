//! The primary is killed while clients write: what was acknowledged is on the replica that is promoted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keyloom::resp::read::Value;

use crate::common::{Client, Random, Server, ok, seed, wait_until};
use crate::nodes::{leads, primary, replica, text, wait_connected};

const ROUNDS: u64 = 10;
const CLIENTS: usize = 3;

/// When a client takes a write for acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acknowledged {
    /// `WAIT 1` says so.
    ByWait,
    /// Its reply comes, with `CLIENT DURABILITY quorum`.
    ByReply,
}

/// Pushes 0, 1, 2, ... to a list until the connection breaks. `pushed` is how many of them are acknowledged.
fn push(mut client: Client, list: &str, how: Acknowledged, pushed: &AtomicU64) {
    if how == Acknowledged::ByReply {
        assert_eq!(client.call(&["CLIENT", "DURABILITY", "quorum"]), ok());
    }
    for n in 0.. {
        let Some(reply) = client.try_call(&["RPUSH", list, &n.to_string()]) else { return };
        assert_eq!(reply, Value::Int(n as i64 + 1), "{}", text(&reply));
        if how == Acknowledged::ByWait {
            let Some(copies) = client.try_call(&["WAIT", "1", "20000"]) else { return };
            assert_eq!(copies, Value::Int(1));
        }
        pushed.store(n + 1, Ordering::Relaxed);
    }
}

fn round(how: Acknowledged, random: &mut Random) {
    let insync = if how == Acknowledged::ByReply { "2" } else { "1" };
    let mut first = primary(&["--min-insync", insync]);
    let second = replica(first.port, ["0,1", "1"][random.below(2)], &["--min-insync", insync]);
    wait_connected(&second);
    let mut client = first.client();
    client.call(&["CLIENT", "DURABILITY", "quorum"]);
    wait_until("enough are in sync", || client.call(&["SET", "begin", "1"]) == ok());
    let pushed: Vec<Arc<AtomicU64>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    let threads: Vec<_> = pushed
        .iter()
        .enumerate()
        .map(|(n, pushed)| {
            let (client, pushed) = (first.client(), Arc::clone(pushed));
            std::thread::spawn(move || push(client, &format!("list:{n}"), how, &pushed))
        })
        .collect();
    let enough = 20 + random.below(200) as u64;
    wait_until("some are acknowledged", || pushed.iter().any(|pushed| pushed.load(Ordering::Relaxed) >= enough));
    first.kill();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    check_promoted(&second, &pushed);
}

fn check_promoted(second: &Server, pushed: &[Arc<AtomicU64>]) {
    let mut client = second.client();
    assert_eq!(client.call(&["REPLICAOF", "NO", "ONE"]), ok());
    wait_until("it leads", || leads(&mut client));
    wait_until("it takes writes of less demanding clients", || {
        client.call(&["CLIENT", "DURABILITY", "memory"]);
        client.call(&["SET", "end", "1"]) == ok()
    });
    for (n, pushed) in pushed.iter().enumerate() {
        let acknowledged = pushed.load(Ordering::Relaxed);
        let Value::Array(found) = client.call(&["LRANGE", &format!("list:{n}"), "0", "-1"]) else { panic!("a list") };
        let expected: Vec<Value> = (0..found.len()).map(|n| Value::Bulk(n.to_string().into_bytes())).collect();
        assert_eq!(found, expected, "a gap, or something twice");
        let count = found.len() as u64;
        assert!(count == acknowledged || count == acknowledged + 1, "{acknowledged} acknowledged, {count} there");
    }
}

fn rounds(how: Acknowledged) {
    let seed = seed();
    for n in 0..ROUNDS {
        println!("seed {seed}, round {n}");
        round(how, &mut Random::new(seed * 100 + n));
    }
}

#[test]
fn what_wait_has_confirmed_survives_a_kill() {
    rounds(Acknowledged::ByWait);
}

#[test]
fn what_a_quorum_has_confirmed_survives_a_kill() {
    rounds(Acknowledged::ByReply);
}
