//! Error replies: every text that a client can see is made here, in Redis' words.
//!
//! No state. Client bytes inside a text cannot end the line they stand in.

use super::ProtocolError;

/// What went wrong with one command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("ERR syntax error")]
    Syntax,
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR value is not a valid float")]
    NotFloat,
    #[error("ERR resulting score is not a number (NaN)")]
    ScoreNan,
    #[error("ERR weight value is not a float")]
    NotWeight,
    #[error("ERR min or max is not a float")]
    NotScoreRange,
    #[error("ERR min or max not valid string range item")]
    NotLexRange,
    #[error("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")]
    LimitOfRanks,
    #[error("ERR syntax error, WITHSCORES not supported in combination with BYLEX")]
    LexWithScores,
    #[error("ERR XX and NX options at the same time are not compatible")]
    ZaddNxAndXx,
    #[error("ERR GT, LT, and/or NX options at the same time are not compatible")]
    ZaddGtLtNx,
    #[error("ERR INCR option supports a single increment-element pair")]
    ZaddIncrPairs,
    #[error("ERR at least 1 input key is needed for '{0}' command")]
    NoInputKey(String),
    #[error("ERR no such key")]
    NoSuchKey,
    #[error("ERR One or more scores can't be converted into double")]
    NotSortable,
    #[error("ERR index out of range")]
    IndexRange,
    #[error("ERR offset is out of range")]
    OffsetRange,
    #[error("ERR numkeys should be greater than 0")]
    NumKeys,
    #[error("ERR Number of keys can't be greater than number of args")]
    TooManyKeys,
    #[error("ERR Mandatory argument FIELDS is missing or not at the right position")]
    FieldsMissing,
    #[error("ERR Parameter `numFields` should be greater than 0")]
    NumFieldsNotPositive,
    #[error("ERR Number of fields must be a positive integer")]
    FieldsNotPositive,
    #[error("ERR The `numfields` parameter must match the number of arguments")]
    NumFieldsMismatch,
    #[error("ERR invalid expire time, must be >= 0")]
    NegativeExpire,
    #[error("ERR hash value is not an integer")]
    HashNotInteger,
    #[error("ERR hash value is not a float")]
    HashNotFloat,
    #[error("ERR value is NaN or Infinity")]
    NotFinite,
    #[error("ERR NOVALUES option can only be used in HSCAN")]
    NoValues,
    #[error("ERR reply exceeds maximum allowed size (proto-max-bulk-len)")]
    ReplyTooLong,
    #[error("ERR count should be greater than 0")]
    Count,
    #[error("ERR {0} can't be negative")]
    Negative(&'static str),
    #[error(
        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from \
         the end of the list"
    )]
    RankZero,
    #[error("ERR timeout is not a float or out of range")]
    TimeoutNotFloat,
    #[error("ERR timeout is negative")]
    TimeoutNegative,
    #[error("ERR timeout is out of range")]
    TimeoutRange,
    #[error("UNBLOCKED client unblocked via CLIENT UNBLOCK")]
    Unblocked,
    #[error("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)")]
    UnblockedByRole,
    #[error("ERR value is out of range, must be positive")]
    MustBePositive,
    #[error("ERR value is out of range")]
    OutOfRange,
    #[error("ERR increment or decrement would overflow")]
    IncrOverflow,
    #[error("ERR decrement would overflow")]
    DecrOverflow,
    #[error("ERR increment would produce NaN or Infinity")]
    IncrNan,
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    StringTooLong,
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpire(&'static str),
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    #[error("ERR DB index is out of range")]
    DbRange,
    #[error("ERR invalid DB index")]
    InvalidDb,
    #[error("ERR source and destination objects are the same")]
    SameObject,
    #[error("ERR invalid cursor")]
    InvalidCursor,
    #[error("ERR value is out of range, value must between {min} and {max}")]
    NotBetween { min: i64, max: i64 },
    #[error("ERR invalid {0} DB index")]
    SwapDb(&'static str),
    #[error("ERR Unsupported option {0}")]
    UnsupportedOption(String),
    #[error("ERR NX and XX, GT or LT options at the same time are not compatible")]
    ExpireNxAndOther,
    #[error("ERR GT and LT options at the same time are not compatible")]
    ExpireGtAndLt,
    #[error("ERR If you want both the length and indexes, please just use IDX.")]
    LcsLenAndIdx,
    #[error("ERR The specified keys must contain string values")]
    LcsNotStrings,
    #[error("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")]
    LcsTooLarge,
    #[error(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
         between policies at runtime LRU and LFU data will take some time to adjust."
    )]
    NoLfu,
    #[error(
        "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between \
         policies at runtime LRU and LFU data will take some time to adjust."
    )]
    Lfu,
    #[error("BUSYKEY Target key name already exists.")]
    BusyKey,
    #[error("ERR Invalid TTL value, must be >= 0")]
    InvalidTtl,
    #[error("ERR Invalid IDLETIME value, must be >= 0")]
    InvalidIdleTime,
    #[error("ERR Invalid FREQ value, must be >= 0 and <= 255")]
    InvalidFreq,
    #[error("ERR DUMP payload version or checksum are wrong")]
    DumpPayload,
    #[error("ERR Bad data format")]
    BadDataFormat,
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    #[error("ERR This instance has cluster support disabled")]
    NoCluster,
    #[error("MOVED {slot} {host}:{port}")]
    Moved { slot: u16, host: String, port: u16 },
    #[error("CLUSTERDOWN Hash slot not served")]
    SlotNotServed,
    #[error("CLUSTERDOWN The cluster is down")]
    ClusterDown,
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,
    #[error("ERR {0} is not allowed in cluster mode")]
    NotInCluster(&'static str),
    #[error("ERR {0} not allowed in cluster mode.")]
    NoReplicationInCluster(&'static str),
    #[error("ERR {0} option of SORT denied in cluster mode when keys formed by the pattern may be in different slots.")]
    SortCrossesSlots(&'static str),
    #[error("ERR Unknown node {0}")]
    UnknownNode(String),
    #[error("ERR Invalid slot")]
    InvalidSlot,
    #[error("ERR Invalid slot or number of keys")]
    InvalidSlotOrCount,
    #[error("READONLY You can't write against a read only replica.")]
    ReadOnly,
    #[error("ERR Background save already in progress")]
    SaveInProgress,
    #[error("ERR the snapshot failed: {0}")]
    SaveFailed(String),
    #[error("ERR timeout is not an integer or out of range")]
    TimeoutNotInteger,
    #[error("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.")]
    WaitAofWithoutLog,
    #[error(
        "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured \
         to be writable (which is not the default) writes to replicas are just local and are not propagated."
    )]
    WaitOnReplica,
    #[error(
        "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local and \
         are not propagated."
    )]
    WaitAofOnReplica,
    #[error("ERR Invalid master port")]
    InvalidMasterPort,
    #[error(
        "ERR the replication protocol of Redis is not spoken here: only a Keyloom node can follow this one, with \
         REPLICATE, which is not compatible"
    )]
    ForeignReplica,
    #[error("ERR FAILOVER timeout must be greater than 0")]
    FailoverTimeout,
    #[error("ERR FAILOVER already in progress.")]
    FailoverInProgress,
    #[error("ERR No failover in progress.")]
    NoFailover,
    #[error("ERR FAILOVER is not valid when server is a replica.")]
    FailoverOnReplica,
    #[error("ERR FAILOVER requires connected replicas.")]
    FailoverWithoutReplicas,
    #[error("ERR FAILOVER with force option requires both a timeout and target HOST and IP.")]
    FailoverForce,
    #[error("ERR FAILOVER target HOST and PORT is not a replica.")]
    FailoverTarget,
    #[error("ERR FAILOVER target replica is not online.")]
    FailoverTargetNotOnline,
    #[error("ERR the failover cannot be aborted any more: its target may have taken over already")]
    FailoverTooLate,
    #[error("ERR this durability needs 'appendonly yes'")]
    DurabilityWithoutLog,
    #[error("LOADING Redis is loading the dataset in memory")]
    Loading,
    #[error("NOREPLICAS Not enough good replicas to write.")]
    NoReplicas,
    #[error("MISCONF Errors writing to the AOF file: {0}")]
    MisconfLog(String),
    #[error(
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that \
         may modify the data set are disabled, because this instance is configured to report errors during writes if RDB \
         snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB \
         error."
    )]
    MisconfSnapshot,
    #[error("ERR Errors trying to SHUTDOWN. Check logs.")]
    ShutDownFailed,
    #[error("ERR No shutdown in progress.")]
    NoShutDown,
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPass,
    #[error(
        "ERR Can't execute '{0}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    )]
    Subscribed(String),
    #[error("NOPROTO unsupported protocol version")]
    NoProto,
    #[error("ERR EXEC without MULTI")]
    ExecWithoutMulti,
    #[error("ERR DISCARD without MULTI")]
    DiscardWithoutMulti,
    #[error("ERR MULTI calls can not be nested")]
    NestedMulti,
    #[error("ERR WATCH inside MULTI is not allowed")]
    WatchInMulti,
    #[error("ERR Command not allowed inside a transaction")]
    NotInMulti,
    #[error("ERR the transaction is too large")]
    TransactionTooLarge,
    #[error("ERR too many keys are watched")]
    TooManyWatched,
    #[error("EXECABORT Transaction discarded because of previous errors.")]
    ExecAbort,
    #[error("EXECABORT Transaction discarded because of: {0}")]
    ExecAbortFor(String),
    #[error("ERR MONITOR isn't allowed for DENY BLOCKING client")]
    MonitorDenied,
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory,
    #[error("ERR unknown subcommand '{sub}'. Try {command} HELP.")]
    UnknownSubcommand { command: String, sub: String },
    /// Any other text; it starts with its code, e.g. `ERR `.
    #[error("{0}")]
    Text(String),
}

impl Error {
    /// A node's id that nobody has.
    pub fn unknown_node(id: &[u8]) -> Self {
        Error::UnknownNode(shown(id, 128))
    }

    /// Any other error; `text` starts with its code, e.g. `ERR `.
    pub fn text(text: impl Into<String>) -> Self {
        Error::Text(text.into())
    }

    /// Redis' answer to a name that is in no table: the name, and the first arguments as far as 128 bytes go.
    pub fn unknown_command(args: &[&[u8]]) -> Self {
        const BYTES_MAX: usize = 128;
        let (name, args) = args.split_first().map_or((&b""[..], args), |(name, args)| (*name, args));
        let mut text = format!("ERR unknown command '{}', with args beginning with: ", shown(name, BYTES_MAX));
        let mut room = BYTES_MAX;
        for arg in args {
            if room == 0 {
                break;
            }
            text.push_str(&format!("'{}' ", shown(arg, room)));
            // The quotes and the blank count too.
            room = room.saturating_sub(c_string(arg).len().min(room) + 3);
        }
        Error::Text(text)
    }

    /// Redis' answer to an EXEC that is refused for this reason.
    pub fn exec_abort_for(reason: &Error) -> Self {
        let text = reason.to_string();
        // Redis leaves out the code that errors without one of their own get.
        Error::ExecAbortFor(text.strip_prefix("ERR ").map(str::to_string).unwrap_or(text))
    }

    /// Redis' answer to a subcommand that its command does not have.
    pub fn unknown_subcommand(args: &[&[u8]]) -> Self {
        let command = shown(args[0], 128).to_ascii_uppercase();
        Error::UnknownSubcommand { command, sub: shown(args.get(1).copied().unwrap_or_default(), 128) }
    }

    /// Redis' answer to a subcommand that exists, with a number of arguments that it does not take.
    pub fn subcommand_syntax(args: &[&[u8]]) -> Self {
        let command = shown(args[0], 128).to_ascii_uppercase();
        let sub = shown(args.get(1).copied().unwrap_or_default(), 128);
        Error::Text(format!("ERR unknown subcommand or wrong number of arguments for '{sub}'. Try {command} HELP."))
    }

    /// The first word: `ERR`, `WRONGTYPE`, ... as errorstats count it.
    pub fn code(&self) -> String {
        let text = self.to_string();
        text.split(' ').next().unwrap_or("ERR").to_string()
    }

    /// Writes `-text`. CR and LF inside become spaces, as in Redis, so that a reply cannot be forged; at the end they are
    /// left out.
    pub fn write(&self, buf: &mut Vec<u8>) {
        let text = self.to_string();
        buf.push(b'-');
        buf.extend(
            text.trim_end_matches(['\r', '\n']).bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }),
        );
        buf.extend_from_slice(b"\r\n");
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        Error::Text(error.to_string())
    }
}

/// Client bytes made fit for an error text: at most `len_max` of them, up to the first NUL, as Redis' `%.*s` shows them.
/// Bytes that are not UTF-8 become U+FFFD (Redis sends them as they are).
pub fn shown(bytes: &[u8], len_max: usize) -> String {
    let bytes = c_string(bytes);
    String::from_utf8_lossy(&bytes[..bytes.len().min(len_max)]).into_owned()
}

/// What C sees of a string.
fn c_string(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(error: &Error) -> String {
        let mut out = Vec::new();
        error.write(&mut out);
        String::from_utf8(out).expect("text")
    }

    /// Expected texts are those of redis-server 7.0.15.
    #[test]
    fn unknown_commands() {
        let (a, b, y, z) = ("a".repeat(100), "b".repeat(100), "y".repeat(200), "z".repeat(200));
        let cases: [(&[&str], String); 8] = [
            (&["foo"], "'foo', with args beginning with: ".into()),
            (&["foo", "a", "b", "c"], "'foo', with args beginning with: 'a' 'b' 'c' ".into()),
            (&[""], "'', with args beginning with: ".into()),
            (&["a\nb"], "'a b', with args beginning with: ".into()),
            (&["a\0b", "c\0d"], "'a', with args beginning with: 'c' ".into()),
            (&["foo", &a, &b, "c"], format!("'foo', with args beginning with: '{a}' '{}' ", &b[..25])),
            (&[&y, &z, "c"], format!("'{}', with args beginning with: '{}' ", &y[..128], &z[..128])),
            (&[&["foo"][..], &["a"; 40]].concat(), format!("'foo', with args beginning with: {}", "'a' ".repeat(32))),
        ];
        for (args, want) in cases {
            let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
            assert_eq!(written(&Error::unknown_command(&args)), format!("-ERR unknown command {want}\r\n"));
        }
    }

    #[test]
    fn an_error_is_one_line_and_has_a_code() {
        assert_eq!(written(&Error::text("ERR a\r\n+OK\r\n")), "-ERR a  +OK\r\n");
        assert_eq!(
            written(&ProtocolError::ExpectedBulk(b'\r').into()),
            "-ERR Protocol error: expected '$', got ' '\r\n"
        );
        assert_eq!(Error::WrongType.code(), "WRONGTYPE");
        assert_eq!(Error::Syntax.code(), "ERR");
        assert_eq!(Error::text("").code(), "");
    }
}
