//! Many seeds, one seed twice, and mistakes.

use super::*;
use crate::streams::{follower, leader};

/// Seeds of the test, and those in which a mistake must be found.
const SEEDS: u64 = 200;
const SEEDS_OF_DATA: u64 = 120;
const SEEDS_OF_MISTAKES: u64 = 500;

/// The seed that was asked for, or all.
fn seeds(count: u64) -> std::ops::RangeInclusive<u64> {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    match number("KEYLOOM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("KEYLOOM_SEEDS").unwrap_or(count),
    }
}

/// What happens in all seeds together.
fn run_all(count: u64, has_data: bool) -> Happened {
    let mut all = Happened::default();
    for seed in seeds(count) {
        match run(seed, Mistake::None, has_data) {
            Ok(seen) => all.add(&seen),
            Err(why) => {
                // Also here, as a test of mistakes may have silenced panics.
                println!("KEYLOOM_SEED={seed}: {why}");
                panic!("KEYLOOM_SEED={seed}: {why}");
            }
        }
    }
    println!("{all:?}");
    all
}

#[test]
fn no_partition_is_served_twice_and_all_are_served_in_the_end() {
    let all = run_all(SEEDS, false);
    let counts = [all.terms, all.promotions, all.memberships, all.kills, all.power_cuts, all.ghosts, all.suspensions];
    // A simulation in which nothing happens proves nothing.
    let others = [all.cuts, all.snapshots, all.wipes, all.left, all.handovers, all.ended, all.kept];
    let enough = counts.iter().chain(&others).all(|count| *count > 0);
    assert!(enough || std::env::var_os("KEYLOOM_SEED").is_some(), "{all:?}");
}

#[test]
fn nothing_that_was_acknowledged_is_lost() {
    let all = run_all(SEEDS_OF_DATA, true);
    let enough = all.promotions > 0 && all.acknowledged > 0 && all.kills > 0;
    assert!(enough || std::env::var_os("KEYLOOM_SEED").is_some(), "{all:?}");
}

/// Each comes with a seed that has shown it before: the search begins there, and others come when that shows it no more.
fn are_found(mistakes: impl IntoIterator<Item = (Mistake, u64)>, has_data: bool) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut missed = Vec::new();
    for (mistake, seen) in mistakes {
        // That all comes to rest in the end says nothing about what happens until then.
        let late = |why: &String| why.contains("no rest");
        let found = |seed| run(seed, mistake, has_data).err().filter(|why| !late(why)).map(|why| (seed, why));
        let asked = seeds(SEEDS_OF_MISTAKES);
        match asked.clone().skip_while(|seed| *seed < seen).chain(asked.take_while(|seed| *seed < seen)).find_map(found)
        {
            Some((seed, why)) => println!("{mistake:?}: seed {seed}: {why:.200}"),
            None => missed.push(mistake),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// A simulation that cannot find mistakes proves nothing either.
#[test]
fn mistakes_are_found() {
    let mistakes = [
        (Mistake::Of(Fault::IgnoreAfter), 8),
        (Mistake::Of(Fault::NoGrace), 12),
        (Mistake::Of(Fault::WithoutQuorum), 5),
        (Mistake::Of(Fault::CountFromAnswer), 407),
        (Mistake::LeaseFirst, 134),
        (Mistake::AnybodyFirst, 1),
        (Mistake::NumberAgain, 3),
        (Mistake::EndInName, 1),
        (Mistake::KeepWhatIsEnded, 1),
    ];
    are_found(mistakes, false);
}

#[test]
fn mistakes_with_data_are_found() {
    use streams::sim::Mistake::{Follower, Leader};
    let mistakes = [
        (Leader(leader::Fault::CountNewSetOnly), 30),
        (Leader(leader::Fault::FollowWithoutTails), 1),
        (Follower(follower::Fault::ApplyUncommitted), 1),
    ];
    are_found(mistakes.map(|(mistake, seen)| (Mistake::OfData(mistake), seen)), true);
}

#[test]
fn a_seed_replays() {
    for (seed, has_data) in [(1, false), (2, false), (1, true), (2, true)] {
        let twice = [(); 2].map(|()| run(seed, Mistake::None, has_data));
        assert_eq!(twice[0], twice[1], "KEYLOOM_SEED={seed}");
        assert!(twice[0].is_ok(), "{twice:?}");
    }
}
