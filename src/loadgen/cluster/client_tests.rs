//! Transcripts: two nodes, keys whose node is known, and what a client does.

use std::fmt::Write;
use std::sync::Arc;

use super::*;
use crate::loadgen::cluster::routes::{Map, Node};
use crate::loadgen::connect::Target;
use crate::loadgen::plan::{KeyPattern, KeyRange, Mix, Sizes, Workload};
use crate::loadgen::random::Rng;
use crate::loadgen::request::{self, KeyFormat, Template};
use crate::loadgen::schedule::{Arrival, Schedule};
use crate::route::{SLOTS, slot_of};

const MS: u64 = 1_000_000;
/// Slots from here on belong to node 1 at first, those below to node 0; keys are taken in turn, from k1 on.
const SPLIT: u16 = SLOTS / 2;

fn node(port: u16) -> Node {
    Node { name: Target::Tcp { host: "127.0.0.1".into(), port }, address: ([127, 0, 0, 1], port).into() }
}

/// Who serves the lower half of the slots, and who the upper one, of the nodes 7000 and 7001.
fn map(lower: Option<usize>, upper: Option<usize>) -> Map {
    let range = |first, last, leader: Option<usize>| leader.map(|leader| (first, last, leader));
    let ranges = [range(0, SPLIT - 1, lower), range(SPLIT, SLOTS - 1, upper)];
    Map { nodes: vec![node(7000), node(7001)], ranges: ranges.into_iter().flatten().collect() }
}

/// A client with what is around it. Each step returns what was sent to whom: `0: k2 k4, 1: k1`.
struct Stage {
    client: Client,
    view: View,
    stats: Stats,
    now_ns: u64,
}

impl Stage {
    fn new(pipeline: usize, requests: u64, gap_ns: Option<f64>) -> Stage {
        Stage::with(pipeline, requests, gap_ns, 100)
    }

    fn with(pipeline: usize, requests: u64, gap_ns: Option<f64>, waiting_max: usize) -> Stage {
        let key = KeyFormat { prefix: b"k", digits_min: 0 };
        let custom = Some(Template::parse(b"SET __key__ x", key).unwrap());
        let templates = [Some(request::set_template(key, 0)), Some(request::get_template(key)), custom];
        let range = KeyRange { first: 1, last: 1000 };
        let workload = Workload::new(Mix::Custom, range, KeyPattern::Sequential, Sizes::Fixed(1), 1, 1, templates);
        let workload = Arc::new(workload);
        let schedule = gap_ns.map(|gap_ns| Schedule::new(Arrival::Constant, gap_ns, Rng::new(5, 0)));
        let pace = Pace { pipeline, requests, record_from_ns: 0, schedule };
        let client = Client::new(Plan::new(&workload, 0), pace, waiting_max);
        let view = View::new(Routes::new(&map(Some(0), Some(1)), 9), workload.writes());
        let mut stage = Stage { client, view, stats: Stats::new(gap_ns.is_some()), now_ns: 0 };
        stage.connect(0);
        stage.connect(1);
        stage
    }

    fn connect(&mut self, node: usize) {
        self.client.begin(node, self.now_ns);
        self.client.greet(node, &[]);
    }

    fn at_ms(&mut self, ms: u64) -> &mut Stage {
        self.now_ns = ms * MS;
        self
    }

    fn sent(&mut self) -> String {
        self.client.fill(self.now_ns, &mut self.view);
        let mut text = String::new();
        for node in 0..self.client.lanes() {
            let bytes = String::from_utf8(self.client.output(node).to_vec()).unwrap();
            self.client.written(node, bytes.len());
            let keys: Vec<&str> = bytes.split("\r\n").filter(|word| word.starts_with('k')).collect();
            if !keys.is_empty() {
                let comma = if text.is_empty() { "" } else { ", " };
                write!(text, "{comma}{node}: {}", keys.join(" ")).unwrap();
            }
        }
        text
    }

    fn reply(&mut self, node: usize, bytes: &str) -> String {
        let (stats, view) = (&mut self.stats, &mut self.view);
        self.client.feed(node, bytes.as_bytes(), self.now_ns, stats, view).unwrap();
        self.sent()
    }

    fn lose(&mut self, node: usize) -> (u64, String) {
        (self.client.lose(node, Kind::Lost, self.now_ns, &mut self.view), self.sent())
    }

    fn adopt(&mut self, lower: Option<usize>, upper: Option<usize>) -> String {
        self.view.routes.adopt(&map(lower, upper));
        self.sent()
    }

    fn answered(&self) -> u64 {
        self.stats.total().answered
    }

    fn failed(&self, kind: Kind) -> u64 {
        self.view.failed[kind as usize]
    }
}

fn is_upper(key: u64) -> bool {
    slot_of(format!("k{key}").as_bytes()) >= SPLIT
}

const OK: &str = "+OK\r\n";

fn moved(key: &str, port: u16) -> String {
    format!("-MOVED {} 127.0.0.1:{port}\r\n", slot_of(key.as_bytes()))
}

#[test]
fn keys_are_where_these_tests_take_them_to_be() {
    let upper: Vec<u64> = (1..=13).filter(|&n| is_upper(n)).collect();
    assert_eq!(upper, [1, 4, 5, 8, 9, 10, 11]);
}

#[test]
fn a_closed_loop_sends_each_request_to_its_primary_and_waits_for_the_one_that_is_busy() {
    let mut stage = Stage::new(1, 5, None);
    // k3 belongs to node 0, which has not answered.
    assert_eq!(stage.sent(), "0: k2, 1: k1");
    assert_eq!(stage.reply(1, OK), "");
    assert_eq!(stage.reply(0, OK), "0: k3, 1: k4");
    assert_eq!(stage.reply(1, OK), "1: k5");
    assert!(!stage.client.is_done());
    assert_eq!((stage.reply(0, OK), stage.reply(1, OK)), ("".into(), "".into()));
    assert!(stage.client.is_done());
    assert_eq!((stage.answered(), stage.view.answers.clone()), (5, vec![2, 3]));
}

#[test]
fn a_pipeline_is_that_of_a_connection() {
    let mut stage = Stage::new(3, 20, None);
    assert_eq!(stage.sent(), "0: k2 k3 k6, 1: k1 k4 k5");
    assert_eq!(stage.reply(0, &OK.repeat(2)), "");
    // The next batch for a connection when the last one is answered; k8 has to wait for node 1.
    assert_eq!(stage.reply(0, OK), "0: k7");
    assert_eq!(stage.reply(1, &OK.repeat(3)), "1: k8 k9 k10");
}

#[test]
fn moved_is_followed_at_once_and_is_no_latency() {
    let mut stage = Stage::new(1, 5, None);
    stage.sent();
    let answer = moved("k1", 7000);
    // Node 0 still has its own one in flight.
    assert_eq!(stage.at_ms(10).reply(1, &answer), "");
    assert_eq!((stage.failed(Kind::Moved), stage.answered()), (1, 0));
    assert!(stage.view.routes.take_wish());
    assert_eq!(stage.at_ms(20).reply(0, OK), "0: k1");
    assert_eq!(stage.at_ms(30).reply(0, OK), "0: k3, 1: k4");
    // From when it was first sent.
    assert_eq!(stage.stats.total().response.max() / 1000, 30);
}

#[test]
fn moved_to_a_node_that_was_not_known_makes_it_known() {
    let mut stage = Stage::new(1, 2, None);
    stage.sent();
    assert_eq!(stage.reply(1, &moved("k1", 7002)), "");
    assert!(stage.client.is_stuck() && stage.client.needs(2, &stage.view));
    stage.connect(2);
    assert!(!stage.client.needs(2, &stage.view));
    assert_eq!(stage.sent(), "2: k1");
}

#[test]
fn nodes_that_point_at_each_other_are_not_followed_for_ever() {
    let mut stage = Stage::new(1, 1, None);
    assert_eq!(stage.sent(), "1: k1");
    for turn in 0..u64::from(MOVES_MAX) {
        let (from, to) = if turn % 2 == 0 { (1, 0) } else { (0, 1) };
        assert_eq!(stage.reply(from, &moved("k1", 7000 + to as u16)), format!("{to}: k1"));
    }
    assert_eq!(stage.reply(0, &moved("k1", 7001)), "");
    assert!(stage.client.is_stuck() && stage.view.routes.take_wish());
    assert_eq!(stage.adopt(Some(0), Some(1)), "1: k1");
}

#[test]
fn what_is_refused_is_sent_again_with_the_next_map() {
    let mut stage = Stage::new(2, 4, None);
    assert_eq!(stage.sent(), "0: k2 k3, 1: k1 k4");
    assert_eq!(stage.reply(1, "-CLUSTERDOWN The cluster is down\r\n-LOADING x\r\n"), "");
    assert!(stage.client.is_stuck() && stage.view.routes.take_wish());
    assert_eq!((stage.failed(Kind::ClusterDown), stage.failed(Kind::Loading)), (1, 1));
    // A map that does not know either changes nothing.
    assert_eq!(stage.adopt(Some(0), None), "");
    assert_eq!(stage.adopt(Some(0), Some(0)), "");
    assert_eq!((stage.reply(0, OK), stage.reply(0, OK)), ("0: k1".into(), "0: k4".into()));
    stage.reply(0, &OK.repeat(2));
    assert!(stage.client.is_done() && stage.stats.first_error.is_none());
    assert_eq!((stage.answered(), stage.stats.total().errors), (4, 0));
}

#[test]
fn what_is_lost_is_counted_and_never_sent_again() {
    let mut stage = Stage::new(2, 10, None);
    assert_eq!(stage.sent(), "0: k2 k3, 1: k1 k4");
    assert_eq!(stage.lose(1), (2, String::new()));
    assert_eq!(stage.failed(Kind::Lost), 2);
    // k5 waits for a connection, and with it this client.
    assert!(stage.client.is_stuck() && stage.client.needs(1, &stage.view));
    assert_eq!(stage.reply(0, &OK.repeat(2)), "");
    stage.connect(1);
    assert_eq!(stage.sent(), "0: k6 k7, 1: k5 k8");
}

#[test]
fn uncertain_is_lost_with_an_answer() {
    let mut stage = Stage::new(1, 1, None);
    stage.sent();
    assert_eq!(stage.reply(1, "-UNCERTAIN whatever\r\n"), "");
    assert!(stage.client.is_done());
    assert_eq!((stage.failed(Kind::Uncertain), stage.answered()), (1, 0));
}

#[test]
fn other_errors_are_answers() {
    let mut stage = Stage::new(1, 1, None);
    stage.sent();
    stage.reply(1, "-WRONGTYPE x\r\n");
    assert!(stage.client.is_done());
    assert_eq!((stage.stats.total().errors, stage.stats.first_error.as_deref()), (1, Some("WRONGTYPE x")));
}

#[test]
fn in_an_open_loop_waiting_for_a_failover_counts_from_when_each_request_was_due() {
    // A request every 10 ms. Node 1 is lost after 100 ms, cannot be reached at 150 ms, and node 0 takes over at 500 ms.
    let mut stage = Stage::new(4, 100, Some(10.0 * MS as f64));
    for ms in 0..1100 {
        let mut sent = match ms {
            100 | 150 => stage.at_ms(ms).lose(1).1,
            500 => stage.at_ms(ms).adopt(Some(0), Some(0)),
            _ => stage.at_ms(ms).sent(),
        };
        assert!(stage.client.is_stuck() || !(111..500).contains(&ms), "{ms}");
        // A node answers at once what it gets.
        while !sent.is_empty() {
            let count = |node: &str| {
                let part = sent.split(", ").find_map(|part| part.strip_prefix(node));
                part.map_or(0, |keys| keys.split(' ').count())
            };
            let (first, second) = (count("0: "), count("1: "));
            assert!(ms < 100 || second == 0, "{sent}");
            let more = if second > 0 { stage.reply(1, &OK.repeat(second)) } else { String::new() };
            assert_eq!(more, "");
            sent = if first > 0 { stage.reply(0, &OK.repeat(first)) } else { String::new() };
        }
    }
    let total = stage.stats.total();
    assert_eq!((total.answered, stage.failed(Kind::Lost)), (100, 0));
    // Those due between 100 and 500 ms that belong to node 1 have waited, the first of them for 400 ms.
    let upper = (11..=50).filter(|&key| is_upper(key)).count() as u64;
    let late = total.response.count_between(2_000, 60_000_000);
    assert!(late.abs_diff(upper) <= 1, "{late} instead of {upper}");
    assert!((389_000..=401_000).contains(&total.response.max()), "{}", total.response.max());
    assert!(total.service.unwrap().max() < 2_000);
    let gaps = stage.view.gaps.finish().0;
    assert_eq!(gaps.len(), 1);
    assert!(gaps[0].is_failover() && gaps[0].primary == 1);
    assert!((400 * MS..420 * MS).contains(&gaps[0].length_ns().unwrap()), "{gaps:?}");
}

#[test]
fn so_many_may_wait_and_the_rest_stays_in_the_schedule() {
    let mut stage = Stage::with(1, 100, Some(MS as f64), 10);
    stage.lose(0);
    stage.lose(1);
    assert_eq!(stage.at_ms(50).sent(), "");
    assert_eq!((stage.client.waiting(), stage.client.wake_ns()), (10, None));
    assert_eq!(stage.client.stop(50 * MS), 50);
    assert!(stage.client.is_done());
}

#[test]
fn what_is_refused_after_the_end_is_unsent() {
    let mut stage = Stage::new(1, 10, None);
    stage.sent();
    assert_eq!(stage.client.stop(MS), 0);
    assert_eq!(stage.reply(0, OK), "");
    assert_eq!(stage.reply(1, &moved("k1", 7000)), "");
    assert!(stage.client.is_done());
    assert_eq!((stage.view.unsent, stage.answered()), (1, 1));
}

#[test]
fn a_greeting_comes_first_and_must_be_accepted() {
    let mut stage = Stage::new(1, 1, None);
    stage.lose(1);
    stage.client.begin(1, 0);
    assert!(stage.client.is_new(1));
    stage.client.greet(1, &[b"AUTH".to_vec(), b"HELLO".to_vec()]);
    assert_eq!(stage.client.output(1), b"AUTHHELLO");
    assert_eq!((stage.sent(), stage.client.in_flight()), ("".into(), 0));
    assert_eq!(stage.reply(1, OK), "");
    assert_eq!(stage.reply(1, "*0\r\n"), "1: k1");
    stage.lose(1);
    stage.client.begin(1, 0);
    stage.client.greet(1, &[b"AUTH".to_vec()]);
    let (stats, view) = (&mut stage.stats, &mut stage.view);
    let refused = stage.client.feed(1, b"-WRONGPASS no\r\n", 0, stats, view);
    assert_eq!(refused, Err(LaneError::Greeting("WRONGPASS no".into())));
}

#[test]
fn silence_is_noticed_while_something_is_awaited() {
    let mut stage = Stage::new(1, 2, None);
    assert_eq!(stage.client.silence_ns(1, 5 * MS), 0);
    stage.at_ms(10).sent();
    assert_eq!(stage.client.silence_ns(1, 15 * MS), 5 * MS);
    stage.at_ms(20).reply(1, OK);
    assert_eq!((stage.client.silence_ns(1, 30 * MS), stage.client.silence_ns(0, 30 * MS)), (0, 20 * MS));
}
