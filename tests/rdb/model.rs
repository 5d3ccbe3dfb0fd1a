//! What a keyspace holds, in the plainest form: from the statements of a file, and from a server.

use std::collections::{BTreeMap, BTreeSet};

use keyloom::rdb::{
    Error, ImportOptions, KeyHeader, Note, STATEMENT_BYTES_MAX, STATEMENT_ELEMENTS_MAX, Summary, Visitor,
};
use keyloom::resp::read::Value as Reply;
use keyloom::shard::Kind;

use crate::common::Client;

/// A value. Scores are compared by their bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    SortedSet(BTreeMap<Vec<u8>, u64>),
    /// With deadlines, Unix ms.
    Hash(BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)>),
}

/// A value with its expiry, Unix ms.
pub type Entry = (Value, Option<i64>);
/// By database and key.
pub type Keyspace = BTreeMap<(usize, Vec<u8>), Entry>;

/// A file that was read.
#[derive(Debug, Default)]
pub struct Contents {
    pub keys: Keyspace,
    /// Notes, as text.
    pub notes: Vec<String>,
    /// Idle seconds and counts of keys that have them.
    pub used: BTreeMap<Vec<u8>, (Option<u64>, Option<u8>)>,
    pub statements: usize,
}

fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

impl Contents {
    /// The value of a key that has one of this type.
    fn of(&mut self, header: &KeyHeader) -> &mut Value {
        let empty = match header.kind {
            Kind::String => Value::String(Vec::new()),
            Kind::List => Value::List(Vec::new()),
            Kind::Set => Value::Set(BTreeSet::new()),
            Kind::SortedSet => Value::SortedSet(BTreeMap::new()),
            Kind::Hash => Value::Hash(BTreeMap::new()),
        };
        &mut self.keys.entry((header.database, header.key.to_vec())).or_insert((empty, None)).0
    }

    fn check_size(statement: &[&[u8]]) {
        let step = match statement[0] {
            b"HSET" | b"ZADD" => 2,
            _ => 1,
        };
        let elements = statement[2..].len() / step;
        let bytes: usize = statement[2..].iter().map(|arg| arg.len()).sum();
        assert!((1..=STATEMENT_ELEMENTS_MAX).contains(&elements) || statement[0] == b"HPEXPIREAT");
        assert!(bytes <= STATEMENT_BYTES_MAX || elements == 1 || statement[0] == b"HPEXPIREAT");
    }
}

impl Visitor for Contents {
    type Error = Error;

    fn key(&mut self, header: &KeyHeader) -> Result<bool, Error> {
        // A damaged file may have a key twice.
        self.keys.remove(&(header.database, header.key.to_vec()));
        if header.idle_s.is_some() || header.frequency.is_some() {
            self.used.insert(header.key.to_vec(), (header.idle_s, header.frequency));
        }
        Ok(true)
    }

    fn statement(&mut self, header: &KeyHeader, statement: &[&[u8]]) -> Result<(), Error> {
        self.statements += 1;
        assert_eq!(statement[1], header.key);
        Contents::check_size(statement);
        let (name, args) = (statement[0], &statement[2..]);
        let owned = |arg: &&[u8]| arg.to_vec();
        match (name, self.of(header)) {
            (b"SET", Value::String(text)) => {
                assert_eq!(args.len(), 1);
                *text = args[0].to_vec();
            }
            (b"RPUSH", Value::List(items)) => items.extend(args.iter().map(owned)),
            (b"SADD", Value::Set(members)) => members.extend(args.iter().map(owned)),
            (b"ZADD", Value::SortedSet(members)) => members.extend(args.chunks_exact(2).map(|pair| {
                let score: f64 = std::str::from_utf8(pair[0]).unwrap().parse().unwrap();
                (pair[1].to_vec(), score.to_bits())
            })),
            (b"HSET", Value::Hash(fields)) => {
                fields.extend(args.chunks_exact(2).map(|pair| (pair[0].to_vec(), (pair[1].to_vec(), None))))
            }
            (b"HPEXPIREAT", Value::Hash(fields)) => {
                assert_eq!((args[1], number(args[2])), (&b"FIELDS"[..], args.len() as i64 - 3));
                for field in &args[3..] {
                    fields.get_mut(*field).expect("a field that was set").1 = Some(number(args[0]));
                }
            }
            (b"PEXPIREAT", _) => {
                assert_eq!(header.expire_at, Some(number(args[0])));
                self.keys.get_mut(&(header.database, header.key.to_vec())).unwrap().1 = header.expire_at;
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn note(&mut self, note: Note) -> Result<(), Error> {
        self.notes.push(match note {
            Note::Aux { name, value } => format!("{} {}", name.escape_ascii(), value.escape_ascii()),
            Note::DatabaseSize { database, keys, expires } => format!("database {database}: {keys} {expires}"),
            Note::Slot { slot, keys } => format!("slot {slot}: {keys}"),
            Note::Functions { library } => format!("functions {}", library.escape_ascii()),
            Note::ModuleData => "module".into(),
            Note::Skipped { database, key, what } => format!("{what} {database} {}", key.escape_ascii()),
            Note::Empty { database, key } => format!("empty {database} {}", key.escape_ascii()),
        });
        Ok(())
    }
}

/// Reads a whole file.
pub fn read(file: &[u8], options: &ImportOptions) -> Result<(Contents, Summary), Error> {
    let mut contents = Contents::default();
    let summary = keyloom::rdb::import(file, options, &mut contents)?;
    Ok((contents, summary))
}

fn bulk(reply: Reply) -> Vec<u8> {
    match reply {
        Reply::Bulk(text) | Reply::Simple(text) => text,
        other => panic!("{other:?}"),
    }
}

fn bulks(reply: Reply) -> Vec<Vec<u8>> {
    match reply {
        Reply::Array(items) => items.into_iter().map(bulk).collect(),
        other => panic!("{other:?}"),
    }
}

/// What a server holds in a database, asked by commands. Deadlines of fields only if it knows them.
pub fn of_server(client: &mut Client, databases: &[usize], field_deadlines: bool) -> Keyspace {
    let mut keys = Keyspace::new();
    for &database in databases {
        client.call(&["SELECT", &database.to_string()]);
        for key in bulks(client.call(&["KEYS", "*"])) {
            let entry = entry_of_server(client, &key, field_deadlines);
            keys.insert((database, key), entry);
        }
    }
    keys
}

fn entry_of_server(client: &mut Client, key: &[u8], field_deadlines: bool) -> Entry {
    let mut ask = |args: &[&[u8]]| client.call(args);
    let kind = bulk(ask(&[b"TYPE", key]));
    let value = match &kind[..] {
        b"string" => Value::String(bulk(ask(&[b"GET", key]))),
        b"list" => Value::List(bulks(ask(&[b"LRANGE", key, b"0", b"-1"]))),
        b"set" => Value::Set(bulks(ask(&[b"SMEMBERS", key])).into_iter().collect()),
        b"zset" => {
            let pairs = bulks(ask(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]));
            let score = |text: &[u8]| std::str::from_utf8(text).unwrap().parse::<f64>().unwrap().to_bits();
            Value::SortedSet(pairs.chunks_exact(2).map(|pair| (pair[0].clone(), score(&pair[1]))).collect())
        }
        b"hash" => {
            let pairs = bulks(ask(&[b"HGETALL", key]));
            let mut deadline = |field: &[u8]| match field_deadlines {
                true => match ask(&[b"HPEXPIRETIME", key, b"FIELDS", b"1", field]) {
                    Reply::Array(items) => match items[..] {
                        [Reply::Int(ms)] => Some(ms).filter(|&ms| ms >= 0),
                        _ => panic!("{items:?}"),
                    },
                    other => panic!("{other:?}"),
                },
                false => None,
            };
            let pair = |pair: &[Vec<u8>]| (pair[0].clone(), (pair[1].clone(), deadline(&pair[0])));
            Value::Hash(pairs.chunks_exact(2).map(pair).collect())
        }
        other => panic!("{}", other.escape_ascii()),
    };
    let expire_at = match client.call(&[b"PEXPIRETIME", key]) {
        Reply::Int(ms) => Some(ms).filter(|&ms| ms >= 0),
        other => panic!("{other:?}"),
    };
    (value, expire_at)
}
