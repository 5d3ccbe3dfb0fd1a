//! The program: `keyloom [serve]`, `keyloom doctor`, `keyloom bench`.
//!
//! Thin: [`cli`] reads the command line, the library does the work. Every error is one line on stderr and exit code 1.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run(std::env::args_os().skip(1).collect())
}
