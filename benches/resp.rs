//! Parsing requests and writing replies. `cargo bench --bench resp`; times are per batch of 16, elements are commands
//! or replies.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keyloom::resp::parse::ARGS_MAX;
use keyloom::resp::read::{encode_command, skip_value};
use keyloom::resp::{Limits, Output, Parser, Reply, Step, Version};

/// Commands of one pipeline.
const PIPELINE: u64 = 16;
const LIMITS: Limits = Limits { args_max: ARGS_MAX, bulk_bytes_max: 512 * 1024 * 1024, unauthenticated: false };

fn pipeline(args: impl Fn(u64) -> Vec<Vec<u8>>) -> Vec<u8> {
    let mut stream = Vec::new();
    (0..PIPELINE).for_each(|i| encode_command(&args(i), &mut stream));
    stream
}

/// Parses every command of `stream` and collects its arguments as the network layer does; the number of bytes found.
fn parse_all<'a>(parser: &mut Parser, stream: &'a [u8], spare: &mut Vec<&'a [u8]>) -> usize {
    let mut found = 0;
    let mut at = 0;
    while let Ok(Step::Complete { consumed }) = parser.parse(&stream[at..], &LIMITS) {
        // A command's arguments are read before the next one is parsed, so the vector is filled anew each time.
        let mut args: Vec<&[u8]> = std::mem::take(spare);
        parser.args(&stream[at..], &mut args);
        found += args.iter().map(|arg| arg.len()).sum::<usize>();
        args.clear();
        *spare = args.into_iter().map(|_| &stream[..0]).collect();
        at += consumed;
    }
    found
}

fn parse(c: &mut Criterion) {
    let get = pipeline(|i| vec![b"GET".to_vec(), format!("memtier-{i:06}").into_bytes()]);
    let set = pipeline(|i| vec![b"SET".to_vec(), format!("memtier-{i:06}").into_bytes(), vec![b'x'; 64]]);
    let mset = pipeline(|_| std::iter::once(b"MSET".to_vec()).chain(vec![b"0123456789".to_vec(); 20]).collect());
    let inline = b"GET memtier-000001\r\n".repeat(PIPELINE as usize);
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(PIPELINE));
    for (name, stream) in [("get", &get), ("set_64", &set), ("mset_20", &mset), ("inline_get", &inline)] {
        let mut parser = Parser::default();
        group.bench_function(name, |b| {
            let mut spare = Vec::new();
            b.iter(|| parse_all(&mut parser, black_box(stream), &mut spare));
        });
    }
    group.finish();
}

fn reply(c: &mut Criterion) {
    let value = [b'x'; 64];
    let mut group = c.benchmark_group("reply");
    group.throughput(Throughput::Elements(PIPELINE));
    let mut out = Output::new();
    let mut bench = |name: &str, write: &dyn Fn(&mut Reply)| {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear(usize::MAX);
                let mut reply = Reply::new(&mut out, Version::V2);
                (0..PIPELINE).for_each(|_| write(&mut reply));
                black_box(out.len())
            });
        });
    };
    bench("ok", &|reply| reply.ok());
    bench("null", &|reply| reply.null());
    bench("int", &|reply| reply.int(black_box(123_456)));
    bench("bulk_64", &|reply| reply.bulk(black_box(&value)));
    group.finish();
}

fn read(c: &mut Criterion) {
    let stream = [b"$64\r\n".as_slice(), &[b'x'; 64], b"\r\n"].concat().repeat(PIPELINE as usize);
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(PIPELINE));
    group.bench_function("skip_bulk_64", |b| {
        b.iter(|| {
            let mut at = 0;
            while let Ok(Some(len)) = skip_value(black_box(&stream[at..])) {
                at += len;
            }
            at
        });
    });
    group.finish();
}

criterion_group!(benches, parse, reply, read);
criterion_main!(benches);
