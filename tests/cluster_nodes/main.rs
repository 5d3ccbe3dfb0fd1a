//! A cluster of several nodes from outside: processes of their own, under load, that are killed, stand still, or are cut off
//! from one another.
//!
//! | module | what it is about |
//! | --- | --- |
//! | `nodes` | nodes of one cluster, and what can befall them |
//! | `lan` | a network for them that can be cut in either direction |
//! | `client` | a client that follows MOVED and knows what it does not know |
//! | `load` | random requests whose history is recorded |
//! | `register`, `lists` | whether a history is one of a store that has one copy of everything |
//! | `served` | whether two nodes have served one partition at the same time |
//! | `rounds` | a cluster under load, something that befalls it, and what is checked afterwards |
//! | `serving` | keys are where slots say |
//! | `bench` | `keyloom bench --cluster` sees a failover |
//! | `kills`, `stalls`, `cuts` | nodes that end, that stand still, and that nobody hears |
//! | `force` | what all have lost that had it, and an operator gives up |
//! | `spans` | transactions over several partitions, whose node dies in the middle of one |
//! | `handovers` | roles that move while all nodes live, or one dies meanwhile |
//! | `members` | nodes that join and leave, rebalancing that is paused |
//! | `upgrades` | nodes of two builds, one after the other upgraded |
//! | `watched` | what members say of themselves |
//! | `memory` | a node that has no memory for the copies that it is to take |
//! | `operators` | what an operator sees: `keyloom cluster status` and `watch`, and the page in a browser |
//! | `backup` | backups of a cluster under load, and what is made of them |
//! | `strangers` | nodes of other clusters, and bytes that make no sense |
//!
//! `KEYLOOM_CLUSTER_ROUNDS` is how often each is done, with one seed after the other from `KEYLOOM_SEED` on.

#[path = "../common/mod.rs"]
mod common;

mod applications;
mod backup;
mod bench;
mod client;
mod cuts;
mod force;
mod handovers;
mod kills;
mod lan;
mod lists;
mod load;
mod members;
mod memory;
mod nodes;
mod operators;
mod register;
mod rounds;
mod served;
mod serving;
mod spans;
mod stalls;
mod strangers;
mod upgrades;
mod watched;
