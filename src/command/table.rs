//! The one table of commands.
//!
//! A row says what the server must know before it runs a command: arity, flags, where the keys are, which cores it has
//! to reach, and the function. COMMAND, COMMAND DOCS and COMMAND GETKEYS are answered from it. Rows live in the file of
//! their family; this file collects them.

use std::ops::Range;
use std::sync::LazyLock;

pub use super::flags::{Flags, access};
use super::generic::sort;
use super::number::parse_i64;
use super::{KeyspaceFn, session::SessionFn};
use crate::pubsub::Kind;

/// Where the keys stand among the arguments: `first`, then every `step`, up to `last` (negative: from the end).
/// `first == 0`: none stand there. And behind argument `count_at`, if it is not 0, stand as many as that argument says.
/// Commands that sort have more: see [`Patterns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    pub first: i16,
    pub last: i16,
    pub step: i16,
    pub count_at: i16,
    pub patterns: Patterns,
}

/// Keys of which a command does not name all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patterns {
    None,
    /// The options BY and GET make names of elements (SORT_RO).
    Read,
    /// And the last option STORE names a key that is written (SORT).
    ReadAndStore,
}

impl KeySpec {
    pub const NONE: KeySpec = KeySpec { first: 0, last: 0, step: 0, count_at: 0, patterns: Patterns::None };
    /// One key, the first argument.
    pub const ONE: KeySpec = KeySpec { first: 1, last: 1, step: 1, count_at: 0, patterns: Patterns::None };
    /// Two keys, the first two arguments.
    pub const TWO: KeySpec = KeySpec { first: 1, last: 2, step: 1, count_at: 0, patterns: Patterns::None };
    /// All arguments are keys.
    pub const ALL: KeySpec = KeySpec { first: 1, last: -1, step: 1, count_at: 0, patterns: Patterns::None };
    /// Key, value, key, value, ...
    pub const PAIRS: KeySpec = KeySpec { first: 1, last: -1, step: 2, count_at: 0, patterns: Patterns::None };
    /// The number of keys, then the keys (SINTERCARD).
    pub const COUNTED: KeySpec = KeySpec { first: 0, last: 0, step: 0, count_at: 1, patterns: Patterns::None };
    /// A key, the number of further keys, then these (ZUNIONSTORE).
    pub const ONE_AND_COUNTED: KeySpec = KeySpec { count_at: 2, ..KeySpec::ONE };
    /// A key, and what options make of its elements.
    pub const SORTED: KeySpec = KeySpec { patterns: Patterns::Read, ..KeySpec::ONE };
    pub const SORTED_AND_STORED: KeySpec = KeySpec { patterns: Patterns::ReadAndStore, ..KeySpec::ONE };

    /// Whether there is exactly one key, at a fixed place.
    #[inline]
    pub fn is_one(&self) -> bool {
        self.first == self.last && self.first > 0 && self.count_at == 0 && self.patterns == Patterns::None
    }

    /// Whether every key is followed by the arguments that belong to it. A command that cannot be dealt to cores key by key
    /// is whole on one of them, and refused there.
    #[inline]
    pub fn is_whole(&self, argc: usize) -> bool {
        self.last >= 0 || (argc as i64 - self.first as i64) % self.step as i64 == 0
    }

    /// Positions of the keys in a command. If there are fewer than are announced, the command is going to say so.
    #[inline]
    pub fn positions<A: AsRef<[u8]>>(&self, args: &[A]) -> impl Iterator<Item = usize> + use<A> {
        let argc = args.len();
        let last = if self.last < 0 { argc as i64 + self.last as i64 } else { self.last as i64 };
        let end = if self.first == 0 { 0 } else { (last + 1).clamp(0, argc as i64) as usize };
        let fixed = (self.first.max(0) as usize..end).step_by(self.step.max(1) as usize);
        let stored = if self.patterns == Patterns::ReadAndStore { sort::stored_at(args) } else { None };
        fixed.chain(self.counted(args).unwrap_or_default()).chain(stored)
    }

    /// Whether a command reads keys that it does not name.
    #[inline]
    pub fn reads_more<A: AsRef<[u8]>>(&self, args: &[A]) -> bool {
        self.patterns != Patterns::None && sort::reads_more(args)
    }

    /// Positions of the keys whose number is an argument; None if that is not the number of arguments that could be keys.
    pub fn counted<A: AsRef<[u8]>>(&self, args: &[A]) -> Option<Range<usize>> {
        let at = usize::try_from(self.count_at).ok().filter(|&at| at > 0)?;
        let count = usize::try_from(parse_i64(args.get(at)?.as_ref()).ok()?).ok()?;
        (count > 0 && count < args.len() - at).then_some(at + 1..at + 1 + count)
    }
}

/// How the partial replies of a command that several cores execute become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Integers are added (DEL, EXISTS, DBSIZE).
    Sum,
    /// The first error, otherwise the first reply (MSET, FLUSHALL).
    First,
    /// Arrays are joined (KEYS).
    Concat,
    /// Elements of arrays, back in the order of the keys (MGET).
    InKeyOrder,
    /// Each part is `[number of keys, key or nil]`; one key is drawn, weighted by the numbers (RANDOMKEY).
    Draw,
}

/// Which cores a command has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The core of the connection.
    Home,
    /// The core that owns the keys. If they live on several, their entries are brought together for the command: see
    /// `borrow`.
    Keys,
    /// Every core runs it.
    Every(Merge),
    /// The core of the connection and all that may have subscribers of the channel, the first argument, run it; their
    /// numbers are added.
    Listeners(Kind),
    /// The core that owns the partition in the cursor, the first argument (SCAN).
    Cursor,
}

/// What runs the command.
#[derive(Clone, Copy)]
pub enum Handler {
    Keyspace(KeyspaceFn),
    Session(SessionFn),
    /// Only a container of subcommands.
    Container,
}

/// One row of the table.
pub struct Command {
    /// Lower case; of a subcommand only its own word.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i16,
    pub flags: Flags,
    pub keys: KeySpec,
    pub reach: Reach,
    pub handler: Handler,
    /// The command is as good as one for each of its keys, and this is how their replies become one: if keys live on
    /// several cores, each owner runs it on its own. It cannot fail at one of them.
    pub dealt: Option<Merge>,
    /// What happens to the first key, and to the others if that is something else; see [`access`]. Empty: what the flags say.
    pub access: &'static [access::Access],
    /// Group, as COMMAND DOCS names it: `string`, `generic`, `connection`, `server`, ...
    pub group: &'static str,
    pub since: &'static str,
    pub complexity: &'static str,
    pub summary: &'static str,
    pub subcommands: &'static [Command],
}

impl Command {
    /// A keyspace command that finds its core by its keys.
    pub const fn keyspace(name: &'static str, arity: i16, flags: Flags, keys: KeySpec, run: KeyspaceFn) -> Command {
        Command {
            name,
            arity,
            flags,
            keys,
            reach: Reach::Keys,
            handler: Handler::Keyspace(run),
            dealt: None,
            access: &[],
            group: "generic",
            since: "1.0.0",
            complexity: "O(1)",
            summary: "",
            subcommands: &[],
        }
    }

    /// A session command.
    pub const fn session(name: &'static str, arity: i16, flags: Flags, run: SessionFn) -> Command {
        let mut command = Command::container(name, arity, flags, &[]);
        command.handler = Handler::Session(run);
        command
    }

    /// A command that only groups subcommands.
    pub const fn container(name: &'static str, arity: i16, flags: Flags, subcommands: &'static [Command]) -> Command {
        Command {
            name,
            arity,
            flags,
            keys: KeySpec::NONE,
            reach: Reach::Home,
            handler: Handler::Container,
            dealt: None,
            access: &[],
            group: "connection",
            since: "1.0.0",
            complexity: "O(1)",
            summary: "",
            subcommands,
        }
    }

    pub const fn reach(mut self, reach: Reach) -> Command {
        self.reach = reach;
        self
    }

    /// The arguments that COMMAND tells to be keys, of a command that does not find its core by them.
    pub const fn keys(mut self, keys: KeySpec) -> Command {
        self.keys = keys;
        self
    }

    /// See [`Command::dealt`].
    pub const fn dealt(mut self, merge: Merge) -> Command {
        self.dealt = Some(merge);
        self
    }

    /// What happens to its keys.
    pub const fn access(mut self, access: &'static [access::Access]) -> Command {
        self.access = access;
        self
    }

    /// What COMMAND DOCS tells.
    pub const fn doc(
        mut self,
        group: &'static str,
        since: &'static str,
        complexity: &'static str,
        summary: &'static str,
    ) -> Command {
        self.group = group;
        self.since = since;
        self.complexity = complexity;
        self.summary = summary;
        self
    }

    /// Whether `argc` arguments, the name included, are acceptable.
    #[inline]
    pub fn arity_ok(&self, argc: usize) -> bool {
        if self.arity >= 0 { argc == self.arity as usize } else { argc >= self.arity.unsigned_abs() as usize }
    }
}

/// Index of a command or subcommand in [`Table::rows`]; statistics are arrays over it.
pub type CommandId = u16;

/// A row with its place in the table.
pub struct Row {
    pub id: CommandId,
    pub command: &'static Command,
    /// `get`, `client|setname`.
    pub full_name: String,
    /// Id of the container, for subcommands.
    pub parent: Option<CommandId>,
    /// The position of the one key by which the command finds its core; 0 if it is found in another way.
    pub key_at: u8,
}

impl Row {
    fn new(id: CommandId, command: &'static Command, full_name: String, parent: Option<CommandId>) -> Row {
        let by_one_key = command.keys.is_one() && command.reach == Reach::Keys && command.subcommands.is_empty();
        let key_at = if by_one_key { u8::try_from(command.keys.first).unwrap_or(0) } else { 0 };
        Row { id, command, full_name, parent, key_at }
    }

    /// No command of clients.
    pub fn is_internal(&self) -> bool {
        self.command.flags.has(Flags::INTERNAL)
    }
}

/// All commands and subcommands.
pub struct Table {
    rows: Vec<Row>,
    /// Open addressing by [`name_hash`].
    index: Vec<Place>,
}

/// A place in the index of names.
#[derive(Clone, Copy, Default)]
struct Place {
    /// [`name_word`] of the name.
    word: u64,
    /// 0: nothing is here.
    len: u8,
    /// The word and the length decide: small letters only, and no more than eight.
    plain: bool,
    id: CommandId,
}

/// The families, in the order of their documentation.
static FAMILIES: &[&[Command]] = &[
    super::string::COMMANDS,
    super::generic::COMMANDS,
    super::list::COMMANDS,
    super::blocking::COMMANDS,
    super::set::COMMANDS,
    super::hash::COMMANDS,
    super::sorted::COMMANDS,
    super::connection::COMMANDS,
    super::client::COMMANDS,
    super::pubsub::COMMANDS,
    super::debug::COMMANDS,
    super::server::COMMANDS,
    super::config::COMMANDS,
    super::info::COMMANDS,
    super::introspect::COMMANDS,
    super::slowlog::COMMANDS,
    super::latency::COMMANDS,
    super::memory::COMMANDS,
    super::acl::COMMANDS,
    super::transaction::COMMANDS,
    super::log::COMMANDS,
    super::replication::COMMANDS,
    super::cluster::COMMANDS,
];

static TABLE: LazyLock<Table> = LazyLock::new(Table::build);

/// The table of all commands.
pub fn table() -> &'static Table {
    &TABLE
}

/// The row for a command name in any case; subcommands are found with [`Table::resolve`].
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Row> {
    table().lookup(name)
}

/// Longest command name; longer names are unknown without a look.
const NAME_BYTES_MAX: usize = 24;

impl Table {
    fn build() -> Table {
        let mut rows = Vec::new();
        for command in FAMILIES.iter().flat_map(|family| family.iter()) {
            let id = rows.len() as u16;
            rows.push(Row::new(id, command, command.name.to_string(), None));
            for sub in command.subcommands {
                let full_name = format!("{}|{}", command.name, sub.name);
                rows.push(Row::new(rows.len() as u16, sub, full_name, Some(id)));
            }
        }
        let mut index = vec![Place::default(); (rows.len() * 4).next_power_of_two()];
        for row in rows.iter().filter(|row| row.parent.is_none() && !row.is_internal()) {
            let name = row.command.name.as_bytes();
            assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX);
            let word = name_word(name);
            let mut at = name_hash(word, name) & (index.len() - 1);
            while index[at].len != 0 {
                assert_ne!(rows[index[at].id as usize].command.name, row.command.name, "a command has two rows");
                at = (at + 1) & (index.len() - 1);
            }
            let plain = name.len() <= 8 && name.iter().all(u8::is_ascii_lowercase);
            index[at] = Place { word, len: name.len() as u8, plain, id: row.id };
        }
        Table { rows, index }
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Rows that are not subcommands, of the commands that clients have.
    pub fn top(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.parent.is_none() && !row.is_internal())
    }

    /// The subcommand rows of `row`.
    pub fn subs(&self, row: &Row) -> &[Row] {
        let first = row.id as usize + 1;
        &self.rows[first..first + row.command.subcommands.len()]
    }

    /// The row of a statement that clients do not have, by its name in any case.
    pub fn internal(&self, name: &[u8]) -> Option<&Row> {
        self.rows.iter().find(|row| row.is_internal() && row.command.name.as_bytes().eq_ignore_ascii_case(name))
    }

    #[inline]
    pub fn row(&self, id: CommandId) -> &Row {
        &self.rows[id as usize]
    }

    /// The row with this name in any case.
    #[inline]
    pub fn lookup(&self, name: &[u8]) -> Option<&Row> {
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        let word = name_word(name);
        let mut at = name_hash(word, name) & (self.index.len() - 1);
        loop {
            let place = &self.index[at];
            if place.len == 0 {
                return None;
            }
            // Most names are shorter than a word and made of letters only: then the word says all.
            if place.word == word && place.len == name.len() as u8 {
                let row = &self.rows[place.id as usize];
                if place.plain || row.command.name.as_bytes().eq_ignore_ascii_case(name) {
                    return Some(row);
                }
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    /// The row for a full name in any case: `get`, `client|setname`.
    pub fn lookup_full(&self, name: &[u8]) -> Option<&Row> {
        let mut words = name.splitn(2, |b| *b == b'|');
        let row = self.lookup(words.next()?)?;
        match words.next() {
            None => Some(row),
            Some(sub) => self.subs(row).iter().find(|row| row.command.name.as_bytes().eq_ignore_ascii_case(sub)),
        }
    }

    /// The row that `args` call: the subcommand's if the command has some. Does not check arity.
    pub fn resolve(&self, args: &[&[u8]]) -> Result<&Row, Unknown> {
        let row = self.lookup(args[0]).ok_or(Unknown::Command)?;
        if row.command.subcommands.is_empty() || args.len() < 2 {
            return Ok(row);
        }
        self.subs(row)
            .iter()
            .find(|sub| sub.command.name.as_bytes().eq_ignore_ascii_case(args[1]))
            .ok_or(Unknown::Subcommand)
    }
}

/// Why [`Table::resolve`] found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    Command,
    Subcommand,
}

/// The first eight bytes of a name, each with the bit set that tells capital letters from small ones.
///
/// Made of two loads that overlap: bytes gathered one by one in memory would hold up the load of the whole word.
#[inline]
fn name_word(name: &[u8]) -> u64 {
    let four = |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]) as u64;
    let word = match name.len() {
        0 => 0,
        n @ 1..=3 => name[0] as u64 | (name[n / 2] as u64) << (n / 2 * 8) | (name[n - 1] as u64) << ((n - 1) * 8),
        n @ 4..=7 => four(0) | four(n - 4) << ((n - 4) * 8),
        _ => four(0) | four(4) << 32,
    };
    word | 0x2020_2020_2020_2020
}

/// A hash of a name that ignores case: its word, its last byte and its length.
#[inline]
fn name_hash(word: u64, name: &[u8]) -> usize {
    let last = name.last().copied().unwrap_or(0) | 0x20;
    let mixed = (word ^ ((name.len() as u64) << 56) ^ ((last as u64) << 48)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        for row in table().top() {
            assert_eq!(lookup(row.command.name.to_uppercase().as_bytes()).map(|r| r.id), Some(row.id));
            assert_eq!(lookup(row.command.name.as_bytes()).map(|r| r.id), Some(row.id));
        }
        assert!(lookup(b"").is_none());
        assert!(lookup(b"nosuchcommand").is_none());
        assert!(lookup(&[b'g'; 100]).is_none());
    }

    #[test]
    fn rows_are_well_formed() {
        for row in table().rows() {
            let command = row.command;
            assert!(command.arity != 0, "{}", row.full_name);
            assert!(!command.summary.is_empty(), "{} has no summary", row.full_name);
            assert!(command.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_'));
            let write = command.flags.has(Flags::WRITE);
            assert!(!(write && command.flags.has(Flags::READONLY)), "{}", row.full_name);
            if command.reach == Reach::Keys {
                assert!(command.keys != KeySpec::NONE, "{} reaches keys but names none", row.full_name);
            }
            assert_eq!(matches!(command.reach, Reach::Home), !matches!(command.handler, Handler::Keyspace(_)));
        }
    }

    #[test]
    fn key_positions() {
        let at = |spec: KeySpec, argc| spec.positions(&vec!["2"; argc]).collect::<Vec<_>>();
        assert_eq!(at(KeySpec::ONE, 3), [1]);
        assert_eq!(at(KeySpec::TWO, 3), [1, 2]);
        assert_eq!(at(KeySpec::ALL, 4), [1, 2, 3]);
        assert_eq!(at(KeySpec::PAIRS, 5), [1, 3]);
        assert!(at(KeySpec::NONE, 5).is_empty());
        assert!(at(KeySpec::ALL, 1).is_empty());
        assert_eq!(at(KeySpec::COUNTED, 5), [2, 3]);
        assert_eq!(at(KeySpec::ONE_AND_COUNTED, 5), [1, 3, 4]);
        assert!(KeySpec::ONE.is_one() && !KeySpec::SORTED.is_one() && !KeySpec::SORTED_AND_STORED.is_one());
        // More keys than arguments are none at all.
        assert!(at(KeySpec::COUNTED, 3).is_empty());
        for count in ["0", "-1", "x", "", "9223372036854775807", "99999999999999999999"] {
            assert_eq!(KeySpec::COUNTED.counted(&["lmpop", count, "a", "b"]), None, "{count}");
        }
        assert!(KeySpec::PAIRS.is_whole(5) && !KeySpec::PAIRS.is_whole(4));
        assert!(KeySpec::ALL.is_whole(4) && KeySpec::ONE.is_whole(4));
    }
}
