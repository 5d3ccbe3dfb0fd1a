//! Settings with a fixed set of words: the enums and their names, in redis.conf's words.

/// Defines an enum whose variants have names in redis.conf.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of [`Self::NAMES`].
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// The names, as redis.conf spells them.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name, as redis.conf spells it.
            pub fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

choice! {
    /// How much is logged, from everything to only what needs attention.
    LogLevel {
        Debug = "debug",
        Verbose = "verbose",
        Notice = "notice",
        Warning = "warning",
    }
}

choice! {
    /// How a log line looks.
    LogFormat {
        /// Timestamp, level, target, message, then `field=value`.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

choice! {
    /// Where the control core runs.
    ControlCore {
        /// A second thread on the CPU of a data core.
        Shared = "shared",
        /// A thread on a CPU of its own.
        Dedicated = "dedicated",
    }
}

choice! {
    /// When the log is synced to disk.
    AppendFsync {
        EverySec = "everysec",
        /// Before a write is acknowledged.
        Always = "always",
        /// When the system thinks fit.
        No = "no",
    }
}

choice! {
    /// Who may use DEBUG.
    DebugCommand {
        No = "no",
        Yes = "yes",
        /// Only clients of this machine: loopback addresses and Unix sockets.
        Local = "local",
    }
}

choice! {
    /// Which keys make room when memory is full.
    MaxmemoryPolicy {
        VolatileLru = "volatile-lru",
        VolatileLfu = "volatile-lfu",
        VolatileRandom = "volatile-random",
        VolatileTtl = "volatile-ttl",
        AllkeysLru = "allkeys-lru",
        AllkeysLfu = "allkeys-lfu",
        AllkeysRandom = "allkeys-random",
        /// Beyond Redis: new keys that are not used again go first.
        AllkeysS3fifo = "allkeys-s3fifo",
        NoEviction = "noeviction",
    }
}
