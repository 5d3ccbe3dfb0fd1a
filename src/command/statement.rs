//! Statements of a log, as commands: what may be one.
//!
//! Statements come from files and from other nodes. A command that names keys besides its first argument, or that is no
//! write at all, is none: the core that runs a statement owns the one key of it and no others.
//!
//! No state.

use super::table::{Row, table};
use super::{Args, Flags, Handler};

/// The command of a statement, and its one key, which is its first argument; without a key it concerns every core. None:
/// this is no statement.
pub fn resolve<'a>(args: Args<'a>) -> Option<(&'static Row, Option<&'a [u8]>)> {
    let name = args.first()?;
    let row = table().resolve(args).ok().or_else(|| table().internal(name))?;
    let command = row.command;
    let writes = matches!(command.handler, Handler::Keyspace(_)) && command.flags.has(Flags::WRITE);
    if !writes || !command.arity_ok(args.len()) || command.keys.reads_more(args) {
        return None;
    }
    let mut positions = command.keys.positions(args);
    let Some(first) = positions.next() else { return Some((row, None)) };
    let key = args[first];
    (first == 1 && positions.all(|at| args[at] == key)).then_some((row, Some(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_writes_one_key_or_everything() {
        let of = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            resolve(&args)
                .map(|(row, key)| (row.command.name, key.map(|key| String::from_utf8_lossy(key).into_owned())))
        };
        assert_eq!(of("SET k v"), Some(("set", Some("k".into()))));
        assert_eq!(of("LMOVE k k LEFT RIGHT"), Some(("lmove", Some("k".into()))));
        assert_eq!(of("FLUSHALL"), Some(("flushall", None)));
        assert_eq!(of("FLUSHPARTITION k"), Some(("flushpartition", Some("k".into()))));
        for line in ["GET k", "KEYS *", "MSET a 1 b 2", "DEL a b", "LMPOP 1 k LEFT", "SET k", "NONSENSE k", "PING"] {
            assert_eq!(of(line), None, "{line}");
        }
        assert_eq!(of("SORT k BY other_* STORE k"), None, "it reads others");
    }
}
