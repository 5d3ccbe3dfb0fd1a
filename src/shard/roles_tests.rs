//! Roles by database.
