//! `keyloom ring`: what placement does with a cluster of a given shape, and how other ways to place compare.
//!
//! Runs on the thread that asks, without a node. Without `--simulate` it prints one placement, node by node. With it, each
//! way to place ([`schemes`]) is measured ([`measure`]) for clusters of several sizes: how even the load is, and how much
//! moves when a node joins or leaves; the result is a table ([`report`]) and a picture ([`plot`]). Equal options give an
//! equal result: nothing is random but the hash.

pub mod measure;
pub mod plot;
pub mod report;
pub mod schemes;

use std::io::Write;
use std::path::PathBuf;

use super::{COPIES_MAX, Member, NODES_MAX, NodeId, PARTITIONS_MAX, PlaceError, Rule, WEIGHT_MAX};
use measure::Figures;

/// Sizes of clusters that are simulated if none is given.
pub const COUNTS: [usize; 7] = [3, 5, 10, 30, 100, 300, 1_000];
/// Most sizes in one simulation: as many as a picture has room for.
pub const COUNTS_MAX: usize = 16;

/// Options of `keyloom ring`.
#[derive(Clone, Debug, clap::Args)]
pub struct RingArgs {
    /// Number of nodes; with --simulate any number of them [default with --simulate: 3,5,10,30,100,300,1000]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub nodes: Vec<usize>,
    /// Number of partitions, a power of two
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub partitions: usize,
    /// Copies of each partition, the primary included
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub replicas: usize,
    /// Weights of the nodes, repeated as often as needed
    #[arg(long, value_name = "W,..", value_delimiter = ',', default_value = "1")]
    pub weights: Vec<usize>,
    /// Number of racks that the nodes are dealt to [default: each node is a rack of its own]
    #[arg(long, value_name = "N")]
    pub racks: Option<usize>,
    /// Compare with other ways to place, for balance and for movement on a join and a leave
    #[arg(long)]
    pub simulate: bool,
    /// Write the comparison as a picture
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("--nodes is needed, or --simulate")]
    NoNodes,
    #[error("--nodes takes one number without --simulate")]
    ManyNodes,
    #[error("--nodes takes at most {COUNTS_MAX} numbers")]
    Counts,
    #[error("--svg is the picture of a simulation: it needs --simulate")]
    Picture,
    #[error("--{option} must be between 1 and {max}")]
    Range { option: &'static str, max: usize },
    #[error("--partitions must be a power of two up to {PARTITIONS_MAX}")]
    Partitions,
    #[error("{0}")]
    Place(#[from] PlaceError),
    #[error("could not write {path}: {reason}")]
    Write { path: PathBuf, reason: String },
}

impl RingArgs {
    fn check(&self) -> Result<(), RingError> {
        // A node that joins needs a place, too.
        let nodes_max = if self.simulate { NODES_MAX - 1 } else { NODES_MAX };
        within("nodes", &self.nodes, nodes_max)?;
        within("replicas", &[self.replicas], COPIES_MAX)?;
        within("racks", self.racks.as_slice(), NODES_MAX)?;
        within("weights", &self.weights, WEIGHT_MAX as usize)?;
        if !self.partitions.is_power_of_two() || self.partitions > PARTITIONS_MAX {
            return Err(RingError::Partitions);
        }
        match (self.simulate, self.nodes.len()) {
            (false, 0) => Err(RingError::NoNodes),
            (false, 2..) => Err(RingError::ManyNodes),
            (false, _) if self.svg.is_some() => Err(RingError::Picture),
            (true, counts) if counts > COUNTS_MAX => Err(RingError::Counts),
            _ => Ok(()),
        }
    }

    fn rule(&self) -> Rule {
        Rule { partitions: self.partitions, copies: self.replicas }
    }

    /// Member `number`, from 0 on, with its weight and its rack.
    fn member(&self, number: usize) -> Member {
        Member {
            id: number as NodeId + 1,
            weight: self.weights[number % self.weights.len()] as u32,
            rack: self.racks.map(|racks| (number % racks) as u32),
            alive: true,
        }
    }
}

fn within(option: &'static str, values: &[usize], max: usize) -> Result<(), RingError> {
    let good = values.iter().all(|value| (1..=max).contains(value));
    if good { Ok(()) } else { Err(RingError::Range { option, max }) }
}

/// Does what `args` say, and prints it to `out`.
pub fn run(args: &RingArgs, out: &mut impl Write) -> Result<(), RingError> {
    args.check()?;
    if args.simulate {
        simulate(args, out)
    } else {
        let members: Vec<Member> = (0..args.nodes[0]).map(|number| args.member(number)).collect();
        let text = report::placement(&members, args.rule())?;
        // Whoever reads may have seen enough.
        let _ = out.write_all(text.as_bytes());
        Ok(())
    }
}

fn simulate(args: &RingArgs, out: &mut impl Write) -> Result<(), RingError> {
    let failed = |path: &PathBuf, reason: String| RingError::Write { path: path.clone(), reason };
    if let Some(path) = &args.svg {
        // It is told at once if there can be no picture.
        std::fs::File::create(path).map_err(|error| failed(path, error.to_string()))?;
    }
    let counts = if args.nodes.is_empty() { COUNTS.to_vec() } else { args.nodes.clone() };
    let _ = out.write_all(report::head(args.rule()).as_bytes());
    let mut all: Vec<Figures> = Vec::new();
    for &count in &counts {
        for scheme in schemes::ALL {
            let figures = measure::measure(scheme, count, args.rule(), |number| args.member(number))?;
            // Line by line: the largest cluster takes longest. Whoever reads may have seen enough.
            let _ = out.write_all(report::line(&figures).as_bytes()).and_then(|()| out.flush());
            all.push(figures);
        }
    }
    match &args.svg {
        Some(path) => plot::write(path, args.rule(), &counts, &all).map_err(|reason| failed(path, reason)),
        None => Ok(()),
    }
}
