//! Tables alone, with made-up hashes: growth, shrinking and moves in steps, scans and draws meanwhile.

use std::cell::Cell;

use super::*;

type HashOf = fn(Handle) -> u64;

/// The entry with handle `i` has this hash; it spreads like the real ones.
fn spread(handle: Handle) -> u64 {
    let mut z = (handle.0 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Every entry's home is the last bucket, so that most lie around the end.
fn crowded(handle: Handle) -> u64 {
    0xFFFF_FFFF_0000_0000 | handle.0 as u64
}

/// Sixteen positions, at which the intervals of 1, 2, 4, 8 or 16 buckets begin.
fn coarse(handle: Handle) -> u64 {
    (handle.0 as u64 % 16) << 60 | handle.0 as u64
}

fn insert(table: &mut Table, i: u32, hash_of: impl Fn(Handle) -> u64) {
    table.insert(hash_of(Handle(i)), Handle(i), hash_of, |_| {});
}

fn remove(table: &mut Table, i: u32, hash_of: impl Fn(Handle) -> u64) {
    let (place, _) = table.find(hash_of(Handle(i)), |handle| handle == Handle(i)).unwrap();
    table.remove(place, hash_of(Handle(i)), hash_of, |_| {});
}

fn with_entries(entries: u32, hash_of: HashOf) -> Table {
    let mut table = Table::default();
    (1..=entries).for_each(|i| insert(&mut table, i, hash_of));
    table
}

/// A table of the entries 1, 2, .. whose move has come halfway.
fn halfway() -> Table {
    let mut table = with_entries(1_000, spread);
    let is_halfway = |table: &Table| table.moving.as_ref().is_some_and(|m| m.next >= m.old.count() / 2);
    while !is_halfway(&table) {
        let next = table.len + 1;
        insert(&mut table, next, spread);
    }
    table
}

/// Visits the whole table, in an order of positions that is checked; between two calls it is changed by `meanwhile`.
fn scan(table: &mut Table, hash_of: HashOf, mut meanwhile: impl FnMut(&mut Table)) -> Vec<u32> {
    let (mut from, mut seen) = (Some(0), Vec::new());
    while let Some(position) = from {
        let mut visited = Vec::new();
        from = table.visit_from(position, hash_of, |handle| visited.push(handle));
        for handle in visited {
            let at = position_of(hash_of(handle));
            assert!(at >= position && from.is_none_or(|next| at < next));
            seen.push(handle.0);
        }
        meanwhile(table);
    }
    seen.sort();
    seen
}

/// A scan may go on from any position, not only from where a bucket begins.
#[test]
fn a_visit_begins_at_the_position_asked_for() {
    let at = |handle: Handle| (handle.0 as u64) << 32;
    let mut table = Table::default();
    (1..=10).for_each(|i| insert(&mut table, i, at));
    let mut seen = Vec::new();
    assert_eq!(table.visit_from(4, at, |handle| seen.push(handle.0)), None);
    assert_eq!(seen, [4, 5, 6, 7, 8, 9, 10]);
}

fn grow_and_shrink(hash_of: HashOf, entries: u32) {
    let mut table = Table::default();
    for i in 1..=entries {
        insert(&mut table, i, hash_of);
        if i % 97 == 0 {
            table.validate(hash_of);
        }
    }
    for i in 1..=entries {
        assert!(table.find(hash_of(Handle(i)), |h| h == Handle(i)).is_some());
        assert!(table.find(hash_of(Handle(i + entries)), |h| h == Handle(i + entries)).is_none());
    }
    for i in 1..=entries {
        remove(&mut table, i, hash_of);
        if i % 97 == 0 {
            table.validate(hash_of);
        }
    }
    assert_eq!(table.bytes(), 0);
}

#[test]
fn every_entry_is_found_while_the_table_grows_and_shrinks() {
    grow_and_shrink(spread, 20_000);
}

#[test]
fn colliding_entries_wrap_around_the_end() {
    grow_and_shrink(crowded, 1_000);
    grow_and_shrink(coarse, 1_000);
}

#[test]
fn every_entry_is_found_at_each_step_of_a_move() {
    let mut table = Table::default();
    let mut moving = 0;
    let mut check = |table: &Table, entries: std::ops::RangeInclusive<u32>| {
        moving += table.moving.is_some() as u32;
        table.validate(spread);
        for i in entries {
            let (place, handle) = table.find(spread(Handle(i)), |h| h == Handle(i)).expect("it is there");
            assert_eq!(handle, Handle(i));
            assert_eq!(place.old, table.moving.as_ref().is_some_and(|m| position_of(spread(handle)) >= m.frontier));
            let home = table.array(position_of(spread(handle))).0.home(position_of(spread(handle)));
            assert!(place.bucket as usize != home || table.candidate(spread(handle)) != Handle::NONE);
        }
    };
    for i in 1..=700 {
        insert(&mut table, i, spread);
        check(&table, 1..=i);
    }
    for i in 1..=700 {
        remove(&mut table, i, spread);
        check(&table, i + 1..=700);
    }
    assert!(moving > 80, "{moving} of 1400 steps during moves");
}

#[test]
fn an_entry_may_change_its_handle_during_a_move() {
    let mut table = halfway();
    let entries = table.len;
    let other = |i: u32| Handle(i | 1 << 20);
    for i in 1..=entries {
        let (place, _) = table.find(spread(Handle(i)), |h| h == Handle(i)).unwrap();
        table.set_handle(place, other(i));
    }
    table.validate(|handle| spread(Handle(handle.0 & !(1 << 20))));
    (1..=entries).for_each(|i| assert!(table.find(spread(Handle(i)), |h| h == other(i)).is_some()));
}

/// Each step moves so many homes, and looks at their entries and at those on the way.
#[test]
fn no_single_change_moves_many_entries() {
    let hashed = Cell::new(0);
    let counting = |handle| {
        hashed.set(hashed.get() + 1);
        spread(handle)
    };
    let mut table = Table::default();
    let (mut hashed_max, mut hashed_sum, mut steps, mut moves) = (0, 0, 0, 0);
    for (i, grows) in (1..=100_000).map(|i| (i, true)).chain((1..=100_000).map(|i| (i, false))) {
        let before = table.moving.as_ref().map(|moving| moving.next);
        let (hash, handle) = (spread(Handle(i)), Handle(i));
        hashed.set(0);
        if grows {
            table.insert(hash, handle, counting, |_| {});
        } else {
            let (place, _) = table.find(hash, |h| h == handle).unwrap();
            table.remove(place, hash, counting, |_| {});
        }
        hashed_max = hashed_max.max(hashed.get());
        match (before, &table.moving) {
            (Some(before), Some(moving)) => {
                assert_eq!(moving.next, before + HOMES_PER_CHANGE);
                steps += 1;
                hashed_sum += hashed.get();
            }
            (None, Some(moving)) => {
                assert_eq!((moving.next, hashed.get()), (0, 0), "a move begins with the next change");
                moves += 1;
            }
            _ => {}
        }
    }
    assert!(moves > 30, "{moves} moves");
    assert!(hashed_sum <= steps * 60, "{hashed_sum} entries hashed in {steps} steps");
    assert!(hashed_max <= 1_000, "{hashed_max} entries hashed by one change");
}

/// What is charged goes from the bytes of the old array to those of the new one, in small steps.
#[test]
fn a_move_is_charged_as_it_advances() {
    const STEP_BYTES: usize = HOMES_PER_CHANGE * size_of::<Bucket>();
    let mut table = Table::default();
    let check = |table: &Table, was_moving: bool, before: usize| match &table.moving {
        Some(moving) => {
            assert!(table.bytes().abs_diff(before) <= STEP_BYTES, "{} bytes after {before}", table.bytes());
            assert!(was_moving || (moving.next == 0 && before == table.bytes()));
        }
        None if was_moving => assert!(table.bytes().abs_diff(before) <= STEP_BYTES),
        None => assert_eq!(table.bytes(), table.buckets.bytes()),
    };
    for i in 1..=50_000 {
        let (before, was_moving) = (table.bytes(), table.moving.is_some());
        insert(&mut table, i, spread);
        check(&table, was_moving, before);
    }
    for i in 1..=50_000 {
        let (before, was_moving) = (table.bytes(), table.moving.is_some());
        remove(&mut table, i, spread);
        check(&table, was_moving, before);
    }
}

#[test]
fn homes_cover_every_entry_once_and_in_order_of_positions() {
    for (hash_of, entries) in [(spread as HashOf, 5_000), (crowded, 300), (coarse, 35), (spread, 7)] {
        let mut table = with_entries(entries, hash_of);
        assert!(scan(&mut table, hash_of, |_| {}).into_iter().eq(1..=entries));
    }
    let mut table = halfway();
    let entries = table.len;
    assert!(scan(&mut table, spread, |_| {}).into_iter().eq(1..=entries));
}

/// The frontier overtakes the scan or follows it, moves end and begin, and the table grows or shrinks.
#[test]
fn a_scan_covers_every_entry_once_while_moves_go_on() {
    for changes in [1, 2, 5, 40] {
        for grows in [true, false] {
            let mut moved = 0;
            for lasting in 100..130 {
                let others = if grows { 0 } else { 4_000 };
                let mut table = with_entries(lasting + others, spread);
                let mut changed = table.len;
                // Shrinking is soon due.
                while !grows && table.len() > table.buckets.count() * FILL_MIN + lasting as usize % 30 {
                    remove(&mut table, changed, spread);
                    changed -= 1;
                }
                let seen = scan(&mut table, spread, |table| {
                    for _ in 0..changes {
                        moved += table.moving.is_some() as u32;
                        if grows && changed < 6_000 {
                            changed += 1;
                            insert(table, changed, spread);
                        } else if !grows && changed > lasting {
                            remove(table, changed, spread);
                            changed -= 1;
                        }
                    }
                });
                let seen: Vec<u32> = seen.into_iter().filter(|&i| i <= lasting).collect();
                assert!(seen.into_iter().eq(1..=lasting));
                table.validate(spread);
            }
            assert!(moved > 30, "{moved} changes during moves");
        }
    }
}

#[test]
fn each_entry_is_as_likely_during_a_move() {
    const DRAWS: u32 = 400;
    let table = halfway();
    let moving = table.moving.as_ref().unwrap();
    let share = moving.old.handles().count() as f64 / table.len as f64;
    assert!((0.3..0.7).contains(&share), "{share} of the entries lie in the old array");
    let mut drawn = vec![0; table.len()];
    let mut state = 0;
    for _ in 0..DRAWS * table.len {
        let handle = table.random(|| {
            state += 1;
            spread(Handle(state))
        });
        drawn[handle.unwrap().0 as usize - 1] += 1;
    }
    // Seven standard deviations, of which each is 20.
    for (i, drawn) in drawn.into_iter().enumerate() {
        assert!((DRAWS - 140..=DRAWS + 140).contains(&drawn), "entry {} was drawn {drawn} times", i + 1);
    }
}

/// What a flush relies on: it walks over the buckets of a table that may be in the middle of a move.
#[test]
fn both_arrays_in_a_row_hold_every_entry_once() {
    let table = halfway();
    let mut by_bucket: Vec<u32> = (0..table.buckets()).flat_map(|i| table.bucket(i)).map(|handle| handle.0).collect();
    assert!(table.handles().map(|handle| handle.0).eq(by_bucket.iter().copied()));
    by_bucket.sort();
    assert!(by_bucket.into_iter().eq(1..=table.len));
}
