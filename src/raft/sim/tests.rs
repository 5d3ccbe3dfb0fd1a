//! Many seeds, one seed twice, and mistakes.

use super::*;

/// Seeds of the test, and those in which a mistake must be found.
const SEEDS: u64 = 100;
const SEEDS_OF_MISTAKES: u64 = 500;

#[test]
fn no_partition_is_served_twice_and_all_are_served_in_the_end() {
    if let Some(seed) = std::env::var("KEYLOOM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let seen = run(seed, Mistake::None).unwrap_or_else(|why| panic!("KEYLOOM_SEED={seed}: {why}"));
        println!("{seen:#?}");
        return;
    }
    let seeds = std::env::var("KEYLOOM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 1..=seeds {
        let seen = run(seed, Mistake::None).unwrap_or_else(|why| panic!("KEYLOOM_SEED={seed}: {why}"));
        println!("{seed}: {seen:?}");
    }
}

/// A simulation that cannot find mistakes proves nothing.
#[test]
fn mistakes_are_found() {
    let faults = [
        Fault::CountFromAnswer,
        Fault::IgnoreAfter,
        Fault::NoGrace,
        Fault::PromoteEarly,
        Fault::IgnoreDrift,
        Fault::ForgetEarlier,
        Fault::WithoutQuorum,
        Fault::GrantWhileDeposing,
        Fault::AssumeRefused,
    ];
    let others = [Mistake::VoteAtOnce, Mistake::LeaseFirst, Mistake::AnybodyFirst, Mistake::NumberAgain, Mistake::DiskLies];
    let seeds = std::env::var("KEYLOOM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS_OF_MISTAKES);
    let mut missed = Vec::new();
    for mistake in faults.map(Mistake::Of).into_iter().chain(others) {
        // That all is served in the end says nothing about who serves twice.
        let found = |seed| run(seed, mistake).err().filter(|why| !why.contains("is not served")).map(|why| (seed, why));
        match (1..=seeds).find_map(found) {
            Some((seed, why)) => println!("{mistake:?}: seed {seed}: {why}"),
            None => missed.push(mistake),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_OF_MISTAKES} seeds: {missed:?}");
}

#[test]
fn a_seed_replays() {
    for seed in 1..=3 {
        assert_eq!(run(seed, Mistake::None), run(seed, Mistake::None), "KEYLOOM_SEED={seed}");
    }
}
