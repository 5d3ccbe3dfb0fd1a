//! Keys that one client writes, and what may be at them.
//!
//! A group of keys has one state, which its operations change one after the other. After a crash it must be in a state
//! that it had after an acknowledged operation, or after one that was sent later: never before, and never in between.
//!
//! Collections hold a window of numbers, ascending: they grow at one end and shrink at the other, so a number that is
//! missing, there twice or left over shows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use keyloom::resp::read::{Value, encode_command};
use keyloom::route::{SLOTS, slot_of};

use super::common::{Client, Random};

/// How far the end of a duration may be from what the client expects: its command was under way for a while.
const DURATION_TOLERANCE_MS: u64 = 2000;

/// Hash tags of either core, of two.
const TAGS: [&str; 2] = ["b", "a"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Text,
    List,
    /// Large: snapshots write it in slices.
    LargeList,
    Set,
    Hash,
    Sorted,
    /// A text that expires.
    Timed,
    /// A text and a list on either core, changed by one transaction; sometimes the first text alone.
    Pair,
    /// A text under one of two names, on either core.
    Renamed,
    /// A database of its own, with keys of both cores, flushed now and then.
    Flushed,
}

pub const KINDS: [Kind; 11] = [
    Kind::Counter,
    Kind::Text,
    Kind::List,
    Kind::LargeList,
    Kind::Set,
    Kind::Hash,
    Kind::Sorted,
    Kind::Timed,
    Kind::Pair,
    Kind::Renamed,
    Kind::Flushed,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Number(u64),
    Text(Option<String>),
    /// The numbers from the first up to the second, exclusive.
    Window(u64, u64),
    /// Text and end, Unix ms, and how exactly that is known.
    Timed(Option<(String, u64, u64)>),
    /// The texts, and the numbers in both lists.
    Pair([Option<String>; 2], u64),
    /// The name that the text has.
    Renamed(Option<(usize, String)>),
    /// How often the database was flushed, and what is in it.
    Keys(u64, BTreeMap<String, String>),
}

/// See the module.
///
/// Invariant: `states` is not empty; those that are acknowledged, with the time, come before those that are not.
pub struct Group {
    pub kind: Kind,
    keys: Vec<String>,
    states: VecDeque<(State, Option<Instant>)>,
    count: u64,
    /// What makes texts long.
    padding: String,
}

/// The first key that starts with `name` and lives on `core`, of two.
fn key_on(name: &str, core: u16) -> String {
    let key = |n: u32| format!("{name}:{n}");
    (0..).map(key).find(|key| slot_of(key.as_bytes()) / (SLOTS / 2) == core).unwrap()
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_string).collect()
}

impl Group {
    pub fn new(kind: Kind, client: usize) -> Group {
        let name = format!("{kind:?}{client}");
        let on_both = |name: &str| [0, 1].map(|core| key_on(name, core));
        let (keys, state) = match kind {
            Kind::Counter => (vec![name], State::Number(0)),
            Kind::Text => (vec![name], State::Text(None)),
            Kind::Timed => (vec![name], State::Timed(None)),
            Kind::Pair => {
                let keys = [on_both(&name), on_both(&format!("{name}list"))].concat();
                (keys, State::Pair([None, None], 0))
            }
            Kind::Renamed => (on_both(&name).to_vec(), State::Renamed(None)),
            Kind::Flushed => (Vec::new(), State::Keys(0, BTreeMap::new())),
            _ => (vec![name], State::Window(0, 0)),
        };
        let states = VecDeque::from([(state, Some(Instant::now()))]);
        Group { kind, keys, states, count: 0, padding: "x".repeat(700) }
    }

    fn latest(&self) -> State {
        self.states.back().unwrap().0.clone()
    }

    /// Writes the next operation, and returns how many replies it gets.
    pub fn next(&mut self, random: &mut Random, bytes: &mut Vec<u8>) -> usize {
        self.count += 1;
        let text = format!("{}:{}", unix_ms(), self.count) + &self.padding[..random.below(self.padding.len())];
        let (state, commands, atomic) = self.change(random, text);
        self.states.push_back((state, None));
        if atomic {
            encode_command(&["MULTI"], bytes);
        }
        commands.iter().for_each(|command| encode_command(command, bytes));
        if atomic {
            encode_command(&["EXEC"], bytes);
        }
        commands.len() + if atomic { 2 } else { 0 }
    }

    /// The next state, the commands that lead to it, and whether these are a transaction.
    fn change(&self, random: &mut Random, text: String) -> (State, Vec<Vec<String>>, bool) {
        let keys = &self.keys;
        let one = |command: Vec<String>| vec![command];
        match self.latest() {
            State::Number(n) => (State::Number(n + 1), one(words(["INCR", &keys[0]])), false),
            State::Text(Some(before)) if before.len() < 2000 && random.one_in(3) => {
                let after = before + &text;
                (State::Text(Some(after)), one(words(["APPEND", &keys[0], &text])), false)
            }
            State::Text(Some(_)) if random.one_in(8) => (State::Text(None), one(words(["DEL", &keys[0]])), false),
            State::Text(_) => (State::Text(Some(text.clone())), one(words(["SET", &keys[0], &text])), false),
            State::Window(first, last) => {
                let (state, command) = self.slide(random, first, last);
                (state, one(command), false)
            }
            State::Timed(_) => {
                let most_ms = if random.one_in(4) { 100_000 } else { 600 };
                let ms = 20 + random.below(most_ms) as u64;
                let (end, duration) = ((unix_ms() + ms).to_string(), ms.to_string());
                let exact = random.one_in(2);
                let command = match exact {
                    true => words(["SET", &keys[0], &text, "PXAT", &end]),
                    false => words(["SET", &keys[0], &text, "PX", &duration]),
                };
                let tolerance = if exact { 0 } else { DURATION_TOLERANCE_MS };
                (State::Timed(Some((text, end.parse().unwrap(), tolerance))), one(command), false)
            }
            State::Pair(texts, last) => self.change_pair(random, texts, last, text),
            State::Renamed(Some((at, text))) => {
                let state = State::Renamed(Some((1 - at, text)));
                (state, one(words(["RENAME", &keys[at], &keys[1 - at]])), false)
            }
            State::Renamed(None) => {
                (State::Renamed(Some((0, text.clone()))), one(words(["SET", &keys[0], &text])), false)
            }
            State::Keys(flushes, _) if random.one_in(20) => {
                (State::Keys(flushes + 1, BTreeMap::new()), one(words(["FLUSHDB"])), false)
            }
            State::Keys(flushes, mut texts) => {
                let key = format!("{{{}}}{}", random.pick(&TAGS), random.below(20));
                let command = words(["SET", &key, &text]);
                texts.insert(key, text);
                (State::Keys(flushes, texts), one(command), false)
            }
        }
    }

    fn change_pair(
        &self,
        random: &mut Random,
        [_, b]: [Option<String>; 2],
        last: u64,
        text: String,
    ) -> (State, Vec<Vec<String>>, bool) {
        let keys = &self.keys;
        let both = [Some(text.clone()), Some(text.clone())];
        match random.below(3) {
            0 => {
                let command = words(["MSET", &keys[0], &text, &keys[1], &text]);
                (State::Pair(both, last), vec![command], false)
            }
            1 => (State::Pair([Some(text.clone()), b], last), vec![words(["SET", &keys[0], &text])], false),
            _ => {
                let number = last.to_string();
                let mut commands: Vec<_> = (0..2).map(|at| words(["SET", &keys[at], &text])).collect();
                commands.extend((2..4).map(|at| words(["RPUSH", &keys[at], &number])));
                (State::Pair(both, last + 1), commands, true)
            }
        }
    }

    /// A window grows or shrinks.
    fn slide(&self, random: &mut Random, first: u64, last: u64) -> (State, Vec<String>) {
        let (step, most) = if self.kind == Kind::LargeList { (300, 5000) } else { (6, 300) };
        let key = self.keys[0].as_str();
        let grows = last - first < most / 2 || (last - first < most && random.one_in(2));
        if grows {
            let upto = last + 1 + random.below(step) as u64;
            let numbers: Vec<String> = (last..upto).map(|n| n.to_string()).collect();
            let name = match self.kind {
                Kind::Set => "SADD",
                Kind::Hash => "HSET",
                Kind::Sorted => "ZADD",
                _ => "RPUSH",
            };
            let twice = matches!(self.kind, Kind::Hash | Kind::Sorted);
            let values = numbers.iter().flat_map(|n| std::iter::repeat_n(n.as_str(), 1 + twice as usize));
            return (State::Window(first, upto), words([name, key].into_iter().chain(values)));
        }
        let from = first + 1 + random.below(step.min((last - first) as usize - 1)) as u64;
        let (count, end) = ((from - first).to_string(), (from - first - 1).to_string());
        let numbers: Vec<String> = (first..from).map(|n| n.to_string()).collect();
        let names = numbers.iter().map(String::as_str);
        let command = match self.kind {
            Kind::Set => words(["SREM", key].into_iter().chain(names)),
            Kind::Hash => words(["HDEL", key].into_iter().chain(names)),
            Kind::Sorted => words(["ZREMRANGEBYRANK", key, "0", &end]),
            _ => words(["LPOP", key, &count]),
        };
        (State::Window(from, last), command)
    }

    /// The oldest operation that was not is acknowledged.
    pub fn acknowledged(&mut self) {
        let now = Instant::now();
        if let Some(state) = self.states.iter_mut().find(|state| state.1.is_none()) {
            state.1 = Some(now);
        }
    }

    /// What is there must be what was acknowledged until `cutoff`, or later. From here on that is certain.
    pub fn check(&mut self, client: &mut Client, cutoff: Instant) -> Result<(), String> {
        let certain = self.states.iter().rposition(|state| state.1.is_some_and(|at| at <= cutoff)).unwrap_or(0);
        let found = self.look(client).map_err(|what| format!("{:?}: {what}", self.kind))?;
        let mut states = self.states.range(certain..).map(|(state, _)| state);
        let may_be = match &found {
            State::Keys(_, texts) => is_database(texts, states),
            _ => states.any(|state| is(&found, state)),
        };
        if !may_be {
            let allowed: Vec<&State> = self.states.range(certain..).map(|(state, _)| state).collect();
            let text = format!("{:?} {:?}: found {found:?}, allowed {allowed:?}", self.kind, self.keys);
            return Err(text.replace(&"x".repeat(10), ""));
        }
        self.states = VecDeque::from([(found, Some(Instant::now()))]);
        Ok(())
    }

    fn look(&self, client: &mut Client) -> Result<State, String> {
        let key = |at: usize| self.keys[at].as_str();
        let mut text = |key: &str| as_text(client.call(&["GET", key]));
        Ok(match self.kind {
            Kind::Counter => State::Number(text(key(0))?.map_or(0, |text| text.parse().unwrap())),
            Kind::Text => State::Text(text(key(0))?),
            Kind::Timed => {
                let found = text(key(0))?;
                let end = client.call(&["PEXPIRETIME", key(0)]);
                match (found, end) {
                    // It may have gone between the two.
                    (None, _) | (_, Value::Int(-2)) => State::Timed(None),
                    (Some(text), Value::Int(end)) => State::Timed(Some((text, end as u64, 0))),
                    (_, end) => return Err(format!("PEXPIRETIME {end:?}")),
                }
            }
            Kind::Pair => {
                let texts = [text(key(0))?, text(key(1))?];
                let lists = [2, 3].map(|at| numbers(client.call(&["LRANGE", key(at), "0", "-1"])));
                let [(0, a), (0, b)] = lists.clone().map(|list| window(&list?)).map(|it| it.unwrap_or((1, 0))) else {
                    return Err(format!("lists {lists:?}"));
                };
                if a != b {
                    return Err(format!("half a transaction: lists of {a} and {b}"));
                }
                State::Pair(texts, a)
            }
            Kind::Renamed => match [text(key(0))?, text(key(1))?] {
                [None, None] => State::Renamed(None),
                [Some(text), None] => State::Renamed(Some((0, text))),
                [None, Some(text)] => State::Renamed(Some((1, text))),
                both => return Err(format!("both {both:?}")),
            },
            Kind::Flushed => self.look_at_database(client)?,
            Kind::List | Kind::LargeList => self.window(client, &["LRANGE", key(0), "0", "-1"], 1)?,
            Kind::Set => self.window(client, &["SMEMBERS", key(0)], 1)?,
            Kind::Hash => self.window(client, &["HGETALL", key(0)], 2)?,
            Kind::Sorted => self.window(client, &["ZRANGE", key(0), "0", "-1", "WITHSCORES"], 2)?,
        })
    }

    /// The numbers in a collection, each of which stands there `times` times, one behind the other.
    fn window(&self, client: &mut Client, command: &[&str], times: usize) -> Result<State, String> {
        let mut numbers = numbers(client.call(command))?;
        if numbers.chunks(times).any(|same| same.iter().any(|number| *number != same[0])) {
            return Err(format!("{command:?}: {numbers:?}"));
        }
        numbers = numbers.chunks(times).map(|same| same[0]).collect();
        if matches!(self.kind, Kind::Set | Kind::Hash) {
            numbers.sort_unstable();
        }
        let (first, last) = window(&numbers).map_err(|what| format!("{command:?}: {what}"))?;
        Ok(State::Window(first, last))
    }

    fn look_at_database(&self, client: &mut Client) -> Result<State, String> {
        let Value::Array(keys) = client.call(&["KEYS", "*"]) else { return Err("KEYS".into()) };
        let mut texts = BTreeMap::new();
        for key in keys {
            let key = as_text(key)?.unwrap();
            if let Some(text) = as_text(client.call(&["GET", &key]))? {
                texts.insert(key, text);
            }
        }
        Ok(State::Keys(0, texts))
    }
}

/// Whether what was found is this state, now.
fn is(found: &State, state: &State) -> bool {
    match (found, state) {
        (State::Timed(None), State::Timed(Some((_, end, tolerance)))) => *end <= unix_ms() + tolerance,
        (State::Timed(Some(found)), State::Timed(Some(state))) => {
            found.0 == state.0 && found.1.abs_diff(state.1) <= state.2
        }
        // A window without numbers is a key that is not there.
        (State::Window(0, 0), State::Window(first, last)) => first == last,
        _ => found == state,
    }
}

/// Whether these are the contents of a database. What was not acknowledged of different cores may be there or not,
/// as far as no flush stands in between.
fn is_database<'a>(found: &BTreeMap<String, String>, states: impl Iterator<Item = &'a State>) -> bool {
    let part = |texts: &BTreeMap<String, String>, tag: &str| -> Vec<(String, String)> {
        let of_core = texts.iter().filter(|(key, _)| key[1..].starts_with(tag));
        of_core.map(|(key, text)| (key.clone(), text.clone())).collect()
    };
    let mut flushes = TAGS.map(|_| BTreeSet::new());
    for state in states {
        let State::Keys(flushed, texts) = state else { unreachable!("a database") };
        for (tag, flushes) in TAGS.into_iter().zip(&mut flushes) {
            if part(found, tag) == part(texts, tag) {
                flushes.insert(*flushed);
            }
        }
    }
    !flushes[0].is_disjoint(&flushes[1])
}

fn as_text(value: Value) -> Result<Option<String>, String> {
    match value {
        Value::Bulk(text) => Ok(Some(String::from_utf8(text).unwrap())),
        Value::Null => Ok(None),
        other => Err(format!("no text but {other:?}")),
    }
}

fn numbers(value: Value) -> Result<Vec<u64>, String> {
    let Value::Array(items) = value else { return Err(format!("no array but {value:?}")) };
    let number = |item: Value| as_text(item).map(|text| text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX));
    items.into_iter().map(number).collect()
}

/// The window that these numbers are.
fn window(numbers: &[u64]) -> Result<(u64, u64), String> {
    let Some(&first) = numbers.first() else { return Ok((0, 0)) };
    match numbers.iter().zip(first..).find(|(number, expected)| *number != expected) {
        Some((number, expected)) => Err(format!("{number} where {expected} comes next")),
        None => Ok((first, first + numbers.len() as u64)),
    }
}
