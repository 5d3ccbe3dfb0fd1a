//! Publish/subscribe: SUBSCRIBE and its like, PUBLISH, SPUBLISH, PUBSUB.
//!
//! A subscription is a matter of the connection and its core; a message has to reach every core with subscribers. PUBLISH
//! runs on the core of the publisher and on those others ([`Reach::Listeners`]): each delivers to its own subscribers and
//! answers with their number, and the numbers are added. Nothing here waits for a subscriber.

use super::table::{Merge, Reach};
use super::{Answer, Args, Ask, Command, Ctx, Flags, Flow, Home, KeySpec, Session, glob, help};
use crate::command::table::access;
use crate::engine::Engine;
use crate::pubsub::{Counts, Kind, MATCH_STEPS_MAX, Name};
use crate::resp::{Error, Reply};
use crate::route::{CoreId, slot_of};

const PUBSUB: Flags = Flags::PUBSUB.or(Flags::LOADING).or(Flags::STALE);
const PUBLISH: Flags = PUBSUB.or(Flags::FAST).or(Flags::MAY_REPLICATE);
const SUBSCRIBE: Flags = PUBSUB.or(Flags::NOSCRIPT).or(Flags::WHILE_SUBSCRIBED);
const GROUP: &str = "pubsub";

/// How the numbers of receivers on several cores become one.
pub const MERGE: Merge = Merge::Sum;

pub static COMMANDS: &[Command] = &[
    Command::keyspace("publish", 3, PUBLISH, KeySpec::NONE, publish).reach(Reach::Listeners(Kind::Channel)).doc(
        GROUP,
        "2.0.0",
        "O(N+M), N being the subscribers of the channel and M all patterns.",
        "Sends a message to the subscribers of a channel.",
    ),
    Command::keyspace("spublish", 3, PUBLISH, KeySpec::ONE, spublish)
        .reach(Reach::Listeners(Kind::Shard))
        .access(&[access::NOT_KEY])
        .doc(
            GROUP,
            "7.0.0",
            "O(N), N being the subscribers of the channel.",
            "Sends a message to the subscribers of a shard channel.",
        ),
    Command::session("subscribe", -2, SUBSCRIBE, subscribe).doc(GROUP, "2.0.0", O_CHANNELS, "Subscribes to channels."),
    Command::session("unsubscribe", -1, SUBSCRIBE, unsubscribe).doc(
        GROUP,
        "2.0.0",
        O_CHANNELS,
        "Ends subscriptions to channels, or to all of them.",
    ),
    Command::session("psubscribe", -2, SUBSCRIBE, psubscribe).doc(
        GROUP,
        "2.0.0",
        "O(N), N being the number of patterns.",
        "Subscribes to all channels that match a pattern.",
    ),
    Command::session("punsubscribe", -1, SUBSCRIBE, punsubscribe).doc(
        GROUP,
        "2.0.0",
        "O(N), N being the number of patterns.",
        "Ends subscriptions to patterns, or to all of them.",
    ),
    Command::session("ssubscribe", -2, SUBSCRIBE, ssubscribe).keys(KeySpec::ALL).access(&[access::NOT_KEY]).doc(
        GROUP,
        "7.0.0",
        O_CHANNELS,
        "Subscribes to shard channels.",
    ),
    Command::session("sunsubscribe", -1, SUBSCRIBE, sunsubscribe).keys(KeySpec::ALL).access(&[access::NOT_KEY]).doc(
        GROUP,
        "7.0.0",
        O_CHANNELS,
        "Ends subscriptions to shard channels, or to all of them.",
    ),
    Command::container("pubsub", -2, Flags::NONE, SUBCOMMANDS).doc(
        GROUP,
        "2.8.0",
        "Depends on subcommand.",
        "A container for commands that look at subscriptions.",
    ),
];

const O_CHANNELS: &str = "O(N), N being the number of channels.";

static SUBCOMMANDS: &[Command] = &[
    Command::session("channels", -2, PUBSUB, channels).doc(
        GROUP,
        "2.8.0",
        "O(N), N being the number of channels with subscribers.",
        "Lists the channels with subscribers.",
    ),
    help::row(GROUP, Flags::NONE),
    Command::session("numpat", 2, PUBSUB, numpat).doc(GROUP, "2.8.0", "O(N) in patterns", "Counts the patterns."),
    Command::session("numsub", -2, PUBSUB, numsub).doc(
        GROUP,
        "2.8.0",
        O_CHANNELS,
        "Counts the subscribers of channels, without those of patterns.",
    ),
    Command::session("shardchannels", -2, PUBSUB, shardchannels).doc(
        GROUP,
        "7.0.0",
        "O(N), N being the number of shard channels with subscribers.",
        "Lists the shard channels with subscribers.",
    ),
    Command::session("shardnumsub", -2, PUBSUB, shardnumsub).doc(
        GROUP,
        "7.0.0",
        O_CHANNELS,
        "Counts the subscribers of shard channels.",
    ),
];

/// PUBLISH channel message: one core's part of it.
fn publish(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let shared = ctx.owned.get(2);
    reply.int(ctx.pubsub.publish(Kind::Channel, args[1], args[2], shared.as_ref()) as i64);
    Ok(())
}

/// SPUBLISH channel message: one core's part of it.
fn spublish(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    let shared = ctx.owned.get(2);
    reply.int(ctx.pubsub.publish(Kind::Shard, args[1], args[2], shared.as_ref()) as i64);
    Ok(())
}

/// Publishes on behalf of a command that is no PUBLISH of its own (one inside a transaction): delivers on this core and
/// returns how many received it here, and the questions for the other cores concerned, each to be answered with
/// [`Answer::Count`]. They have to be asked in this order and before anything else that the same client publishes.
pub fn publish_from(engine: &mut Engine, kind: Kind, channel: &[u8], payload: &[u8]) -> (u64, Vec<(CoreId, Ask)>) {
    let receivers = engine.pubsub.publish(kind, channel, payload, None);
    let ask = |core| (core, Ask::Publish { kind, channel: channel.to_vec(), payload: payload.to_vec() });
    (receivers, engine.pubsub.interest().cores_of(kind, channel).map(ask).collect())
}

fn subscribe(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    subscribe_to(home, Kind::Channel, &args[1..], reply)
}

fn psubscribe(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    subscribe_to(home, Kind::Pattern, &args[1..], reply)
}

fn ssubscribe(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    subscribe_to(home, Kind::Shard, &args[1..], reply)
}

fn unsubscribe(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    unsubscribe_from(home, Kind::Channel, &args[1..], reply)
}

fn punsubscribe(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    unsubscribe_from(home, Kind::Pattern, &args[1..], reply)
}

fn sunsubscribe(home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    unsubscribe_from(home, Kind::Shard, &args[1..], reply)
}

/// The confirmation is a promise that messages published from now on arrive, so the other cores hear of it first, unless
/// they know already.
fn subscribe_to(home: &mut Home, kind: Kind, names: &[&[u8]], reply: &mut Reply) -> Result<Flow, Error> {
    let untold = home.engine.pubsub.reserve(kind, names);
    if untold.is_empty() {
        return Ok(confirm(home, kind, names, reply));
    }
    let names: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    let me = home.engine.router.me();
    let others = (0..home.engine.router.cores()).filter(|&core| core != me);
    let questions = others.map(|core| (core, Ask::Listen { core: me, buckets: untold.clone() })).collect();
    let finish = move |home: &mut Home, _: Vec<Answer>, reply: &mut Reply| {
        home.engine.pubsub.told(&untold);
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        Ok(confirm(home, kind, &names, reply))
    };
    Ok(Flow::Ask(questions, Box::new(finish)))
}

/// Subscribes to names that were reserved, and confirms each.
fn confirm(home: &mut Home, kind: Kind, names: &[&[u8]], reply: &mut Reply) -> Flow {
    let word = match kind {
        Kind::Channel => "subscribe",
        Kind::Pattern => "psubscribe",
        Kind::Shard => "ssubscribe",
    };
    for name in names {
        home.session.subscribed = home.engine.pubsub.subscribe(home.session.place, kind, name);
        write_confirmation(word, kind, Some(name), home.session.subscribed, reply);
    }
    home.engine.listeners_changed();
    Flow::Pushed
}

/// Without names: from all of this kind.
fn unsubscribe_from(home: &mut Home, kind: Kind, names: &[&[u8]], reply: &mut Reply) -> Result<Flow, Error> {
    let word = match kind {
        Kind::Channel => "unsubscribe",
        Kind::Pattern => "punsubscribe",
        Kind::Shard => "sunsubscribe",
    };
    let place = home.session.place;
    let all = if names.is_empty() { home.engine.pubsub.registry().names_of(place, kind) } else { Vec::new() };
    if names.is_empty() && all.is_empty() {
        write_confirmation(word, kind, None, home.session.subscribed, reply);
    }
    for name in names.iter().copied().chain(all.iter().map(Name::bytes)) {
        home.session.subscribed = home.engine.pubsub.unsubscribe(place, kind, name);
        write_confirmation(word, kind, Some(name), home.session.subscribed, reply);
    }
    home.engine.listeners_changed();
    Ok(Flow::Pushed)
}

fn write_confirmation(word: &str, kind: Kind, name: Option<&[u8]>, counts: Counts, reply: &mut Reply) {
    reply.push(3);
    reply.bulk(word.as_bytes());
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.int(counts.told(kind) as i64);
}

/// Ends a connection's subscriptions to shard channels of slots that this node does not lead any more, and says so.
pub fn leave_lost(engine: &mut Engine, session: &mut Session, reply: &mut Reply) {
    let Some(view) = engine.view.clone() else { return };
    for name in engine.pubsub.registry().names_of(session.place, Kind::Shard) {
        if !view.is_leader(view.partition_of(slot_of(name.bytes()))) {
            session.subscribed = engine.pubsub.unsubscribe(session.place, Kind::Shard, name.bytes());
            write_confirmation("sunsubscribe", Kind::Shard, Some(name.bytes()), session.subscribed, reply);
        }
    }
    engine.listeners_changed();
}

/// Ends all subscriptions of a connection.
pub fn leave(engine: &mut Engine, session: &mut Session) {
    if session.subscribed.any() {
        session.subscribed = Counts::default();
        engine.pubsub.leave(session.place);
        engine.listeners_changed();
    }
}

/// PUBSUB CHANNELS [pattern]
fn channels(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    list(home, Kind::Channel, args)
}

/// PUBSUB SHARDCHANNELS [pattern]
fn shardchannels(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    list(home, Kind::Shard, args)
}

fn list(home: &mut Home, kind: Kind, args: Args) -> Result<Flow, Error> {
    let pattern = match &args[2..] {
        [] => None,
        [pattern] => Some(pattern.to_vec()),
        _ => return Err(Error::subcommand_syntax(args)),
    };
    Ok(home.ask_all(Ask::Subscriptions { kind, pattern }, |_, answers, reply| {
        let names = names_in(answers);
        reply.array(names.len());
        names.iter().for_each(|name| reply.bulk(name));
        Ok(Flow::Done)
    }))
}

fn numpat(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(home.ask_all(Ask::Subscriptions { kind: Kind::Pattern, pattern: None }, |_, answers, reply| {
        reply.int(names_in(answers).len() as i64);
        Ok(Flow::Done)
    }))
}

/// The names of all cores, each once, in order.
fn names_in(answers: Vec<Answer>) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        answers.into_iter().flat_map(|a| if let Answer::Names(names) = a { names } else { Vec::new() }).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// PUBSUB NUMSUB [channel ...]
fn numsub(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(count_subscribers(home, Kind::Channel, &args[2..]))
}

/// PUBSUB SHARDNUMSUB [channel ...]
fn shardnumsub(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    Ok(count_subscribers(home, Kind::Shard, &args[2..]))
}

fn count_subscribers(home: &mut Home, kind: Kind, names: &[&[u8]]) -> Flow {
    let names: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    home.ask_all(Ask::Subscribers { kind, names: names.clone() }, move |_, answers, reply| {
        let mut sums = vec![0; names.len()];
        for answer in answers {
            let Answer::Counts(counts) = answer else { continue };
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        reply.array(2 * names.len());
        for (name, sum) in names.iter().zip(sums) {
            reply.bulk(name);
            reply.int(sum as i64);
        }
        Ok(Flow::Done)
    })
}

/// One core's answer to a question about subscriptions, or to a message; another question is given back.
pub fn answer(engine: &mut Engine, ask: Ask) -> Result<Answer, Ask> {
    match ask {
        Ask::Listen { core, buckets } => {
            engine.pubsub.note(core, &buckets, true);
            engine.listeners_changed();
            Ok(Answer::Done)
        }
        Ask::Publish { kind, channel, payload } => {
            Ok(Answer::Count(engine.pubsub.publish(kind, &channel, &payload, None)))
        }
        Ask::Subscriptions { kind, pattern } => {
            let wanted = |name: &&[u8]| match &pattern {
                Some(pattern) => glob::matches_within(pattern, name, &mut { MATCH_STEPS_MAX }),
                None => true,
            };
            let names = engine.pubsub.registry().names(kind).filter(wanted);
            Ok(Answer::Names(names.map(<[u8]>::to_vec).collect()))
        }
        Ask::Subscribers { kind, names } => {
            let count = |name: &Vec<u8>| engine.pubsub.registry().subscribers(kind, name) as u64;
            Ok(Answer::Counts(names.iter().map(count).collect()))
        }
        ask => Err(ask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::session::ClientKind;
    use crate::command::transcript::Client;
    use crate::config::Config;
    use crate::resp::Version;
    use crate::shard::Classes;

    #[test]
    fn each_name_is_confirmed() {
        let mut client = Client::new();
        client.expect("subscribe a b a", "*3|$9|subscribe|$1|a|:1|*3|$9|subscribe|$1|b|:2|*3|$9|subscribe|$1|a|:2");
        assert!(matches!(client.flow, Flow::Pushed));
        client.expect("psubscribe a*", "*3|$10|psubscribe|$2|a*|:3");
        client.expect("ssubscribe a", "*3|$10|ssubscribe|$1|a|:1");
        assert_eq!(client.session.subscribed, Counts { channels: 2, patterns: 1, shards: 1 });
        assert_eq!(client.session.kind(), ClientKind::PubSub);
        client.expect("unsubscribe x", "*3|$11|unsubscribe|$1|x|:3");
        client.expect("unsubscribe", "*3|$11|unsubscribe|$1|a|:2|*3|$11|unsubscribe|$1|b|:1");
        client.expect("unsubscribe", "*3|$11|unsubscribe|$-1|:1");
        client.expect("sunsubscribe", "*3|$12|sunsubscribe|$1|a|:0");
        client.expect("punsubscribe", "*3|$12|punsubscribe|$2|a*|:0");
        assert_eq!(client.session.kind(), ClientKind::Normal);
        client.engine.pubsub.validate();
    }

    #[test]
    fn in_resp2_a_subscriber_only_listens() {
        let mut client = Client::new();
        client.expect("ping", "+PONG");
        client.run("ssubscribe a");
        let refused = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context";
        for (line, name) in
            [("get a", "get"), ("client id", "client|id"), ("hello 3", "hello"), ("publish a b", "publish")]
        {
            client.expect(line, &format!("-ERR Can't execute '{name}': {refused}"));
        }
        client.expect("get", "-ERR wrong number of arguments for 'get' command");
        client.expect("ping", "*2|$4|pong|$0|");
        client.expect("ping x", "*2|$4|pong|$1|x");
        client.session.version = Version::V3;
        client.expect("ping", "+PONG");
        client.expect("get a", "_");
        client.expect("punsubscribe", ">3|$12|punsubscribe|_|:0");
        client.session.version = Version::V2;
        client.expect("reset", "+RESET");
        assert!(!client.session.subscribed.any());
        client.expect("get a", "$-1");
        assert!(client.engine.pubsub.registry().is_empty());
    }

    #[test]
    fn messages_wait_in_the_outbox() {
        let mut client = Client::new();
        client.session.version = Version::V3;
        client.expect("publish a x", ":0");
        client.run("subscribe a");
        client.run("psubscribe a* b*");
        client.expect("publish a x", ":2");
        client.expect("spublish a x", ":0");
        let outbox = &client.engine.pubsub.outbox;
        assert_eq!(outbox.receivers().collect::<Vec<_>>(), [(0, 0), (0, 1)]);
        let (receivers, questions) = publish_from(&mut client.engine, Kind::Channel, b"bb", b"y");
        assert_eq!((receivers, questions.len()), (1, 0));
        client.expect("pubsub numsub a b", "*4|$1|a|:1|$1|b|:0");
        client.expect("pubsub numpat", ":2");
        client.expect("pubsub channels", "*1|$1|a");
        client.expect("pubsub channels b*", "*0");
    }

    #[test]
    fn events_are_recorded_while_somebody_listens() {
        let mut client =
            Client::with(Config { notify_keyspace_events: Classes::parse("KA").unwrap(), ..Config::default() });
        client.session.version = Version::V3;
        let recorded = |client: &mut Client| {
            client.run("set k v");
            client.engine.shard.events.drain().count()
        };
        assert_eq!(recorded(&mut client), 0);
        client.run("subscribe whatever");
        assert_eq!(recorded(&mut client), 1);
        client.run("unsubscribe");
        assert_eq!(recorded(&mut client), 0);
    }

    #[test]
    fn events_are_recorded_for_listeners_elsewhere() {
        let config = Config { notify_keyspace_events: Classes::parse("KA").unwrap(), ..Config::default() };
        let hasher = crate::route::Hasher::new(256, [1, 2, 3, 4]);
        let router = crate::route::Router::new(0, 2, 256);
        let mut engine = Engine::new(router, hasher, std::sync::Arc::new(config), 7);
        assert!(!engine.shard.events.recording());
        engine.answer(Ask::Listen { core: 1, buckets: vec![5] }).unwrap();
        assert!(engine.shard.events.recording());
        engine.pubsub.note(1, &[5], false);
        engine.listeners_changed();
        assert!(!engine.shard.events.recording());
    }
}
