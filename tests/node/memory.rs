//! maxmemory from outside: what is refused, what is evicted, how much is used.

use crate::common::{Client, Server, info, ok, wait_until};
use keyloom::resp::read::{Value, encode_command};

const MIB: u64 = 1 << 20;
/// What a command may use beyond its arguments, and what clients' buffers may add until the next tick.
const SLACK_BYTES: u64 = 2 * MIB;

fn oom() -> Value {
    Value::Error(b"OOM command not allowed when used memory > 'maxmemory'.".to_vec())
}

/// A server whose limit is `bytes` above what it uses when it is empty.
fn server(cores: &str, bytes: u64, policy: &str) -> (Server, Client) {
    let server = Server::keyloom(&["--cpus", cores, "--maxmemory-policy", policy]);
    let mut client = server.client();
    let limit = info(&mut client, "used_memory") + bytes;
    assert_eq!(client.call(&["CONFIG", "SET", "maxmemory", &limit.to_string()]), ok());
    (server, client)
}

/// Pipelines `SET prefix:i` for a range of numbers, values of `bytes`; returns how many were refused.
fn fill(client: &mut Client, prefix: &str, numbers: std::ops::Range<usize>, bytes: usize, options: &[&str]) -> usize {
    let value = "v".repeat(bytes);
    let mut refused = 0;
    for first in numbers.clone().step_by(200) {
        let last = numbers.end.min(first + 200);
        let mut request = Vec::new();
        for i in first..last {
            let key = format!("{prefix}:{i}");
            let args = [&["SET", &key, &value], options].concat();
            encode_command(&args, &mut request);
        }
        client.send_bytes(&request);
        for _ in first..last {
            match client.read() {
                reply if reply == ok() => {}
                reply => {
                    assert_eq!(reply, oom());
                    refused += 1;
                }
            }
        }
    }
    refused
}

#[test]
fn without_eviction_writes_that_need_memory_are_refused_and_others_go_on() {
    let (_server, mut client) = server("0", 8 * MIB, "noeviction");
    let limit = info(&mut client, "maxmemory");
    let refused = fill(&mut client, "key", 0..20_000, 1_000, &[]);
    assert!((5_000..18_000).contains(&refused), "{refused}");
    assert!(info(&mut client, "used_memory") <= limit + SLACK_BYTES);
    assert_eq!(info(&mut client, "evicted_keys"), 0);
    for refused in [&["SET", "a", "b"][..], &["APPEND", "key:0", "b"], &["MSET", "a", "b"], &["INCR", "n"]] {
        assert_eq!(client.call(refused), oom(), "{refused:?}");
    }
    // The count of refusals is Redis' one.
    let Value::Bulk(stats) = client.call(&["INFO", "commandstats"]) else { panic!("INFO is a string") };
    let stats = String::from_utf8(stats).unwrap();
    assert!(stats.contains("cmdstat_append:calls=0") && stats.contains("rejected_calls=1"), "{stats}");
    assert_eq!(client.call(&["EXISTS", "key:0", "key:1"]), Value::Int(2));
    assert_eq!(client.call(&["EXPIRE", "key:1", "100"]), Value::Int(1));
    // What is deleted can be written again.
    for i in 0..1_000 {
        assert_eq!(client.call(&["DEL", &format!("key:{i}")]), Value::Int(1));
    }
    assert_eq!(client.call(&["SET", "a", "b"]), ok());
    assert_eq!(client.call(&["CONFIG", "SET", "maxmemory", "0"]), ok());
    assert_eq!(fill(&mut client, "key", 0..20_000, 1_000, &[]), 0);
}

#[test]
fn every_policy_that_evicts_makes_room_and_keeps_to_the_limit_on_two_cores() {
    let policies = ["allkeys-lru", "allkeys-lfu", "allkeys-random", "allkeys-s3fifo"];
    let volatile = ["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"];
    for policy in policies.into_iter().chain(volatile) {
        let (_server, mut client) = server("0,1", 32 * MIB, policy);
        let limit = info(&mut client, "maxmemory");
        let expiry: &[&str] = if policy.starts_with("volatile") { &["EX", "1000"] } else { &[] };
        assert_eq!(fill(&mut client, "lasting", 0..500, 100, &[]), 0);
        for round in 0..4 {
            // Sizes shift; keys are ever new.
            let bytes = [100, 1_000, 5_000, 50][round];
            assert_eq!(fill(&mut client, &format!("key{round}"), 0..20_000, bytes, expiry), 0, "{policy}");
            assert!(info(&mut client, "used_memory") <= limit + SLACK_BYTES, "{policy}");
        }
        assert!(info(&mut client, "evicted_keys") > 30_000, "{policy}");
        if policy.starts_with("volatile") {
            let lasting = (0..500).map(|i| client.call(&["EXISTS", &format!("lasting:{i}")]));
            assert!(lasting.into_iter().all(|found| found == Value::Int(1)), "{policy} evicts only what may expire");
        }
    }
}

#[test]
fn a_core_whose_keys_are_many_gets_the_memory_that_others_do_not_need() {
    let (_server, mut client) = server("0,1", 32 * MIB, "noeviction");
    // All keys on one core: with equal halves a good half of them would be refused. Other cores tell what they use ten
    // times a second, so the client waits for room as an application would.
    let value = "v".repeat(1_000);
    let mut stored = 0;
    for i in 0..24_000 {
        let key = format!("{{one}}:{i}");
        wait_until("there is room on the core", || client.call(&["SET", &key, &value]) == ok());
        stored += 1;
    }
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(stored));
}

#[test]
fn the_policy_can_change_while_keys_are_there() {
    let (_server, mut client) = server("0", 4 * MIB, "noeviction");
    let refused = fill(&mut client, "key", 0..8_000, 1_000, &[]);
    assert!(refused > 0);
    assert_eq!(client.call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]), ok());
    assert_eq!(fill(&mut client, "other", 0..8_000, 1_000, &[]), 0);
    assert_eq!(client.call(&["EXISTS", "key:0"]), Value::Int(0));
    assert!(matches!(client.call(&["OBJECT", "FREQ", "other:7999"]), Value::Error(_)));
    assert_eq!(client.call(&["OBJECT", "IDLETIME", "other:7999"]), Value::Int(0));
    assert_eq!(client.call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lfu"]), ok());
    // Entries are ranked anew in pieces. A new key counts 5; the first access always adds one.
    wait_until("accesses are counted", || {
        assert_eq!(client.call(&["SET", "new", "v"]), ok());
        client.call(&["GETDEL", "new"]);
        assert_eq!(client.call(&["SET", "new", "v"]), ok());
        client.call(&["OBJECT", "FREQ", "new"]) == Value::Int(5)
    });
    client.call(&["GET", "new"]);
    assert_eq!(client.call(&["OBJECT", "FREQ", "new"]), Value::Int(6));
    assert!(matches!(client.call(&["OBJECT", "IDLETIME", "new"]), Value::Error(_)));
    assert_eq!(client.call(&["OBJECT", "FREQ", "absent"]), Value::Null);
    assert_eq!(fill(&mut client, "third", 0..8_000, 1_000, &[]), 0);
    assert_eq!(client.call(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]), ok());
    assert!(fill(&mut client, "fourth", 0..100, 1_000, &[]) > 0);
    // A flush makes room at once for the next write.
    assert_eq!(client.call(&["FLUSHALL"]), ok());
    assert_eq!(fill(&mut client, "fifth", 0..100, 1_000, &[]), 0);
}

#[test]
fn a_lower_limit_evicts_without_further_writes_and_a_flush_gives_memory_back() {
    let (_server, mut client) = server("0,1", 16 * MIB, "allkeys-lru");
    let before = info(&mut client, "used_memory");
    assert_eq!(fill(&mut client, "key", 0..10_000, 1_000, &[]), 0);
    let limit = before + 4 * MIB;
    assert_eq!(client.call(&["CONFIG", "SET", "maxmemory", &limit.to_string()]), ok());
    wait_until("memory is below the limit", || info(&mut client, "used_memory") <= limit);
    assert!(info(&mut client, "evicted_keys") > 5_000);
    assert_eq!(client.call(&["FLUSHALL", "ASYNC"]), ok());
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(0));
    wait_until("the memory is back", || info(&mut client, "used_memory") < before + MIB);
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn resident_memory_follows_what_is_charged_through_shifts_of_the_sizes() {
    let (server, mut client) = server("0", 48 * MIB, "allkeys-lru");
    let limit = info(&mut client, "maxmemory");
    let mut random = crate::common::Random::new(crate::common::seed());
    for round in 0..6 {
        for step in 0..60 {
            // From 10 bytes to 100 KiB: all sizes, then small ones only, then large ones only.
            let exponent = match round % 3 {
                0 => random.below(14),
                1 => random.below(4),
                _ => 10 + random.below(4),
            };
            let bytes = 10 << exponent;
            let count = (2 * MIB as usize / (bytes + 60)).min(4_000);
            let prefix = format!("{round}:{}", step % 40);
            assert_eq!(fill(&mut client, &prefix, 0..count, bytes, &[]), 0);
            if random.one_in(5) {
                fill(&mut client, &prefix, 0..count, bytes / 2, &["PX", "1"]);
            }
        }
        assert!(info(&mut client, "used_memory") <= limit + SLACK_BYTES);
        // The allocator returns pages within a second, and sparse slabs are emptied in pieces.
        wait_until("resident memory follows", || {
            resident(server.pid()) <= info(&mut client, "used_memory") * 6 / 5 + 12 * MIB
        });
    }
    assert_eq!(client.call(&["FLUSHALL"]), ok());
    wait_until("all of it is back", || resident(server.pid()) < 40 * MIB);
}
