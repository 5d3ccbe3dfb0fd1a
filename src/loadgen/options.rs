//! Options of the load generator, and what they mean together.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::connect::{Greeting, Target};
use super::plan::{KeyPattern, KeyRange, Mix, Sizes};
use super::request::{self, KEY_DIGITS_MAX, KeyFormat, Template, TemplateError};
use super::run::{OpenLoop, Setup};
use super::schedule::Arrival;

/// Most threads, connections in all, and requests in flight per connection.
pub const THREADS_MAX: usize = 256;
pub const CONNECTIONS_MAX: usize = 60_000;
pub const PIPELINE_MAX: usize = 10_000;
/// Largest value, bytes: what a Redis server takes by default.
pub const DATA_BYTES_MAX: usize = 512 << 20;
/// Most sizes in `--data-size-list`.
pub const SIZES_MAX: usize = 64;
/// Largest term of `--ratio` and weight of a size.
pub const WEIGHT_MAX: u64 = 1_000_000;
/// Longest run and warm-up, seconds.
pub const SECONDS_MAX: f64 = 1e7;
/// Largest rate, requests per second: one per nanosecond.
pub const RATE_MAX: f64 = 1e9;
/// Longest time that an open loop stays awake for a request, microseconds.
pub const SPIN_US_MAX: u32 = 1_000_000;
/// Largest exponent of the Zipf distribution.
pub const EXPONENT_MAX: f64 = 20.0;
/// Requests per client when neither `--requests` nor `--test-time` is given.
pub const REQUESTS_DEFAULT: u64 = 10_000;
/// A load keeps at least this many requests in flight per connection: nobody asks for its latency.
const LOAD_PIPELINE_MIN: usize = 32;

/// Measure the latency and throughput of a server.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Server's name or address
    #[arg(short = 's', long, default_value = "127.0.0.1")]
    pub host: String,
    /// Server's port
    #[arg(short, long, default_value_t = 6379)]
    pub port: u16,
    /// Connect to this Unix socket instead
    #[arg(short = 'S', long, value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,
    /// Password
    #[arg(short, long, value_name = "PASSWORD")]
    pub auth: Option<String>,
    /// User of an access control list
    #[arg(long, requires = "auth")]
    pub user: Option<String>,
    /// Database number
    #[arg(long, default_value_t = 0)]
    pub db: u32,
    /// Protocol version
    #[arg(long, value_enum, default_value_t)]
    pub protocol: Protocol,

    /// Send each request to the primary of its key's slot, go on through failovers, and tell how long they took. Host and
    /// port are those of any node; each client has a connection to every primary: threads x clients x primaries in all, at
    /// most 60000
    #[arg(long, conflicts_with = "unix_socket")]
    pub cluster: bool,
    /// Connections per thread; with --cluster, clients with their connections
    #[arg(short, long, default_value_t = 50)]
    pub clients: usize,
    /// Threads
    #[arg(short, long, default_value_t = 1)]
    pub threads: usize,
    /// Most requests in flight per connection
    #[arg(short = 'P', long, default_value_t = 1)]
    pub pipeline: usize,
    /// Open loop: so many requests per second over all connections, however fast the server answers
    #[arg(long, value_name = "OPS_PER_S")]
    pub rate: Option<f64>,
    /// How an open loop spreads its requests over time
    #[arg(long, value_enum, default_value_t)]
    pub arrival: Arrival,
    /// How long before it is due an open loop stays awake for a request, microseconds: one that sleeps sends it some 60 late,
    /// and one that does not keeps a CPU busy. 0 where server and load share CPUs
    #[arg(long, default_value_t = 60, value_name = "US")]
    pub spin: u32,

    /// SETs for so many GETs
    #[arg(long, default_value = "1:10", value_name = "SET:GET", value_parser = pair::<u64>)]
    pub ratio: (u64, u64),
    /// Send this command instead; __key__ and __data__ are filled in
    #[arg(long, value_name = "COMMAND")]
    pub command: Option<String>,
    /// Bytes of a value [default: 32]
    #[arg(short, long, value_name = "BYTES")]
    pub data_size: Option<usize>,
    /// Bytes of a value, uniform between two numbers
    #[arg(long, value_name = "MIN-MAX", conflicts_with = "data_size", value_parser = range)]
    pub data_size_range: Option<(usize, usize)>,
    /// Bytes of a value with their weights, for example 64:3,1024:1
    #[arg(long, value_name = "SIZE:WEIGHT,..", conflicts_with_all = ["data_size", "data_size_range"],
        value_delimiter = ',', value_parser = pair::<u64>)]
    pub data_size_list: Vec<(u64, u64)>,
    /// Seconds after which a SET value expires; 0 is never
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub expiry: u64,
    /// What stands before the number of a key
    #[arg(long, default_value = "key-", value_name = "TEXT")]
    pub key_prefix: String,
    /// Lowest number of a key
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub key_minimum: u64,
    /// Highest number of a key
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub key_maximum: u64,
    /// Least digits of a key's number, filled up with zeros
    #[arg(long, default_value_t = 0, value_name = "DIGITS")]
    pub key_width: usize,
    /// How keys are chosen
    #[arg(long, value_enum, default_value_t)]
    pub key_pattern: Pattern,
    /// Exponent of the Zipf distribution: the k-th key has weight k^-exponent
    #[arg(long, default_value_t = 0.99, value_name = "S")]
    pub zipf_exponent: f64,
    /// Seed of all random choices; each client derives its own from it [default: random, shown in the report]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Requests per client [default: 10000, or no limit with --test-time]
    #[arg(short = 'n', long, value_name = "N")]
    pub requests: Option<u64>,
    /// Seconds to run
    #[arg(long, value_name = "SECONDS")]
    pub test_time: Option<f64>,
    /// Seconds before the measurement begins, under the same load
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pub warmup: f64,
    /// First SET every key of the range once; then run if --requests or --test-time is given, otherwise exit
    #[arg(long)]
    pub load: bool,

    /// Write percentile files PREFIX_set.hgrm, PREFIX_get.hgrm .. and PREFIX_all.hgrm
    #[arg(long, value_name = "PREFIX")]
    pub hdr_prefix: Option<PathBuf>,
    /// Write a percentile plot
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the result as JSON; with - to standard output, and the table to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No progress lines
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

/// Names of [`KeyPattern`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Pattern {
    #[default]
    Uniform,
    Zipf,
    Sequential,
}

/// Options that make no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptionError {
    #[error("--{option} must be between {min} and {max}")]
    Range { option: &'static str, min: f64, max: f64 },
    #[error("--threads times --clients must be at most {CONNECTIONS_MAX}")]
    Connections,
    #[error("--key-minimum must not be above --key-maximum")]
    Keys,
    #[error("--ratio must have terms of at most {WEIGHT_MAX} that are not both 0")]
    Ratio,
    #[error("--data-size-list must have at most {SIZES_MAX} sizes and weights of at most {WEIGHT_MAX}, not all 0")]
    Weights,
    #[error("--data-size-range must begin with the smaller number")]
    SizeRange,
    #[error("--cluster needs --db 0: a cluster has one database")]
    ClusterDatabase,
    #[error("--cluster needs a --command with a key, which says where to send it")]
    ClusterKey,
    #[error("--command: {0}")]
    Command(#[from] TemplateError),
}

/// `a:b`
fn pair<T: FromStr<Err: Display>>(text: &str) -> Result<(T, T), String> {
    let (a, b) = text.split_once(':').ok_or("two numbers with a colon between them are needed")?;
    let number = |part: &str| part.parse().map_err(|error| format!("'{part}': {error}"));
    Ok((number(a)?, number(b)?))
}

/// `a-b`
fn range(text: &str) -> Result<(usize, usize), String> {
    let (a, b) = text.split_once('-').ok_or("two numbers with a hyphen between them are needed")?;
    let number = |part: &str| part.parse().map_err(|error| format!("'{part}': {error}"));
    Ok((number(a)?, number(b)?))
}

fn within(option: &'static str, value: f64, min: f64, max: f64) -> Result<(), OptionError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(OptionError::Range { option, min, max }) }
}

impl BenchArgs {
    /// Checks everything that can be wrong without asking the server.
    pub fn validate(&self) -> Result<(), OptionError> {
        within("threads", self.threads as f64, 1.0, THREADS_MAX as f64)?;
        within("clients", self.clients as f64, 1.0, CONNECTIONS_MAX as f64)?;
        if self.threads * self.clients > CONNECTIONS_MAX {
            return Err(OptionError::Connections);
        }
        within("pipeline", self.pipeline as f64, 1.0, PIPELINE_MAX as f64)?;
        within("zipf-exponent", self.zipf_exponent, 0.0, EXPONENT_MAX)?;
        within("warmup", self.warmup, 0.0, SECONDS_MAX)?;
        within("expiry", self.expiry as f64, 0.0, SECONDS_MAX)?;
        if let Some(seconds) = self.test_time {
            within("test-time", seconds, 0.001, SECONDS_MAX)?;
        }
        if let Some(rate) = self.rate {
            within("rate", rate, 0.001, RATE_MAX)?;
        }
        within("spin", self.spin as f64, 0.0, SPIN_US_MAX as f64)?;
        if self.requests == Some(0) {
            within("requests", 0.0, 1.0, u64::MAX as f64)?;
        }
        within("key-width", self.key_width as f64, 0.0, KEY_DIGITS_MAX as f64)?;
        if self.key_minimum > self.key_maximum {
            return Err(OptionError::Keys);
        }
        let (set, get) = self.ratio;
        if set.max(get) > WEIGHT_MAX || set + get == 0 {
            return Err(OptionError::Ratio);
        }
        self.sizes()?;
        let custom = self.custom()?;
        if self.cluster && self.db != 0 {
            return Err(OptionError::ClusterDatabase);
        }
        if self.cluster && custom.is_some_and(|command| !command.has_slot()) {
            return Err(OptionError::ClusterKey);
        }
        Ok(())
    }

    pub fn target(&self) -> Target {
        match &self.unix_socket {
            Some(path) => Target::Unix(path.clone()),
            None => Target::Tcp { host: self.host.clone(), port: self.port },
        }
    }

    pub fn keys(&self) -> KeyRange {
        KeyRange { first: self.key_minimum, last: self.key_maximum }
    }

    fn key_format(&self) -> KeyFormat<'_> {
        KeyFormat { prefix: self.key_prefix.as_bytes(), digits_min: self.key_width }
    }

    pub fn pattern(&self) -> KeyPattern {
        match self.key_pattern {
            Pattern::Uniform => KeyPattern::Uniform,
            Pattern::Zipf => KeyPattern::Zipf { exponent: self.zipf_exponent },
            Pattern::Sequential => KeyPattern::Sequential,
        }
    }

    pub fn sizes(&self) -> Result<Sizes, OptionError> {
        const DATA_SIZE_DEFAULT: usize = 32;
        let sizes = if !self.data_size_list.is_empty() {
            let weights = self.data_size_list.iter().map(|entry| entry.1);
            let bad = weights.clone().any(|weight| weight > WEIGHT_MAX) || weights.sum::<u64>() == 0;
            if bad || self.data_size_list.len() > SIZES_MAX {
                return Err(OptionError::Weights);
            }
            let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
            Sizes::List(self.data_size_list.iter().map(|&(bytes, weight)| (size(bytes), weight)).collect())
        } else if let Some((min, max)) = self.data_size_range {
            if min > max {
                return Err(OptionError::SizeRange);
            }
            Sizes::Range(min, max)
        } else {
            Sizes::Fixed(self.data_size.unwrap_or(DATA_SIZE_DEFAULT))
        };
        within("data-size", sizes.max_bytes() as f64, 0.0, DATA_BYTES_MAX as f64)?;
        Ok(sizes)
    }

    /// The custom command, if there is one.
    pub fn custom(&self) -> Result<Option<Template>, OptionError> {
        let parse = |command: &String| Template::parse(command.as_bytes(), self.key_format());
        Ok(self.command.as_ref().map(parse).transpose()?)
    }

    /// The requests that can occur, in the order of [`super::plan::Op::ALL`].
    pub fn templates(&self) -> Result<[Option<Template>; 3], OptionError> {
        let key = self.key_format();
        Ok([Some(request::set_template(key, self.expiry)), Some(request::get_template(key)), self.custom()?])
    }

    pub fn mix(&self) -> Mix {
        match self.command {
            Some(_) => Mix::Custom,
            None => Mix::Ratio { set: self.ratio.0, get: self.ratio.1 },
        }
    }

    fn greeting(&self) -> Greeting {
        let resp3 = self.protocol == Protocol::Resp3;
        Greeting { user: self.user.clone(), password: self.auth.clone(), resp3, db: self.db }
    }

    /// The measured run.
    pub fn run_setup(&self) -> Setup {
        let default = self.test_time.is_none().then_some(REQUESTS_DEFAULT);
        Setup {
            target: self.target(),
            greeting: self.greeting(),
            cluster: self.cluster,
            threads: self.threads,
            clients: self.clients,
            pipeline: self.pipeline,
            requests: self.requests.or(default),
            test_time: self.test_time.map(Duration::from_secs_f64),
            warmup: Duration::from_secs_f64(self.warmup),
            open_loop: self.rate.map(|rate_per_s| OpenLoop {
                rate_per_s,
                arrival: self.arrival,
                spin: Duration::from_micros(self.spin.into()),
            }),
        }
    }

    /// Filling the keys: a closed loop without warm-up or end but the last key.
    pub fn load_setup(&self) -> Setup {
        Setup {
            pipeline: self.pipeline.max(LOAD_PIPELINE_MIN),
            requests: None,
            test_time: None,
            warmup: Duration::ZERO,
            open_loop: None,
            ..self.run_setup()
        }
    }

    /// Whether anything follows the load.
    pub fn runs(&self) -> bool {
        !self.load || self.requests.is_some() || self.test_time.is_some()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchArgs, String> {
        let args = std::iter::once("bench").chain(line.split_whitespace());
        Cli::try_parse_from(args).map(|cli| cli.bench).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_are_understood() {
        let args = parse(
            "-s ::1 -p 7000 -c 3 -t 2 -P 16 --ratio 2:3 --data-size-list 64:3,1024:1 --key-pattern zipf --seed 9 \
             --rate 5000 --arrival poisson --spin 7 --test-time 0.5 --warmup 1 -a pw --user me --protocol resp3 --db 2",
        )
        .unwrap();
        args.validate().unwrap();
        assert_eq!(args.ratio, (2, 3));
        assert_eq!(args.sizes(), Ok(Sizes::List(vec![(64, 3), (1024, 1)])));
        assert_eq!(args.pattern(), KeyPattern::Zipf { exponent: 0.99 });
        assert_eq!(args.target().to_string(), "[::1]:7000");
        let setup = args.run_setup();
        assert_eq!((setup.threads, setup.clients, setup.pipeline, setup.requests), (2, 3, 16, None));
        let spin = Duration::from_micros(7);
        assert_eq!(setup.open_loop, Some(OpenLoop { rate_per_s: 5000.0, arrival: Arrival::Poisson, spin }));
        assert_eq!(parse("").unwrap().run_setup().requests, Some(REQUESTS_DEFAULT));
        assert_eq!(parse("--data-size-range 5-9").unwrap().sizes(), Ok(Sizes::Range(5, 9)));
    }

    #[test]
    fn a_load_runs_on_only_when_asked() {
        assert!(!parse("--load").unwrap().runs());
        assert!(parse("--load -n 5").unwrap().runs());
        assert!(parse("").unwrap().runs());
    }

    #[test]
    fn nonsense_is_refused_in_one_line() {
        for line in [
            "--ratio 1",
            "--ratio a:b",
            "--data-size-range 5",
            "-c x",
            "--key-pattern odd",
            "--user u",
            "--cluster -S /x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [
            "--ratio 0:0",
            "-c 0",
            "-t 0",
            "-t 256 -c 60000",
            "-P 0",
            "-P 10001",
            "-n 0",
            "--test-time 0",
            "--test-time nan",
            "--rate 0",
            "--rate -5",
            "--spin 1000001",
            "--warmup -1",
            "--key-minimum 5 --key-maximum 4",
            "--key-width 21",
            "--data-size 536870913",
            "--data-size-range 9-5",
            "--data-size-list 64:0",
            "--zipf-exponent -1",
            "--cluster --db 1",
            "--cluster --command PING",
        ] {
            let line = line.replace(" -5", "=-5").replace(" -1", "=-1");
            let error = parse(&line).unwrap().validate().expect_err(&line).to_string();
            assert!(error.starts_with("--") && !error.contains('\n'), "{error}");
        }
    }
}
