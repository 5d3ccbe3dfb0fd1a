//! What an operator does to a cluster, from outside: `keyloom cluster
//! create|join|leave|rebalance|status|watch|failover|force-promote`, and `backup|verify|restore`.
//!
//! Each of these talks to nodes as any client does, with commands that anybody could type: `CLUSTER CREATE`, `CLUSTER JOIN`,
//! `CLUSTER BEGIN`, `CLUSTER LEAVE`, `CLUSTER REBALANCE`, `CLUSTER STATUS`, `CLUSTER FAILOVER`, `CLUSTER FORCE-PROMOTE`, `CLUSTER
//! BACKUP`, `CLUSTER DIGEST`. So they work through the same passwords and
//! addresses as clients do.
//!
//! Plain blocking code; no state.

mod backup;
mod changes;
mod client;
mod contents;
mod manifest;
mod orders;
mod restore;
mod routes;
mod status;
mod watch;

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

pub use backup::BackupError;
use client::Client;
pub use client::ClientError;
pub use contents::ContentsError;
use manifest::Manifest;
pub use manifest::ManifestError;
use orders::Waits;
pub use restore::RestoreError;
pub use routes::RouteError;
use status::Unfinished;
use watch::Watch;

/// Until all nodes of a new cluster serve.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// Until nodes listen that are to be a cluster: they may have been started by the line before.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// The arguments of `keyloom cluster`.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    #[command(subcommand)]
    action: Action,
    /// Password of the nodes
    #[arg(long, global = true, value_name = "PASSWORD", default_value = "")]
    pass: String,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Make a cluster of nodes that run with 'cluster-enabled yes' and are in none
    Create {
        /// Addresses of the nodes for clients; the first one founds the cluster
        #[arg(required = true, value_name = "HOST:PORT")]
        nodes: Vec<String>,
    },
    /// Let a node that runs with 'cluster-enabled yes' and has no keys join a cluster
    Join {
        /// Address of the node that joins
        #[arg(value_name = "HOST:PORT")]
        node: String,
        /// Address of any member
        #[arg(value_name = "MEMBER")]
        member: String,
    },
    /// Let a node give all that it has to others and leave its cluster; its process ends then
    Leave {
        /// Address of the node, or with --node of any member
        #[arg(value_name = "HOST:PORT")]
        node: String,
        /// Number of the node that leaves, as 'keyloom cluster status' shows it; it may be dead
        #[arg(long = "node", value_name = "NUMBER")]
        number: Option<u64>,
        /// It stays after all
        #[arg(long, conflicts_with = "no_wait")]
        stay: bool,
        /// Do not wait until it has left
        #[arg(long)]
        no_wait: bool,
        /// Wait no longer, and end with an error if it has not left by then; it goes on with it
        #[arg(long, value_name = "SECONDS", conflicts_with_all = ["no_wait", "stay"])]
        timeout: Option<u64>,
    },
    /// Let copies and roles move to where they are to be, also those that were moved by hand; or let them stay where they are
    Rebalance {
        /// Address of any member
        #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
        node: String,
        /// Nothing moves, whoever joins, leaves or dies, until this is run without it
        #[arg(long)]
        pause: bool,
    },
    /// Show nodes, roles and copies, as a member sees them
    Status {
        /// Address of any member
        #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
        node: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Also print epochs and copies of all partitions, those with equal ones together
        #[arg(long)]
        partitions: bool,
    },
    /// Show the same again and again, and what has changed, until Ctrl-C; if the node ends, another one is asked
    Watch {
        /// Address of any member
        #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
        node: String,
        /// Between two looks
        #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
        interval: f64,
        /// Also print epochs and copies of all partitions, those with equal ones together
        #[arg(long)]
        partitions: bool,
    },
    /// Let a node lead all that it has copies in sync of
    Failover {
        /// Address of the node
        #[arg(value_name = "HOST:PORT")]
        node: String,
        /// Do not wait until it does
        #[arg(long)]
        no_wait: bool,
    },
    /// Let a node lead what nobody leads as all who had everything are lost; what only these had is lost, too
    ForcePromote {
        /// Address of the node
        #[arg(value_name = "HOST:PORT")]
        node: String,
        /// Numbers of the nodes that are lost for good, as 'keyloom cluster status' shows them
        #[arg(long, required = true, value_delimiter = ',', value_name = "NUMBER")]
        lost: Vec<u64>,
        /// Let partitions of which the node has no complete copy begin empty, also if another living node has one that was left behind
        #[arg(long)]
        empty: bool,
        /// Do it: these nodes never come back
        #[arg(long)]
        yes: bool,
    },
    /// Make files of all partitions while the cluster serves, each as it was at one moment
    #[command(after_help = BACKUP_HELP)]
    Backup {
        /// Address of any member
        #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
        node: String,
        /// The directory, which is empty or does not exist
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Check a backup: every byte of its files, and what they hold
    Verify {
        /// The directory of the backup; nothing in it is changed
        dir: PathBuf,
    },
    /// Put the keys of a backup into a cluster that has none, of any number of nodes
    #[command(after_help = RESTORE_HELP)]
    Restore {
        /// The directory of the backup; nothing in it is changed
        dir: PathBuf,
        /// Address of any node of the cluster, or of a node with 'cluster-enabled yes' that is alone
        #[arg(value_name = "HOST:PORT")]
        node: String,
    },
}

const BACKUP_HELP: &str = "\
What the backup has of a partition is what its leader had at one moment, and is committed; moments of different nodes
differ. Each node first writes what it leads to its own disk, below cluster/backup in its working directory, and removes it
when it is fetched. At the end each file is replayed, which takes as much memory as the data of one node, and a CPU for a
while: best on a machine where no node is.";

const RESTORE_HELP: &str = "\
The files are checked before anything is written. Keys keep their moments of expiry; those that are over are left out. At
the end the digest of each partition is compared, so nobody else should write meanwhile. One file at a time is held in
memory, which takes as much as the data of one node.";

/// A pause that can be slept, and that leaves the members time for something else.
fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_string())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("0.1 to 3600 seconds are possible".into()) }
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("node {node} has keys: a cluster of several nodes begins empty, or with one node that others join later")]
    Keys { node: String },
    #[error("node {node} has founded a cluster, which has nodes that are not named here")]
    Unnamed { node: String },
    #[error("not all slots are served after {} s: {state}", READY_PATIENCE.as_secs())]
    NotReady { state: String },
    #[error(
        "for partitions that nobody leads, every write is lost that {node} does not have, also what was acknowledged{}; if the nodes that have it never come back, say --yes",
        if *.empty { ", and those of which it has no complete copy begin empty" } else { "" }
    )]
    NotConfirmed { node: String, empty: bool },
    #[error("nodes {0} and {1} are the same one")]
    Twice(String, String),
    #[error("node {node} leads {leads} of {in_sync} partitions that it has in sync; the others keep the rest")]
    Kept { node: u64, leads: u64, in_sync: u64 },
    #[error("node {node} stays after all")]
    Stays { node: u64 },
    #[error("no other member answers any more; node {node} goes on leaving")]
    Alone { node: u64 },
    #[error("node {node} has not left in time; it goes on leaving")]
    Late { node: u64 },
    #[error("node {node} says what cannot be understood: {said}")]
    Nonsense { node: String, said: String },
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Runs `keyloom cluster`.
pub fn run(args: &ClusterArgs, out: &mut impl Write) -> Result<(), OperatorError> {
    let connect = |node: &str| Client::connect(node, &args.pass);
    match &args.action {
        Action::Create { nodes } => {
            let by = Instant::now() + START_PATIENCE;
            let started = |node: &String| connect_when_it_listens(node, &args.pass, by);
            let mut clients = nodes.iter().map(started).collect::<Result<Vec<_>, _>>()?;
            create(&mut clients)?;
            let _ = writeln!(out, "a cluster of {} {}", nodes.len(), if nodes.len() == 1 { "node" } else { "nodes" });
        }
        Action::Join { node, member } => {
            let bus = bus_address(&mut connect(member)?)?;
            connect(node)?.ask(&["CLUSTER", "JOIN", &bus.0, &bus.1])?;
            let _ = writeln!(out, "{node} has joined the cluster of {member}");
        }
        Action::Leave { node, number, stay: true, .. } => {
            let number = number.map(|number| number.to_string());
            let mut command = vec!["CLUSTER", "STAY"];
            command.extend(number.as_deref());
            connect(node)?.ask(&command)?;
            let _ = writeln!(out, "it stays");
        }
        Action::Leave { node, number, no_wait, timeout, .. } => {
            let waits = match (no_wait, timeout) {
                (true, _) => Waits::No,
                (false, None) => Waits::UntilDone,
                (false, Some(seconds)) => Waits::AtMost(Duration::from_secs(*seconds)),
            };
            orders::leave(node, &args.pass, *number, waits, out)?;
        }
        Action::Rebalance { node, pause } => {
            let command: &[&str] = if *pause { &["CLUSTER", "REBALANCE", "PAUSE"] } else { &["CLUSTER", "REBALANCE"] };
            connect(node)?.ask(command)?;
            let said = if *pause { "stay where they are" } else { "move to where they are to be" };
            let _ = writeln!(out, "copies and roles {said}");
        }
        Action::Status { node, json, partitions } => {
            let text = connect(node)?.text(&["CLUSTER", "STATUS"])?;
            let shown = if *json { Ok(text + "\n") } else { status::table(&text, *partitions) };
            let shown = shown.map_err(|said| OperatorError::Nonsense { node: node.clone(), said })?;
            // Whoever reads may have seen enough.
            let _ = out.write_all(shown.as_bytes());
        }
        Action::Watch { node, interval, partitions } => {
            let interval = Duration::from_secs_f64(*interval);
            let in_place = std::io::stdout().is_terminal();
            Watch { node, password: &args.pass, interval, partitions: *partitions, in_place }.run(out)?;
        }
        Action::Failover { node, no_wait } => orders::fail_over(node, &args.pass, !no_wait, out)?,
        Action::ForcePromote { node, empty, yes: false, .. } => {
            return Err(OperatorError::NotConfirmed { node: node.clone(), empty: *empty });
        }
        Action::ForcePromote { node, lost, empty, yes: true } => {
            let lost: Vec<String> = lost.iter().map(u64::to_string).collect();
            let mut command = vec!["CLUSTER", "FORCE-PROMOTE"];
            command.extend(empty.then_some("EMPTY"));
            command.extend(lost.iter().map(String::as_str));
            let promoted = connect(node)?.number(&command)?;
            let _ = writeln!(out, "{node} leads {promoted} partitions that nobody led");
        }
        Action::Backup { node, to } => {
            let started = Instant::now();
            let made = backup::backup(node, to, &args.pass)?;
            let rounds = if made.rounds > 1 { format!(", in {} rounds", made.rounds) } else { String::new() };
            let _ = writeln!(out, "{}", summary(&made.manifest));
            let (dir, seconds) = (to.display(), started.elapsed().as_secs_f64());
            let _ = writeln!(out, "backed up to '{dir}' in {seconds:.2} s{rounds}");
        }
        Action::Verify { dir } => {
            let manifest = restore::verify(dir)?;
            let _ = writeln!(out, "{}\n'{}' is whole", summary(&manifest), dir.display());
        }
        Action::Restore { dir, node } => {
            let started = Instant::now();
            let done = restore::restore(dir, node, &args.pass)?;
            let digests = match done.by_partition {
                true => format!("the digests of all {} partitions are those of the backup", done.partitions),
                false => "the digest of all is that of the backup".into(),
            };
            let (dir, seconds) = (dir.display(), started.elapsed().as_secs_f64());
            let _ = writeln!(
                out,
                "OK: {} keys sent; {digests}, over {} keys that do not expire soon",
                done.keys, done.compared
            );
            let _ = writeln!(out, "restored from '{dir}' in {seconds:.2} s");
        }
    }
    Ok(())
}

/// What is in a backup, in a line.
fn summary(manifest: &Manifest) -> String {
    let (files, count) = (manifest.files.len(), manifest.partitions);
    let files = format!("{files} {}", if files == 1 { "file" } else { "files" });
    format!("{files}, {} bytes, {count} partitions, {} keys", manifest.bytes(), manifest.digest().keys)
}

/// A connection to a node that may just be starting.
fn connect_when_it_listens(node: &str, password: &str, by: Instant) -> Result<Client, ClientError> {
    loop {
        match Client::connect(node, password) {
            Err(ClientError::Io { source, .. })
                if source.kind() == ErrorKind::ConnectionRefused && Instant::now() < by =>
            {
                std::thread::sleep(LOOK);
            }
            done => return done,
        }
    }
}

/// Founds a cluster on the first node, lets the others join, and waits until all slots are served. What an attempt has begun that
/// failed is gone on with: a founder whose data set has not begun, and nodes that have joined it.
fn create(clients: &mut [Client]) -> Result<(), OperatorError> {
    let mut ids: Vec<(String, &str)> = Vec::new();
    for client in clients.iter_mut() {
        let id = client.text(&["CLUSTER", "MYID"])?;
        if let Some((_, other)) = ids.iter().find(|(known, _)| *known == id) {
            return Err(OperatorError::Twice(other.to_string(), client.address().into()));
        }
        ids.push((id, client.address()));
    }
    if clients.len() > 1 {
        for client in clients.iter_mut() {
            if client.number(&["DBSIZE"])? > 0 {
                return Err(OperatorError::Keys { node: client.address().into() });
            }
        }
    }
    let begun = unfinished_members(clients)?;
    let Some((first, others)) = clients.split_first_mut() else { return Ok(()) };
    if begun.is_empty() {
        first.ask(&["CLUSTER", "CREATE"])?;
    }
    let bus = bus_address(first)?;
    for other in others.iter_mut() {
        if begun.iter().all(|member| member != other.address()) {
            other.ask(&["CLUSTER", "JOIN", &bus.0, &bus.1])?;
        }
    }
    first.ask(&["CLUSTER", "BEGIN"])?;
    let deadline = Instant::now() + READY_PATIENCE;
    for client in clients.iter_mut() {
        loop {
            let info = client.text(&["CLUSTER", "INFO"])?;
            let state = info.lines().next().unwrap_or_default().to_string();
            if state == "cluster_state:ok" {
                break;
            }
            if Instant::now() >= deadline {
                return Err(OperatorError::NotReady { state });
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// The addresses of those that are members already of a cluster which the first one has founded, and whose data set has not
/// begun. It must have no others: what is made would not be what was asked for.
fn unfinished_members(clients: &mut [Client]) -> Result<Vec<String>, OperatorError> {
    let Some((first, others)) = clients.split_first_mut() else { return Ok(Vec::new()) };
    // A cluster that has begun, or none: the node says what there is to say when it is to found one.
    let Some(founded) = unfinished(first)? else { return Ok(Vec::new()) };
    let (mut members, mut left) = (vec![first.address().to_string()], founded.others);
    for other in others {
        // It may have a number there, and not know of that.
        let id = other.text(&["CLUSTER", "MYID"])?;
        let known = left.iter().position(|known| *known == id).map(|at| left.swap_remove(at));
        if known.is_some() && unfinished(other)?.is_some() {
            members.push(other.address().to_string());
        }
    }
    if left.is_empty() { Ok(members) } else { Err(OperatorError::Unnamed { node: members.swap_remove(0) }) }
}

/// The cluster of a node, if it is a member of one whose data set has not begun.
fn unfinished(client: &mut Client) -> Result<Option<Unfinished>, ClientError> {
    match client.text(&["CLUSTER", "STATUS"]) {
        Ok(text) => Ok(status::unfinished(&text)),
        Err(ClientError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where other nodes reach a member: host, and port of the bus.
fn bus_address(member: &mut Client) -> Result<(String, String), OperatorError> {
    let text = member.text(&["CLUSTER", "STATUS"])?;
    status::bus_address(&text).ok_or_else(|| OperatorError::Nonsense {
        node: member.address().into(),
        said: text.chars().take(200).collect(),
    })
}
