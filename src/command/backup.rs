//! CLUSTER BACKUP and CLUSTER DIGEST: a copy of what this node leads as a file, read in pieces; and numbers by which copies are
//! compared. `keyloom cluster backup` and `restore` ([`crate::operator`]) ask these.
//!
//! The control core makes the file, so BACKUP asks there. DIGEST runs on all cores, each for its own partitions.

use super::log::{LogAnswer, LogAsk};
use super::number::parse_i64;
use super::{Args, Command, Ctx, Flags, Flow, Home, KeySpec, Merge, Reach};
use crate::resp::{Error, Reply};
use crate::route::PartitionSet;

const BACKUP_FLAGS: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::NO_MULTI).or(Flags::NO_ASYNC_LOADING);
const DIGEST_FLAGS: Flags = Flags::ADMIN.or(Flags::READONLY);

/// Longest name of a backup.
pub const NAME_BYTES_MAX: usize = 64;

/// Most bytes that one READ answers.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// A question about the backup of this node; all name it.
#[derive(Clone, Debug)]
pub struct BackupAsk {
    pub name: String,
    pub what: BackupWhat,
}

#[derive(Clone, Debug)]
pub enum BackupWhat {
    /// Make it: of all that the node leads, or what it leads of these partitions.
    Start(Option<PartitionSet>),
    Status,
    /// So many bytes of its file, from an offset on.
    Read {
        offset: u64,
        count: usize,
    },
    /// Remove it.
    Drop,
}

pub(super) const BACKUP: Command = Command::session("backup", -4, BACKUP_FLAGS, backup).doc(
    "cluster",
    "9.0.0",
    "O(N) in keys for START, O(N) in bytes for READ, otherwise O(P) in partitions",
    "Makes a file of what this node leads (START), tells how far it is (STATUS), reads it in pieces (READ) or removes it (DROP).",
);

pub(super) const DIGEST: Command =
    Command::keyspace("digest", -3, DIGEST_FLAGS, KeySpec::NONE, digest).reach(Reach::Every(Merge::Concat)).doc(
        "cluster",
        "9.0.0",
        "O(N) in bytes of these partitions",
        "Returns digests of what this node leads of these partitions, without what expires until a moment (AT).",
    );

/// CLUSTER BACKUP START name [partitions], STATUS name, READ name offset count, DROP name. Partitions are `0-3,7`.
fn backup(home: &mut Home, args: Args, _: &mut Reply) -> Result<Flow, Error> {
    let view = home.engine.view.as_ref().ok_or(Error::NoCluster)?;
    let word = |word: &str| args[2].eq_ignore_ascii_case(word.as_bytes());
    let what = match &args[4..] {
        [] if word("start") => BackupWhat::Start(None),
        [partitions] if word("start") => BackupWhat::Start(Some(partitions_of(partitions, view.partitions())?)),
        [] if word("status") => BackupWhat::Status,
        [offset, count] if word("read") => {
            let number = |arg: &[u8]| parse_i64(arg).ok().and_then(|number| u64::try_from(number).ok());
            let offset = number(offset).ok_or(Error::NotInteger)?;
            let count = number(count).and_then(|count| usize::try_from(count).ok()).ok_or(Error::NotInteger)?;
            BackupWhat::Read { offset, count: count.min(READ_BYTES_MAX) }
        }
        [] if word("drop") => BackupWhat::Drop,
        _ => return Err(Error::Syntax),
    };
    let ask = LogAsk::Backup(BackupAsk { name: name_of(args[3])?, what });
    Ok(home.ask_control(ask, |answer, reply| match answer {
        LogAnswer::Text(text) => {
            reply.bulk(text.as_bytes());
            Ok(())
        }
        LogAnswer::Bytes(bytes) => {
            reply.bulk(&bytes);
            Ok(())
        }
        LogAnswer::Failed(why) => Err(Error::text(format!("ERR {why}"))),
        _ => {
            reply.ok();
            Ok(())
        }
    }))
}

/// A name that is a file's name everywhere, and nothing else.
fn name_of(arg: &[u8]) -> Result<String, Error> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    let valid = (1..=NAME_BYTES_MAX).contains(&arg.len()) && arg.iter().all(plain);
    let name = std::str::from_utf8(arg).ok().filter(|_| valid);
    let wrong = || format!("ERR a backup has a name of up to {NAME_BYTES_MAX} letters, digits, '_' and '-'");
    name.map(String::from).ok_or_else(|| Error::text(wrong()))
}

/// Partitions that an argument names, of so many.
fn partitions_of(arg: &[u8], count: u16) -> Result<PartitionSet, Error> {
    let set = std::str::from_utf8(arg).ok().and_then(|text| PartitionSet::parse(text, count));
    set.ok_or_else(|| Error::text(format!("ERR partitions below {count} are wanted, as in 0-3,7")))
}

/// CLUSTER DIGEST [AT unix-ms] partitions: of each that has keys which do not expire until then its number, the number of
/// these keys, and the digest.
fn digest(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    if !ctx.shard.has_roles() {
        return Err(Error::NoCluster);
    }
    let now_ms = ctx.now().wall_ms;
    let (at, partitions) = match args[2..] {
        [partitions] => (now_ms, partitions),
        [word, at, partitions] if word.eq_ignore_ascii_case(b"at") => {
            (parse_i64(at).map_err(|_| Error::NotInteger)?, partitions)
        }
        _ => return Err(Error::Syntax),
    };
    if at < now_ms {
        return Err(Error::text("ERR this moment is over by the clock of this node"));
    }
    let wanted = partitions_of(partitions, ctx.hasher.partitions())?;
    let here = ctx.shard.partitions().filter(|&partition| wanted.has(partition));
    let digests = here.map(|partition| (partition, ctx.shard.digest(ctx.db, partition, at)));
    let digests: Vec<_> = digests.filter(|(_, digest)| digest.keys > 0).collect();
    reply.array(digests.len());
    for (partition, digest) in digests {
        reply.array(3);
        reply.int(partition as i64);
        reply.int(digest.keys as i64);
        reply.bulk(digest.to_string().as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;
    use crate::config::Config;

    #[test]
    fn names_are_names_and_no_paths() {
        assert_eq!(name_of(b"Monday_2-a").unwrap(), "Monday_2-a");
        assert_eq!(name_of(&[b'a'; NAME_BYTES_MAX]).unwrap().len(), NAME_BYTES_MAX);
        for wrong in
            [&b""[..], b".", b"..", b"../a", b"a/b", b"a.b", b"a b", b"\xc3\xa9", b"a\0", &[b'a'; NAME_BYTES_MAX + 1]]
        {
            assert!(name_of(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn digests_are_of_a_cluster() {
        let refused = Client::new().run("cluster digest 0-255");
        assert!(refused.starts_with("-ERR This instance has cluster support disabled"), "{refused}");
        let mut client = Client::with(Config { cluster_enabled: true, ..Config::default() });
        client.expect("cluster digest 0-255", "*0");
        client.run("set a 1");
        let one = client.run("cluster digest 0-255");
        assert!(one.starts_with("*1|*3|:"), "{one}");
        client.run("set a 2 pxat 1700000009000");
        let other = client.run("cluster digest 0-255");
        assert!(other.starts_with("*1|*3|:") && other != one, "{other}");
        assert_eq!(client.run("cluster digest at 1700000008999 0-255"), other);
        client.expect("cluster digest at 1700000009000 0-255", "*0");
        for wrong in ["at 1 0", "at x 0", "256", "1-", "0 1", "at 1700000009000"] {
            let reply = client.run(&format!("cluster digest {wrong}"));
            assert!(reply.starts_with("-ERR "), "{wrong}: {reply}");
        }
    }
}
