//! Replaying the effects of a shard gives the same keyspace, whatever the clock of the replay says.
//!
//! Random commands run on one engine while its clock moves; what it recorded is replayed on a fresh engine whose clock
//! stands at another time. As on a replica, no key expires there by itself: expiries arrive as effects.
//!
//! Each statement names one key, or none and concerns everything. So it can be replayed by any number of cores, each of
//! which takes what it owns, whatever the number of partitions.

use crate::common::engine::{engine_of, run};
use crate::common::keyspace::{
    Content, DATABASES, KEYS, NONE_COMPACT, REPLAY_MS, START_MS, TEMPLATES, TIMES, VALUES, Words, contents, key_of,
    replay_one,
};
use keyloom::collection::Thresholds;
use keyloom::command::table;
use keyloom::config::Config;
use keyloom::engine::Engine;
use keyloom::route::Router;
use keyloom::shard::{Effect, Now, UnixMs};
use proptest::prelude::*;

/// One step of a client: which command, in which database, after how much time.
#[derive(Clone, Debug)]
struct Step {
    db: usize,
    wait_ms: UnixMs,
    /// By how much the wall clock is set ahead, or back.
    set_ms: UnixMs,
    args: Vec<String>,
}

fn step() -> impl Strategy<Value = Step> {
    let pick = |n| 0..n;
    (
        (pick(DATABASES), prop_oneof![4 => Just(0i64), 1 => 1..2_500i64], pick(TEMPLATES.len())),
        (pick(KEYS.len()), pick(KEYS.len()), pick(VALUES.len()), pick(VALUES.len())),
        (pick(TIMES.len()), pick(DATABASES), prop_oneof![12 => Just(0i64), 1 => -9_000..9_000i64]),
    )
        .prop_map(|((db, wait_ms, template), (k, other, v, value), (time, to_db, set_ms))| {
            let words = Words {
                keys: [KEYS[k], KEYS[other]],
                values: [VALUES[v], VALUES[value]],
                time: TIMES[time],
                db: to_db,
            };
            Step { db, wait_ms, set_ms, args: words.fill(TEMPLATES[template]) }
        })
}

fn engine(now_ms: UnixMs) -> Engine {
    crate::common::engine::engine(now_ms, Config { databases: DATABASES, ..Config::default() })
}

/// Runs the steps and returns everything they did.
fn record(engine: &mut Engine, steps: &[Step]) -> Vec<Effect> {
    engine.shard.effects.enable(true);
    let mut effects = Vec::new();
    for step in steps {
        let Now { wall_ms, steady_ms } = engine.shard.now();
        engine
            .shard
            .set_now(Now { wall_ms: wall_ms + step.wait_ms + step.set_ms, steady_ms: steady_ms + step.wait_ms });
        let args: Vec<&[u8]> = step.args.iter().map(|a| a.as_bytes()).collect();
        run(engine, step.db, &args);
        let of_step: Vec<Effect> = engine.shard.effects.drain().collect();
        assert!(of_step.windows(2).all(|two| two[0].unit == two[1].unit), "{of_step:?}");
        effects.extend(of_step);
    }
    // Looking at every key lets the expired ones go, which is an effect too.
    contents(engine);
    effects.extend(engine.shard.effects.drain());
    effects
}

fn replay(engine: &mut Engine, effects: &[Effect]) {
    effects.iter().for_each(|effect| replay_one(engine, effect));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn replayed_effects_give_the_same_keyspace(mut steps in prop::collection::vec(step(), 1..80)) {
        steps.iter_mut().for_each(|step| step.set_ms = 0);
        let mut original = engine(START_MS);
        let effects = record(&mut original, &steps);
        let mut copy = engine(REPLAY_MS);
        replay(&mut copy, &effects);
        prop_assert_eq!(contents(&mut copy), contents(&mut original), "{:?}", effects);
    }

    /// Cores that know of each other's statements only those without keys arrive at the same together.
    #[test]
    fn statements_can_be_replayed_by_any_owners(mut steps in prop::collection::vec(step(), 1..80), [wide, large]: [bool; 2]) {
        steps.iter_mut().for_each(|step| step.set_ms = 0);
        let config = || Config {
            databases: DATABASES,
            thresholds: if large { NONE_COMPACT } else { Thresholds::default() },
            ..Config::default()
        };
        let mut original = crate::common::engine::engine(START_MS, config());
        let effects = record(&mut original, &steps);
        let partitions = if wide { 64 } else { 2 };
        let mut owners = [0, 1].map(|core| engine_of(Router::new(core, 2, partitions), REPLAY_MS, config()));
        for effect in &effects {
            let key = key_of(effect);
            for owner in &mut owners {
                if key.is_none_or(|key| owner.router.owner(owner.hasher.key(key).partition) == owner.router.me()) {
                    replay_one(owner, effect);
                }
            }
        }
        let mut union: Vec<Content> = owners.iter_mut().flat_map(contents).collect();
        union.sort_by_key(|content| (content.0, KEYS.iter().position(|key| key.as_bytes() == content.1)));
        prop_assert_eq!(union, contents(&mut original), "{:?}", effects);
    }

    /// The effects name the moments at which keys were to expire; a wall clock that is set changes those of durations.
    #[test]
    fn a_wall_clock_that_is_set_changes_nothing_else(steps in prop::collection::vec(step(), 1..80)) {
        let mut original = engine(START_MS);
        let effects = record(&mut original, &steps);
        let mut copy = engine(REPLAY_MS);
        replay(&mut copy, &effects);
        let expires = |(db, key, value, at): Content| {
            let value: Vec<(Vec<u8>, bool)> = value.into_iter().map(|(part, at)| (part, at.is_some())).collect();
            (db, key, value, at.is_some())
        };
        let [copy, original] = [&mut copy, &mut original].map(|e| contents(e).into_iter().map(expires).collect::<Vec<_>>());
        prop_assert_eq!(copy, original, "{:?}", effects);
    }

    #[test]
    fn reads_and_failed_commands_have_no_effect(steps in prop::collection::vec(step(), 1..40)) {
        let mut engine = engine(START_MS);
        engine.shard.effects.enable(true);
        for step in &steps {
            let before = contents(&mut engine);
            let _ = engine.shard.effects.drain();
            let args: Vec<&[u8]> = step.args.iter().map(|a| a.as_bytes()).collect();
            let reply = run(&mut engine, step.db, &args);
            let effects: Vec<Effect> = engine.shard.effects.drain().collect();
            let changed = contents(&mut engine) != before;
            let read_only = table().resolve(&args).is_ok_and(|row| row.command.flags.has(keyloom::command::Flags::READONLY));
            prop_assert!(!changed || !effects.is_empty(), "{:?} changed the keyspace in silence", step);
            if read_only || reply.first() == Some(&b'-') {
                prop_assert!(effects.is_empty(), "{:?} -> {:?}", step, effects);
            }
        }
    }
}
