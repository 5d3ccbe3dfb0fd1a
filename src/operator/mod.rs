//! What an operator does to a cluster, from outside: `keyloom cluster
//! create|join|leave|rebalance|status|watch|failover|force-promote`.
//!
//! Each of these talks to nodes as any client does, with commands that anybody could type: `CLUSTER CREATE`, `CLUSTER JOIN`,
//! `CLUSTER BEGIN`, `CLUSTER LEAVE`, `CLUSTER REBALANCE`, `CLUSTER STATUS`, `CLUSTER FAILOVER`, `CLUSTER FORCE-PROMOTE`. So they work through the same passwords and
//! addresses as clients do.
//!
//! Plain blocking code; no state.

mod changes;
mod client;
mod orders;
mod status;
mod watch;

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use client::Client;
pub use client::ClientError;
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
}

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
    #[error("not all slots are served after {} s: {state}", READY_PATIENCE.as_secs())]
    NotReady { state: String },
    #[error(
        "for partitions that nobody leads, every write is lost that {node} does not have, also what was acknowledged{}; if the nodes that have it never come back, say --yes",
        if *.empty { ", and those of which it has no complete copy begin empty" } else { "" }
    )]
    NotConfirmed { node: String, empty: bool },
    #[error("no other member answers any more; node {node} goes on leaving")]
    Alone { node: u64 },
    #[error("node {node} says what cannot be understood: {said}")]
    Nonsense { node: String, said: String },
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
        Action::Leave { node, number, no_wait, .. } => orders::leave(node, &args.pass, *number, !no_wait, out)?,
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
        Action::Failover { node } => {
            connect(node)?.ask(&["CLUSTER", "FAILOVER"])?;
            let _ = writeln!(out, "{node} asks for all roles that it could have");
        }
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
    }
    Ok(())
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

/// Founds a cluster on the first node, lets the others join, and waits until all slots are served.
fn create(clients: &mut [Client]) -> Result<(), OperatorError> {
    if clients.len() > 1 {
        for client in clients.iter_mut() {
            if client.number(&["DBSIZE"])? > 0 {
                return Err(OperatorError::Keys { node: client.address().into() });
            }
        }
    }
    let Some((first, others)) = clients.split_first_mut() else { return Ok(()) };
    first.ask(&["CLUSTER", "CREATE"])?;
    let bus = bus_address(first)?;
    for other in others.iter_mut() {
        other.ask(&["CLUSTER", "JOIN", &bus.0, &bus.1])?;
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

/// Where other nodes reach a member: host, and port of the bus.
fn bus_address(member: &mut Client) -> Result<(String, String), OperatorError> {
    let text = member.text(&["CLUSTER", "STATUS"])?;
    status::bus_address(&text).ok_or_else(|| OperatorError::Nonsense {
        node: member.address().into(),
        said: text.chars().take(200).collect(),
    })
}
