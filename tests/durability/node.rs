//! A node whose data outlives its processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use super::common::Server;

/// A directory with the data of a node, removed when the value is dropped.
pub struct Data {
    path: PathBuf,
}

impl Data {
    pub fn new(name: &str) -> Data {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Data { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the files of the log are.
    pub fn log(&self) -> PathBuf {
        self.path.join("appendonlydir")
    }

    /// Files of the log whose names begin so, in the order of their indices.
    pub fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let names = std::fs::read_dir(self.log()).unwrap().map(|entry| entry.unwrap().path());
        let wanted = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(prefix) && !name.ends_with(".tmp")
        };
        let mut files: Vec<PathBuf> = names.filter(wanted).collect();
        files.sort();
        files
    }

    /// Starts a node on it, with a log, on these CPUs.
    pub fn start(&self, cpus: &str, args: &[&str]) -> Server {
        Server::keyloom(&[&self.args(cpus), args].concat())
    }

    fn args<'a>(&'a self, cpus: &'a str) -> [&'a str; 6] {
        ["--dir", self.path.to_str().unwrap(), "--appendonly", "yes", "--cpus", cpus]
    }

    /// Starts a node that is to end by itself; what it said.
    pub fn start_in_vain(&self, args: &[&str]) -> Output {
        let port = super::common::free_port().to_string();
        let args = [&self.args("0")[..], &["--port", &port], args].concat();
        run(&args)
    }

    /// `keyloom check` or `keyloom dump`.
    pub fn tool(&self, name: &str) -> Output {
        run(&[name, self.log().to_str().unwrap()])
    }

    /// `keyloom check` finds nothing wrong.
    #[track_caller]
    pub fn is_intact(&self) {
        let output = self.tool("check");
        assert!(output.status.success(), "keyloom check: {}", said(&output));
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the data stay in {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyloom")).args(args).output().unwrap()
}

/// All that a program has said.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
