//! Blocking commands: how a client waits for an element.
//!
//! The core of the connection (*home*) first tries the command as it would run without blocking. If there is nothing, it
//! becomes a *waiter* at each core that owns one of the keys ([`Waiters`]). When a key of an owner may have an element, the
//! owner *offers* it to the waiter that came first, and to nobody else until that one has answered. Home tries the command
//! again, for as long as the client is there; if it got something the waiter leaves all owners, otherwise it keeps its
//! place. So a client gets exactly one element however many keys it waits for, nothing is taken for a client that is gone,
//! and who came first is served first.
//!
//! An offer is a hint and not a promise: a client that does not wait may take the element before.

mod waiters;

pub use waiters::{Offer, Waiter, Waiters};
