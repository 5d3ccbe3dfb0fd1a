//! SORT and SORT_RO: random collections, weights and options get the replies of redis-server, one by one, in pipelines and
//! within transactions, and the lists that STORE has made are the same.
//!
//! Weights that are compared as texts are all there and all different: for equal ones Redis' order is that of its sorting
//! algorithm. What overflows a double is left out, because Redis goes by an `errno` that an earlier command may have set.

use keyloom::resp::read::encode_command;

use crate::common::{Random, seed, show};
use crate::compare::{Rule, same};
use crate::sides;

const SEQUENCES: u64 = 40;
const COMMANDS: usize = 120;

/// Lists, sets and sorted sets of numbers, the same of texts, keys of other types, and one that is missing.
const NUMBERS: &[&str] = &["nl", "ns", "nz", "{x}nl"];
const TEXTS: &[&str] = &["tl", "ts", "tz"];
const OTHERS: &[&str] = &["string", "hash", "missing", "d1", "d2", "d1"];
const STORED: &[&str] = &["d1", "d2", "d3"];

const ELEMENTS: &[&str] = &["3", "1", "2", "10", "-5", "2.5", "0x10", "1e3", "-0", "0", "inf", " 7", "+4", "007", "9"];
const WORDS: &[&str] = &["a", "b", "c", "aa", "B", "abc", "z", "x y", "1", "10", "*", "#", "->", "{x}"];
/// Weights that are no numbers: every command that looks at one of them fails.
const BAD: &[&str] = &["abc", "1 ", "nan", "3x", " "];

/// Patterns whose weights are numbers or missing, those that name one text for each element, and what can be shown.
const WEIGHTS: &[&str] = &["w_*", "h_*->w", "{x}w_*", "w_*_*", "none_*", "string", "nosort", "*", "h_*->", "h_*->none"];
const UNIQUE: &[&str] = &["u_*", "h_*->u", "{x}u_*"];
const SHOWN: &[&str] =
    &["#", "w_*", "u_*", "h_*->w", "h_*->none", "*", "o", "h_*->", "h_*", "string", "{x}u_*", "", "##"];
const LIMITS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "5",
    "100",
    "-1",
    "-3",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "x",
    "2147483648",
];

type Words = Vec<String>;

fn words(line: &[&str]) -> Words {
    line.iter().map(|word| word.to_string()).collect()
}

/// The keys that commands of a sequence read.
fn population(random: &mut Random) -> Vec<Words> {
    let mut commands =
        vec![words(&["FLUSHALL"]), words(&["SET", "string", "text"]), words(&["HSET", "hash", "f", "v"])];
    for (keys, elements) in [(NUMBERS, ELEMENTS), (TEXTS, WORDS)] {
        for key in keys {
            for _ in 0..random.below(14) {
                let element = random.pick(elements);
                commands.push(match key.trim_start_matches("{x}").as_bytes()[1] {
                    b'l' => words(&["RPUSH", key, element]),
                    b's' => words(&["SADD", key, element]),
                    _ => words(&["ZADD", key, &random.below(5).to_string(), element]),
                });
            }
        }
    }
    if random.one_in(4) {
        commands.push(words(&["RPUSH", random.pick(NUMBERS), random.pick(BAD)]));
    }
    let all = [ELEMENTS, WORDS].concat();
    for (nth, element) in all.iter().enumerate() {
        let unique = format!("{}-{nth}", random.below(3));
        for key in [format!("u_{element}"), format!("{{x}}u_{element}")] {
            commands.push(words(&["SET", &key, &unique]));
        }
        commands.push(words(&["HSET", &format!("h_{element}"), "u", &unique]));
        let weight = if random.one_in(200) { random.pick(BAD) } else { random.pick(ELEMENTS) };
        match random.below(4) {
            0 => {}
            1 => commands.push(words(&["SET", &format!("w_{element}"), weight])),
            2 => commands.push(words(&["HSET", &format!("h_{element}"), "w", weight])),
            _ => commands.push(words(&["MSET", &format!("w_{element}"), weight, &format!("{{x}}w_{element}"), ""])),
        }
        if random.one_in(10) {
            commands.push(words(&["RPUSH", &format!("none_{element}"), "no", "string"]));
        }
    }
    commands
}

fn command(random: &mut Random) -> (Words, Rule) {
    let texts = random.one_in(2);
    let key = match random.below(12) {
        0 => random.pick(OTHERS),
        _ if texts => random.pick(TEXTS),
        _ => random.pick(NUMBERS),
    };
    let read_only = random.one_in(4);
    let mut command = words(&[if read_only { "SORT_RO" } else { "SORT" }, key]);
    let mut options: Vec<Words> = Vec::new();
    let mut keeps_order = false;
    match random.below(4) {
        // Not every element of a list that was stored has such a text.
        0 if !STORED.contains(&key) => options.push(words(&["BY", random.pick(UNIQUE), "ALPHA"])),
        1 => {
            let by = random.pick(WEIGHTS);
            keeps_order = !by.contains('*');
            options.push(words(&["by", by]));
        }
        _ if texts || random.one_in(3) => options.push(words(&["ALPHA"])),
        _ => {}
    }
    (0..random.below(4)).for_each(|_| options.push(words(&["GET", random.pick(SHOWN)])));
    let limited = random.one_in(3);
    if limited {
        options.push(words(&["LIMIT", random.pick(LIMITS), random.pick(LIMITS)]));
    }
    if random.one_in(2) {
        options.push(words(&[random.pick(&["DESC", "asc"])]));
    }
    let stores = random.one_in(4);
    if stores {
        options.push(words(&["STORE", random.pick(STORED)]));
    }
    while !options.is_empty() {
        command.extend(options.swap_remove(random.below(options.len())));
    }
    // At the end, so that it takes no other option for its argument.
    if random.one_in(25) {
        let broken: &[&[&str]] = &[&["LIMIT", "1"], &["BY"], &["GET"], &["STORE"], &["what"]];
        command.extend(words(random.pick(broken)));
    }
    // A set that is not sorted is shown in the order of the hash table.
    let chance = keeps_order && key.contains('s') && (read_only || !stores);
    let rule = match chance {
        true if limited || command.iter().any(|word| word == "GET") => Rule::Kind,
        true => Rule::Unordered,
        false => Rule::Exact,
    };
    if random.one_in(30) {
        let name = if random.one_in(2) { "GETKEYS" } else { "GETKEYSANDFLAGS" };
        return ([words(&["COMMAND", name]), command].concat(), Rule::Exact);
    }
    (command, rule)
}

#[test]
fn sorted_elements_are_those_of_redis() {
    let Some(mut sides) = sides() else { return };
    let first = seed();
    for seed in first..first + SEQUENCES {
        let mut random = Random::new(seed);
        let mut commands: Vec<(Words, Rule)> =
            population(&mut random).into_iter().map(|command| (command, Rule::Exact)).collect();
        let resp3 = random.one_in(2);
        commands.insert(0, (words(&["HELLO", if resp3 { "3" } else { "2" }]), Rule::Kind));
        for _ in 0..COMMANDS {
            let multi = random.one_in(6);
            if multi {
                commands.push((words(&["MULTI"]), Rule::Exact));
                commands.push((words(&["RPUSH", random.pick(STORED), "1"]), Rule::Exact));
                let (inside, rule) = command(&mut random);
                if rule == Rule::Exact {
                    commands.push((inside, rule));
                }
                commands.push((words(&["EXEC"]), Rule::Exact));
            }
            let command = command(&mut random);
            let stored =
                command.0.iter().position(|word| word == "STORE").and_then(|at| command.0.get(at + 1)).cloned();
            commands.push(command);
            if let Some(stored) = stored {
                commands.push((words(&["LRANGE", &stored, "0", "-1"]), Rule::Exact));
                commands.push((words(&["TYPE", &stored]), Rule::Exact));
            }
        }
        let mut bytes = Vec::new();
        commands.iter().for_each(|(command, _)| encode_command(command, &mut bytes));
        let replies: Vec<Vec<Vec<u8>>> = sides
            .iter_mut()
            .map(|side| {
                side.client.send_bytes(&bytes);
                commands.iter().map(|_| side.client.read_raw()).collect()
            })
            .collect();
        for (nth, (command, rule)) in commands.iter().enumerate() {
            for (side, ours) in sides.iter().zip(&replies).skip(1) {
                let (redis, ours) = (&replies[0][nth], &ours[nth]);
                assert!(
                    same(*rule, redis, ours, 0),
                    "KEYLOOM_SEED={seed} {}: {command:?}\nredis: {}\nours:  {}",
                    side.name,
                    show(redis),
                    show(ours)
                );
            }
        }
    }
}
