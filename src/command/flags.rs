//! What the rows of the table say of a command besides its function: its properties, and what it does to its keys.

/// Properties of a command, as a bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// May change the keyspace.
    pub const WRITE: Flags = Flags(1);
    /// Only reads keys.
    pub const READONLY: Flags = Flags(1 << 1);
    /// May use more memory: refused when over maxmemory.
    pub const DENYOOM: Flags = Flags(1 << 2);
    /// Administrative; not shown to MONITOR.
    pub const ADMIN: Flags = Flags(1 << 3);
    pub const PUBSUB: Flags = Flags(1 << 4);
    pub const NOSCRIPT: Flags = Flags(1 << 5);
    /// O(1) or O(log N).
    pub const FAST: Flags = Flags(1 << 6);
    /// Allowed while a data set is loading.
    pub const LOADING: Flags = Flags(1 << 7);
    /// Allowed on a replica with stale data.
    pub const STALE: Flags = Flags(1 << 8);
    /// Allowed before AUTH.
    pub const NO_AUTH: Flags = Flags(1 << 9);
    /// Of session commands: never blocks, and changes nothing that later requests of the connection depend on, so that
    /// they can be parsed before it has run.
    pub const PIPELINED: Flags = Flags(1 << 25);
    /// Refused between MULTI and EXEC.
    pub const NO_MULTI: Flags = Flags(1 << 10);
    /// Of session commands: runs when every earlier request of the connection is answered.
    pub const DRAINS: Flags = Flags(1 << 26);
    pub const SKIP_MONITOR: Flags = Flags(1 << 11);
    pub const SKIP_SLOWLOG: Flags = Flags(1 << 12);
    pub const BLOCKING: Flags = Flags(1 << 13);
    /// Dangerous for a shared server (KEYS, FLUSHALL); the ACL category of that name.
    pub const DANGEROUS: Flags = Flags(1 << 14);
    /// Works on keys as a whole; the ACL category `@keyspace`.
    pub const KEYSPACE: Flags = Flags(1 << 15);
    /// ACL category `@connection`.
    pub const CONNECTION: Flags = Flags(1 << 16);
    /// Refused unless the configuration allows it (DEBUG).
    pub const PROTECTED: Flags = Flags(1 << 17);
    /// Allowed in RESP2 while the connection is subscribed.
    pub const WHILE_SUBSCRIBED: Flags = Flags(1 << 18);
    /// No write, but CLIENT PAUSE WRITE holds it back like one: others would see that it has run.
    pub const MAY_REPLICATE: Flags = Flags(1 << 19);

    /// Not allowed while a replica loads data beside those that it shows.
    pub const NO_ASYNC_LOADING: Flags = Flags(1 << 20);
    /// Changes nothing, and is of the ACL categories `@admin` and `@dangerous` all the same (ROLE).
    pub const ADMIN_CATEGORY: Flags = Flags(1 << 21);

    /// A statement of logs: a client's command of this name is unknown.
    pub const INTERNAL: Flags = Flags(1 << 27);

    pub const fn or(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    #[inline]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
}

/// What a command does to a key, in the words of COMMAND: how it gets at the key, then what happens to the value.
pub mod access {
    pub type Access = &'static [&'static str];

    pub const READ: Access = &["RO", "access"];
    /// Looks at the key without handing out its value.
    pub const LOOK: Access = &["RO"];
    pub const UPDATE: Access = &["RW", "update"];
    /// Updates, and hands out something of the value.
    pub const CHANGE: Access = &["RW", "access", "update"];
    pub const INSERT: Access = &["RW", "insert"];
    pub const DELETE: Access = &["RW", "delete"];
    /// Deletes, and hands out what it deletes.
    pub const TAKE: Access = &["RW", "access", "delete"];
    pub const OVERWRITE: Access = &["OW", "update"];
    pub const CREATE: Access = &["OW", "insert"];
    pub const REMOVE: Access = &["RM", "delete"];
    /// Says where something belongs, but is no key.
    pub const NOT_KEY: Access = &["not_key"];
}
