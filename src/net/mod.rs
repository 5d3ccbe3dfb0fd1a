//! The network: one pump per core moves bytes between client sockets and commands.
//!
//! [`pump`] is the turn: collect what arrived, parse, execute as one batch, send. [`ring`] is the core's io_uring,
//! [`connection`] one client, [`window`] the batch of requests under way, [`forward`] what travels between cores,
//! [`owner`] what waits for keys that are lent, [`transact`] and [`steps`] transactions, [`wait`] clients that wait for an
//! element, [`held`] replies that wait for the log, [`backpressure`] writes that do, [`cover`] a core's part in snapshots,
//! [`publish`] messages for subscribers, [`shutdown`] a core's end, [`listener`] the sockets that accept, [`loading`] what
//! clients are told before the cores serve, [`clock`] what time it is.
//!
//! Every limit of this layer stands in [`limits`].

mod backpressure;
mod clients;
pub mod clock;
mod cluster;
#[cfg(test)]
mod cluster_tests;
pub mod connection;
mod cover;
mod exchange;
mod execute;
mod floor;
pub mod forward;
mod held;
mod intake;
pub mod listener;
pub mod loading;
mod owner;
mod publish;
pub mod pump;
pub mod ring;
#[cfg(test)]
mod role_tests;
mod shutdown;
mod steps;
#[cfg(test)]
mod testing;
mod transact;
mod wait;
pub mod window;

/// Bounds on what a client can make a core hold or do.
pub mod limits {
    /// Requests that are parsed before they are executed: enough to hide cache misses behind each other.
    pub const WINDOW_REQUESTS: usize = 64;
    /// Completions handled in one turn.
    pub const TURN_COMPLETIONS: usize = 512;
    /// Messages taken from other cores in one turn.
    pub const TURN_MESSAGES: usize = 256;
    /// Reply bytes waiting for one client above which its requests are no longer read.
    pub const OUTPUT_PAUSE_BYTES: usize = 1024 * 1024;
    /// Requests of one connection that other cores have not answered yet.
    pub const OWED_REPLIES: usize = 1024;
    /// Bytes of one connection's requests that were sent to other cores, or wait for a key of this one, counted until
    /// nothing is owed; above, no more of its requests are executed.
    pub const OWED_BYTES: usize = 16 * 1024 * 1024;
    /// Bytes buffered for a connection whose requests cannot run now, above which its socket is no longer read.
    pub const READ_AHEAD_BYTES: usize = 256 * 1024;
    /// Reply buffers kept for reuse per core, and the capacity up to which one is kept.
    pub const POOL_BUFFERS: usize = 256;
    pub const POOL_BUFFER_BYTES: usize = 64 * 1024;
    /// Bytes handed to the kernel in one send.
    pub const SEND_BYTES: usize = 1024 * 1024;
    /// Reply bytes of a connection up to which they wait for the end of its transaction.
    pub const CORKED_BYTES: usize = 16 * 1024;
    /// Pieces of one gathering send.
    pub const SEND_PIECES: usize = 64;
    /// Events for the subscribers of another core that are sent together.
    pub const TOLD_MESSAGES: usize = 256;
    /// Slots of the ring between two cores.
    pub const MESH_SLOTS: usize = 1024;
    /// Milliseconds after which a busy pump lets other tasks of its executor run. A yield costs about 13 µs.
    pub const YIELD_MS: i64 = 10;
    /// Milliseconds between two ticks of a core's housekeeping.
    pub const TICK_MS: u32 = 100;
}
