//! Replication: one node follows one primary, and may be followed itself. Everything outside a cluster: `REPLICAOF`,
//! `REPLICAOF NO ONE`, `FAILOVER`, chained replicas.
//!
//! The protocol is two state machines without sockets, clocks, disks or randomness. What happens is told to them; what is to be
//! done comes out as a list of actions. So the simulator (`sim/`) can run a cluster of them through whatever may happen, and
//! replay it from one number.
//!
//! | file | what it is |
//! | --- | --- |
//! | `history.rs` | who wrote the log from which index on; up to where two logs agree |
//! | `detector.rs`, `timeline.rs` | how strange a silence is; how long what is missing has been there |
//! | `message.rs`, `wire.rs` | messages, and how they lie in bytes |
//! | `primary/` | [`primary::Primary`]: serves all replicas of a node that leads, or relays |
//! | `replica/` | [`replica::Replica`]: follows |
//! | `sim/`, `tests.rs` | a cluster from a seed; transcripts |
//!
//! # How a shell drives it
//!
//! Both machines live on the control core, every node has both. All calls are made from one task. After each call its actions are
//! done, in their order; an action that saves something is durable before the next one is begun.
//!
//! | it happens | call | on |
//! | --- | --- | --- |
//! | a message was decoded | `message` | the machine it is for |
//! | a connection is there, or gone | `connected`, `disconnected` | replica; of the primary only `disconnected` |
//! | a frame was appended by this node (it leads), or applied (it follows) | `appended` | primary |
//! | the disk has the log up to an index | `durable` | the one that is in charge: primary if the node leads, else replica |
//! | what `Apply` asked for is in the data | `applied` | replica |
//! | the replica knows a higher commit index | `upstream_commit` | primary, if the node follows |
//! | a socket has taken a message | `written` | primary |
//! | backlog and disk were trimmed | `oldest` | primary |
//! | the log was read, a copy goes on, writes are paused | `read`, `copy_*`, `writes_paused` | primary |
//! | a turn is over | `turn_end` | primary |
//! | time | `tick` | both |
//!
//! A change of role is a handful of calls. The node begins to lead, or was promoted: [`replica::Replica::promote`] gives the chain,
//! then [`primary::Primary::lead`]. It follows: a new [`replica::Replica`] with what it has, `follow`; and
//! [`primary::Primary::relay`], if its data is complete, to serve its own replicas. `relay` is called again whenever the replica
//! saves another chain or has finished a copy, `suspend` when a copy begins. Held replies look at
//! [`primary::Primary::commit`], [`primary::Primary::commit_durable`], [`primary::Primary::received_by`] (WAIT) and
//! [`primary::Primary::durable_on`] (WAITAOF) after each turn; writes ask [`primary::Primary::writable`] first.
//!
//! What the shell owes the machines:
//! - A node that starts again and leads begins a new history (it promotes itself). It may have lost what replicas have received.
//! - A log that was not written for a while, because nobody listened, leaves out an index when it is taken up again.
//! - What is reported as durable or applied is so for the log as it is now: a sync or an application that was begun before a
//!   `Truncate` or `BeginCopy` is awaited or forgotten when that is done.
//! - Frames are kept as they were cut by the one who wrote them, everywhere.
//! - The role is kept on disk with the chain, before a takeover is answered: a node that has taken over never comes back as
//!   a replica of the one that handed over without an operator.
//!
//! # The life of a full sync
//!
//! ```text
//!     replica                                     primary
//!     Hello { chain: [X], received: 90 }    ─►    no history in common, or index 91 is not in the log any more
//!                                                 StartCopy { run: 1 }       (others who ask now take part)
//!                                           ◄─    FullSync { run: 1, start: 400 }
//!     BeginCopy: note "incomplete", drop all
//!                                           ◄─    Stream: log frames 401.., cover frames between them
//!     CopyPiece ...                               copy_room says how fast; what is written meanwhile is in the stream
//!                                           ◄─    FullSyncEnd { run: 1, end: 520 }
//!     FinishCopy: sync, note "complete"     ◄─    Frames 521..               (the log, as for everybody)
//!     Append 521.. (not acknowledged yet)
//!     copy_durable
//!     Ack { received: 530 }                 ─►    Streaming; joining, then in sync when it has what is committed
//!                                           ◄─    Frames { commit: 530 }
//!     Apply { upto: 530 }
//! ```
//!
//! If the connection breaks anywhere before `copy_durable`, the replica says hello with [`message::Wants::Copy`] and all begins anew.
//!
//! # The life of a failover
//!
//! ```text
//!     primary                                     replica
//!     failover(target)
//!     PauseWrites ... writes_paused
//!     (waits until the target has received all)
//!     Handover { end: 530 }                 ─►    TakeOver: promote(new id)
//!                                                 SaveChain [.., (new, parent, cut 530)], Apply { upto: 530 }
//!                                           ◄─    TakeOver { history: new, cut: 530 }
//!     StepDown: follow(target)                    lead(chain)
//!     Hello { received: 530 }               ─►    the logs agree up to 530
//!                                           ◄─    Continue { from: 531 }
//! ```
//!
//! If the answer is lost, the old primary accepts no write until it knows: see `primary/failover.rs`.
//!
//! Dependencies: nothing of this crate.

pub mod detector;
pub mod history;
pub mod message;
pub mod primary;
pub mod replica;
pub mod timeline;
pub mod wire;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
