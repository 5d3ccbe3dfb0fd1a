//! Random commands of the families under test: strings, keys of any type, the connection, the server.
//!
//! A template is a line of words; words that begin with `$` are replaced. Then some commands are damaged: arguments are
//! dropped, added, exchanged or replaced. What would make the reply depend on the moment of execution is avoided here:
//! a time to live is either over or far from it, and no two relative ones are close to each other.
//!
//! Tables make the most of this file.

use crate::collections;
use crate::common::Random;
use crate::sorted_sets::{self, SORTED_SETS};

/// Arguments, the name first.
pub type Command = Vec<Vec<u8>>;

const STRINGS: &[&str] = &[
    "GET $k",
    "GET $k",
    "SET $k $v",
    "SET $k $v",
    "SET $k $v $S",
    "SET $k $v $S",
    "SET $k $v $S $S",
    "SET $k $v $S $S $S",
    "SETNX $k $v",
    "SETEX $k $e $v",
    "PSETEX $k $e $v",
    "GETSET $k $v",
    "GETEX $k",
    "GETEX $k $G",
    "GETEX $k $G $G",
    "GETDEL $k",
    "MGET $k $K",
    "MGET $K",
    "MSET $k $v $P",
    "MSET $P",
    "MSETNX $k $v $P",
    "MSETNX $P",
    "INCR $k",
    "DECR $k",
    "INCRBY $k $i",
    "DECRBY $k $i",
    "INCRBYFLOAT $k $f",
    "INCRBYFLOAT $k $f",
    "APPEND $k $v",
    "STRLEN $k",
    "GETRANGE $k $o $o",
    "SUBSTR $k $o $o",
    "SETRANGE $k $o $v",
];

const LCS: &[&str] = &["LCS $k $k", "LCS $k $k $L", "LCS $k $k $L $L", "LCS $k $k $L $L $L"];

const KEYS: &[&str] = &[
    "DEL $k",
    "DEL $k $K",
    "UNLINK $k $K",
    "EXISTS $k $K",
    "TOUCH $k $K",
    "TYPE $k",
    "EXPIRE $k $e",
    "EXPIRE $k $e $X",
    "EXPIRE $k $e $X $X",
    "PEXPIRE $k $e",
    "PEXPIRE $k $e $X",
    "EXPIREAT $k $a",
    "EXPIREAT $k $a $X",
    "PEXPIREAT $k $A",
    "PEXPIREAT $k $A $X",
    "PEXPIREAT $k $A $X $X",
    "TTL $k",
    "PTTL $k",
    "EXPIRETIME $k",
    "PEXPIRETIME $k",
    "PERSIST $k",
    "KEYS $p",
    "SCAN 0",
    "SCAN $i",
    "SCAN 0 $N",
    "SCAN 0 $N $N",
    "RANDOMKEY",
    "RENAME $k $k",
    "RENAME $k $k",
    "RENAMENX $k $k",
    "RENAMENX $k $k",
    "COPY $k $k",
    "COPY $k $k $C",
    "COPY $k $k $C $C",
    "MOVE $k $d",
    "DUMP $k",
    "RESTORE $k $e $v",
    "RESTORE $k $e $v $X $X",
    "OBJECT ENCODING $k",
    "OBJECT ENCODING $k",
    "OBJECT REFCOUNT $k",
    "OBJECT FREQ $k",
    "OBJECT IDLETIME $k",
    "OBJECT $i $k",
    "DBSIZE",
    "SWAPDB $d $d",
];

/// Rare, because they empty much.
const FLUSHES: &[&str] =
    &["FLUSHDB", "FLUSHDB ASYNC", "FLUSHDB SYNC", "FLUSHDB $i", "FLUSHALL", "FLUSHALL SYNC", "FLUSHALL $v"];

const CONNECTION: &[&str] = &[
    "PING",
    "PING $v",
    "PING $v $v",
    "ECHO $v",
    "SELECT $d",
    "SELECT $d",
    "SELECT $i",
    "RESET",
    "HELLO",
    "HELLO 2",
    "HELLO 3",
    "HELLO $i",
    "HELLO 3 SETNAME $v",
    "HELLO 3 AUTH $v $v",
    "HELLO 3 $v",
    "AUTH $v",
    "AUTH default $v",
    "AUTH $v $v",
    "AUTH $v $v $v",
    "CLIENT ID",
    "CLIENT SETNAME $v",
    "CLIENT SETNAME name",
    "CLIENT GETNAME",
    "CLIENT INFO",
    "CLIENT LIST",
    "CLIENT LIST TYPE $v",
    "CLIENT LIST TYPE normal",
    "CLIENT LIST ID $i",
    "CLIENT KILL $v",
    "CLIENT KILL ID -1",
    "CLIENT KILL ID abc",
    "CLIENT KILL ID 999999 SKIPME $v",
    "CLIENT KILL TYPE $v",
    "CLIENT KILL TYPE replica",
    "CLIENT KILL USER $v",
    "CLIENT KILL ADDR $v LADDR $v",
    "CLIENT NO-EVICT on",
    "CLIENT NO-EVICT off",
    "CLIENT NO-EVICT $v",
    "CLIENT UNPAUSE",
    "CLIENT PAUSE abc",
    "CLIENT PAUSE -1",
    "CLIENT PAUSE 0",
    "CLIENT PAUSE 0 $v",
    "CLIENT REPLY $v",
    "CLIENT REPLY on",
    "CLIENT GETREDIR",
    "CLIENT TRACKINGINFO",
    "CLIENT CACHING $v",
    "CLIENT UNBLOCK $i",
    "CLIENT UNBLOCK 999999 $v",
    "CLIENT $v",
    "CLIENT",
];

const SERVER: &[&str] = &[
    "TIME",
    "TIME $v",
    "ROLE",
    "COMMAND COUNT",
    "COMMAND COUNT $v",
    "COMMAND $v",
    "COMMAND INFO $v",
    "COMMAND DOCS $v",
    "COMMAND LIST $v",
    "COMMAND LIST FILTERBY $v $v",
    "COMMAND GETKEYS $v $v",
    "COMMAND GETKEYS get $k",
    "COMMAND GETKEYS mset $k $v $P",
    "COMMAND GETKEYS mset $P",
    "COMMAND GETKEYS del $K",
    "COMMAND GETKEYS rename $k $k",
    "COMMAND GETKEYS copy $k $k $C",
    "COMMAND GETKEYS set $k $v $S",
    "COMMAND GETKEYS lcs $k $k $L",
    "COMMAND GETKEYS object encoding $k",
    "COMMAND GETKEYS object $v $k",
    "COMMAND GETKEYS memory usage $k",
    "COMMAND GETKEYS ping $v",
    "COMMAND GETKEYS client id",
    "COMMAND GETKEYSANDFLAGS get $k",
    "COMMAND GETKEYSANDFLAGS set $k $v $S",
    "COMMAND GETKEYSANDFLAGS set $k $v GET",
    "COMMAND GETKEYSANDFLAGS mset $k $v $P",
    "COMMAND GETKEYSANDFLAGS getdel $k",
    "COMMAND GETKEYSANDFLAGS rename $k $k",
    "COMMAND GETKEYSANDFLAGS copy $k $k $C",
    "COMMAND GETKEYSANDFLAGS incr $k",
    "COMMAND GETKEYSANDFLAGS append $k $v",
    "COMMAND GETKEYSANDFLAGS exists $K",
    "COMMAND GETKEYSANDFLAGS ping",
    "SLOWLOG LEN",
    "SLOWLOG GET $i",
    "SLOWLOG $v",
    "LATENCY RESET",
    "LATENCY RESET $v",
    "LATENCY LATEST",
    "LATENCY HISTORY $v",
    "LATENCY $v",
    "MEMORY USAGE $k",
    "MEMORY USAGE $k SAMPLES $i",
    "MEMORY USAGE $k $v $i",
    "MEMORY $v",
    "CONFIG GET $v",
    "CONFIG SET $v $i",
    "CONFIG SET tcp-keepalive $i",
    "CONFIG SET maxmemory-samples $i",
    "CONFIG $v",
    "NOSUCH $v $v $k",
    "$v $v",
    "ACL WHOAMI",
    "ACL USERS",
    "ACL $v",
];

const KEY_NAMES: &[&[u8]] = &[
    b"a",
    b"b",
    b"{a}x",
    b"{b}a",
    b"key:1",
    b"",
    b"\r\n",
    b"{}",
    b"\x00\xff\xc3\xa9 \"'",
    b"a-key-that-is-longer-than-what-fits-into-the-small-places-of-any-structure-that-a-server-might-keep-it-in-0123456789",
];

/// Texts at the edges of what is a number, a name, an option or a value.
const VALUES: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"-1",
    b"10",
    b"9999",
    b"10000",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"92233720368547758070",
    b"18446744073709551615",
    b"3.0",
    b"-0",
    b"-0.0",
    b"1e3",
    b"5.0e3",
    b"0x10",
    b"inf",
    b"-inf",
    b"+inf",
    b"infinity",
    b"nan",
    b" 1",
    b"1 ",
    b"+1",
    b"01",
    b"1.5",
    b"1e400",
    b"1e-400",
    b"17976931348623157e292",
    b"3.0000000000000000001",
    b"abc",
    b"acbcabbca",
    b"cabacbabc",
    b"\x00\x01\xff",
    b"a b",
    b"a\r\nb",
    b"get",
    b"yes",
    b"default",
    b"44444444444444444444444444444444444444444444",
    b"555555555555555555555555555555555555555555555",
    b"a-number-of-20-digit",
];

const INTEGERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "7",
    "100",
    "-100",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "4294967296",
    "2147483648",
    "-2147483649",
    "",
    "abc",
    "1.0",
    " 1",
    "1 ",
    "+1",
    "01",
    "-0",
    "1e2",
];

const OFFSETS: &[&str] = &[
    "0",
    "0",
    "1",
    "2",
    "3",
    "5",
    "10",
    "44",
    "45",
    "100",
    "300",
    "-1",
    "-2",
    "-3",
    "-5",
    "-100",
    "536870912",
    "2147483647",
    "-2147483648",
    "4294967295",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "abc",
    "",
    "1.0",
];

const FLOATS: &[&str] = &[
    "0",
    "1",
    "-1",
    "0.1",
    "-0.1",
    "1.5",
    "3.14159",
    "1e3",
    "1E3",
    "5.0e3",
    "1e-10",
    "1e17",
    "1e18",
    "1e19",
    "-1e20",
    "1e308",
    "1e4900",
    "-1e4932",
    "1e5000",
    "1e-5000",
    "0x1p3",
    "0x10",
    "inf",
    "-inf",
    "nan",
    "NaN",
    "",
    "abc",
    " 1",
    "1 ",
    "+1",
    "+.5",
    "5.",
    ".5",
    "-0",
    "1,5",
    "1_0",
    "9223372036854775807",
    "0.30000000000000004",
    "123456789.123456789",
    "1e",
    "1e+",
    "0.0000000000000000000000000000001",
];

/// Of a relative expiry; `%` is a number that comes only once.
const RELATIVE: &[&str] = &[
    "%",
    "%",
    "%",
    "%",
    "%",
    "0",
    "-1",
    "-100",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775",
    "9223370000000000",
    "9223372036854775808",
    "abc",
    "",
    "1.0",
    "-9223372036854775",
];

const ABSOLUTE_S: &[&str] = &[
    "4000000000",
    "4000000001",
    "5000000000",
    "1",
    "0",
    "-1",
    "1000000000",
    "9223372036854775",
    "9223372036854776",
    "9223372036854775807",
    "-9223372036854775808",
    "abc",
    "",
    "99999999999",
];

const ABSOLUTE_MS: &[&str] = &[
    "4000000000000",
    "4000000000499",
    "4000000000500",
    "4000000000999",
    "5000000000001",
    "1",
    "0",
    "-1",
    "1000000000000",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "abc",
    "",
];

const DATABASES: &[&str] = &["0", "0", "1", "1", "2", "15", "16", "-1", "abc", "", "9999999999", "01"];

const PATTERNS: &[&str] = &[
    "*",
    "a",
    "?",
    "[ab]",
    "[^a]",
    "*a*",
    "{*}*",
    "\\a",
    "key:*",
    "[a-z]",
    "[z-a]*",
    "[",
    "",
    "**",
    "*?",
    "nosuch*",
    "[a",
    "[\\]]",
    "k[a-f]y:?",
    "\\",
    "[^",
    "*1",
];

const SET_OPTIONS: &[&str] =
    &["NX", "XX", "GET", "KEEPTTL", "EX $e", "PX $e", "EXAT $a", "PXAT $A", "EX", "PERSIST", "$v", "GET NX", "XX GET"];
const GETEX_OPTIONS: &[&str] =
    &["EX $e", "PX $e", "EXAT $a", "PXAT $A", "PERSIST", "PERSIST", "EX", "KEEPTTL", "NX", "$v"];
const EXPIRE_OPTIONS: &[&str] = &["NX", "XX", "GT", "LT", "NX", "XX", "GT", "LT", "GT LT", "$v", "KEEPTTL"];
const COPY_OPTIONS: &[&str] = &["REPLACE", "REPLACE", "DB $d", "DB $d", "DB", "NX", "$v"];
const LCS_OPTIONS: &[&str] =
    &["LEN", "IDX", "WITHMATCHLEN", "MINMATCHLEN $i", "MINMATCHLEN 3", "MINMATCHLEN", "$v", "IDX"];
const SCAN_OPTIONS: &[&str] =
    &["COUNT 100", "COUNT $i", "MATCH $p", "TYPE string", "TYPE list", "TYPE $v", "COUNT", "MATCH", "$v", "$v $v"];

/// A key; the first ones meet each other more often.
pub fn key_name(random: &mut Random) -> Vec<u8> {
    let end = if random.one_in(3) { KEY_NAMES.len() } else { 5 };
    KEY_NAMES[random.below(end)].to_vec()
}

pub fn all_key_names() -> impl Iterator<Item = &'static [u8]> {
    KEY_NAMES.iter().copied()
}

/// What random commands are made of.
pub struct Generator {
    pub random: Random,
    /// Whether values may be long. Then there is no LCS, which takes the product of the lengths.
    long_values: bool,
    /// Whether most commands are those of sorted sets.
    sorted_sets: bool,
    /// How many relative expiries were handed out.
    expiries: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let mut random = Random::new(seed);
        let long_values = random.one_in(6);
        let sorted_sets = random.one_in(4);
        Generator { random, long_values, sorted_sets, expiries: 0 }
    }

    /// The next command.
    pub fn command(&mut self) -> Command {
        let family = match self.random.below(100) {
            n if n < 70 && self.sorted_sets => SORTED_SETS,
            0..20 => STRINGS,
            20..27 => collections::LISTS,
            27..34 => collections::SETS,
            34..40 => collections::HASHES,
            40..45 => SORTED_SETS,
            45..50 if self.long_values => STRINGS,
            45..50 => LCS,
            50..85 => KEYS,
            85 => FLUSHES,
            86..94 => CONNECTION,
            _ => SERVER,
        };
        let mut words = Vec::new();
        let template = self.random.pick(family);
        self.expand(template, &mut words);
        if self.random.one_in(12) {
            self.damage(&mut words);
        }
        if self.random.one_in(5) {
            let word = &mut words[0];
            *word = word.to_ascii_lowercase();
        }
        self.avoid_short_expiries(&mut words);
        // What would end this connection, or hold it up for longer than a test lasts.
        let is_harmless = |words: &Command| match &words[..] {
            // Redis 7.0 does what stands before an option that it refuses; its successors and we do all or nothing.
            [hello, _, _, _, _, ..] if hello.eq_ignore_ascii_case(b"hello") => false,
            [client, pause, rest @ ..]
                if client.eq_ignore_ascii_case(b"client") && pause.eq_ignore_ascii_case(b"pause") =>
            {
                rest.first().is_none_or(|number| !matches!(number.first(), Some(b'1'..=b'9')))
            }
            // Later versions refuse a rank whose opposite cannot be said, as we do.
            [lpos, rest @ ..] if lpos.eq_ignore_ascii_case(b"lpos") => {
                !rest.iter().any(|arg| arg == b"-9223372036854775808")
            }
            // What is drawn at random and goes is not the same on all sides.
            [spop, rest @ ..] if spop.eq_ignore_ascii_case(b"spop") => {
                rest.get(1).is_some_and(|count| !(1..collections::MEMBERS_MAX).contains(&number(count).unwrap_or(0)))
            }
            // Redis takes all the time and memory there is.
            [name, _, count, ..]
                if name.eq_ignore_ascii_case(b"srandmember") || name.eq_ignore_ascii_case(b"hrandfield") =>
            {
                number(count).is_none_or(|count| count > -collections::MEMBERS_MAX)
            }
            // Redis takes what begins with a number for the number of keys.
            [command, getkeys, name, count, ..]
                if command.eq_ignore_ascii_case(b"command")
                    && getkeys.eq_ignore_ascii_case(b"getkeys")
                    && (name.eq_ignore_ascii_case(b"sintercard") || name.eq_ignore_ascii_case(b"lmpop")) =>
            {
                number(count).is_some_and(|n| n.to_string().as_bytes() == count.as_slice())
            }
            [name, ..] if sorted_sets::differs(name, words) => false,
            // All commands there are: not the same.
            [command] if command.eq_ignore_ascii_case(b"command") => false,
            _ => true,
        };
        if is_harmless(&words) { words } else { self.command() }
    }

    fn expand(&mut self, template: &str, words: &mut Command) {
        for word in template.split(' ') {
            let texts = match word {
                "$k" => {
                    let key = key_name(&mut self.random);
                    words.push(key);
                    continue;
                }
                "$v" => {
                    let value = self.value();
                    words.push(value);
                    continue;
                }
                "$n" | "$z" | "$r" | "$l" | "$x" => {
                    let text = sorted_sets::word(word, &mut self.random);
                    words.push(text);
                    continue;
                }
                "$m" => {
                    let member = if self.random.one_in(5) {
                        self.value()
                    } else {
                        self.random.pick(collections::MEMBERS).as_bytes().to_vec()
                    };
                    words.push(member);
                    continue;
                }
                "$K" | "$P" => {
                    for _ in 0..self.random.below(6) {
                        self.expand(if word == "$K" { "$k" } else { "$k $v" }, words);
                    }
                    continue;
                }
                "$e" => {
                    let word = self.relative();
                    words.push(word);
                    continue;
                }
                "$i" => INTEGERS,
                "$o" => OFFSETS,
                "$f" => FLOATS,
                "$a" => ABSOLUTE_S,
                "$A" => ABSOLUTE_MS,
                "$d" => DATABASES,
                "$p" => PATTERNS,
                "$S" => SET_OPTIONS,
                "$G" => GETEX_OPTIONS,
                "$X" => EXPIRE_OPTIONS,
                "$C" => COPY_OPTIONS,
                "$L" => LCS_OPTIONS,
                "$N" => SCAN_OPTIONS,
                literal => {
                    words.push(literal.as_bytes().to_vec());
                    continue;
                }
            };
            let text = self.random.pick(texts);
            match word {
                "$i" if self.random.one_in(3) => words.push((self.random.next() as i32).to_string().into_bytes()),
                "$f" if self.random.one_in(2) => words.push(self.float()),
                "$i" | "$o" | "$f" | "$a" | "$A" | "$d" | "$p" => words.push(text.as_bytes().to_vec()),
                _ => self.expand(text, words),
            }
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.below(8) {
            0 => (self.random.next() as i64 >> self.random.below(64)).to_string().into_bytes(),
            1 => (0..self.random.below(40)).map(|_| b"abc"[self.random.below(3)]).collect(),
            2 => self.float(),
            3 if self.long_values => {
                let len = self.random.below(100_000);
                let first = self.random.next() as usize;
                (0..len).map(|i| (first + i) as u8).collect()
            }
            _ => self.random.pick(VALUES).to_vec(),
        }
    }

    fn float(&mut self) -> Vec<u8> {
        let digits = self.random.next() as i64 >> self.random.below(64);
        let point = self.random.below(12) as i32;
        let text = match self.random.below(3) {
            0 => format!("{digits}.{}", self.random.below(1000)),
            1 => format!("{digits}e{}", self.random.below(30) as i32 - 15),
            _ => format!("{:.*}", point as usize, digits as f64 / 10f64.powi(point)),
        };
        text.into_bytes()
    }

    fn relative(&mut self) -> Vec<u8> {
        match self.random.pick(RELATIVE) {
            "%" => self.fresh_expiry(),
            text => text.as_bytes().to_vec(),
        }
    }

    /// A number of seconds or milliseconds that is far from zero and from all others of this generator. Multiplying by
    /// 7919 modulo a prime visits every number once, in no visible order.
    fn fresh_expiry(&mut self) -> Vec<u8> {
        self.expiries += 1;
        (1_000_000 + self.expiries * 7919 % 10_007 * 60_000).to_string().into_bytes()
    }

    fn damage(&mut self, words: &mut Command) {
        let at = self.random.below(words.len());
        match self.random.below(6) {
            0 => words.truncate(at.max(1)),
            1 => {
                let value = self.value();
                words.push(value);
            }
            2 if at > 0 => words[at] = self.value(),
            3 if at > 0 => words.insert(at, words[at].clone()),
            4 if at > 0 => {
                let other = 1 + self.random.below(words.len() - 1);
                words.swap(at, other);
            }
            _ => words[at].make_ascii_lowercase(),
        }
    }

    /// Replaces relative expiries that are not told apart by their moment of execution.
    fn avoid_short_expiries(&mut self, words: &mut Command) {
        let name = words[0].to_ascii_uppercase();
        let positions: Vec<usize> = match name.as_slice() {
            b"EXPIRE" | b"PEXPIRE" | b"SETEX" | b"PSETEX" => vec![2],
            b"SET" | b"GETEX" => {
                avoid_expired_values(words);
                let is_option = |word: &[u8]| word.eq_ignore_ascii_case(b"ex") || word.eq_ignore_ascii_case(b"px");
                (2..words.len()).filter(|&at| is_option(&words[at - 1])).collect()
            }
            _ => return,
        };
        // With GT and LT the largest of all must not come twice either.
        let compared = matches!(name.as_slice(), b"EXPIRE" | b"PEXPIRE") && words.len() > 3;
        let end = if compared { u64::MAX } else { 1_000_000_000_000_000 };
        for at in positions {
            let number = words.get(at).and_then(|word| std::str::from_utf8(word).ok()?.parse::<u64>().ok());
            if number.is_some_and(|n| (1..end).contains(&n)) {
                words[at] = self.fresh_expiry();
            }
        }
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Replaces moments of SET that have passed. Redis stores such values, and counts them in DBSIZE until somebody asks for
/// them.
fn avoid_expired_values(words: &mut Command) {
    for at in 3..words.len() {
        let (end, later) = match words[at - 1].to_ascii_uppercase().as_slice() {
            b"EXAT" => (3_000_000_000u64, "4000000002"),
            b"PXAT" => (3_000_000_000_000, "4000000002000"),
            _ => continue,
        };
        let number = std::str::from_utf8(&words[at]).ok().and_then(|text| text.parse::<u64>().ok());
        if number.is_some_and(|n| (1..end).contains(&n)) {
            words[at] = later.as_bytes().to_vec();
        }
    }
}
