//! Commands about the connection itself: PING, HELLO, AUTH, SELECT and their like.

use super::client::valid_name;
use super::session::ReplyMode;
use super::table::Row;
use super::{Args, Command, Flags, Flow, Home, Session};
use crate::resp::{Error, Reply, Version, number, shown};
use crate::state::{REDIS_VERSION, SERVER_NAME};

/// Any connection command may run before the data set is there.
const ALWAYS: Flags = Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE).or(Flags::FAST).or(Flags::CONNECTION);
const NO_AUTH: Flags = ALWAYS.or(Flags::NO_AUTH);
const PING: Flags = Flags::FAST.or(Flags::CONNECTION).or(Flags::PIPELINED).or(Flags::WHILE_SUBSCRIBED);
const LEAVE: Flags = NO_AUTH.or(Flags::WHILE_SUBSCRIBED);
const PLAIN: Flags = Flags::LOADING.or(Flags::STALE).or(Flags::FAST).or(Flags::CONNECTION);

pub static COMMANDS: &[Command] = &[
    Command::session("ping", -1, PING, ping).doc(
        "connection",
        "1.0.0",
        "O(1)",
        "Returns PONG, or the message that is given.",
    ),
    Command::session("echo", 2, PLAIN.or(Flags::PIPELINED), echo).doc(
        "connection",
        "1.0.0",
        "O(1)",
        "Returns the message that is given.",
    ),
    Command::session("hello", -1, NO_AUTH, hello).doc(
        "connection",
        "6.0.0",
        "O(1)",
        "Chooses the protocol version; can authenticate and name the connection at once.",
    ),
    Command::session("auth", -2, NO_AUTH, auth).doc("connection", "1.0.0", "O(1)", "Authenticates the connection."),
    Command::session("quit", -1, LEAVE, quit).doc("connection", "1.0.0", "O(1)", "Closes the connection."),
    Command::session("reset", 1, LEAVE, reset).doc(
        "connection",
        "6.2.0",
        "O(1)",
        "Puts the connection back into the state it began with.",
    ),
    Command::session("select", 2, PLAIN, select).doc("connection", "1.0.0", "O(1)", "Selects a database."),
];

/// A client that listens gets the form of a message.
fn ping(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    match args {
        [_] | [_, _] if home.session.only_listens() => {
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(args.get(1).copied().unwrap_or_default());
        }
        [_] => reply.simple("PONG"),
        [_, text] => reply.bulk(text),
        _ => return Err(Error::Arity("ping".into())),
    }
    Ok(Flow::Done)
}

fn echo(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.bulk(args[1]);
    Ok(Flow::Done)
}

/// HELLO [protover [AUTH username password] [SETNAME name]]. Nothing changes unless everything is in order.
fn hello(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let version = match args.get(1) {
        None => None,
        Some(text) => Some(match number::parse_i64(text) {
            Some(2) => Version::V2,
            Some(3) => Version::V3,
            Some(_) => return Err(Error::NoProto),
            None => return Err(Error::text("ERR Protocol version is not an integer or out of range")),
        }),
    };
    let (mut login, mut name) = (None, None);
    let mut rest = args.get(2..).unwrap_or_default();
    while let Some((option, values)) = rest.split_first() {
        match values {
            [user, password, after @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                login = Some((*user, *password));
                rest = after;
            }
            [text, after @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                valid_name(text)?;
                name = Some(*text);
                rest = after;
            }
            _ => return Err(Error::text(format!("ERR Syntax error in HELLO option '{}'", shown(option, 128)))),
        }
    }
    if let Some((user, password)) = login {
        log_in(home, user, password)?;
    }
    if !home.session.authenticated && !home.engine.config.requirepass.is_empty() {
        return Err(Error::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time",
        ));
    }
    if let Some(name) = name {
        home.session.name = Some(name.to_vec()).filter(|name| !name.is_empty());
    }
    if let Some(version) = version {
        home.session.version = version;
        reply.set_version(version);
    }
    let role = if home.engine.standing.replica { "replica" } else { "master" };
    write_hello(home.session, super::info::mode(&home.engine.config), role, reply);
    Ok(Flow::Done)
}

fn write_hello(session: &Session, mode: &str, role: &str, reply: &mut Reply) {
    reply.map(7);
    for (field, value) in [("server", SERVER_NAME), ("version", REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.int(if session.version == Version::V3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.int(session.id as i64);
    for (field, value) in [("mode", mode), ("role", role)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

/// AUTH password, AUTH user password.
fn auth(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    match args {
        [_, _] if home.engine.config.requirepass.is_empty() => {
            return Err(Error::text(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            ));
        }
        [_, password] => log_in(home, b"default", password)?,
        [_, user, password] => log_in(home, user, password)?,
        _ => return Err(Error::Syntax),
    }
    reply.ok();
    Ok(Flow::Done)
}

/// There is one user, `default`; without a configured password any password is right.
fn log_in(home: &mut Home, user: &[u8], password: &[u8]) -> Result<(), Error> {
    let wanted = home.engine.config.requirepass.as_bytes();
    if user == b"default" && (wanted.is_empty() || equal_in_constant_time(wanted, password)) {
        home.session.authenticated = true;
        return Ok(());
    }
    home.engine.auth_failures += 1;
    Err(Error::WrongPass)
}

/// Compares without telling by its duration how many bytes were right; the time depends on `given` alone.
fn equal_in_constant_time(secret: &[u8], given: &[u8]) -> bool {
    let mut differing = (secret.len() != given.len()) as u8;
    for (i, byte) in given.iter().enumerate() {
        differing |= byte ^ secret[i % secret.len()];
    }
    std::hint::black_box(differing) == 0
}

fn quit(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.ok();
    Ok(Flow::Close)
}

fn reset(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    super::pubsub::leave(home.engine, home.session);
    let session = &mut *home.session;
    let monitored = std::mem::take(&mut session.monitor);
    session.name = None;
    session.db = 0;
    session.version = Version::V2;
    session.authenticated = home.engine.config.requirepass.is_empty();
    session.no_evict = false;
    session.no_touch = false;
    session.readonly = false;
    session.multi = None;
    // A reply that is to be skipped is this one.
    if session.reply_mode == ReplyMode::Off {
        session.reply_mode = ReplyMode::On;
    }
    reply.set_version(Version::V2);
    reply.simple("RESET");
    if monitored {
        return Ok(Flow::Unmonitor);
    }
    Ok(Flow::Unqueue)
}

/// The database that is selected after this command, if it is a SELECT that will succeed.
pub fn selected_database(row: &Row, args: Args, databases: usize) -> Option<usize> {
    let index = if row.command.name == "select" { number::parse_i64(args.get(1)?)? } else { return None };
    usize::try_from(index).ok().filter(|&index| index < databases)
}

fn select(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let db = number::parse_i64(args[1]).ok_or(Error::NotInteger)?;
    if i32::try_from(db).is_err() {
        return Err(Error::text("ERR value is out of range, value must between -2147483648 and 2147483647"));
    }
    if db != 0 && home.engine.config.cluster_enabled {
        return Err(Error::NotInCluster("SELECT"));
    }
    if db < 0 || db as usize >= home.engine.config.databases {
        return Err(Error::DbRange);
    }
    home.session.db = db as usize;
    reply.ok();
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;
    use crate::config::Config;

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        client.expect("PING", "+PONG");
        client.expect("ping x", "$1|x");
        client.expect("PING a b", "-ERR wrong number of arguments for 'ping' command");
        client.expect("ECHO x", "$1|x");
        client.expect("ECHO", "-ERR wrong number of arguments for 'echo' command");
        client.expect("SELECT abc", "-ERR value is not an integer or out of range");
        client.expect("SELECT 16", "-ERR DB index is out of range");
        client.expect("SELECT -1", "-ERR DB index is out of range");
        client.expect(
            "SELECT 9999999999999",
            "-ERR value is out of range, value must between -2147483648 and 2147483647",
        );
        client.expect("SELECT 3", "+OK");
        assert_eq!(client.session.db, 3);
        client.expect("QUIT", "+OK");
        assert!(matches!(client.flow, Flow::Close));
    }

    #[test]
    fn hello_chooses_the_protocol() {
        let mut client = Client::new();
        let body = |v: i32| {
            format!(
                "$6|server|$5|redis|$7|version|${}|{REDIS_VERSION}|$5|proto|:{v}|$2|id|:1|$4|mode|$10|standalone|\
                 $4|role|$6|master|$7|modules|*0",
                REDIS_VERSION.len()
            )
        };
        client.expect("HELLO", &format!("*14|{}", body(2)));
        client.expect("HELLO 3 SETNAME me", &format!("%7|{}", body(3)));
        assert_eq!(client.session.version, Version::V3);
        assert_eq!(client.session.name.as_deref(), Some(&b"me"[..]));
        client.expect("HELLO", &format!("%7|{}", body(3)));
        client.expect("HELLO 4", "-NOPROTO unsupported protocol version");
        client.expect("HELLO abc", "-ERR Protocol version is not an integer or out of range");
        client.expect("HELLO 2 foo", "-ERR Syntax error in HELLO option 'foo'");
        client.expect("HELLO 2 auth", "-ERR Syntax error in HELLO option 'auth'");
        client.expect("HELLO 2 auth a b", "-WRONGPASS invalid username-password pair or user is disabled.");
        assert_eq!(client.session.version, Version::V3);
        client.expect("RESET", "+RESET");
        assert_eq!(client.session.version, Version::V2);
        assert_eq!(client.session.name, None);
    }

    #[test]
    fn without_a_password_auth_says_so() {
        let mut client = Client::new();
        client.expect(
            "AUTH foo",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?",
        );
        client.expect("AUTH default foo", "+OK");
        client.expect("AUTH foo bar", "-WRONGPASS invalid username-password pair or user is disabled.");
        client.expect("AUTH a b c", "-ERR syntax error");
        client.expect("AUTH", "-ERR wrong number of arguments for 'auth' command");
    }

    #[test]
    fn with_a_password_nothing_else_runs_first() {
        let mut client = Client::with(Config { requirepass: "secret".into(), ..Config::default() });
        client.session.authenticated = false;
        client.expect("PING", "-NOAUTH Authentication required.");
        client.expect("CLIENT ID", "-NOAUTH Authentication required.");
        // Redis looks at the name and the arguments first.
        client.expect("PING a b c", "-NOAUTH Authentication required.");
        client.expect("SELECT", "-ERR wrong number of arguments for 'select' command");
        client.expect("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with: ");
        assert!(client.run("HELLO 3").starts_with("-NOAUTH HELLO must be called with"));
        client.expect("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.");
        client.expect("AUTH secre", "-WRONGPASS invalid username-password pair or user is disabled.");
        client.expect("AUTH secretsecret", "-WRONGPASS invalid username-password pair or user is disabled.");
        client.expect("AUTH secret", "+OK");
        client.expect("PING", "+PONG");
        client.expect("RESET", "+RESET");
        client.expect("PING", "-NOAUTH Authentication required.");
        assert!(client.run("HELLO 2 AUTH default secret").starts_with("*14|"));
        client.expect("PING", "+PONG");
        assert_eq!(client.engine.auth_failures, 3);
        let ping = &client.engine.stats[crate::command::lookup(b"ping").unwrap().id as usize];
        assert_eq!((ping.calls, ping.rejected), (2, 3));
    }

    #[test]
    fn http_is_cut_off() {
        let mut client = Client::new();
        client.expect("POST / HTTP/1.1", "<disconnect>");
        client.expect("Host: localhost", "<disconnect>");
    }
}
