//! One core without its sockets, in the process of the test.

use std::sync::Arc;

use keyloom::command::{Handler, Owned, table};
use keyloom::config::Config;
use keyloom::engine::{Call, Engine, Origin};
use keyloom::resp::{Output, Reply, Version};
use keyloom::route::{Hasher, Router};
use keyloom::shard::UnixMs;

const PARTITIONS: u16 = 8;

/// A node of one core, whose clock stands at `now_ms`.
pub fn engine(now_ms: UnixMs, config: Config) -> Engine {
    engine_of(Router::new(0, 1, PARTITIONS), now_ms, config)
}

/// The core that `router` calls its own, of a node whose clock stands at `now_ms`.
pub fn engine_of(router: Router, now_ms: UnixMs, config: Config) -> Engine {
    engine_seeded(router, [5, 6, 7, 8], now_ms, config)
}

/// As [`engine_of`]; `seed` is that of the hashes of keys.
pub fn engine_seeded(router: Router, seed: [u64; 4], now_ms: UnixMs, config: Config) -> Engine {
    let partitions = router.partitions();
    let config = Config { partitions, ..config };
    let mut engine = Engine::new(router, Hasher::new(partitions, seed), Arc::new(config), 9);
    engine.shard.set_now(now_ms);
    engine
}

/// Runs one keyspace command; the bytes of its reply.
pub fn run(engine: &mut Engine, db: usize, args: &[&[u8]]) -> Vec<u8> {
    let row = table().resolve(args).ok().or_else(|| table().internal(args[0])).expect("a known command");
    assert!(matches!(row.command.handler, Handler::Keyspace(_)));
    assert!(row.command.arity_ok(args.len()));
    let hasher = engine.hasher.clone();
    let first = row.command.keys.positions(args).next().map(|at| hasher.key(args[at]));
    let mut out = Output::new();
    let call = Call {
        row,
        args,
        first,
        db,
        no_touch: false,
        owned: &Owned::default(),
        origin: Origin::Forwarded(0),
        counted: true,
    };
    engine.call(call, &mut Reply::new(&mut out, Version::V2));
    out.to_vec()
}
