//! Many nodes as one: who a node is among them, and what it knows of the others.

pub mod identity;
pub mod view;

pub use identity::Identity;
pub use view::{Endpoint, View};
