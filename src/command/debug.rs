//! DEBUG: for tests of this server, and of the clients of any. `enable-debug-command` says who may use it.

use std::time::Duration;

use super::log::{LogAnswer, LogAsk};
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, Session, help};
use crate::config::{Config, DebugCommand};
use crate::resp::{Error, Reply, number};
use crate::shard::digest::Digest;
use crate::streams::leader::handover::Stage;

const FLAGS: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::LOADING).or(Flags::STALE).or(Flags::PROTECTED);

pub static COMMANDS: &[Command] = &[Command::container("debug", -2, FLAGS, SUBCOMMANDS).doc(
    "server",
    "1.0.0",
    "Depends on subcommand.",
    "A container for debugging commands.",
)];

static SUBCOMMANDS: &[Command] = &[
    Command::session("digest", 2, FLAGS.or(Flags::NO_MULTI), digest).doc(
        "server",
        "1.0.0",
        "O(N) in bytes of all values",
        "Returns a number that two nodes have in common when their data are the same.",
    ),
    help::row("server", Flags::NONE),
    Command::session("protocol", 3, FLAGS, protocol).doc(
        "server",
        "6.0.0",
        "O(1)",
        "Answers with a reply of the type that is named, for those who write clients.",
    ),
    Command::session("set-active-expire", 3, FLAGS, set_active_expire).doc(
        "server",
        "3.0.0",
        "O(1)",
        "Sets whether keys expire (1) without being looked at, or not (0).",
    ),
    Command::session("sleep", 3, FLAGS, sleep).doc(
        "server",
        "1.0.0",
        "O(1)",
        "Holds up the core of this connection for so many seconds.",
    ),
    Command::session("stop-in-handover", 3, FLAGS, stop_in_handover).doc(
        "server",
        "1.0.0",
        "O(1)",
        "Stops the process, as SIGSTOP does, when a role that the node hands over has come to the step that is named.",
    ),
];

/// Whether a DEBUG command may run, as `enable-debug-command` says.
pub fn protected(config: &Config, session: &Session) -> Result<(), Error> {
    let local = session.unix_socket || session.addr.starts_with("127.") || session.addr.starts_with("[::1]:");
    match config.enable_debug_command {
        DebugCommand::Yes => Ok(()),
        DebugCommand::Local if local => Ok(()),
        DebugCommand::No | DebugCommand::Local => Err(Error::text(
            "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it \
             from a local connection, otherwise you need to set this option in the configuration file, and then \
             restart the server.",
        )),
    }
}

/// DEBUG DIGEST: forty hexadecimal digits, all of them 0 if there are no keys. Nothing else than with Redis counts, but the
/// digits are others. It is meant for a node at rest: what changes, or is in use by a transaction, may be in it or not.
fn digest(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_all(Ask::Digests, |home, answers, reply| {
        let mut databases = vec![Digest::default(); home.engine.shard.databases()];
        for answer in answers {
            let Answer::Digests(digests) = answer else { continue };
            for (all, digest) in databases.iter_mut().zip(digests) {
                *all = all.and(digest);
            }
        }
        let all = Digest::of_databases(&databases);
        reply.simple(&format!("{:08x}{all}", all.keys as u32));
        Ok(Flow::Done)
    }))
}

/// DEBUG PROTOCOL type: replies with the contents that tests of clients know from Redis.
fn protocol(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let name = args[2].to_ascii_lowercase();
    match name.as_slice() {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.int(12345),
        #[expect(clippy::approx_constant, reason = "it is what Redis answers")]
        b"double" => reply.double(3.141),
        b"bignum" => reply.big_number("1234567999999999999999999999999999999"),
        b"null" => reply.null(),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|n| reply.int(n));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|n| reply.int(n));
        }
        b"map" => {
            reply.map(3);
            for n in 0..3 {
                reply.int(n);
                reply.bool(n == 1);
            }
        }
        b"attrib" => {
            if reply.is_resp3() {
                reply.attribute(1);
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.int(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        b"push" if !reply.is_resp3() => return Err(Error::text("ERR RESP2 is not supported by this command")),
        b"push" => {
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.int(42);
            // A push is no reply: who waits for one gets this.
            reply.bulk(b"Some real reply following the push reply");
        }
        b"verbatim" => reply.verbatim(b"txt", b"This is a verbatim\nstring"),
        b"true" => reply.bool(true),
        b"false" => reply.bool(false),
        _ => {
            return Err(Error::text(
                "ERR Wrong protocol type name. Please use one of the following: \
                 string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(Flow::Done)
}

/// DEBUG SET-ACTIVE-EXPIRE 0|1. As in Redis, what is not a number is 0.
fn set_active_expire(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let on = number::parse_i64(args[2]).is_some_and(|on| on != 0);
    Ok(home.ask_all(Ask::ActiveExpiry(on), |_, _, reply| {
        reply.ok();
        Ok(Flow::Done)
    }))
}

/// Longest DEBUG SLEEP, s.
const SLEEP_S_MAX: f64 = 3600.0;

fn sleep(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let seconds = std::str::from_utf8(args[2]).ok().and_then(|text| text.parse::<f64>().ok());
    let seconds = seconds.filter(|s| s.is_finite() && *s >= 0.0).ok_or(Error::NotFloat)?;
    std::thread::sleep(Duration::from_secs_f64(seconds.min(SLEEP_S_MAX)));
    reply.ok();
    Ok(Flow::Done)
}

/// DEBUG STOP-IN-HANDOVER step|OFF: what a node is killed in ([`crate::streams::leader::handover`] says what the steps are).
fn stop_in_handover(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let named = |stage: &Stage| args[2].eq_ignore_ascii_case(stage.name().as_bytes());
    let stage = Stage::ALL.into_iter().find(named);
    if stage.is_none() && !args[2].eq_ignore_ascii_case(b"off") {
        return Err(Error::text("ERR a handover has no such step"));
    }
    Ok(home.ask_control(LogAsk::StopInHandover(stage), |answer, reply| match answer {
        LogAnswer::Failed(why) => Err(Error::text(format!("ERR {why}"))),
        _ => {
            reply.ok();
            Ok(())
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;
    use crate::resp::Version;

    fn debugged() -> Client {
        Client::with(Config { enable_debug_command: DebugCommand::Yes, ..Config::default() })
    }

    #[test]
    fn replies_of_every_type() {
        let mut client = debugged();
        for (name, two, three) in [
            ("integer", ":12345", ":12345"),
            ("double", "$5|3.141", ",3.141"),
            ("null", "$-1", "_"),
            ("set", "*3|:0|:1|:2", "~3|:0|:1|:2"),
            ("MAP", "*6|:0|:0|:1|:1|:2|:0", "%3|:0|#f|:1|#t|:2|#f"),
            ("true", ":1", "#t"),
            (
                "push",
                "-ERR RESP2 is not supported by this command",
                ">2|$16|server-cpu-usage|:42|$40|Some real reply following the push reply",
            ),
            (
                "attrib",
                "$39|Some real reply following the attribute",
                "|1|$14|key-popularity|*2|$7|key:123|:90|$39|Some real reply following the attribute",
            ),
        ] {
            for (version, reply) in [(Version::V2, two), (Version::V3, three)] {
                client.session.version = version;
                client.expect(&format!("debug protocol {name}"), reply);
            }
        }
        assert!(client.run("debug protocol nosuch").starts_with("-ERR Wrong protocol type name."));
    }

    #[test]
    fn digests_are_of_contents_in_their_databases() {
        let mut client = debugged();
        client.expect("debug digest", &format!("+{}", "0".repeat(40)));
        client.run("set a 1");
        let one = client.run("debug digest");
        assert_eq!(one.len(), 41);
        client.run("rpush l x y");
        let two = client.run("debug digest");
        assert_ne!(one, two);
        client.run("del l");
        assert_eq!(client.run("debug digest"), one);
        client.run("move a 1");
        assert_ne!(client.run("debug digest"), one, "another database");
        client.run("flushall");
        client.run("set a 2");
        client.run("set a 1");
        assert_eq!(client.run("debug digest"), one);
        client.run("flushall");
        client.expect("debug digest", &format!("+{}", "0".repeat(40)));
    }

    #[test]
    fn active_expiry_is_switched_by_debug() {
        let mut client = Client::with(Config { enable_debug_command: DebugCommand::Yes, ..Config::default() });
        client.expect("set key v px 5", "+OK");
        client.expect("debug set-active-expire 0", "+OK");
        assert_eq!(client.engine.next_expiry_ms(), crate::shard::NEVER_MS);
        client.expect("debug set-active-expire 1", "+OK");
        assert!(client.engine.next_expiry_ms() <= client.engine.shard.now_ms() + 5);
        assert!(client.run("debug set-active-expire").starts_with("-ERR wrong number of arguments"));
    }

    #[test]
    fn only_steps_of_handovers_are_stopped_in() {
        let mut client = debugged();
        client.expect("debug stop-in-handover nosuch", "-ERR a handover has no such step");
        assert!(client.run("debug stop-in-handover").starts_with("-ERR wrong number of arguments"));
    }

    #[test]
    fn debug_must_be_enabled() {
        let allowed = |setting, addr: &str| {
            let mut client = Client::with(Config { enable_debug_command: setting, ..Config::default() });
            client.session.addr = addr.into();
            let reply = client.run("debug sleep 0");
            assert!(reply == "+OK" || reply.starts_with("-ERR DEBUG command not allowed."), "{reply}");
            reply == "+OK"
        };
        assert!(allowed(DebugCommand::Yes, "10.0.0.1:5"));
        assert!(allowed(DebugCommand::Local, "127.0.0.1:5"));
        assert!(!allowed(DebugCommand::Local, "10.0.0.1:5"));
        assert!(!allowed(DebugCommand::No, "127.0.0.1:5"));
    }
}
