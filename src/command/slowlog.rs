//! SLOWLOG: commands that took long.
//!
//! Each core keeps the newest entries of what it executed; reading merges them. Ids come from one counter of the node,
//! so they are unique and ascend in the order in which commands ended.

use super::monitor::{REDACTED, is_secret};
use super::session::ClientFilter;
use super::table::Row;
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, help};
use crate::engine::Origin;
use crate::resp::{Error, Reply, number};

/// Arguments of a command that are kept, and bytes of one argument.
const ARGS_MAX: usize = 32;
const ARG_BYTES_MAX: usize = 128;

/// Entries that SLOWLOG GET returns if no number is given.
const GET_DEFAULT: usize = 10;

/// One slow command.
#[derive(Clone, Debug)]
pub struct SlowlogEntry {
    pub id: u64,
    pub unix_s: i64,
    pub micros: u64,
    pub args: Vec<Vec<u8>>,
    pub client_id: u64,
    /// Empty for a client of another core until the entry is shown, and if that client has gone by then.
    pub addr: String,
    pub name: Vec<u8>,
}

impl SlowlogEntry {
    /// Notes a command; long ones are cut and passwords left out.
    pub fn new(id: u64, unix_s: i64, micros: u64, row: &Row, args: Args, origin: Origin) -> Self {
        let mut kept: Vec<Vec<u8>> = Vec::with_capacity(args.len().min(ARGS_MAX));
        for (index, arg) in args.iter().enumerate() {
            if index == ARGS_MAX - 1 && args.len() > ARGS_MAX {
                kept.push(format!("... ({} more arguments)", args.len() - index).into_bytes());
                break;
            }
            let arg = if is_secret(row, args, index) { REDACTED } else { arg };
            let mut text = arg[..arg.len().min(ARG_BYTES_MAX)].to_vec();
            if arg.len() > ARG_BYTES_MAX {
                text.extend_from_slice(format!("... ({} more bytes)", arg.len() - ARG_BYTES_MAX).as_bytes());
            }
            kept.push(text);
        }
        let (client_id, addr, name) = match origin {
            Origin::Client(session) => (session.id, session.addr.clone(), session.name.clone().unwrap_or_default()),
            Origin::Forwarded(client_id) => (client_id, String::new(), Vec::new()),
        };
        SlowlogEntry { id, unix_s, micros, args: kept, client_id, addr, name }
    }
}

/// The log does not tell of its own readers: their entries would push out the ones that they came for.
const FLAGS: Flags = Flags::ADMIN.or(Flags::LOADING).or(Flags::STALE).or(Flags::SKIP_SLOWLOG);

pub static COMMANDS: &[Command] = &[Command::container("slowlog", -2, Flags::NONE, SUBCOMMANDS).doc(
    "server",
    "2.2.12",
    "Depends on subcommand.",
    "A container for slow log commands.",
)];

static SUBCOMMANDS: &[Command] = &[
    Command::session("get", -2, FLAGS, get).doc(
        "server",
        "2.2.12",
        "O(N) in entries",
        "Returns the newest slow commands.",
    ),
    help::row("server", Flags::NONE),
    Command::session("len", 2, FLAGS, len).doc(
        "server",
        "2.2.12",
        "O(N) in cores",
        "Returns the number of slow commands kept.",
    ),
    Command::session("reset", 2, FLAGS, reset).doc("server", "2.2.12", "O(N) in entries", "Forgets all slow commands."),
];

/// SLOWLOG GET [count]; -1 is all.
fn get(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let count = match &args[2..] {
        [] => GET_DEFAULT,
        [text] => match number::parse_i64(text) {
            Some(-1) => usize::MAX,
            Some(count) if count >= 0 => count as usize,
            _ => return Err(Error::text("ERR count should be greater than or equal to -1")),
        },
        _ => return Err(Error::subcommand_syntax(args)),
    };
    let count = count.min(home.engine.config.slowlog_max_len);
    Ok(home.ask_all(Ask::Slowlog(count), move |home, answers, reply| {
        let mut entries: Vec<SlowlogEntry> = answers
            .into_iter()
            .flat_map(|answer| if let Answer::Slowlog(entries) = answer { entries } else { Vec::new() })
            .collect();
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.id));
        entries.truncate(count);
        let unknown: Vec<u64> = entries.iter().filter(|e| e.addr.is_empty()).map(|e| e.client_id).collect();
        if unknown.is_empty() {
            write(&entries, reply);
            return Ok(Flow::Done);
        }
        let filter = ClientFilter { ids: Some(unknown), ..ClientFilter::default() };
        Ok(home.ask_all(Ask::Clients(filter), move |_home, answers, reply| {
            name_clients(&mut entries, answers);
            write(&entries, reply);
            Ok(Flow::Done)
        }))
    }))
}

/// Fills in address and name of the clients of other cores.
fn name_clients(entries: &mut [SlowlogEntry], answers: Vec<Answer>) {
    for answer in answers {
        let Answer::Clients(clients) = answer else { continue };
        for client in clients {
            for entry in entries.iter_mut().filter(|e| e.client_id == client.id && e.addr.is_empty()) {
                entry.addr.clone_from(&client.addr);
                entry.name = client.name.clone().unwrap_or_default();
            }
        }
    }
}

fn write(entries: &[SlowlogEntry], reply: &mut Reply) {
    reply.array(entries.len());
    for entry in entries {
        reply.array(6);
        reply.int(entry.id as i64);
        reply.int(entry.unix_s);
        reply.int(entry.micros as i64);
        reply.array(entry.args.len());
        entry.args.iter().for_each(|arg| reply.bulk(arg));
        reply.bulk(entry.addr.as_bytes());
        reply.bulk(&entry.name);
    }
}

fn len(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let most = home.engine.config.slowlog_max_len;
    Ok(home.ask_all(Ask::SlowlogLen, move |_home, answers, reply| {
        let sum: u64 = answers.iter().map(|answer| if let Answer::Count(n) = answer { *n } else { 0 }).sum();
        reply.int(sum.min(most as u64) as i64);
        Ok(Flow::Done)
    }))
}

fn reset(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_all(Ask::SlowlogReset, |_home, _answers, reply| {
        reply.ok();
        Ok(Flow::Done)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table;
    use crate::command::transcript::{Client, NOW_MS};
    use crate::config::Config;

    fn everything_is_slow() -> Client {
        Client::with(Config { slowlog_log_slower_than_us: 0, slowlog_max_len: 3, ..Config::default() })
    }

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        for (line, reply) in [
            ("slowlog", "-ERR wrong number of arguments for 'slowlog' command"),
            ("slowlog foo", "-ERR unknown subcommand 'foo'. Try SLOWLOG HELP."),
            ("slowlog get abc", "-ERR count should be greater than or equal to -1"),
            ("slowlog get -2", "-ERR count should be greater than or equal to -1"),
            ("slowlog get 0", "*0"),
            ("slowlog get", "*0"),
            ("slowlog len", ":0"),
            ("slowlog reset", "+OK"),
        ] {
            client.expect(line, reply);
        }
    }

    #[test]
    fn slow_commands_are_kept_newest_first() {
        let mut client = everything_is_slow();
        client.run("client setname me");
        client.expect("echo 1", "$1|1");
        client.expect("echo 2", "$1|2");
        client.expect("slowlog len", ":3");
        let log = client.run("slowlog get 1");
        let micros: u64 = log.split('|').nth(4).and_then(|line| line[1..].parse().ok()).unwrap();
        let unix_s = NOW_MS / 1000;
        let entry = format!("*1|*6|:2|:{unix_s}|:{micros}|*2|$4|echo|$1|2|$14|127.0.0.1:5000|$2|me");
        assert_eq!(log, entry);
        // Older entries make room.
        client.expect("echo 3", "$1|3");
        let log = client.run("slowlog get -1");
        assert!(log.starts_with("*3|*6|:3|") && log.contains("|*6|:1|") && !log.contains("|*6|:0|"), "{log}");
        client.run("auth default hunter2");
        assert!(client.run("slowlog get 1").contains("|*3|$4|auth|$10|(redacted)|$10|(redacted)|"));
        client.expect("slowlog reset", "+OK");
        client.expect("slowlog len", ":0");
        client.run("echo 4");
        assert!(client.run("slowlog get").starts_with("*1|*6|:5|"));
    }

    #[test]
    fn a_negative_threshold_logs_nothing() {
        let mut client = Client::with(Config { slowlog_log_slower_than_us: -1, ..Config::default() });
        client.run("ping");
        client.expect("slowlog len", ":0");
    }

    #[test]
    fn long_commands_are_cut() {
        let row = table().lookup(b"echo").unwrap();
        let long = [b'x'; ARG_BYTES_MAX + 3];
        let args: Vec<&[u8]> = std::iter::once(&b"echo"[..]).chain(std::iter::repeat_n(&long[..], 39)).collect();
        let entry = SlowlogEntry::new(1, 2, 3, row, &args, Origin::Forwarded(9));
        assert_eq!(entry.args.len(), ARGS_MAX);
        assert_eq!(entry.args[31], b"... (9 more arguments)");
        assert_eq!(entry.args[1].len(), ARG_BYTES_MAX + "... (3 more bytes)".len());
        assert!(entry.args[1].ends_with(b"x... (3 more bytes)"));
        let entry = SlowlogEntry::new(1, 2, 3, row, &args[..ARGS_MAX], Origin::Forwarded(9));
        assert_eq!(entry.args.len(), ARGS_MAX);
        assert!(entry.args[31].starts_with(b"xxx"));
    }

    #[test]
    fn clients_of_other_cores_are_looked_up() {
        let mut client = everything_is_slow();
        client.session.name = Some(b"me".to_vec());
        let row = table().lookup(b"echo").unwrap();
        for id in [1, 77] {
            let args: &[&[u8]] = &[b"echo", b"x"];
            client.engine.slowlog.push_front(SlowlogEntry::new(id, 2, 3, row, args, Origin::Forwarded(id)));
        }
        let log = client.run("slowlog get");
        assert!(log.contains("|*6|:1|:2|:3|*2|$4|echo|$1|x|$14|127.0.0.1:5000|$2|me"), "{log}");
        assert!(log.contains("|*6|:77|:2|:3|*2|$4|echo|$1|x|$0||$0|"), "{log}");
    }
}
