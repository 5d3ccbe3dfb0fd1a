//! Many nodes as one: who a node is among them.

pub mod identity;
