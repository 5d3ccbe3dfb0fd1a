//! CLIENT: what a connection tells about itself, and what one connection can do to others.

use super::session::{ClientFilter, ClientInfo, ClientKind, ReplyMode};
use super::{Answer, Args, Ask, Command, Flags, Flow, Home, help};
use crate::command::ask::Pause;
use crate::resp::{Error, Reply, number, shown};

const CLIENT: Flags = Flags::NOSCRIPT.or(Flags::LOADING).or(Flags::STALE).or(Flags::CONNECTION);
const ADMIN: Flags = CLIENT.or(Flags::ADMIN);

const fn sub(name: &'static str, arity: i16, flags: Flags, run: super::session::SessionFn) -> Command {
    Command::session(name, arity, flags, run)
}

pub static COMMANDS: &[Command] = &[Command::container("client", -2, Flags::NONE, SUBCOMMANDS).doc(
    "connection",
    "2.4.0",
    "Depends on subcommand.",
    "A container for client connection commands.",
)];

static SUBCOMMANDS: &[Command] = &[
    sub("caching", 3, CLIENT, caching).doc("connection", "6.0.0", "O(1)", "Chooses keys to track; needs tracking."),
    sub("durability", -2, CLIENT.or(Flags::DRAINS), super::log::client_durability).doc(
        "connection",
        "7.4.0",
        "O(1)",
        "Chooses what a reply means to this connection: executed, on disk, on replicas.",
    ),
    sub("getname", 2, CLIENT, getname).doc("connection", "2.6.9", "O(1)", "Returns the name of the connection."),
    sub("getredir", 2, CLIENT, getredir).doc("connection", "6.0.0", "O(1)", "Returns where tracking is redirected to."),
    help::row("connection", Flags::CONNECTION),
    sub("id", 2, CLIENT, id).doc("connection", "5.0.0", "O(1)", "Returns the id of the connection."),
    sub("info", 2, CLIENT, info).doc("connection", "6.2.0", "O(1)", "Returns a line about this connection."),
    sub("kill", -3, ADMIN, kill).doc("connection", "2.4.0", "O(N) in clients", "Disconnects clients."),
    sub("list", -2, ADMIN, list).doc("connection", "2.4.0", "O(N) in clients", "Returns a line about each connection."),
    sub("no-evict", 3, ADMIN, no_evict).doc(
        "connection",
        "7.0.0",
        "O(1)",
        "Protects the connection from being closed to save memory.",
    ),
    sub("no-touch", 3, CLIENT, no_touch).doc(
        "connection",
        "7.2.0",
        "O(1)",
        "Decides whether reads of this connection count as accesses.",
    ),
    sub("pause", -3, ADMIN, pause).doc(
        "connection",
        "3.0.0",
        "O(1)",
        "Holds back commands, or only writes, for a time.",
    ),
    sub("reply", 3, CLIENT, reply_mode).doc(
        "connection",
        "3.2.0",
        "O(1)",
        "Switches replies on, off, or off for one command.",
    ),
    sub("setinfo", 4, CLIENT, setinfo).doc(
        "connection",
        "7.2.0",
        "O(1)",
        "Tells the name or version of the client library.",
    ),
    sub("setname", 3, CLIENT, setname).doc("connection", "2.6.9", "O(1)", "Names the connection."),
    sub("tracking", -3, CLIENT, tracking).doc(
        "connection",
        "6.0.0",
        "O(1)",
        "Controls tracking for client side caches.",
    ),
    sub("trackinginfo", 2, CLIENT, trackinginfo).doc("connection", "6.2.0", "O(1)", "Tells how tracking is set up."),
    sub("unblock", -3, ADMIN, unblock).doc("connection", "5.0.0", "O(1)", "Ends the wait of a blocked client."),
    sub("unpause", 2, ADMIN, unpause).doc("connection", "6.2.0", "O(1)", "Ends the pause of all clients."),
];

fn id(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.int(home.session.id as i64);
    Ok(Flow::Done)
}

fn info(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let mut text = Vec::new();
    home.session.write_line(home.now_ms, &mut text);
    text.push(b'\n');
    reply.verbatim(b"txt", &text);
    Ok(Flow::Done)
}

/// CLIENT LIST [TYPE type] [ID id ...]
fn list(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let mut filter = ClientFilter::default();
    match &args[2..] {
        [] => {}
        [option, kind] if option.eq_ignore_ascii_case(b"type") => filter.kind = Some(client_kind(kind)?),
        [option, ids @ ..] if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            let parse = |id: &&[u8]| number::parse_i64(id).ok_or_else(|| Error::text("ERR Invalid client ID"));
            let ids: Vec<i64> = ids.iter().map(parse).collect::<Result<_, _>>()?;
            filter.ids = Some(ids.into_iter().filter_map(|id| u64::try_from(id).ok()).collect());
        }
        _ => return Err(Error::Syntax),
    }
    Ok(home.ask_all(Ask::Clients(filter), |home, answers, reply| {
        let mut clients: Vec<ClientInfo> = answers
            .into_iter()
            .flat_map(|answer| if let Answer::Clients(clients) = answer { clients } else { Vec::new() })
            .collect();
        clients.sort_unstable_by_key(|client| client.id);
        let mut text = Vec::new();
        for client in &clients {
            client.write_line(home.now_ms, &mut text);
            text.push(b'\n');
        }
        reply.verbatim(b"txt", &text);
        Ok(Flow::Done)
    }))
}

fn client_kind(name: &[u8]) -> Result<ClientKind, Error> {
    ClientKind::parse(name).ok_or_else(|| Error::text(format!("ERR Unknown client type '{}'", shown(name, 128))))
}

/// CLIENT KILL addr, or CLIENT KILL filter value [filter value ...].
fn kill(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    if let [_, _, addr] = args {
        let filter = ClientFilter { addr: Some(addr.to_vec()), ..ClientFilter::default() };
        return Ok(kill_matching(home, filter, false, true));
    }
    let mut filter = ClientFilter::default();
    let mut skip_me = true;
    for pair in args[2..].chunks(2) {
        let [option, value] = *pair else { return Err(Error::Syntax) };
        let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
        if is(b"id") {
            let id = number::parse_i64(value).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
            let id = id.ok_or_else(|| Error::text("ERR client-id should be greater than 0"))?;
            filter.ids = Some(vec![id]);
        } else if is(b"maxage") {
            let age = number::parse_i64(value).filter(|age| *age > 0);
            filter.min_age_s = Some(age.ok_or_else(|| Error::text("ERR maxage is not an integer or out of range"))?);
        } else if is(b"type") {
            filter.kind = Some(client_kind(value)?);
        } else if is(b"addr") {
            filter.addr = Some(value.to_vec());
        } else if is(b"laddr") {
            filter.laddr = Some(value.to_vec());
        } else if is(b"user") {
            // Every client is the one user that there is, so a right name excludes nobody.
            if value != b"default" {
                return Err(Error::text(format!("ERR No such user '{}'", shown(value, 128))));
            }
        } else if is(b"skipme") && value.eq_ignore_ascii_case(b"yes") {
            skip_me = true;
        } else if is(b"skipme") && value.eq_ignore_ascii_case(b"no") {
            skip_me = false;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok(kill_matching(home, filter, skip_me, false))
}

/// Kills all others on their cores. This client answers first, so it is never killed there: it closes itself.
fn kill_matching(home: &mut Home, filter: ClientFilter, skip_me: bool, old_form: bool) -> Flow {
    let me = !skip_me && filter.matches(home.session, home.now_ms);
    let ask = Ask::Kill { filter, except: Some(home.session.id) };
    home.ask_all(ask, move |_home, answers, reply| {
        let others: u64 = answers.iter().map(|answer| if let Answer::Count(n) = answer { *n } else { 0 }).sum();
        let killed = others + me as u64;
        match (old_form, killed) {
            (true, 0) => return Err(Error::text("ERR No such client")),
            (true, _) => reply.ok(),
            (false, _) => reply.int(killed as i64),
        }
        Ok(if me { Flow::Close } else { Flow::Done })
    })
}

fn getname(home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    match &home.session.name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    Ok(Flow::Done)
}

/// Names must not break the lines of CLIENT LIST: printable ASCII without spaces.
pub fn valid_name(name: &[u8]) -> Result<(), Error> {
    if name.iter().all(|b| (b'!'..=b'~').contains(b)) {
        return Ok(());
    }
    Err(Error::text("ERR Client names cannot contain spaces, newlines or special characters."))
}

fn setname(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    valid_name(args[2])?;
    home.session.name = Some(args[2].to_vec()).filter(|name| !name.is_empty());
    reply.ok();
    Ok(Flow::Done)
}

fn setinfo(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let (option, value) = (args[2], args[3]);
    let (field, name) = if option.eq_ignore_ascii_case(b"lib-name") {
        (&mut home.session.lib_name, "lib-name")
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        (&mut home.session.lib_ver, "lib-ver")
    } else {
        return Err(Error::text(format!("ERR Unrecognized option '{}'", shown(option, 128))));
    };
    if !value.iter().all(|b| (b'!'..=b'~').contains(b)) {
        return Err(Error::text(format!("ERR {name} cannot contain spaces, newlines or special characters.")));
    }
    *field = value.to_vec();
    reply.ok();
    Ok(Flow::Done)
}

fn on_or_off(value: &[u8]) -> Result<bool, Error> {
    match () {
        () if value.eq_ignore_ascii_case(b"on") => Ok(true),
        () if value.eq_ignore_ascii_case(b"off") => Ok(false),
        () => Err(Error::Syntax),
    }
}

fn no_evict(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    home.session.no_evict = on_or_off(args[2])?;
    reply.ok();
    Ok(Flow::Done)
}

fn no_touch(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    home.session.no_touch = on_or_off(args[2])?;
    reply.ok();
    Ok(Flow::Done)
}

/// Only ON is answered; the network layer drops what is not wanted.
fn reply_mode(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let mode = &mut home.session.reply_mode;
    if args[2].eq_ignore_ascii_case(b"on") {
        *mode = ReplyMode::On;
        reply.ok();
    } else if args[2].eq_ignore_ascii_case(b"off") {
        *mode = ReplyMode::Off;
    } else if args[2].eq_ignore_ascii_case(b"skip") {
        if *mode != ReplyMode::Off {
            *mode = ReplyMode::Skip { armed: false };
        }
    } else {
        return Err(Error::Syntax);
    }
    Ok(Flow::Done)
}

/// CLIENT PAUSE timeout-ms [WRITE | ALL]
fn pause(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let writes_only = match &args[3..] {
        [] => false,
        [mode] if mode.eq_ignore_ascii_case(b"all") => false,
        [mode] if mode.eq_ignore_ascii_case(b"write") => true,
        [_] => return Err(Error::text("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(Error::subcommand_syntax(args)),
    };
    let timeout_ms =
        number::parse_i64(args[2]).ok_or_else(|| Error::text("ERR timeout is not an integer or out of range"))?;
    if timeout_ms < 0 {
        return Err(Error::text("ERR timeout is negative"));
    }
    let until_ms = home.now_ms.checked_add(timeout_ms).ok_or_else(|| Error::text("ERR timeout is out of range"))?;
    Ok(home.ask_all(Ask::Pause(Some(Pause { until_ms, writes_only })), |_home, _answers, reply| {
        reply.ok();
        Ok(Flow::Done)
    }))
}

fn unpause(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_all(Ask::Pause(None), |_home, _answers, reply| {
        reply.ok();
        Ok(Flow::Done)
    }))
}

fn unblock(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let error = match &args[3..] {
        [] => false,
        [how] if how.eq_ignore_ascii_case(b"timeout") => false,
        [how] if how.eq_ignore_ascii_case(b"error") => true,
        [_] => return Err(Error::text("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => return Err(Error::subcommand_syntax(args)),
    };
    let Ok(id) = u64::try_from(number::parse_i64(args[2]).ok_or(Error::NotInteger)?) else {
        reply.int(0);
        return Ok(Flow::Done);
    };
    Ok(home.ask_all(Ask::Unblock { id, error }, |_home, answers, reply| {
        let unblocked = answers.iter().any(|answer| matches!(answer, Answer::Count(1..)));
        reply.int(unblocked as i64);
        Ok(Flow::Done)
    }))
}

/// Tracking is not offered: a client that asks for it is told so, and falls back to reading.
fn tracking(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    if on_or_off(args[2])? {
        return Err(Error::text("ERR client side caching (CLIENT TRACKING) is not supported"));
    }
    reply.ok();
    Ok(Flow::Done)
}

fn trackinginfo(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.bulk(b"off");
    reply.bulk(b"redirect");
    reply.int(-1);
    reply.bulk(b"prefixes");
    reply.array(0);
    Ok(Flow::Done)
}

fn caching(_home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Err(Error::text(
        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
    ))
}

fn getredir(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    reply.int(-1);
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::{Client, NOW_MS};
    use crate::resp::Version;

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        for (line, reply) in [
            ("CLIENT", "-ERR wrong number of arguments for 'client' command"),
            ("CLIENT foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP."),
            ("client id x", "-ERR wrong number of arguments for 'client|id' command"),
            ("client id", ":1"),
            ("client reply foo", "-ERR syntax error"),
            ("client list type foo", "-ERR Unknown client type 'foo'"),
            ("client list id", "-ERR syntax error"),
            ("client list id x", "-ERR Invalid client ID"),
            ("client list id 5 6", "$0|"),
            ("client list foo", "-ERR syntax error"),
            ("client list type replica", "$0|"),
            ("client setname ok", "+OK"),
            ("client getname", "$2|ok"),
            ("client setinfo lib-name lib", "+OK"),
            ("client setinfo lib-ver 1.2", "+OK"),
            ("client setinfo foo x", "-ERR Unrecognized option 'foo'"),
            ("client pause abc", "-ERR timeout is not an integer or out of range"),
            ("client pause -1", "-ERR timeout is negative"),
            ("client pause 10 foo", "-ERR CLIENT PAUSE mode must be WRITE or ALL"),
            ("client no-evict maybe", "-ERR syntax error"),
            ("client no-evict on", "+OK"),
            ("client no-touch on", "+OK"),
            ("client tracking foo", "-ERR syntax error"),
            ("client tracking off", "+OK"),
            ("client trackinginfo", "*6|$5|flags|*1|$3|off|$8|redirect|:-1|$8|prefixes|*0"),
            ("client getredir", ":-1"),
            ("client unblock 5", ":0"),
            ("client unblock x", "-ERR value is not an integer or out of range"),
            ("client unblock 1 foo", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
            ("client reply on", "+OK"),
        ] {
            client.expect(line, reply);
        }
        let info = client.run("client info");
        assert!(info.contains(" name=ok "), "{info}");
        assert!(info.contains(" age=5 idle=0 flags=eT ") && info.contains(" cmd=client|info "), "{info}");
        assert!(info.ends_with("lib-name=lib lib-ver=1.2\n"), "{info}");
        assert_eq!(
            client.run_args(&[b"client", b"setname", b"a b"]),
            "-ERR Client names cannot contain spaces, newlines or special characters."
        );
        assert_eq!(client.run_args(&[b"client", b"setname", b""]), "+OK");
        client.expect("client getname", "$-1");
        client.session.version = Version::V3;
        assert!(client.run("client list").starts_with('='));
        client.expect("client trackinginfo", "%3|$5|flags|~1|$3|off|$8|redirect|:-1|$8|prefixes|*0");
    }

    #[test]
    fn kill_has_two_forms() {
        let mut client = Client::new();
        for (line, reply) in [
            ("client kill 1.2.3.4:5", "-ERR No such client"),
            ("client kill id abc", "-ERR client-id should be greater than 0"),
            ("client kill id 0", "-ERR client-id should be greater than 0"),
            ("client kill type foo", "-ERR Unknown client type 'foo'"),
            ("client kill user nosuch", "-ERR No such user 'nosuch'"),
            ("client kill skipme maybe", "-ERR syntax error"),
            ("client kill id 5 skipme", "-ERR syntax error"),
            ("client kill foo bar", "-ERR syntax error"),
            ("client kill id 99999", ":0"),
            ("client kill id 1", ":0"),
            ("client kill addr 127.0.0.1:5000 type normal user default", ":0"),
        ] {
            client.expect(line, reply);
            assert!(matches!(client.flow, Flow::Done), "{line}");
        }
        let Some(Ask::Kill { filter, except }) = client.asked.last() else { panic!("nobody was asked") };
        assert_eq!(*except, Some(1));
        assert_eq!(filter.addr.as_deref(), Some(&b"127.0.0.1:5000"[..]));
        assert_eq!(filter.kind, Some(ClientKind::Normal));
        for line in ["client kill 127.0.0.1:5000", "client kill id 1 skipme no", "client kill maxage 5 skipme no"] {
            let reply = client.run(line);
            assert!(reply == "+OK" || reply == ":1", "{line}: {reply}");
            assert!(matches!(client.flow, Flow::Close), "{line}");
        }
        client.expect("client kill maxage 6 skipme no", ":0");
    }

    #[test]
    fn pauses_reach_every_core() {
        let mut client = Client::new();
        client.expect("client pause 100 write", "+OK");
        client.expect("client unpause", "+OK");
        let [Ask::Pause(Some(pause)), Ask::Pause(None)] = &client.asked[..] else { panic!("{:?}", client.asked) };
        assert_eq!(*pause, Pause { until_ms: NOW_MS + 100, writes_only: true });
    }

    #[test]
    fn reply_modes() {
        let mut client = Client::new();
        client.expect("client reply skip", "");
        assert_eq!(client.session.reply_mode, ReplyMode::Skip { armed: false });
        client.expect("client reply off", "");
        client.expect("client reply skip", "");
        assert_eq!(client.session.reply_mode, ReplyMode::Off);
        client.expect("client reply on", "+OK");
        assert_eq!(client.session.reply_mode, ReplyMode::On);
    }
}
