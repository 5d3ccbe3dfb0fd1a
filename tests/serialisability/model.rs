//! What the commands of a history do, one after the other: the specification against which histories are checked.
//!
//! Keys are numbers, and each of them has one type for good, so no command fails. Replies whose order says nothing (the
//! members of a set, the names of keys) are sorted, here and where they are recorded ([`Command::canonical`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use keyloom::resp::read::Value;

/// A key, by its place in the list of names of a history.
pub type Key = usize;
/// A connection: each has a number of its own, also those of one thread.
pub type ClientId = u32;

/// One command.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Get(Key),
    Set(Key, i64),
    Mset(Vec<(Key, i64)>),
    Mget(Vec<Key>),
    /// Never by 0.
    IncrBy(Key, i64),
    /// The keys are different.
    Rename(Key, Key),
    Del(Vec<Key>),
    RPush(Key, i64),
    /// LMOVE LEFT RIGHT between different keys.
    LMove(Key, Key),
    LRange(Key),
    /// SORT of a list by keys that are not there, so by its elements, STORE: borrows whole cores.
    Sort(Key, Key),
    SAdd(Key, i64),
    /// The keys are different.
    SMove(Key, Key, i64),
    SMembers(Key),
    SUnionStore(Key, Vec<Key>),
    /// BLPOP. Within EXEC it takes from the first list that is not empty, and does not wait. A client that waits gets what
    /// comes to any of the lists, also if an earlier one has got something at the same time; Redis promises no more. One
    /// that has waited in vain gets the same reply as within EXEC.
    BLPop(Vec<Key>),
    /// BLMOVE LEFT RIGHT between different keys.
    BLMove(Key, Key),
    /// KEYS, of all keys of the history.
    Keys,
    FlushAll,
}

/// What a client asks for at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    One(Command),
    /// MULTI, the commands, EXEC.
    Exec(Vec<Command>),
    Watch(Vec<Key>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Datum {
    Text(i64),
    List(VecDeque<i64>),
    Set(BTreeSet<i64>),
}

/// What a client watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Watching {
    Keys(BTreeSet<Key>),
    /// One of them has changed; which, and how often, makes no difference, and so no two states.
    Changed,
}

/// The keyspace, and who watches what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    data: BTreeMap<Key, Datum>,
    watching: BTreeMap<ClientId, Watching>,
}

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

fn bulk(n: i64) -> Value {
    Value::Bulk(n.to_string().into_bytes())
}

fn name(names: &[String], key: Key) -> Value {
    Value::Bulk(names[key].clone().into_bytes())
}

impl State {
    /// Executes a request of a client: its reply. `served` is the key at which a client that waits gets its element.
    pub fn execute(&mut self, client: ClientId, request: &Request, served: Option<Key>, names: &[String]) -> Value {
        match request {
            Request::One(Command::BLPop(_)) if served.is_some() => {
                self.run(&Command::BLPop(served.into_iter().collect()), names)
            }
            Request::One(command) => self.run(command, names),
            Request::Watch(keys) => {
                let watching = self.watching.entry(client).or_insert(Watching::Keys(BTreeSet::new()));
                if let Watching::Keys(watched) = watching {
                    watched.extend(keys);
                }
                ok()
            }
            Request::Exec(commands) => {
                if self.watching.remove(&client) == Some(Watching::Changed) {
                    return Value::NullArray;
                }
                Value::Array(commands.iter().map(|command| self.run(command, names)).collect())
            }
        }
    }

    fn changed(&mut self, key: Key) {
        let concerned = |watching: &&mut Watching| matches!(watching, Watching::Keys(keys) if keys.contains(&key));
        self.watching.values_mut().filter(concerned).for_each(|watching| *watching = Watching::Changed);
    }

    fn put(&mut self, key: Key, datum: Datum) {
        self.changed(key);
        self.data.insert(key, datum);
    }

    /// The key and what is there, if anything, are gone.
    fn remove(&mut self, key: Key) -> Option<Datum> {
        let datum = self.data.remove(&key)?;
        self.changed(key);
        Some(datum)
    }

    fn text(&self, key: Key) -> Option<i64> {
        match self.data.get(&key)? {
            Datum::Text(n) => Some(*n),
            other => panic!("{other:?} is no text"),
        }
    }

    fn list(&self, key: Key) -> VecDeque<i64> {
        match self.data.get(&key) {
            None => VecDeque::new(),
            Some(Datum::List(list)) => list.clone(),
            Some(other) => panic!("{other:?} is no list"),
        }
    }

    fn set(&self, key: Key) -> BTreeSet<i64> {
        match self.data.get(&key) {
            None => BTreeSet::new(),
            Some(Datum::Set(set)) => set.clone(),
            Some(other) => panic!("{other:?} is no set"),
        }
    }

    fn push(&mut self, key: Key, value: i64) -> usize {
        let mut list = self.list(key);
        list.push_back(value);
        let len = list.len();
        self.put(key, Datum::List(list));
        len
    }

    fn pop(&mut self, key: Key) -> Option<i64> {
        let mut list = self.list(key);
        let first = list.pop_front()?;
        match list.is_empty() {
            true => drop(self.remove(key)),
            false => self.put(key, Datum::List(list)),
        }
        Some(first)
    }

    fn put_set(&mut self, key: Key, set: BTreeSet<i64>) {
        match set.is_empty() {
            true => drop(self.remove(key)),
            false => self.put(key, Datum::Set(set)),
        }
    }

    fn run(&mut self, command: &Command, names: &[String]) -> Value {
        match command {
            Command::Get(key) => self.text(*key).map_or(Value::Null, bulk),
            Command::Mget(keys) => {
                Value::Array(keys.iter().map(|&key| self.text(key).map_or(Value::Null, bulk)).collect())
            }
            Command::Set(key, n) => {
                self.put(*key, Datum::Text(*n));
                ok()
            }
            Command::Mset(pairs) => {
                pairs.iter().for_each(|&(key, n)| self.put(key, Datum::Text(n)));
                ok()
            }
            Command::IncrBy(key, by) => {
                let n = self.text(*key).unwrap_or(0) + by;
                self.put(*key, Datum::Text(n));
                Value::Int(n)
            }
            Command::Rename(from, to) => match self.remove(*from) {
                None => Value::Error(b"ERR no such key".to_vec()),
                Some(datum) => {
                    self.put(*to, datum);
                    ok()
                }
            },
            Command::Del(keys) => Value::Int(keys.iter().filter_map(|&key| self.remove(key)).count() as i64),
            Command::RPush(key, value) => Value::Int(self.push(*key, *value) as i64),
            Command::LMove(from, to) | Command::BLMove(from, to) => match self.pop(*from) {
                None => Value::Null,
                Some(value) => {
                    self.push(*to, value);
                    bulk(value)
                }
            },
            Command::LRange(key) => Value::Array(self.list(*key).into_iter().map(bulk).collect()),
            Command::Sort(from, to) => {
                let mut list = self.list(*from);
                list.make_contiguous().sort_unstable();
                let len = list.len();
                match len {
                    0 => drop(self.remove(*to)),
                    _ => self.put(*to, Datum::List(list)),
                }
                Value::Int(len as i64)
            }
            Command::SAdd(key, member) => {
                let mut set = self.set(*key);
                let new = set.insert(*member);
                if new {
                    self.put_set(*key, set);
                }
                Value::Int(new as i64)
            }
            Command::SMove(from, to, member) => {
                let mut source = self.set(*from);
                if !source.remove(member) {
                    return Value::Int(0);
                }
                self.put_set(*from, source);
                let mut target = self.set(*to);
                if target.insert(*member) {
                    self.put_set(*to, target);
                }
                Value::Int(1)
            }
            Command::SMembers(key) => sorted(self.set(*key).into_iter().map(bulk).collect()),
            Command::SUnionStore(to, from) => {
                let union: BTreeSet<i64> = from.iter().flat_map(|&key| self.set(key)).collect();
                let len = union.len();
                self.put_set(*to, union);
                Value::Int(len as i64)
            }
            Command::BLPop(keys) => {
                let popped = keys.iter().find_map(|&key| Some((key, self.pop(key)?)));
                popped.map_or(Value::NullArray, |(key, value)| Value::Array(vec![name(names, key), bulk(value)]))
            }
            Command::Keys => sorted(self.data.keys().map(|&key| name(names, key)).collect()),
            Command::FlushAll => {
                let keys: Vec<Key> = self.data.keys().copied().collect();
                keys.into_iter().for_each(|key| drop(self.remove(key)));
                ok()
            }
        }
    }
}

fn sorted(mut items: Vec<Value>) -> Value {
    let bytes = |value: &Value| if let Value::Bulk(bytes) = value { bytes.clone() } else { Vec::new() };
    items.sort_by_key(bytes);
    Value::Array(items)
}

impl Command {
    /// The reply without what says nothing: the order of members and of names, the form of a null.
    pub fn canonical(&self, reply: Value) -> Value {
        match (self, reply) {
            (Command::SMembers(_) | Command::Keys, Value::Array(items)) => sorted(items),
            // RESP2 has two of them: one that was waited for is an array.
            (Command::BLMove(..), Value::NullArray) => Value::Null,
            (_, reply) => reply,
        }
    }

    /// What the command says on the wire. `pattern` is that of all names.
    pub fn words(&self, names: &[String], pattern: &str) -> Vec<String> {
        let of = |keys: &[Key]| keys.iter().map(|&key| names[key].as_str()).collect::<Vec<_>>().join(" ");
        let name = |key: &Key| &names[*key];
        let line = match self {
            Command::Get(key) => format!("GET {}", name(key)),
            Command::Set(key, n) => format!("SET {} {n}", name(key)),
            Command::Mset(pairs) => {
                let pairs: Vec<String> = pairs.iter().map(|(key, n)| format!("{} {n}", name(key))).collect();
                format!("MSET {}", pairs.join(" "))
            }
            Command::Mget(keys) => format!("MGET {}", of(keys)),
            Command::IncrBy(key, by) if *by < 0 => format!("DECRBY {} {}", name(key), -by),
            Command::IncrBy(key, by) => format!("INCRBY {} {by}", name(key)),
            Command::Rename(from, to) => format!("RENAME {} {}", name(from), name(to)),
            Command::Del(keys) => format!("DEL {}", of(keys)),
            Command::RPush(key, n) => format!("RPUSH {} {n}", name(key)),
            Command::LMove(from, to) => format!("LMOVE {} {} LEFT RIGHT", name(from), name(to)),
            Command::LRange(key) => format!("LRANGE {} 0 -1", name(key)),
            Command::Sort(from, to) => format!("SORT {} BY none:* STORE {}", name(from), name(to)),
            Command::SAdd(key, n) => format!("SADD {} {n}", name(key)),
            Command::SMove(from, to, n) => format!("SMOVE {} {} {n}", name(from), name(to)),
            Command::SMembers(key) => format!("SMEMBERS {}", name(key)),
            Command::SUnionStore(to, from) => format!("SUNIONSTORE {} {}", name(to), of(from)),
            Command::BLPop(keys) => format!("BLPOP {} {BLOCK_SECONDS}", of(keys)),
            Command::BLMove(from, to) => format!("BLMOVE {} {} LEFT RIGHT {BLOCK_SECONDS}", name(from), name(to)),
            Command::Keys => format!("KEYS {pattern}"),
            Command::FlushAll => "FLUSHALL".into(),
        };
        line.split(' ').map(str::to_string).collect()
    }

    /// The keys it names.
    pub fn keys(&self) -> Vec<Key> {
        match self {
            Command::Get(key)
            | Command::Set(key, _)
            | Command::IncrBy(key, _)
            | Command::RPush(key, _)
            | Command::LRange(key)
            | Command::SAdd(key, _)
            | Command::SMembers(key) => vec![*key],
            Command::Mset(pairs) => pairs.iter().map(|&(key, _)| key).collect(),
            Command::Mget(keys) | Command::Del(keys) | Command::BLPop(keys) => keys.clone(),
            Command::Rename(a, b) | Command::LMove(a, b) | Command::BLMove(a, b) => vec![*a, *b],
            Command::Sort(a, b) | Command::SMove(a, b, _) => vec![*a, *b],
            Command::SUnionStore(to, from) => [&[*to], &from[..]].concat(),
            Command::Keys | Command::FlushAll => Vec::new(),
        }
    }

    fn writes(&self) -> bool {
        !matches!(self, Command::Get(_) | Command::Mget(_) | Command::LRange(_) | Command::SMembers(_) | Command::Keys)
    }
}

/// How long BLPOP and BLMOVE wait: about as long as a history takes.
const BLOCK_SECONDS: &str = "0.02";

impl Request {
    /// The keys at which the client may have been served, if it waited; `reply` is what it got, if that is known.
    pub fn served(&self, reply: Option<&Value>, names: &[String]) -> Vec<Option<Key>> {
        let Request::One(Command::BLPop(keys)) = self else { return vec![None] };
        let at = |key: &Key| match reply {
            None => true,
            Some(Value::Array(items)) => items[0] == name(names, *key),
            Some(_) => false,
        };
        let keys: Vec<Option<Key>> = keys.iter().copied().filter(at).map(Some).collect();
        if keys.is_empty() { vec![None] } else { keys }
    }

    /// Whether it may change anything: one that does not, and whose reply nobody has seen, says nothing. WATCH, and any EXEC, as
    /// that ends it, change what becomes of a later EXEC.
    pub fn counts(&self) -> bool {
        match self {
            Request::One(command) => command.writes(),
            Request::Exec(_) | Request::Watch(_) => true,
        }
    }
}
