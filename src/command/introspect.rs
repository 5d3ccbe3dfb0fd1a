//! COMMAND: what the table says about commands, in the reply shapes of Redis.

use super::table::{Merge, Reach, Row, access};
use super::{Args, Command, Flags, Flow, Handler, Home, KeySpec, Patterns, acl, glob, help, table};
use crate::resp::{Error, Reply};

const FLAGS: Flags = Flags::LOADING.or(Flags::STALE);

pub static COMMANDS: &[Command] = &[Command {
    subcommands: SUBCOMMANDS,
    ..Command::session("command", -1, FLAGS.or(Flags::CONNECTION), all).doc(
        "server",
        "2.8.13",
        "O(N) in commands",
        "Returns what is known about all commands.",
    )
}];

const SUB: Flags = FLAGS.or(Flags::CONNECTION);

static SUBCOMMANDS: &[Command] = &[
    Command::session("count", 2, SUB, count).doc("server", "2.8.13", "O(1)", "Returns the number of commands."),
    Command::session("docs", -2, SUB, docs).doc(
        "server",
        "7.0.0",
        "O(N) in commands",
        "Returns documentation of commands.",
    ),
    Command::session("getkeys", -4, SUB, getkeys).doc(
        "server",
        "2.8.13",
        "O(N) in arguments",
        "Returns the keys of a full command.",
    ),
    Command::session("getkeysandflags", -4, SUB, getkeysandflags).doc(
        "server",
        "7.0.0",
        "O(N) in arguments",
        "Returns the keys of a full command, and what happens to each.",
    ),
    help::row("server", Flags::CONNECTION),
    Command::session("info", -2, SUB, info).doc(
        "server",
        "2.8.13",
        "O(N) in commands",
        "Returns what is known about commands.",
    ),
    Command::session("list", -2, SUB, list).doc(
        "server",
        "7.0.0",
        "O(N) in commands",
        "Returns the names of commands.",
    ),
];

/// Names of flags in the order of Redis.
const FLAG_NAMES: [(Flags, &str); 16] = [
    (Flags::WRITE, "write"),
    (Flags::READONLY, "readonly"),
    (Flags::DENYOOM, "denyoom"),
    (Flags::ADMIN, "admin"),
    (Flags::PUBSUB, "pubsub"),
    (Flags::NOSCRIPT, "noscript"),
    (Flags::BLOCKING, "blocking"),
    (Flags::LOADING, "loading"),
    (Flags::STALE, "stale"),
    (Flags::SKIP_MONITOR, "skip_monitor"),
    (Flags::SKIP_SLOWLOG, "skip_slowlog"),
    (Flags::FAST, "fast"),
    (Flags::NO_AUTH, "no_auth"),
    (Flags::PROTECTED, "protected"),
    (Flags::NO_ASYNC_LOADING, "no_async_loading"),
    (Flags::NO_MULTI, "no_multi"),
];

fn all(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.array(table().top().count());
    table().top().for_each(|row| write_info(row, reply));
    Ok(Flow::Done)
}

fn count(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.int(table().top().count() as i64);
    Ok(Flow::Done)
}

/// COMMAND INFO [name ...]; unknown names are nil.
fn info(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    if args.len() == 2 {
        return all(home, args, reply);
    }
    reply.array(args.len() - 2);
    for name in &args[2..] {
        match table().lookup_full(name) {
            Some(row) => write_info(row, reply),
            None => reply.null(),
        }
    }
    Ok(Flow::Done)
}

fn write_info(row: &Row, reply: &mut Reply) {
    let command = row.command;
    reply.array(10);
    reply.bulk(row.full_name.as_bytes());
    reply.int(command.arity as i64);
    let flags = FLAG_NAMES.iter().filter(|(flag, _)| !is_container(command) && command.flags.has(*flag));
    let is_movable = command.keys.count_at != 0 || command.keys.patterns != Patterns::None;
    let movable = is_movable.then_some("movablekeys");
    let flags: Vec<&str> = flags.map(|(_, name)| *name).chain(movable).collect();
    write_names(&flags, reply);
    reply.int(command.keys.first as i64);
    reply.int(command.keys.last as i64);
    reply.int(command.keys.step as i64);
    let categories: Vec<String> = acl::categories(row).map(|name| format!("@{name}")).collect();
    write_names(&categories, reply);
    let tips = tips(command);
    reply.set(tips.len());
    tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    write_key_specs(row, reply);
    let subs = table().subs(row);
    reply.array(subs.len());
    subs.iter().for_each(|sub| write_info(sub, reply));
}

fn is_container(command: &Command) -> bool {
    matches!(command.handler, Handler::Container)
}

/// A set of status replies.
fn write_names(names: &[impl AsRef<str>], reply: &mut Reply) {
    reply.set(names.len());
    names.iter().for_each(|name| reply.simple(name.as_ref()));
}

/// What a client that knows all nodes should do with a command that names no single one.
fn tips(command: &Command) -> &'static [&'static str] {
    match command.reach {
        Reach::Keys => match command.name {
            "del" | "unlink" | "exists" | "touch" => &["request_policy:multi_shard", "response_policy:agg_sum"],
            "mset" => &["request_policy:multi_shard", "response_policy:all_succeeded"],
            "mget" => &["request_policy:multi_shard"],
            _ => &[],
        },
        Reach::Every(Merge::Sum) => &["request_policy:all_shards", "response_policy:agg_sum"],
        Reach::Every(Merge::First) => &["request_policy:all_shards", "response_policy:all_succeeded"],
        Reach::Every(Merge::Draw) => &["request_policy:all_shards", "nondeterministic_output"],
        Reach::Every(_) => &["request_policy:all_shards", "nondeterministic_output_order"],
        Reach::Cursor => &["nondeterministic_output", "request_policy:special"],
        Reach::Home => match command.name {
            "lastsave" => &["nondeterministic_output"],
            "wait" | "waitaof" => &["request_policy:all_shards", "response_policy:agg_min"],
            _ => &[],
        },
        Reach::Listeners(_) => &[],
    }
}

/// What a command does to its key number `nth`. For SET that depends on its arguments, if they are known.
fn key_flags(row: &Row, nth: usize, args: Option<Args>) -> access::Access {
    if row.command.name == "set" {
        return match args {
            None => &["RW", "access", "update", "variable_flags"],
            Some(args) if args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"get")) => access::CHANGE,
            Some(_) => access::OVERWRITE,
        };
    }
    match row.command.access {
        [] if row.command.flags.has(Flags::WRITE) => access::UPDATE,
        [] => access::READ,
        all => all[nth.min(all.len() - 1)],
    }
}

/// The key specifications of a command: one, or two if it does different things to its keys.
fn write_key_specs(row: &Row, reply: &mut Reply) {
    let keys = row.command.keys;
    match () {
        () if keys == KeySpec::NONE => reply.set(0),
        () if row.command.access.len() > 1 && keys == KeySpec::TWO => {
            reply.set(2);
            write_key_spec(row, 0, KeySpec::ONE, reply);
            write_key_spec(row, 1, KeySpec { first: 2, last: 2, ..KeySpec::ONE }, reply);
        }
        () if row.command.access.len() > 1 && keys == KeySpec::ALL => {
            reply.set(2);
            write_key_spec(row, 0, KeySpec::ONE, reply);
            write_key_spec(row, 1, KeySpec { first: 2, ..KeySpec::ALL }, reply);
        }
        () => {
            let unknown = keys.patterns as usize;
            reply.set((keys.first > 0) as usize + (keys.count_at > 0) as usize + unknown);
            if keys.first > 0 {
                write_key_spec(row, 0, keys, reply);
            }
            if keys.count_at > 0 {
                write_counted_spec(row, keys, reply);
            }
            let of_patterns = [(NOTE_PATTERNS, access::READ), (NOTE_STORE, access::OVERWRITE)];
            of_patterns.iter().take(unknown).for_each(|(note, access)| write_unknown_spec(note, access, reply));
        }
    }
}

const NOTE_PATTERNS: &str = "For the optional BY/GET keyword. It is marked 'unknown' because the key names derive from the \
    content of the key we sort";
const NOTE_STORE: &str = "For the optional STORE keyword. It is marked 'unknown' because the keyword can appear anywhere in \
    the argument array";

/// A specification that only says that there are such keys.
fn write_unknown_spec(note: &str, access: access::Access, reply: &mut Reply) {
    reply.map(4);
    reply.bulk(b"notes");
    reply.bulk(note.as_bytes());
    reply.bulk(b"flags");
    write_names(access, reply);
    for part in ["begin_search", "find_keys"] {
        reply.bulk(part.as_bytes());
        reply.map(2);
        reply.bulk(b"type");
        reply.bulk(b"unknown");
        reply.bulk(b"spec");
        reply.map(0);
    }
}

fn write_counted_spec(row: &Row, keys: KeySpec, reply: &mut Reply) {
    write_search((keys.first > 0) as usize, row, keys.count_at, b"keynum", reply);
    reply.map(3);
    for (name, value) in [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)] {
        reply.bulk(name.as_bytes());
        reply.int(value);
    }
}

/// The part of a specification that says where to begin, and in which way the keys are found from there.
fn write_search(nth: usize, row: &Row, index: i16, find: &[u8], reply: &mut Reply) {
    reply.map(3);
    reply.bulk(b"flags");
    write_names(key_flags(row, nth, None), reply);
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"index");
    reply.bulk(b"spec");
    reply.map(1);
    reply.bulk(b"index");
    reply.int(index as i64);
    reply.bulk(b"find_keys");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(find);
    reply.bulk(b"spec");
}

fn write_key_spec(row: &Row, nth: usize, keys: KeySpec, reply: &mut Reply) {
    write_search(nth, row, keys.first, b"range", reply);
    reply.map(3);
    // Relative to the first key, unless it counts from the end.
    let last = if keys.last < 0 { keys.last } else { keys.last - keys.first };
    for (name, value) in [("lastkey", last), ("keystep", keys.step), ("limit", 0)] {
        reply.bulk(name.as_bytes());
        reply.int(value as i64);
    }
}

/// COMMAND DOCS [name ...]; unknown names are left out.
fn docs(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let rows: Vec<&Row> = match &args[2..] {
        [] => table().top().collect(),
        names => names.iter().filter_map(|name| table().lookup_full(name)).collect(),
    };
    write_docs(&rows, reply);
    Ok(Flow::Done)
}

fn write_docs<'a>(rows: &[&'a Row], reply: &mut Reply) {
    reply.map(rows.len());
    for row in rows {
        let command = row.command;
        let subs: Vec<&'a Row> = table().subs(row).iter().collect();
        reply.bulk(row.full_name.as_bytes());
        reply.map(4 + !subs.is_empty() as usize);
        for (name, text) in [
            ("summary", command.summary),
            ("since", command.since),
            ("group", command.group),
            ("complexity", command.complexity),
        ] {
            reply.bulk(name.as_bytes());
            reply.bulk(text.as_bytes());
        }
        if !subs.is_empty() {
            reply.bulk(b"subcommands");
            write_docs(&subs, reply);
        }
    }
}

/// COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN glob]. As in Redis, filters see subcommands too.
fn list(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let names: Vec<&str> = match &args[2..] {
        [] => table().top().map(|row| row.full_name.as_str()).collect(),
        [filterby, kind, value] if filterby.eq_ignore_ascii_case(b"filterby") => {
            let keep: Box<dyn Fn(&Row) -> bool> = if kind.eq_ignore_ascii_case(b"module") {
                Box::new(|_| false)
            } else if kind.eq_ignore_ascii_case(b"aclcat") {
                let category = acl::category(value);
                Box::new(move |row| category.is_some_and(|category| acl::is_in(row, category)))
            } else if kind.eq_ignore_ascii_case(b"pattern") {
                Box::new(|row| glob::matches_ignore_case(value, row.full_name.as_bytes()))
            } else {
                return Err(Error::Syntax);
            };
            table()
                .rows()
                .iter()
                .filter(|row| !row.is_internal() && keep(row))
                .map(|row| row.full_name.as_str())
                .collect()
        }
        _ => return Err(Error::Syntax),
    };
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(Flow::Done)
}

/// The row and the keys of the command in `args[2..]`.
fn keys_of<'a>(args: Args<'a>) -> Result<(&'static Row, Vec<&'a [u8]>), Error> {
    let inner = &args[2..];
    let row = table().resolve(inner).map_err(|_| Error::text("ERR Invalid command specified"))?;
    if row.command.keys == KeySpec::NONE || row.command.flags.has(Flags::PUBSUB) {
        return Err(Error::text("ERR The command has no key arguments"));
    }
    if !row.command.arity_ok(inner.len()) {
        return Err(Error::text("ERR Invalid number of arguments specified for command"));
    }
    if row.command.keys.count_at > 0 && row.command.keys.counted(inner).is_none() {
        return Err(Error::text("ERR Invalid arguments specified for command"));
    }
    Ok((row, row.command.keys.positions(inner).map(|at| inner[at]).collect()))
}

fn getkeys(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let (_, keys) = keys_of(args)?;
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
    Ok(Flow::Done)
}

fn getkeysandflags(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let (row, keys) = keys_of(args)?;
    reply.array(keys.len());
    for (nth, key) in keys.into_iter().enumerate() {
        reply.array(2);
        reply.bulk(key);
        write_names(key_flags(row, nth, Some(&args[2..])), reply);
    }
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;
    use crate::resp::Version;

    /// As redis-server 7.0.15 answers it; subcommands apart.
    const GET_INFO: &str = "*10|$3|get|:2|*2|+readonly|+fast|:1|:1|:1|*3|+@read|+@string|+@fast|*0|*1|*6|$5|flags|*2|+RO|\
        +access|$12|begin_search|*4|$4|type|$5|index|$4|spec|*2|$5|index|:1|$9|find_keys|*4|$4|type|$5|range|$4|spec|*6|\
        $7|lastkey|:0|$7|keystep|:1|$5|limit|:0|*0";
    const CONFIG_GET_INFO: &str = "*10|$10|config|get|:-3|*4|+admin|+noscript|+loading|+stale|:0|:0|:0|*3|+@admin|\
        +@slow|+@dangerous|*0|*0|*0";

    #[test]
    fn info_has_the_shape_of_redis() {
        let mut client = Client::new();
        client.expect("command info get nosuch", &format!("*2|{GET_INFO}|$-1"));
        client.expect("command info config|get", &format!("*1|{CONFIG_GET_INFO}"));
        let config = client.run("command info config");
        assert!(config.starts_with("*1|*10|$6|config|:-2|*0|:0|:0|:0|*1|+@slow|*0|*0|*5|*10|"), "{config}");
        assert!(config.contains(CONFIG_GET_INFO));
        client.session.version = Version::V3;
        let get = client.run("command info GET");
        assert!(
            get.starts_with("*1|*10|$3|get|:2|~2|+readonly|+fast|:1|:1|:1|~3|+@read|+@string|+@fast|~0|~1|%3|"),
            "{get}"
        );
        let mut everything = client.run("command");
        assert!(everything.starts_with(&format!("*{}|*10|", table().top().count())));
        everything = client.run("command info");
        assert!(everything.contains("$14|client|setname|"));
    }

    #[test]
    fn docs_tell_what_the_table_tells() {
        let mut client = Client::new();
        let get = table().lookup(b"get").unwrap().command;
        let body = format!(
            "$7|summary|${}|{}|$5|since|$5|1.0.0|$5|group|$6|string|$10|complexity|$4|O(1)",
            get.summary.len(),
            get.summary
        );
        client.expect("command docs get nosuch", &format!("*2|$3|get|*8|{body}"));
        client.session.version = Version::V3;
        client.expect("command docs get", &format!("%1|$3|get|%4|{body}"));
        assert!(client.run("command docs config").contains("$11|subcommands|%5|$10|config|get|%4|"));
        assert!(client.run("command docs").starts_with(&format!("%{}|", table().top().count())));
    }

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        for (line, reply) in [
            ("command getkeys get a", "*1|$1|a"),
            ("command getkeysandflags set a 1", "*1|*2|$1|a|*2|+OW|+update"),
            ("command getkeysandflags set a 1 get", "*1|*2|$1|a|*3|+RW|+access|+update"),
            ("command getkeys ping", "-ERR wrong number of arguments for 'command|getkeys' command"),
            ("command getkeys nosuch a", "-ERR Invalid command specified"),
            ("command getkeys ping x", "-ERR The command has no key arguments"),
            ("command getkeys get a b", "-ERR Invalid number of arguments specified for command"),
            ("command foo", "-ERR unknown subcommand 'foo'. Try COMMAND HELP."),
            ("command list filterby module x", "*0"),
            ("command list filterby pattern ge?", "*1|$3|get"),
            ("command list filterby aclcat nosuch", "*0"),
            ("command list filterby foo x", "-ERR syntax error"),
            ("command list filterby", "-ERR syntax error"),
            ("command count x", "-ERR wrong number of arguments for 'command|count' command"),
        ] {
            client.expect(line, reply);
        }
        assert!(client.run("command list filterby pattern config|*").contains("$10|config|get"));
        assert!(client.run("command list filterby aclcat STRING").contains("$3|get"));
        let count = table().top().count();
        client.expect("command count", &format!(":{count}"));
        assert!(client.run("command list").starts_with(&format!("*{count}|")));
    }
}
