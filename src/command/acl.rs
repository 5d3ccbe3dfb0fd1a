//! ACL: categories of commands, and the one user that there is.
//!
//! Categories follow from the flags and the group of a row, by the rules of Redis: a write is in `write`, what is not
//! fast is slow, what is administrative is dangerous.

use super::table::{Flags, Row};
use super::{Args, Command, Flow, Home, Patterns, help, table};
use crate::resp::{Error, Reply, shown};

/// All categories, in the order of Redis.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Whether `row` belongs to a category.
pub fn is_in(row: &Row, category: &str) -> bool {
    let command = row.command;
    let has = |flag| command.flags.has(flag);
    match category {
        "keyspace" => has(Flags::KEYSPACE),
        "read" => has(Flags::READONLY),
        "write" => has(Flags::WRITE),
        "pubsub" => has(Flags::PUBSUB),
        "admin" => has(Flags::ADMIN.or(Flags::ADMIN_CATEGORY)),
        "fast" => has(Flags::FAST),
        "slow" => !has(Flags::FAST),
        "blocking" => has(Flags::BLOCKING),
        // It belongs to three types.
        "set" | "sortedset" | "list" if command.keys.patterns != Patterns::None => true,
        "dangerous" => has(Flags::DANGEROUS.or(Flags::ADMIN).or(Flags::ADMIN_CATEGORY)),
        "connection" => has(Flags::CONNECTION),
        "transaction" => command.group == "transactions",
        "sortedset" => command.group == "sorted-set",
        group => command.group == group,
    }
}

/// The categories of `row`.
pub fn categories(row: &Row) -> impl Iterator<Item = &'static str> {
    CATEGORIES.into_iter().filter(|category| is_in(row, category))
}

/// The category that `name` means in any case.
pub fn category(name: &[u8]) -> Option<&'static str> {
    CATEGORIES.into_iter().find(|category| category.as_bytes().eq_ignore_ascii_case(name))
}

const PLAIN: Flags = Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE);
const ADMIN: Flags = PLAIN.or(Flags::ADMIN);

pub static COMMANDS: &[Command] = &[Command::container("acl", -2, Flags::NONE, SUBCOMMANDS).doc(
    "server",
    "6.0.0",
    "Depends on subcommand.",
    "A container for access control commands.",
)];

static SUBCOMMANDS: &[Command] = &[
    Command::session("cat", -2, PLAIN, cat).doc(
        "server",
        "6.0.0",
        "O(N) in commands",
        "Lists categories, or the commands of one.",
    ),
    help::row("server", Flags::NONE),
    Command::session("list", 2, ADMIN, list).doc("server", "6.0.0", "O(1)", "Lists the rules of the users."),
    Command::session("users", 2, ADMIN, users).doc("server", "6.0.0", "O(1)", "Lists the names of the users."),
    Command::session("whoami", 2, PLAIN, whoami).doc("server", "6.0.0", "O(1)", "Returns the user of this connection."),
];

fn cat(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let names: Vec<&str> = match &args[2..] {
        [] => CATEGORIES.to_vec(),
        [name] => {
            let category =
                category(name).ok_or_else(|| Error::text(format!("ERR Unknown category '{}'", shown(name, 128))))?;
            table()
                .rows()
                .iter()
                .filter(|row| !row.is_internal() && is_in(row, category))
                .map(|row| row.full_name.as_str())
                .collect()
        }
        _ => return Err(Error::subcommand_syntax(args)),
    };
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(Flow::Done)
}

fn whoami(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.bulk(b"default");
    Ok(Flow::Done)
}

fn users(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.array(1);
    reply.bulk(b"default");
    Ok(Flow::Done)
}

/// The password is not told, not even as a hash.
fn list(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let password = if home.engine.config.requirepass.is_empty() { "nopass" } else { "#(redacted)" };
    reply.array(1);
    reply.bulk(format!("user default on {password} ~* &* +@all").as_bytes());
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        client.expect("acl whoami", "$7|default");
        client.expect("acl users", "*1|$7|default");
        client.expect("acl list", "*1|$34|user default on nopass ~* &* +@all");
        client.expect("acl cat nosuch", "-ERR Unknown category 'nosuch'");
        assert!(client.run("acl cat").starts_with("*21|$8|keyspace|$4|read|$5|write|$3|set|"));
        assert!(client.run("acl cat string").contains("|$3|get|"));
        assert!(
            client.run("acl cat DANGEROUS").contains("|$10|config|set|")
                || client.run("acl cat dangerous").contains("config|set")
        );
    }

    #[test]
    fn categories_follow_from_flags() {
        let of = |name: &[u8]| categories(table().lookup_full(name).unwrap()).collect::<Vec<_>>();
        assert_eq!(of(b"get"), ["read", "string", "fast"]);
        assert_eq!(of(b"set"), ["write", "string", "slow"]);
        assert_eq!(of(b"config"), ["slow"]);
        assert_eq!(of(b"config|get"), ["admin", "slow", "dangerous"]);
        assert_eq!(of(b"client|id"), ["slow", "connection"]);
        assert_eq!(of(b"ping"), ["fast", "connection"]);
    }
}
