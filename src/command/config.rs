//! CONFIG: the configuration of the running node.
//!
//! A change is made once, in the store of the node, and then reaches every core by message; the reply leaves when all
//! cores work with it.

use super::log::{LogAnswer, LogAsk};
use super::{Args, Ask, Command, Flags, Flow, Home, help};
use crate::config::SetError;
use crate::resp::{Error, Reply};

const FLAGS: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::LOADING).or(Flags::STALE);

pub static COMMANDS: &[Command] = &[Command::container("config", -2, Flags::NONE, SUBCOMMANDS).doc(
    "server",
    "2.0.0",
    "Depends on subcommand.",
    "A container for server configuration commands.",
)];

static SUBCOMMANDS: &[Command] = &[
    Command::session("get", -3, FLAGS, get).doc(
        "server",
        "2.0.0",
        "O(N) in directives",
        "Returns the directives that match patterns.",
    ),
    help::row("server", Flags::NONE),
    Command::session("resetstat", 2, FLAGS, resetstat).doc("server", "2.0.0", "O(1)", "Starts the statistics again."),
    Command::session("rewrite", 2, FLAGS, rewrite).doc(
        "server",
        "2.8.0",
        "O(1)",
        "Writes the configuration in use to its file.",
    ),
    Command::session("set", -4, FLAGS, set).doc(
        "server",
        "2.0.0",
        "O(N) in directives",
        "Changes directives, all of them or none.",
    ),
];

/// CONFIG GET pattern [pattern ...]; a directive that several patterns match is told once.
fn get(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let config = &home.engine.config;
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for pattern in &args[2..] {
        for (name, value) in config.get_matching(pattern) {
            if !found.iter().any(|(known, _)| *known == name) {
                found.push((name, value));
            }
        }
    }
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(Flow::Done)
}

/// CONFIG SET directive value [directive value ...]
fn set(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let pairs = &args[2..];
    if !pairs.len().is_multiple_of(2) {
        return Err(Error::Syntax);
    }
    let pairs: Vec<(&[u8], &[u8])> = pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let is_member = home.engine.view_number() > 0;
    let configured = home.engine.node.config.change(|config| {
        let changed = config.set(&pairs)?;
        if is_member && changed.appendonly != config.appendonly {
            let why = "not on a member of a cluster of several nodes: start it with another value".into();
            return Err(SetError::Failed { name: "appendonly".into(), why });
        }
        crate::admin::apply(config, &changed)?;
        Ok::<_, SetError>(changed)
    })?;
    // The control core comes last: when it ends the log, no core takes writes any more that count on it.
    Ok(home.ask_all(Ask::Configure(configured), move |home, _answers, _reply| {
        Ok(home.ask_control_and_go_on(LogAsk::Configure, |home, answer, reply| match answer {
            LogAnswer::Failed(why) => no_log(home, why),
            _ => {
                reply.ok();
                Ok(Flow::Done)
            }
        }))
    }))
}

/// The log cannot begin: takes back that it is wanted, and says why.
fn no_log(home: &mut Home, why: String) -> Result<Flow, Error> {
    let configured = home.engine.node.config.change(|config| config.set(&[(b"appendonly", b"no")]))?;
    Ok(home.ask_all(Ask::Configure(configured), move |_home, _answers, _reply| {
        Err(SetError::Failed { name: "appendonly".into(), why }.into())
    }))
}

/// Writes under the store's lock, so that two rewrites cannot mix and none misses a change. The file is small and the
/// command rare: it may hold up this core for the time of a write.
fn rewrite(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    home.engine.node.config.with(|config| config.rewrite())?;
    reply.ok();
    Ok(Flow::Done)
}

fn resetstat(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_all(Ask::ResetStats, |_home, _answers, reply| {
        reply.ok();
        Ok(Flow::Done)
    }))
}

#[cfg(test)]
mod tests {
    use crate::command::transcript::Client;
    use crate::resp::Version;

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        for (line, reply) in [
            ("config", "-ERR wrong number of arguments for 'config' command"),
            ("config foo", "-ERR unknown subcommand 'foo'. Try CONFIG HELP."),
            ("config get", "-ERR wrong number of arguments for 'config|get' command"),
            ("config set maxclients", "-ERR wrong number of arguments for 'config|set' command"),
            ("config set maxclients 5 timeout", "-ERR syntax error"),
            ("config set nosuch 1", "-ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'"),
            ("config get nosuch", "*0"),
            ("config rewrite", "-ERR The server is running without a config file"),
            ("config resetstat x", "-ERR wrong number of arguments for 'config|resetstat' command"),
            ("config get maxclients maxcl*", "*2|$10|maxclients|$5|10000"),
        ] {
            client.expect(line, reply);
        }
        client.session.version = Version::V3;
        client.expect("config get maxclients", "%1|$10|maxclients|$5|10000");
    }

    #[test]
    fn changes_are_used_at_once_or_not_at_all() {
        let mut client = Client::new();
        client.expect("config set timeout 7 slowlog-log-slower-than 0", "+OK");
        client.expect("config get timeout", "*2|$7|timeout|$1|7");
        assert_eq!(client.engine.config.timeout_s, 7);
        assert!(!client.engine.slowlog.is_empty());
        assert!(client.run("config set timeout 8 maxclients abc").starts_with("-ERR CONFIG SET failed"));
        client.expect("config get timeout", "*2|$7|timeout|$1|7");
        // What the node has is what its next core starts with.
        assert_eq!(client.engine.node.config.latest().config.timeout_s, 7);
    }

    #[test]
    fn a_consumer_gets_the_events_that_the_directive_names() {
        let mut client = Client::new();
        client.engine.shard.events.enable(true);
        let told = |client: &mut Client, classes: &str, commands: &[&str]| {
            client.run_args(&[b"config", b"set", b"notify-keyspace-events", classes.as_bytes()]);
            commands.iter().for_each(|line| _ = client.run(line));
            client.engine.shard.events.drain().map(|event| event.name).collect::<Vec<_>>().join(" ")
        };
        let commands = ["set a 1 ex 100", "get b", "del a"];
        assert_eq!(told(&mut client, "", &commands), "");
        assert_eq!(told(&mut client, "KEAmn", &commands), "new set expire keymiss del");
        assert_eq!(told(&mut client, "E$m", &commands), "set keymiss");
        assert_eq!(told(&mut client, "g$", &commands), "");
    }

    #[test]
    fn an_older_change_does_not_undo_a_newer_one() {
        let mut client = Client::new();
        let change = |client: &Client, timeout_s| {
            let make = |c: &crate::config::Config| Ok::<_, ()>(crate::config::Config { timeout_s, ..c.clone() });
            client.engine.node.config.change(make).unwrap()
        };
        let (first, second) = (change(&client, 1), change(&client, 2));
        client.engine.answer(crate::command::Ask::Configure(second)).unwrap();
        client.engine.answer(crate::command::Ask::Configure(first)).unwrap();
        assert_eq!(client.engine.config.timeout_s, 2);
    }

    #[test]
    fn resetstat_starts_again() {
        let mut client = Client::new();
        client.run("ping");
        client.run("nosuch");
        client.engine.net.input_bytes = 5;
        client.engine.net.clients = 3;
        client.expect("config resetstat", "+OK");
        let snapshot = client.engine.snapshot();
        assert_eq!((snapshot.calls(), snapshot.errors.total(), snapshot.net.input_bytes), (0, 0, 0));
        assert_eq!(snapshot.net.clients, 3);
    }
}
