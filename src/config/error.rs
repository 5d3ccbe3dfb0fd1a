//! What can be wrong with a configuration. Each text is one line that says where, what and why.

use std::fmt;
use std::path::PathBuf;

use crate::resp::Error;

/// Where a directive stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File {
        /// As the user wrote it.
        path: String,
        /// From 1.
        line: usize,
    },
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::CommandLine => f.write_str("command line"),
        }
    }
}

/// Why a node cannot start with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("can't read the configuration file '{path}': {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{origin}: {source}")]
    Include { origin: Origin, source: Box<LoadError> },
    /// `directive` is the line without what is after its first words.
    #[error("{origin}: '{directive}': {why}")]
    Directive { origin: Origin, directive: String, why: String },
    #[error("command line: {0}")]
    Arguments(String),
    /// Each directive is good, but not together with another one.
    #[error("'{directive}': {why}")]
    Conflict { directive: String, why: String },
}

/// Why CONFIG SET changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("Unknown option or number of arguments for CONFIG SET - '{0}'")]
    Unknown(String),
    #[error("CONFIG SET failed (possibly related to argument '{name}') - {why}")]
    Failed { name: String, why: String },
}

impl From<SetError> for Error {
    fn from(error: SetError) -> Self {
        Error::text(format!("ERR {error}"))
    }
}

/// Why CONFIG REWRITE did not write.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error("The server is running without a config file")]
    NoFile,
    #[error("Rewriting config file: {} cannot be loaded any more: {source}", path.display())]
    Load { path: PathBuf, source: Box<LoadError> },
    #[error("Rewriting config file: {0}")]
    Io(#[from] std::io::Error),
}

impl From<RewriteError> for Error {
    fn from(error: RewriteError) -> Self {
        Error::text(format!("ERR {error}"))
    }
}
