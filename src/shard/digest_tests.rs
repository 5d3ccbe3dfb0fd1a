//! The same contents have the same digest, however they came and are stored; others have another one.

use super::*;
use crate::command::transcript::{Client, NOW_MS};
use crate::config::Config;

/// The digest of everything that is there after some commands, at a moment.
fn digest_at(config: Config, at: UnixMs, lines: &[&str]) -> Digest {
    let mut client = Client::with(config);
    for line in lines {
        let reply = client.run(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    let shard = &client.engine.shard;
    shard.partitions().fold(Digest::default(), |all, partition| all.and(shard.digest(0, partition, at)))
}

fn digest_of(lines: &[&str]) -> Digest {
    digest_at(Config::default(), NOW_MS, lines)
}

#[test]
fn only_contents_count() {
    let large = || {
        let mut config = Config::default();
        let thresholds = &mut config.thresholds;
        (thresholds.set_max_intset_entries, thresholds.set_max_listpack_entries) = (0, 0);
        (thresholds.hash_max_listpack_entries, thresholds.zset_max_listpack_entries) = (0, 0);
        thresholds.list_max_listpack_size = 1;
        config
    };
    let same: [&[&[&str]]; 7] = [
        &[&["set a 12"], &["append a 1", "append a 2"], &["incrby a 12"]],
        &[&["rpush a x y z"], &["lpush a z y x"], &["rpush a y", "lpush a x", "rpush a z w", "rpop a"]],
        &[&["sadd a 1 2 3"], &["sadd a 3 2 1"], &["sadd a x 1 2 3", "srem a x"]],
        &[&["hset a f 1 g 2"], &["hset a g 2 f 1"], &["hset a h 1 g 2 f 0", "hdel a h", "hincrby a f 1"]],
        &[&["zadd a 1 x 0 y"], &["zadd a -0 y 1 x"], &["zadd a 5 y 1 x", "zincrby a -5 y"]],
        &[&["set a 1 ex 10", "set b 2"], &["set b 2", "set a 1 pxat 1700000010123"]],
        &[&["hset a f 1", "hexpire a 10 fields 1 f"], &["hset a f 1", "hpexpireat a 1700000010123 fields 1 f"]],
    ];
    let mut seen = Vec::new();
    for ways in same {
        let expected = digest_of(ways[0]);
        for way in ways {
            assert_eq!(digest_of(way), expected, "{way:?}");
            assert_eq!(digest_at(large(), NOW_MS, way), expected, "{way:?}, large");
        }
        seen.push(expected.sum);
    }
    let (all, before) = (seen.len(), seen.iter().collect::<std::collections::HashSet<_>>().len());
    assert_eq!(all, before, "what differs has different digests");
}

#[test]
fn every_difference_counts() {
    let different: [&[&str]; 25] = [
        &[],
        &["set a 1"],
        &["set a 2"],
        &["set b 1"],
        &["set a 1", "set b 1"],
        &["set a 1 ex 10"],
        &["set a 1 ex 11"],
        &["rpush a 1"],
        &["rpush a 1 2"],
        &["rpush a 2 1"],
        &["rpush a 12"],
        &["sadd a 1"],
        &["sadd a 1 2"],
        &["sadd a 12"],
        &["hset a 1 2"],
        &["hset a 2 1"],
        &["hset a 1 2 3 4"],
        &["hset a 1 4 3 2"],
        &["hset a 1 2", "hexpire a 10 fields 1 1"],
        &["hset a 1 2", "hexpire a 11 fields 1 1"],
        &["hset a 1 2", "expire a 10"],
        &["zadd a 1 2"],
        &["zadd a 2 1"],
        &["zadd a 1 2 3 4"],
        &["zadd a 1 4 3 2"],
    ];
    let mut seen: Vec<(u128, &[&str])> = different.iter().map(|lines| (digest_of(lines).sum, *lines)).collect();
    seen.sort();
    for pair in seen.windows(2) {
        assert_ne!(pair[0].0, pair[1].0, "{:?} and {:?}", pair[0].1, pair[1].1);
    }
    assert_eq!(digest_of(&[]), Digest::default());
    assert_eq!(digest_of(&["set a 1", "set b 1"]).keys, 2);
}

#[test]
fn what_expires_until_the_moment_is_left_out() {
    let lines = ["set a 1 px 1000", "set b 2", "hset c f 1 g 2", "hpexpire c 1000 fields 1 f", "hset d f 1"];
    let more = ["hpexpire d 1000 fields 1 f"];
    let all = [&lines[..], &more].concat();
    let at = |at| digest_at(Config::default(), at, &all);
    assert_eq!(at(NOW_MS + 999), at(NOW_MS));
    assert_eq!(at(NOW_MS).keys, 4);
    assert_eq!(at(NOW_MS + 1000), digest_of(&["set b 2", "hset c g 2"]));
    // Also if it is still there when it is over.
    let mut client = Client::new();
    all.iter().for_each(|line| drop(client.run(line)));
    client.engine.shard.set_now(NOW_MS + 1000);
    let shard = &client.engine.shard;
    assert_eq!(shard.size(0).keys, 4);
    let now = shard.partitions().map(|partition| shard.digest(0, partition, NOW_MS + 1000));
    assert_eq!(now.fold(Digest::default(), Digest::and), digest_of(&["set b 2", "hset c g 2"]));
}

#[test]
fn a_digest_is_read_as_it_is_written() {
    for sum in [0, 7, u128::MAX] {
        let digest = Digest { keys: 3, sum };
        assert_eq!(Digest::parse(3, &digest.to_string()), Some(digest));
    }
    for wrong in ["", "7", &"0".repeat(31), &"0".repeat(33), &format!("+{}", "0".repeat(31)), &"g".repeat(32)] {
        assert_eq!(Digest::parse(0, wrong), None, "{wrong}");
    }
}
