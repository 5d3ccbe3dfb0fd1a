//! The writer against a model, on a disk that fails: whatever happens, what was said to be durable is there at the next
//! start, and nothing that was never written.

use std::rc::Rc;
use std::time::Duration;

use super::{Item, Options, ReadBackError, Start, SyncPolicy, Wal};
use crate::log::disk::Disk;
use crate::log::disk_sim::{Fate, SimulatedDisk};
use crate::log::files::scratch::Scratch;
use crate::log::frame::{HistoryEntry, Index};
use crate::log::testing::{FIRST, Random, log_frame, on_executor, recovered};
use crate::shard::statement;

/// What has been appended.
struct Model {
    random: Random,
    /// The value of each index as it should be.
    values: Vec<Vec<u8>>,
    /// All values that an index has ever had.
    ever: Vec<Vec<Vec<u8>>>,
    histories: Vec<HistoryEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    /// The process only: the kernel has what was written.
    Kill,
    /// Of what was not synced some prefix is there.
    Prefix,
    /// Any sectors of it are there.
    Sectors,
    /// No crash.
    Close,
}

impl Model {
    fn append(&mut self, wal: &Wal) {
        let count = 1 + self.random.below(4);
        let first = self.values.len() as Index + 1;
        let history = self.histories.last().unwrap().id;
        let mut values = Vec::new();
        for _ in 0..count {
            let bytes = if self.random.percent(5) { 5000 } else { self.random.below(200) };
            values.push(vec![self.random.next() as u8; bytes as usize]);
        }
        wal.append(log_frame(history, first, &values)).unwrap();
        for value in values {
            if self.ever.len() == self.values.len() {
                self.ever.push(Vec::new());
            }
            self.ever[self.values.len()].push(value.clone());
            self.values.push(value);
        }
    }

    fn start_history(&mut self, wal: &Wal) {
        let end = self.values.len() as Index;
        let back = if self.random.percent(50) { 0 } else { self.random.below(20).min(end) };
        let cut = end - back;
        let keep = self.histories.partition_point(|history| history.cut <= cut);
        self.histories.truncate(keep.max(1));
        self.histories.push(HistoryEntry { id: (self.random.next() as u128) << 64 | self.random.next() as u128, cut });
        wal.start_history(self.histories.clone(), cut + 1).unwrap();
        self.values.truncate(cut as usize);
    }

    async fn run(&mut self, wal: &Rc<Wal>) {
        let steps = self.random.below(120);
        for _ in 0..steps {
            match self.random.below(100) {
                0..50 => self.append(wal),
                50..53 => self.start_history(wal),
                53..60 => wal.request_sync(self.values.len() as Index),
                60..63 => glommio::timer::sleep(Duration::from_micros(300)).await,
                _ => {
                    for _ in 0..self.random.below(8) {
                        glommio::executor().yield_now().await;
                    }
                }
            }
            let progress = wal.progress();
            assert!(progress.durable <= progress.written && progress.written <= self.values.len() as Index);
        }
    }
}

fn failing(seed: u64, permille: u64) -> impl FnMut(crate::log::disk_sim::Op) -> Fate {
    let mut random = Random(seed);
    move |op| match random.below(1000) {
        roll if roll >= permille => Fate::Works,
        roll if roll % 3 == 0 && op == crate::log::disk_sim::Op::Write => Fate::Short(random.below(1000) as u16),
        roll if roll % 2 == 0 => Fate::Fails(libc::ENOSPC),
        _ => Fate::Fails(libc::EIO),
    }
}

/// What became of the runs.
#[derive(Default)]
struct Seen {
    /// Recovery said no.
    refused: u32,
    /// The writer began again after a failure.
    failures: u32,
    /// Units that were durable at the end of a generation.
    durable: u64,
    /// Units that were lost, as they were not.
    lost: u64,
}

/// Several lives of one log, each with failures, and its end.
async fn run_seed(seed: u64, seen: &mut Seen) {
    let mut model = Model { random: Random(seed), values: Vec::new(), ever: Vec::new(), histories: vec![FIRST] };
    let scratch = Scratch::new("wal-model");
    let mut start = Start { next: 1, histories: vec![FIRST], segments: Vec::new() };
    let mut before = None;
    for generation in 0..4 {
        let dir = scratch.0.join(generation.to_string());
        std::fs::create_dir(&dir).unwrap();
        let disk = SimulatedDisk::new(|_| Fate::Works);
        if let Some(before) = before.replace(dir.clone()) {
            disk.load(&before);
        }
        let permille = if model.random.percent(30) { 0 } else { 1 + model.random.below(150) };
        disk.set_fate(failing(model.random.next(), permille));
        let options = Options {
            sync: [SyncPolicy::Always, SyncPolicy::EverySecond, SyncPolicy::No][model.random.below(3) as usize],
            segment_bytes: 1 + model.random.below(8000),
            retry_first: Duration::from_micros(50),
            retry_max: Duration::from_micros(400),
            ..Options::new(dir.clone())
        };
        let crash = [Crash::Kill, Crash::Prefix, Crash::Sectors, Crash::Close][model.random.below(4) as usize];
        let wal = Wal::on(Disk::Simulated(Rc::clone(&disk)), options, start);
        let writer = glommio::spawn_local(Rc::clone(&wal).run());
        model.run(&wal).await;
        seen.failures += wal.health().is_some() as u32;
        let progress = wal.progress();
        read_back(&model, &wal).await;
        let must = end(&mut model, &wal, &disk, crash, &dir).await;
        drop(writer);
        let (plan, values) = match recovered(&dir) {
            Ok(recovered) => recovered,
            Err(error) => {
                assert_eq!(crash, Crash::Sectors, "seed {seed} generation {generation}: {error}");
                seen.refused += 1;
                return;
            }
        };
        let context = format!("seed {seed} generation {generation} {crash:?} {progress:?}");
        assert!(values.len() as Index >= must, "{context}: durable {must}, recovered {}", values.len());
        for (at, value) in values.iter().enumerate() {
            if (at as Index) < must {
                assert_eq!(*value, model.values[at], "{context}: index {}", at + 1);
            }
            assert!(model.ever[at].contains(value), "{context}: index {}", at + 1);
        }
        seen.durable += must;
        seen.lost += (model.values.len() as u64).saturating_sub(values.len() as u64);
        start = plan.start(|| vec![FIRST]);
        assert_eq!(start.segments.iter().map(|(_, bytes)| bytes).sum::<u64>(), segment_bytes(&dir));
        model.values = values;
        model.histories = start.histories.clone();
    }
}

/// Reads everything back that the log says is written, while it goes on.
async fn read_back(model: &Model, wal: &Rc<Wal>) {
    let mut reader = wal.frames_from(1);
    loop {
        // Until a history has begun, the files have what it cuts off.
        let settled = !wal.state.borrow().queue.iter().any(|item| matches!(item, Item::History(_)));
        let written = wal.progress().written;
        let frames = match reader.next(3000).await {
            Ok(frames) if frames.is_empty() => {
                let next = reader.next_index();
                assert!(!settled || next > written.min(wal.progress().written), "{next} {written}");
                return;
            }
            Ok(frames) => frames,
            // A cut within a frame; whoever asks gets a full copy.
            Err(ReadBackError::Gone(_)) => return,
            Err(error) => panic!("{error}"),
        };
        for frame in frames {
            let (mut payload, mut index) = (frame.payload(), frame.head.first as usize);
            while let Some(mut unit) = statement::next_unit(&mut payload).unwrap() {
                let value = statement::next_statement(&mut unit).unwrap().unwrap().args[2];
                assert!(model.ever[index - 1].iter().any(|ever| ever == value));
                assert!(!settled || model.values[index - 1] == value, "index {index}");
                index += 1;
            }
        }
    }
}

fn segment_bytes(dir: &std::path::Path) -> u64 {
    let listing = crate::log::files::list(dir).unwrap();
    let size = |first: &Index| std::fs::metadata(dir.join(crate::log::files::segment_name(*first))).unwrap().len();
    listing.segments.iter().map(size).sum()
}

/// Ends a life; returns up to where everything must be there.
async fn end(model: &mut Model, wal: &Rc<Wal>, disk: &Rc<SimulatedDisk>, crash: Crash, dir: &std::path::Path) -> Index {
    match crash {
        Crash::Kill => disk.kill(dir),
        Crash::Prefix => {
            let mut holds = true;
            disk.cut_power(dir, || {
                holds &= !model.random.percent(10);
                holds
            });
        }
        Crash::Sectors => disk.cut_power(dir, || model.random.percent(50)),
        Crash::Close => {
            disk.set_fate(|_| Fate::Works);
            wal.close(Duration::from_secs(20)).await.unwrap();
            assert_eq!((wal.held_bytes(), wal.health()), (0, None));
            assert_eq!(wal.progress().durable, model.values.len() as Index);
            disk.cut_power(dir, || false);
        }
    }
    let progress = wal.progress();
    // Whoever is killed leaves the kernel what it has.
    if crash == Crash::Kill { progress.written } else { progress.durable }
}

#[test]
fn what_was_durable_is_recovered_whatever_fails() {
    let mut seen = Seen::default();
    let seeds = std::env::var("KEYLOOM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(250);
    on_executor(async {
        for seed in 0..seeds {
            run_seed(seed, &mut seen).await;
        }
    });
    // The model has met what it is for.
    assert!(seen.failures > 20 && seen.lost > 100 && seen.durable > 1000, "{} {}", seen.failures, seen.lost);
    assert!(seen.refused < seeds as u32, "{}", seen.refused);
}
