//! Many seeds, and mistakes.

use super::*;
use crate::streams::leader::handover::Stage;

/// Seeds of the test, and those in which a mistake must be found.
const SEEDS: u64 = 1_000;

#[test]
fn nothing_that_was_promised_is_lost() {
    if let Some(seed) = std::env::var("KEYLOOM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        println!("{:?}", run(seed, Mistake::None).unwrap());
        return;
    }
    let seeds = std::env::var("KEYLOOM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut all = Seen::default();
    for seed in 0..seeds {
        match run(seed, Mistake::None) {
            Ok(seen) => {
                all.led += seen.led;
                all.handed += seen.handed;
                all.gone_over += seen.gone_over;
                all.kept += seen.kept;
                all.led_again += seen.led_again;
                all.deposed += seen.deposed;
                all.suffixes += seen.suffixes;
                all.copies += seen.copies;
                all.copies_cancelled += seen.copies_cancelled;
                all.reads += seen.reads;
                all.not_ready += seen.not_ready;
                all.crashes += seen.crashes;
                all.acked += seen.acked;
                all.acked_durable += seen.acked_durable;
                all.power_cuts += seen.power_cuts;
                all.forced += seen.forced;
                all.emptied += seen.emptied;
                all.waited_for_memory += seen.waited_for_memory;
                all.given_up_for_memory += seen.given_up_for_memory;
                all.reached += seen.reached;
                all.spans_kept += seen.spans_kept;
                all.spans_dropped += seen.spans_dropped;
                for (step, count) in seen.crashed_in {
                    *all.crashed_in.entry(step).or_default() += count;
                }
                seen.drops.into_iter().for_each(|(reason, count)| *all.drops.entry(reason).or_default() += count);
            }
            Err(why) => panic!("KEYLOOM_SEED={seed}: {why}"),
        }
    }
    println!("{all:?}");
    let counts = [all.led, all.deposed, all.suffixes, all.copies, all.copies_cancelled, all.reads, all.crashes];
    let more = [
        all.handed,
        all.gone_over,
        all.kept,
        all.led_again,
        all.acked,
        all.acked_durable,
        all.power_cuts,
        all.forced,
        all.emptied,
    ];
    let memory = [all.waited_for_memory, all.given_up_for_memory];
    let spans = [all.reached, all.spans_kept, all.spans_dropped];
    assert!(counts.iter().chain(&more).chain(&memory).chain(&spans).all(|&count| count > 0), "{all:?}");
    for step in Stage::ALL {
        for had_it in [true, false] {
            assert!(all.crashed_in.contains_key(&(step.name(), had_it)), "{step:?}, {had_it}: {all:?}");
        }
    }
}

/// The search begins with a seed that has shown the mistake before; others come when that shows it no more.
fn is_found(mistake: Mistake, seen: u64) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let found = (seen..SEEDS).chain(0..seen).find_map(|seed| run(seed, mistake).err().map(|why| (seed, why)));
    std::panic::set_hook(hook);
    let (seed, why) = found.unwrap_or_else(|| panic!("{mistake:?} is not found"));
    println!("{mistake:?}: seed {seed}: {why:.200}");
}

#[test]
fn mistakes_are_found() {
    use follower::Fault as F;
    use leader::Fault as L;
    is_found(Mistake::Leader(L::CountNewSetOnly), 35);
    is_found(Mistake::Leader(L::FollowWithoutTails), 0);
    is_found(Mistake::Leader(L::CountIncompleteCopies), 1);
    is_found(Mistake::Leader(L::HandOverUncommitted), 14);
    is_found(Mistake::Leader(L::CommitSpansInPart), 572);
    is_found(Mistake::Follower(F::ApplyUncommitted), 0);
    is_found(Mistake::Follower(F::DurableOnReceipt), 10);
    is_found(Mistake::Follower(F::GiveUpWhatIsHere), 34);
    is_found(Mistake::Follower(F::KeepSpansAlone), 433);
}
