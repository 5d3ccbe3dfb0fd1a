//! The command line: which command, and its arguments.
//!
//! `serve` is what runs when no command is named. Its arguments are those of redis-server, a file and directives of any
//! name, so they are read by [`Config::load`]; clap reads the rest.

use std::ffi::OsString;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::{CommandFactory, Parser, Subcommand};

use keyloom::admin::{doctor, limits, logging};
use keyloom::cluster::simulation;
use keyloom::config::{Config, LoadError};
use keyloom::dumpfile::{self, ExportError, ImportError, Target};
use keyloom::loadgen;
use keyloom::log::files::{DataDir, DirError};
use keyloom::log::{check, dump, recover};
use keyloom::net::pump::Service;
use keyloom::node;
use keyloom::operator;

const DIRECTIVES_HELP: &str = "\
Directives have the syntax and the names of redis.conf; on the command line they start with two dashes and come
after those of the file. The most used:

  --port 6379                  TCP port
  --bind 127.0.0.1 -::1        addresses to listen on; with - before it, one that is missing is skipped
  --unixsocket PATH            listen on a Unix socket, too
  --requirepass SECRET         password of the default user
  --protected-mode yes|no      without a password, refuse clients of other machines
  --maxclients 10000           most clients at once
  --timeout 0                  disconnect idle clients after this many seconds
  --cpus all|0-3|0,2           CPUs of the data cores, one core each
  --partitions 256             parts of the keyspace that cores own; a power of two
  --control-core shared|dedicated
  --admin-port 0               port of metrics and of a page of the cluster; 0 is off
  --loglevel debug|verbose|notice|warning
  --logfile PATH               \"\" is the standard output
  --log-format text|json
  --dir PATH                   working directory, under which data are kept
  --appendonly yes|no          keep a log of all writes on disk
  --appendfsync everysec|always|no
  --save \"3600 1 300 100\"    make a snapshot after so many seconds with so many changes
  --write-durability memory|disk|quorum|quorum-disk
                               what a reply to a write means
  --wal-max-size 1gb           make a snapshot when the log is longer
  --shutdown-timeout 10        longest wait for the last snapshot, seconds

CONFIG GET * lists all of them with their values. README.md is the place to read on; redis.conf's own
comments apply where a name is the same.

Examples:
  keyloom                                  serve on 127.0.0.1:6379 with defaults
  keyloom redis.conf --port 7000           a file, and directives that come after it
  keyloom --port 7000 --cpus 0-1 --save \"\"
  keyloom doctor                           is this machine fit, and what is to be done
  keyloom check /var/lib/keyloom/appendonlydir    is the data whole
  keyloom dump /var/lib/keyloom/appendonlydir --from 7
                                           the log as commands
  keyloom ring --nodes 5 --racks 3         which node would hold how much";

/// A Redis-compatible in-memory store: one pinned thread per core, nothing shared.
#[derive(Parser)]
#[command(name = "keyloom", version, after_help = DIRECTIVES_HELP)]
#[command(
    override_usage = "keyloom [serve] [FILE | -] [--config FILE] [--DIRECTIVE VALUE...]...\n       keyloom <COMMAND>"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node (what happens when no command is named)
    #[command(after_help = DIRECTIVES_HELP)]
    Serve {
        /// A file ("-" is the standard input), then directives
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Make, extend, look at, back up and restore a cluster of several nodes
    Cluster(operator::ClusterArgs),
    /// Measure the throughput and the latency of a server
    Bench(Box<loadgen::BenchArgs>),
    /// Answer every request with fixed bytes, unread: what the network layer alone costs
    #[command(hide = true)]
    Floor {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check whether this machine is fit for a node, and say what to do
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Arguments that the node would be started with
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Verify every byte of a data directory, and say what is in it
    Check {
        /// The data directory; nothing in it is changed
        dir: PathBuf,
    },
    /// Print what a data directory holds, as commands
    #[command(after_help = DUMP_HELP)]
    Dump {
        /// The data directory; nothing in it is changed
        dir: PathBuf,
        /// Only the log, from this index on
        #[arg(long, value_name = "INDEX")]
        from: Option<u64>,
    },
    /// Make the data of a node from a dump file of Redis
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// An RDB file of Redis 2 to 8 or Valkey 9
        file: PathBuf,
        /// What the node has as 'dir'; its data lies in a directory below it
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// What the node has as 'appenddirname'
        #[arg(long, value_name = "NAME", default_value = "appendonlydir")]
        appenddirname: PathBuf,
        /// What the node has as 'databases'
        #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
        databases: u16,
        /// Leave out what Keyloom has not: streams and values of modules
        #[arg(long)]
        skip_unsupported: bool,
    },
    /// Write a dump file that Redis can read
    Export {
        /// The data directory, or the one above it; nothing in it is changed
        dir: PathBuf,
        /// The file, which must not be there
        file: PathBuf,
    },
    /// Show how partitions are placed on nodes, and how other ways to do it compare
    Ring(simulation::RingArgs),
}

const IMPORT_HELP: &str = "\
The node must not run, and its data directory must hold no data yet. Keys that have expired are left out.";

const DUMP_HELP: &str = "\
A line is: index, time of the frame (Unix, seconds), first digits of the history, [database], command. Statements of one
unit have the same index. Without --from, the newest snapshot comes first; in it, \"cover\" lines name a range of keys, and
the commands that rebuild it follow.";

/// Why the program ended with exit code 1.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("'{word}' is neither a command ({commands}) nor a configuration file{hint}")]
    Unknown { word: String, commands: String, hint: String },
    #[error("{said}; see {command} --help")]
    Usage { said: String, command: String },
    #[error("{0}")]
    Load(#[from] LoadError),
    #[error("'dir {dir}': {source}")]
    Dir { dir: String, source: std::io::Error },
    #[error("{0}")]
    Unfit(#[from] doctor::Unfit),
    #[error("{0}")]
    Log(#[from] logging::LogError),
    #[error("{0}")]
    Limit(#[from] limits::LimitError),
    #[error("{0}")]
    Node(#[from] node::NodeError),
    #[error("{0}")]
    Data(#[from] recover::RecoverError),
    #[error("{0}")]
    Dump(#[from] dump::DumpError),
    #[error("{0}")]
    Import(#[from] ImportError),
    #[error("{0}")]
    Export(#[from] ExportError),
    #[error("{0}")]
    Ring(#[from] simulation::RingError),
    #[error("{0}")]
    Operator(#[from] operator::OperatorError),
}

/// Runs the program with `args`, its name not among them.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let done = match words(&args).as_slice() {
        // The load generator says in one line what is wrong with its options.
        ["bench", ..] => return loadgen::command_line(args.into_iter().skip(1)),
        ["serve", "-h" | "--help", ..] => parsed(args),
        ["serve", ..] => serve(&args[1..], Service::Commands),
        ["-h" | "--help" | "-V" | "-v" | "--version", ..] => parsed(args),
        [word, ..] if is_command(word) => parsed(args),
        [word, ..] if is_typing_error(word) => Err(unknown(word)),
        _ => serve(&args, Service::Commands),
    };
    done.unwrap_or_else(|error| {
        eprintln!("keyloom: {error}");
        ExitCode::FAILURE
    })
}

/// Whether `word` is one of [`Command`], or clap's own.
fn is_command(word: &str) -> bool {
    word == "help" || Cli::command().find_subcommand(word).is_some()
}

/// The first two words, as far as they are text.
fn words(args: &[OsString]) -> Vec<&str> {
    args.iter().take(2).map_while(|arg| arg.to_str()).collect()
}

/// A first word that can only be meant as a command, and is none.
fn is_typing_error(word: &str) -> bool {
    let bare = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    bare && !std::path::Path::new(word).exists()
}

fn unknown(word: &str) -> CliError {
    let cli = Cli::command();
    let shown = cli.get_subcommands().filter(|command| !command.is_hide_set()).map(|command| command.get_name());
    let commands: Vec<_> = shown.chain(["help"]).collect();
    let lower = word.to_ascii_lowercase();
    let hint = match commands.iter().find(|name| lower.starts_with(&name[..1])) {
        Some(name) => format!("; did you mean '{name}'?"),
        None => "; see keyloom --help".to_string(),
    };
    CliError::Unknown { word: word.to_string(), commands: commands.join(", "), hint }
}

/// The command that is meant, with the program's name: `keyloom cluster leave`.
fn command_of(args: &[OsString]) -> String {
    let (mut name, mut command) = ("keyloom".to_string(), &Cli::command());
    for word in args.iter().map_while(|arg| arg.to_str()) {
        let Some(sub) = command.find_subcommand(word) else { break };
        name = format!("{name} {}", sub.get_name());
        command = sub;
    }
    name
}

/// What clap complains of, in one line: what is missing stands in lines of its own, and how to use it behind an empty one.
fn first_paragraph(text: &str) -> String {
    let lines = text.strip_prefix("error: ").unwrap_or(text).lines().map(str::trim);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Commands that clap reads.
fn parsed(mut args: Vec<OsString>) -> Result<ExitCode, CliError> {
    // redis-server prints its version for a small v, too.
    if args[0] == "-v" {
        args[0] = "--version".into();
    }
    let command = command_of(&args);
    let cli = match Cli::try_parse_from(std::iter::once("keyloom".into()).chain(args)) {
        Ok(cli) => cli,
        Err(message) if message.use_stderr() => {
            let said = first_paragraph(&message.render().to_string());
            return Err(CliError::Usage { said, command });
        }
        Err(help) => {
            // Nobody is left to tell if the terminal is gone.
            let _ = help.print();
            return Ok(ExitCode::SUCCESS);
        }
    };
    match cli.command {
        Command::Serve { args } => serve(&args, Service::Commands),
        Command::Floor { args } => serve(&args, Service::FixedBytes),
        Command::Cluster(args) => {
            operator::run(&args, &mut std::io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench(args) => Ok(loadgen::main(&args)),
        Command::Doctor { json, args } => examine(json, args),
        Command::Check { dir } => {
            let report = check::check(&dir)?;
            // Whoever reads may have seen enough.
            let _ = write!(std::io::stdout(), "{report}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Dump { dir, from } => {
            match dump::dump(&dir, from, &mut BufWriter::new(std::io::stdout().lock())) {
                Err(dump::DumpError::Print(error)) if error.kind() == ErrorKind::BrokenPipe => {}
                dumped => dumped?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Import { file, dir, appenddirname, databases, skip_unsupported } => {
            import(&file, &dir.join(appenddirname), databases as usize, skip_unsupported)
        }
        Command::Export { dir, file } => export(&dir, &file),
        Command::Ring(args) => {
            simulation::run(&args, &mut std::io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `keyloom import`: what was taken is printed.
fn import(file: &Path, dir: &Path, databases: usize, skip_unsupported: bool) -> Result<ExitCode, CliError> {
    let started = Instant::now();
    std::fs::create_dir_all(dir)
        .map_err(|source| DirError::Io { path: dir.into(), source })
        .map_err(ImportError::from)?;
    let data = DataDir::open(dir).map_err(ImportError::from)?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
    let target = Target { partitions: Config::default().partitions, databases, skip_unsupported, now_ms };
    let imported = dumpfile::import(file, &data, &target)?;
    let seconds = started.elapsed().as_secs_f64();
    let _ = writeln!(std::io::stdout(), "{imported}imported into '{}' in {seconds:.2} s", dir.display());
    Ok(ExitCode::SUCCESS)
}

/// `keyloom export`: what was written is printed.
fn export(dir: &Path, file: &Path) -> Result<ExitCode, CliError> {
    let started = Instant::now();
    let below = dir.join(Config::default().appenddirname);
    let dir = if below.is_dir() { &below } else { dir };
    let done = dumpfile::export(dir, file)?;
    let seconds = started.elapsed().as_secs_f64();
    let _ = writeln!(
        std::io::stdout(),
        "RDB version {}, {} bytes, {} keys in {} databases\nexported from '{}' in {seconds:.2} s",
        done.version,
        done.bytes,
        done.keys,
        done.databases,
        dir.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// `keyloom doctor`: exit code 1 if a node could not start.
fn examine(json: bool, mut args: Vec<OsString>) -> Result<ExitCode, CliError> {
    let json_too = args.iter().any(|arg| arg == "--json");
    args.retain(|arg| arg != "--json");
    let checks = doctor::examine(&Config::load(&args)?);
    let text = if json || json_too { doctor::print_json(&checks) + "\n" } else { doctor::print_text(&checks) };
    // Whoever reads may have seen enough; the exit code is told all the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if doctor::worst(&checks) == doctor::Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `keyloom serve`: runs a node until it is told to stop.
fn serve(args: &[OsString], service: Service) -> Result<ExitCode, CliError> {
    let mut config = Config::load(args)?;
    std::env::set_current_dir(&config.dir).map_err(|source| CliError::Dir { dir: config.dir.clone(), source })?;
    let warnings = doctor::probe(&config)?;
    let files = limits::raise_open_files(config.maxclients, config.cpus.len())?;
    // Dropped last: what is queued is written before the process ends.
    let _log = logging::start(&config)?;
    for warning in warnings {
        tracing::warn!(check = warning.name, found = warning.found, advice = warning.advice, "this machine");
    }
    if files.maxclients < config.maxclients {
        tracing::warn!(
            open_files = files.limit,
            asked = config.maxclients,
            maxclients = files.maxclients,
            "the limit of open files leaves room for fewer clients"
        );
        config.maxclients = files.maxclients;
    }
    let log_is_file = !config.logfile.is_empty();
    let result = node::run(config, service);
    // The line on stderr is enough for those who see the log on the standard output.
    if let Err(error) = &result
        && log_is_file
    {
        tracing::error!(%error, "the node failed");
    }
    result?;
    Ok(ExitCode::SUCCESS)
}
