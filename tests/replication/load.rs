//! Random writes of all types from several clients, until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use keyloom::resp::read::{Value, encode_command};
use keyloom::route::slot_of;

use crate::common::{Client, Random, Server};
use crate::nodes::DATABASES;

const KEYS: usize = 300;
const PIPELINE: usize = 16;

/// `$k`, `$K` keys, `$v` a value, `$n` a number, `$t` ms from now, `$d` a database.
const COMMANDS: [&str; 52] = [
    "SET $k $v",
    "SET $k $v PX $t",
    "SET $k $v KEEPTTL",
    "MSET $k $v $K $v",
    "MSETNX $k $v $K $v",
    "GETEX $k PX $t",
    "GETDEL $k",
    "APPEND $k $v",
    "INCRBY $k $n",
    "INCRBYFLOAT $k 0.5",
    "SETRANGE $k 3 $v",
    "DEL $k $K",
    "UNLINK $k",
    "PEXPIRE $k $t",
    "PERSIST $k",
    "RENAME $k $K",
    "RENAMENX $k $K",
    "COPY $k $K REPLACE",
    "COPY $k $K DB $d REPLACE",
    "MOVE $k $d",
    "RPUSH $k $v $v",
    "LPUSH $k $v",
    "LPOP $k",
    "RPOP $k 2",
    "LMOVE $k $K LEFT RIGHT",
    "LSET $k 0 $v",
    "LINSERT $k BEFORE $v $n",
    "LREM $k 1 $v",
    "LTRIM $k 0 20",
    "HSET $k $v $n $v $n",
    "HDEL $k $v",
    "HINCRBY $k $v $n",
    "HEXPIRE $k 1 FIELDS 1 $v",
    "HPEXPIRE $k $t FIELDS 2 $v $v",
    "HPERSIST $k FIELDS 1 $v",
    "SADD $k $v $v $n",
    "SREM $k $v",
    "SPOP $k",
    "SPOP $k 3",
    "SMOVE $k $K $v",
    "SUNIONSTORE $k $K $k",
    "SDIFFSTORE $k $K $k",
    "ZADD $k $n $v $n $v",
    "ZINCRBY $k $n $v",
    "ZREM $k $v",
    "ZPOPMIN $k",
    "ZREMRANGEBYRANK $k 0 1",
    "ZUNIONSTORE $k 2 $K $k",
    "ZRANGESTORE $k $K 0 5",
    "SORT $k ALPHA STORE $K",
    "FLUSHDB",
    "SWAPDB $d 1",
];

fn command(random: &mut Random, clears: bool) -> Vec<Vec<u8>> {
    let key = |random: &mut Random| format!("key:{}", random.below(KEYS));
    let last = if clears { COMMANDS.len() } else { COMMANDS.len() - 2 };
    let mut at = random.below(last);
    if at >= COMMANDS.len() - 2 && !random.one_in(10) {
        at = 0;
    }
    let words = COMMANDS[at].split(' ').map(|word| match word {
        "$k" | "$K" => key(random),
        "$v" if random.one_in(40) => "long".repeat(random.below(2000)),
        "$v" => format!("v{}", random.below(20)),
        "$n" => random.below(100).to_string(),
        "$t" => (1 + random.below(3000)).to_string(),
        "$d" => random.below(DATABASES).to_string(),
        word => word.to_string(),
    });
    words.map(String::into_bytes).collect()
}

/// Two keys on different cores, whatever the number of partitions.
pub fn pair(n: usize) -> [String; 2] {
    let find = |low: bool| {
        let names = (0..).map(|i| format!("pair:{n}:{i}"));
        names
            .into_iter()
            .find(|name| (slot_of(name.as_bytes()) < 4000, slot_of(name.as_bytes()) > 12400) == (low, !low))
    };
    [find(true).unwrap(), find(false).unwrap()]
}

pub const PAIRS: usize = 4;

/// Clients that write.
pub struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `clients` clients; the load ends by itself when the node goes away.
    pub fn start(node: &Server, clients: usize, seed: u64) -> Load {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..clients).map(|n| {
            let (mut client, stop, written) = (node.client(), Arc::clone(&stop), Arc::clone(&written));
            let mut random = Random::new(seed.wrapping_mul(1000) + n as u64);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && burst(&mut client, &mut random, n) {
                    written.fetch_add(PIPELINE as u64, Ordering::Relaxed);
                }
            })
        });
        Load { threads: threads.collect(), stop, written }
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until so many more commands were answered.
    #[track_caller]
    pub fn goes_on(&self, more: u64) {
        let from = self.written();
        crate::common::wait_until("the load goes on", || self.written() >= from + more);
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Some commands at once, some of them in transactions, and their replies. False if the connection is gone.
fn burst(client: &mut Client, random: &mut Random, n: usize) -> bool {
    let mut bytes = Vec::new();
    let mut replies = 0;
    let mut send = |args: &[Vec<u8>]| {
        encode_command(args, &mut bytes);
        replies += 1;
    };
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    send(&words(&format!("SELECT {}", 1 + random.below(DATABASES - 1))));
    for _ in 0..PIPELINE / 4 {
        send(&command(random, true));
    }
    send(&words("SELECT 0"));
    send(&words("MULTI"));
    for _ in 0..random.below(5) {
        send(&command(random, false));
    }
    let value = random.next();
    let [a, b] = pair(n % PAIRS);
    if random.one_in(2) {
        send(&words(&format!("SET {a} {value}")));
        send(&words(&format!("SET {b} {value}")));
    } else {
        send(&words(&format!("MSET {a} {value} {b} {value}")));
    }
    send(&words("EXEC"));
    for _ in 0..PIPELINE / 2 {
        send(&command(random, false));
    }
    use std::io::Write;
    if client.stream().write_all(&bytes).is_err() {
        return false;
    }
    (0..replies).all(|_| client.try_read_raw().is_some())
}

/// Reads pairs as one until told to stop: they must always be equal. Returns how many were there.
pub fn watch_pairs(client: &mut Client, stop: &AtomicBool) -> u64 {
    let mut seen = 0;
    while !stop.load(Ordering::Relaxed) {
        for n in 0..PAIRS {
            let [a, b] = pair(n);
            let whole = if seen % 2 == 0 {
                client.send(&["MULTI"]);
                client.send(&["GET", &a]);
                client.send(&["GET", &b]);
                client.send(&["EXEC"]);
                (0..3).for_each(|_| drop(client.read()));
                client.read()
            } else {
                client.call(&["MGET", &a, &b])
            };
            // While it takes a copy, it says that it loads.
            let Value::Array(both) = whole else { continue };
            let loading = |value: &Value| matches!(value, Value::Error(error) if error.starts_with(b"LOADING"));
            if both.iter().any(loading) {
                continue;
            }
            assert_eq!(both[0], both[1], "half of a transaction: {a} {b}");
            seen += (both[0] != Value::Null) as u64;
        }
    }
    seen
}
