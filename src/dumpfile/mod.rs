//! Dump files of Redis as a whole: into the files of the log, into a core that starts, and out of the files of the log.
//!
//! [`import`] makes a snapshot of one, which a node then starts with; [`load`] shows a core its own part, where nothing is
//! kept on disk; [`export`] writes one. What a file looks like is known by [`crate::rdb`], what a snapshot is by
//! [`crate::log`].
//!
//! Blocking; used by commands of the program, and by a node before it serves anybody.

mod export;
mod import;
mod reading;

pub use export::{ExportError, Exported, export};
pub use import::{Target, import};
pub use reading::{ImportError, Imported, load};
