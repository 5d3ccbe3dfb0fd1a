//! Which keys commands need, and where they can run.
//!
//! What a transaction will need has to be known before it runs. Keys are read from the arguments; the databases in which
//! they lie are the one that is selected, as SELECT changes it on the way, and those that COPY and MOVE name.
//!
//! No state.

use std::collections::BTreeMap;

use super::{Loan, Lock, Place, Wants};
use crate::command::connection::selected_database;
use crate::command::generic::named_database;
use crate::command::table::Row;
use crate::command::transaction::{Queued, Watched};
use crate::command::{Args, Flags, Handler, Reach};
use crate::route::{CoreId, Hasher, Router};

/// Where the commands of a transaction run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// On the shard of the core of the connection; it owns all keys.
    Here,
    /// On the shard of this core, which owns all keys; as one message.
    There(CoreId),
    /// On the scratch shard; keys are borrowed.
    Scratch,
    /// On the shards of the owners, each of which runs the command for its own keys while all of them are held.
    Dealt,
    /// On all cores, all of which are borrowed whole.
    Cores,
}

/// What a transaction needs of each core, and where it runs.
#[derive(Debug)]
pub struct Plan {
    pub mode: Mode,
    pub loans: BTreeMap<CoreId, Loan>,
}

impl Plan {
    /// The plan of a transaction of a client that has selected `db`, of `databases`. `limited`: a core may have to refuse
    /// what needs memory.
    pub fn new(
        router: &Router,
        hasher: &Hasher,
        [db, databases]: [usize; 2],
        commands: &[Queued],
        watched: &[Watched],
        limited: bool,
    ) -> Plan {
        let mut loans: BTreeMap<CoreId, Loan> = BTreeMap::new();
        let owner = |key: &[u8]| router.owner(hasher.key(key).partition);
        let (mut db, mut plain, mut whole, mut needs_memory, mut writes) = (db, true, false, false, false);
        // Which command names a key, the database, and which argument it is.
        let mut named: Vec<(usize, u8, usize)> = Vec::new();
        for (nth, command) in commands.iter().enumerate() {
            let (row, args) = (command.row, command.args());
            let flags = row.command.flags;
            match row.command.handler {
                Handler::Keyspace(_) => {
                    whole |= wants_whole(row, &args);
                    // A message goes to everybody, and a blocking command runs only while its client is there.
                    plain &= !flags.has(Flags::BLOCKING) && !matches!(row.command.reach, Reach::Listeners(_));
                    for_each_place(row, &args, db, databases, |db, at| {
                        let key = hasher.key(args[at]);
                        let loan = loans.entry(router.owner(key.partition)).or_default();
                        locks(&mut loan.wants).push((db, key.hash));
                        named.push((nth, db, at));
                    });
                }
                _ => match selected_database(row, &args, databases) {
                    Some(selected) => db = selected,
                    None => plain &= flags.has(Flags::PIPELINED),
                },
            }
            needs_memory |= flags.has(Flags::DENYOOM);
            writes |= flags.has(Flags::WRITE);
        }
        for Watched { place, version, .. } in watched {
            let loan = loans.entry(owner(&place.1)).or_default();
            locks(&mut loan.wants).push((place.0, hasher.hash(&place.1)));
            loan.entries.push(place.clone());
            loan.watched.push((place.clone(), *version));
        }
        let cores: Vec<CoreId> = loans.keys().copied().collect();
        let mode = match cores[..] {
            _ if router.cores() == 1 => Mode::Here,
            _ if whole => Mode::Cores,
            [] => Mode::Here,
            [core] if core == router.me() => Mode::Here,
            [core] if plain => Mode::There(core),
            // Nothing may go wrong at one of them.
            _ if watched.is_empty() && !(limited && needs_memory) && is_dealt(commands) => Mode::Dealt,
            _ => Mode::Scratch,
        };
        if whole {
            for core in 0..router.cores() {
                loans.entry(core).or_default();
            }
        }
        let bytes: usize = commands.iter().map(Queued::bytes).sum();
        for loan in loans.values_mut() {
            if whole {
                loan.wants = Wants::Whole;
            }
            loan.brings_bytes = needs_memory.then_some(bytes);
            loan.writes = writes;
            if mode != Mode::Scratch {
                loan.entries.clear();
            }
        }
        if mode == Mode::Scratch {
            for (nth, db, at) in named {
                let key = commands[nth].args()[at].to_vec();
                loans.entry(owner(&key)).or_default().entries.push((db, key));
            }
            for loan in loans.values_mut() {
                loan.entries.sort();
                loan.entries.dedup();
            }
        }
        Plan { mode, loans }
    }
}

/// Whether this is one command that owners can run for their keys.
fn is_dealt(commands: &[Queued]) -> bool {
    let [command] = commands else { return false };
    command.row.command.dealt.is_some() && command.row.command.keys.is_whole(command.args().len())
}

/// Whether a command works on every key of a core, or on keys that nobody knows before it has looked at others.
fn wants_whole(row: &Row, args: Args) -> bool {
    matches!(row.command.reach, Reach::Every(_) | Reach::Cursor) || row.command.keys.reads_more(args)
}

/// What a keyspace command that runs on one core needs of it.
pub fn wants(row: &Row, args: Args, db: usize, databases: usize, hasher: &Hasher) -> Wants<Lock> {
    if wants_whole(row, args) {
        return Wants::Whole;
    }
    let mut locks = Vec::new();
    for_each_place(row, args, db, databases, |db, at| locks.push((db, hasher.hash(args[at]))));
    Wants::Keys(locks)
}

fn locks(wants: &mut Wants<Lock>) -> &mut Vec<Lock> {
    let Wants::Keys(locks) = wants else { unreachable!("whole cores are wanted when all keys are known") };
    locks
}

/// The keys that a command names, in each of the databases in which it may look for them.
pub fn places(row: &Row, args: Args, db: usize, databases: usize) -> Vec<Place> {
    let mut all = Vec::new();
    for_each_place(row, args, db, databases, |db, at| all.push((db, args[at].to_vec())));
    all
}

/// Visits them: the database, and which argument the key is.
fn for_each_place(row: &Row, args: Args, db: usize, databases: usize, mut visit: impl FnMut(u8, usize)) {
    // The key of a shard channel says where it belongs, and nothing is there.
    if let Reach::Listeners(_) = row.command.reach {
        return;
    }
    let other = named_database(row, args).filter(|&other| other < databases && other != db);
    for at in row.command.keys.positions(args) {
        visit(db as u8, at);
        other.into_iter().for_each(|other| visit(other as u8, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Owned, table};

    struct Cores {
        router: Router,
        hasher: Hasher,
    }

    impl Cores {
        fn new(me: CoreId, cores: u16) -> Cores {
            Cores { router: Router::new(me, cores, 4), hasher: Hasher::new(4, [1, 2, 3, 4]) }
        }

        /// The first key of this core that starts with `start`.
        fn key(&self, start: &str, core: CoreId) -> String {
            let key = |n: u32| format!("{start}{n}");
            (0..).map(key).find(|key| self.router.owner(self.hasher.key(key.as_bytes()).partition) == core).unwrap()
        }

        /// The mode of a transaction, and of each core the keys it wants.
        fn plan(&self, lines: &[&str]) -> (Mode, Vec<(CoreId, Wants<Lock>)>) {
            let command = |line: &&str| {
                let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
                Queued::new(table().resolve(&args).unwrap(), &args, &Owned::default())
            };
            let commands: Vec<Queued> = lines.iter().map(command).collect();
            let plan = Plan::new(&self.router, &self.hasher, [2, 16], &commands, &[], false);
            let sorted = |(core, mut loan): (CoreId, Loan)| {
                if let Wants::Keys(locks) = &mut loan.wants {
                    locks.sort();
                    locks.dedup();
                }
                (core, loan.wants)
            };
            (plan.mode, plan.loans.into_iter().map(sorted).collect())
        }
    }

    fn keys(places: &[(u8, &str)]) -> Wants<Lock> {
        let hasher = Hasher::new(4, [1, 2, 3, 4]);
        let mut locks: Vec<Lock> = places.iter().map(|(db, key)| (*db, hasher.hash(key.as_bytes()))).collect();
        locks.sort();
        Wants::Keys(locks)
    }

    #[test]
    fn what_lives_on_one_core_runs_there() {
        let cores = Cores::new(0, 2);
        let (a, b) = (cores.key("a", 0), cores.key("b", 1));
        let (set_a, get_b) = (format!("set {a} 1"), format!("get {b}"));
        assert_eq!(cores.plan(&[&set_a, &set_a]), (Mode::Here, vec![(0, keys(&[(2, &a)]))]));
        assert_eq!(cores.plan(&[&get_b, "ping"]), (Mode::There(1), vec![(1, keys(&[(2, &b)]))]));
        assert_eq!(cores.plan(&["ping"]), (Mode::Here, vec![]));
        // What INFO tells depends on when it runs.
        assert_eq!(cores.plan(&[&get_b, "info"]).0, Mode::Scratch);
        assert_eq!(cores.plan(&[&get_b, &set_a]), (Mode::Scratch, vec![(0, keys(&[(2, &a)])), (1, keys(&[(2, &b)]))]));
    }

    #[test]
    fn owners_run_what_is_as_good_as_a_command_for_each_key() {
        let cores = Cores::new(0, 2);
        let (a, b) = (cores.key("a", 0), cores.key("b", 1));
        let both = vec![(0, keys(&[(2, &a)])), (1, keys(&[(2, &b)]))];
        for line in ["mget {a} {b}", "mset {b} 1 {a} 2", "del {a} {b} {a}"] {
            let line = line.replace("{a}", &a).replace("{b}", &b);
            assert_eq!(cores.plan(&[&line]), (Mode::Dealt, both.clone()), "{line}");
            assert_eq!(cores.plan(&[&line, "ping"]).0, Mode::Scratch, "{line} and more");
        }
        for line in ["msetnx {a} 1 {b} 2", "rename {a} {b}", "mset {a} 1 {b}"] {
            assert_ne!(cores.plan(&[&line.replace("{a}", &a).replace("{b}", &b)]).0, Mode::Dealt, "{line}");
        }
    }

    #[test]
    fn databases_are_those_in_which_a_command_may_look() {
        let cores = Cores::new(0, 1);
        let wanted = |lines: &[&str]| cores.plan(lines).1.remove(0).1;
        assert_eq!(
            wanted(&["get a", "select 5", "get a", "select 99", "get b"]),
            keys(&[(2, "a"), (5, "a"), (5, "b")])
        );
        assert_eq!(wanted(&["move a 7"]), keys(&[(2, "a"), (7, "a")]));
        assert_eq!(wanted(&["copy a b db 3 replace"]), keys(&[(2, "a"), (2, "b"), (3, "a"), (3, "b")]));
        assert_eq!(wanted(&["move a 99", "copy a b db x"]), keys(&[(2, "a"), (2, "b")]));
    }

    #[test]
    fn keys_that_are_made_of_elements_want_whole_cores() {
        let (one, two) = (Cores::new(0, 1), Cores::new(0, 2));
        let whole = vec![(0, Wants::Whole), (1, Wants::Whole)];
        for line in ["sort a by w_*", "sort_ro a get o_*->f", "sort a get # by x limit 0 1 get *"] {
            assert_eq!(two.plan(&[line]), (Mode::Cores, whole.clone()), "{line}");
            assert_eq!(one.plan(&[line]).0, Mode::Here, "{line}");
        }
        let (a, b) = (two.key("a", 0), two.key("b", 1));
        for options in ["", " by nosort get #", " by * by nosort", " limit get * asc"] {
            let line = format!("sort {a}{options} store {b}");
            assert_eq!(
                two.plan(&[&line]),
                (Mode::Scratch, vec![(0, keys(&[(2, &a)])), (1, keys(&[(2, &b)]))]),
                "{line}"
            );
            let line = format!("sort_ro {a}{options}");
            assert_eq!(two.plan(&[&line]), (Mode::Here, vec![(0, keys(&[(2, &a)]))]), "{line}");
        }
    }

    #[test]
    fn commands_without_keys_want_whole_cores() {
        for line in ["flushall", "dbsize", "keys *", "scan 0", "swapdb 0 1", "randomkey"] {
            let two = vec![(0, Wants::Whole), (1, Wants::Whole)];
            assert_eq!(Cores::new(1, 2).plan(&["get a", line]), (Mode::Cores, two), "{line}");
            assert_eq!(Cores::new(0, 1).plan(&[line]), (Mode::Here, vec![(0, Wants::Whole)]), "{line}");
        }
    }
}
