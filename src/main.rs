//! The program: `keyloom [serve]`, `keyloom doctor`, `keyloom bench`.
//!
//! Thin: [`cli`] reads the command line, the library does the work. Every error is one line on stderr and exit code 1.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What the allocator reads at its start. A thread of its own returns freed pages to the kernel, within a second: the core
/// that frees hundreds of megabytes goes on at once, and resident memory follows what is in use.
// SAFETY: jemalloc reads a pointer to NUL-terminated text under this name, and no other library defines it.
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8; 60] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    cli::run(std::env::args_os().skip(1).collect())
}
