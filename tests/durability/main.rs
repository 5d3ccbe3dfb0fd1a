//! What a node promises of writes, seen from outside: it is killed at random moments while clients write, started again
//! with another number of cores, and must hold what it has acknowledged.
//!
//! What clients do depends on the seed alone, when the node dies on the clock as well: a failure names its seed and its
//! round. `KEYLOOM_SEED` sets the seed, `KEYLOOM_ROUNDS` how many rounds each test makes.

#[path = "../common/mod.rs"]
mod common;

mod cover;
mod faults;
mod group;
mod held;
mod load;
mod node;
mod rounds;
