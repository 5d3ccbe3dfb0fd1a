//! Reading: files, the standard input and the command line, in the order and with the precedence of redis-server.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::{LoadError, Origin};
use super::{Config, table, value, words};

/// A file may include one that includes one, and so on, up to this depth.
const INCLUDE_DEPTH_MAX: usize = 16;
/// Longest file, bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// As much of a bad line is shown.
const SHOWN_CHARS_MAX: usize = 120;

/// CPUs that this process may run on (`Cpus_allowed_list` of /proc/self/status), or CPU 0 where that is not known.
pub fn allowed_cpus() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(|list| value::parse_cpus(list).ok()).unwrap_or_else(|| vec![0])
}

impl Config {
    /// The configuration that `args` (without the program's name and `serve`) ask for: `[FILE | -] [--config FILE]
    /// [--directive value ...]...`. Directives of the command line come after the file's, wherever they stand.
    pub fn load(args: &[OsString]) -> Result<Config, LoadError> {
        let mut file = None;
        let mut overrides: Vec<Vec<Vec<u8>>> = Vec::new();
        for (index, arg) in args.iter().enumerate() {
            match (arg.as_bytes(), overrides.last_mut()) {
                ([b'-', b'-', name @ ..], _) if !name.is_empty() => overrides.push(vec![name.to_vec()]),
                (value, Some(words)) => words.push(value.to_vec()),
                (_, None) if index == 0 => file = Some(arg.clone()),
                _ => {
                    let shown = arg.display();
                    return Err(LoadError::Arguments(format!(
                        "'{shown}' belongs to no directive: write --name value, with at most one FILE before them"
                    )));
                }
            }
        }
        let started_in = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let mut config = Config { dir: started_in.to_string_lossy().into_owned(), started_in, ..Config::default() };
        overrides.retain(|words| {
            let is_file = words.len() == 2 && words[0].eq_ignore_ascii_case(b"config");
            if is_file {
                file = Some(OsString::from_vec(words[1].clone()));
            }
            !is_file
        });
        match file {
            None => {}
            Some(path) if path == "-" => config.read(std::io::stdin().lock(), "-", Path::new("."), 0)?,
            Some(path) => config.load_file(Path::new(&path))?,
        }
        for words in overrides {
            config.line(&words, &Origin::CommandLine, Path::new(""), 0)?;
        }
        config.settle()?;
        Ok(config)
    }

    /// Applies a file and remembers it for CONFIG REWRITE.
    fn load_file(&mut self, path: &Path) -> Result<(), LoadError> {
        self.read_path(path, 0)?;
        self.config_file = Some(std::fs::canonicalize(path).map_err(|source| unreadable(path, source))?);
        Ok(())
    }

    /// What a file with this `text` at `path` sets, as if it were loaded where this process was started.
    pub(super) fn of_text(text: &[u8], path: &Path, started_in: &Path) -> Result<Config, LoadError> {
        let dir = started_in.to_string_lossy().into_owned();
        let mut config = Config { dir, started_in: started_in.into(), ..Config::default() };
        config.read_text(text, &path.to_string_lossy(), path.parent().unwrap_or(Path::new("")), 0)?;
        Ok(config)
    }

    fn read_path(&mut self, path: &Path, depth: usize) -> Result<(), LoadError> {
        let file = std::fs::File::open(path).map_err(|source| unreadable(path, source))?;
        let shown = path.to_string_lossy().into_owned();
        self.read(file, &shown, path.parent().unwrap_or(Path::new("")), depth)
    }

    /// Applies the lines of `source`. Relative includes start in `folder`.
    fn read(&mut self, source: impl Read, path: &str, folder: &Path, depth: usize) -> Result<(), LoadError> {
        let mut text = Vec::new();
        let unreadable = |source| LoadError::Read { path: path.to_string(), source };
        source.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(unreadable(std::io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes"))));
        }
        self.read_text(&text, path, folder, depth)
    }

    fn read_text(&mut self, text: &[u8], path: &str, folder: &Path, depth: usize) -> Result<(), LoadError> {
        for (index, line) in text.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !is_comment(line)) {
            let origin = Origin::File { path: path.to_string(), line: index + 1 };
            match words::split(line) {
                Ok(words) => self.line(&words, &origin, folder, depth)?,
                Err(error) => return Err(bad(&origin, &[line.to_vec()], error.to_string())),
            }
        }
        Ok(())
    }

    /// Applies one line: an include or a directive.
    fn line(&mut self, words: &[Vec<u8>], origin: &Origin, folder: &Path, depth: usize) -> Result<(), LoadError> {
        if words[0].eq_ignore_ascii_case(b"include") {
            self.include(words, origin, folder, depth)
        } else {
            self.apply(words, origin)
        }
    }

    fn include(&mut self, words: &[Vec<u8>], origin: &Origin, folder: &Path, depth: usize) -> Result<(), LoadError> {
        let [_, path] = words else { return Err(bad(origin, words, "wrong number of arguments".into())) };
        if depth + 1 >= INCLUDE_DEPTH_MAX {
            let why = format!("more than {INCLUDE_DEPTH_MAX} files include each other");
            return Err(bad(origin, words, why));
        }
        self.read_path(&folder.join(OsStr::from_bytes(path)), depth + 1).map_err(|source| match source {
            LoadError::Read { .. } => LoadError::Include { origin: origin.clone(), source: Box::new(source) },
            located => located,
        })
    }

    /// Applies one directive with its arguments.
    fn apply(&mut self, words: &[Vec<u8>], origin: &Origin) -> Result<(), LoadError> {
        let (name, arguments) = words.split_first().expect("a directive has a name");
        let Some(directive) = table::find(name) else {
            let hint = match table::nearest(&String::from_utf8_lossy(name)) {
                Some(nearest) => format!("; did you mean '{nearest}'?"),
                None => String::new(),
            };
            return Err(bad(origin, words, format!("Bad directive or wrong number of arguments{hint}")));
        };
        directive.add_words(self, arguments).map_err(|why| bad(origin, words, why))
    }

    /// Checks what several directives, or a directive and this machine, decide together.
    fn settle(&mut self) -> Result<(), LoadError> {
        if self.cluster_enabled {
            self.databases = 1;
            if !self.partitions_chosen {
                self.partitions = CLUSTER_PARTITIONS;
            }
        }
        let cores_max = self.partitions as usize;
        if self.cpus_all {
            self.cpus.truncate(cores_max);
        }
        let conflict = |why: String| {
            let directive = format!("cpus {}", value::print_cpus(&self.cpus));
            Err(LoadError::Conflict { directive, why })
        };
        if self.cpus.len() > cores_max {
            return conflict(format!("more CPUs than 'partitions {cores_max}'"));
        }
        let allowed = allowed_cpus();
        if let Some(cpu) = self.cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            let allowed = value::print_cpus(&allowed);
            return conflict(format!("CPU {cpu} is not among those that this process may run on ({allowed})"));
        }
        self.check().map_err(|(directive, why)| LoadError::Conflict { directive, why })
    }
}

/// Partitions of a data set in a cluster, unless the configuration says otherwise: more, because they are what nodes share
/// and move.
pub const CLUSTER_PARTITIONS: u16 = 1024;

/// Directives whose values are not shown in error messages.
const SECRETS: [&str; 2] = ["requirepass", "cluster-secret"];

/// Whether a line says nothing.
pub(super) fn is_comment(line: &[u8]) -> bool {
    matches!(line.trim_ascii().first(), None | Some(b'#'))
}

fn unreadable(path: &Path, source: std::io::Error) -> LoadError {
    LoadError::Read { path: path.to_string_lossy().into_owned(), source }
}

fn bad(origin: &Origin, words: &[Vec<u8>], why: String) -> LoadError {
    let name = words[0].trim_ascii_start().to_ascii_lowercase();
    let secret = SECRETS.iter().find(|secret| name.starts_with(secret.as_bytes()));
    let shown = secret.map(|secret| [secret.as_bytes().to_vec()]);
    let shown = shown.as_ref().map_or(words, |shown| &shown[..]);
    let line = shown.iter().map(|w| String::from_utf8_lossy(w.trim_ascii())).collect::<Vec<_>>().join(" ");
    let printable = line.chars().map(|c| if c.is_control() { '?' } else { c });
    LoadError::Directive { origin: origin.clone(), directive: printable.take(SHOWN_CHARS_MAX).collect(), why }
}
