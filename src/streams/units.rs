//! The filter: which units of a frame concern whom.
