"""Compares keyloom with redis-server, Valkey, memcached and its own floor, side by side on this machine.

A round starts every server in turn, fresh, fills it with keys, and runs each load against it once; rounds alternate the
order. So a slow minute of the machine meets all of them. The table shows medians over the rounds; the ratio is the
median of the ratios within each round.

The figure that compares servers is CPU time per operation: it says the least about the load generator. Operations per
second are those of whichever was the limit: see the column `busy`, the share of its cores that a server used.
"""

import argparse
import csv
import os
import platform
import re
import signal
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import servers
from drivers import COMMANDS, PLAIN_OPS, KeyloomBench, Load, Memtier, Plain, RedisBenchmark, Run
from servers import Failure, Keys, Server

NAMES = ("keyloom", "keyloom-lru", "redis", "valkey", "memcached", "floor")
# Only by name: with a log on disk, or with a replica.
VARIANTS = tuple(f"{server}-{variant}" for variant in ("everysec", "always", "replicated") for server in ("keyloom", "redis"))
OPS = PLAIN_OPS + tuple(COMMANDS)
# Requests per run: about two seconds for a server of this class.
REQUESTS_PER_PIPELINE = 200_000
REQUESTS_MAX = 3_000_000
# A single connection is slower, because both sides wait for each other.
SINGLE_REQUESTS_PER_PIPELINE = 60_000
QUICK_DIVISOR = 4


@dataclass(frozen=True)
class Result:
    """One run against one server in one round."""

    round: int
    server: str
    op: str
    pipeline: int
    cpu_us_per_op: float
    # Share of the server's cores that was used, 0 to 1.
    busy: float
    run: Run


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, help="rounds (default 5)")
    add("--quick", action="store_true", help="2 rounds of a quarter of the requests")
    add("--pipelines", default=None, metavar="'N ..'", help="requests in flight per connection (default '1 16')")
    add("--clients", type=int, default=50, help="connections (default %(default)s)")
    add("--single", action="store_true", help="one connection: latency of a server that waits for its client")
    add("--cores", default="0", metavar="N[,N]", help="CPUs of the server (default %(default)s)")
    add("--load-cores", metavar="N[,N]", help="CPUs of the load (default: 1; if the server has several, the same)")
    add("--keys", type=int, default=1_000_000, help="keys in the server (default %(default)s)")
    add("--data-size", type=int, default=64, help="bytes of a value (default %(default)s)")
    add("--ops", default="get,set",
        help=f"operations, in this order, of {','.join(OPS)} (default %(default)s); others than get and set need redis-benchmark")
    add("--requests", type=int, help="requests per run (default: about two seconds' worth)")
    add("--only", help=f"servers, of {','.join(NAMES)} (default: all), and {','.join(VARIANTS)}")
    add("--driver", choices=("auto", "redis-benchmark", "memtier", "keyloom", "plain"), default="auto",
        help="load generator of throughput and CPU time; auto: memtier_benchmark if installed, else redis-benchmark")
    add("--no-latency", action="store_true", help="without the second run per load, keyloom bench, for latencies")
    add("--csv", metavar="FILE", help="write every single run")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    add("--loadgen", metavar="PATH", help="binary whose `bench` measures latency (default: that of --keyloom)")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    if options.single:
        options.clients = 1
    options.pipelines = [int(word) for word in (options.pipelines or ("1" if options.single else "1 16")).split()]
    options.cores = [int(word) for word in options.cores.split(",")]
    if options.load_cores:
        options.load_cores = [int(word) for word in options.load_cores.split(",")]
    else:
        options.load_cores = options.cores if len(options.cores) > 1 else [1]
    options.ops = options.ops.split(",")
    options.only = options.only.split(",") if options.only else list(NAMES)
    options.loadgen = options.loadgen or options.keyloom
    check(parser, options)
    return options


def check(parser, options):
    unknown = set(options.only) - set(NAMES + VARIANTS) | set(options.ops) - set(OPS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if min(options.rounds, options.clients, options.keys, options.data_size, *options.pipelines) < 1:
        parser.error("all numbers must be positive")
    absent = set(options.cores + options.load_cores) - os.sched_getaffinity(0)
    if absent:
        parser.error(f"this machine has no CPU {', '.join(map(str, sorted(absent)))}: see --cores and --load-cores")


def requests_for(options, pipeline):
    if options.requests:
        return options.requests
    per_pipeline = SINGLE_REQUESTS_PER_PIPELINE if options.clients == 1 else REQUESTS_PER_PIPELINE
    requests = min(per_pipeline * pipeline, REQUESTS_MAX)
    return requests // QUICK_DIVISOR if options.quick else requests


def loads(options):
    return [Load(op, options.clients, pipeline, requests_for(options, pipeline), len(options.load_cores))
            for pipeline in options.pipelines for op in options.ops]


def chosen_drivers(options, keys):
    """The load generators: for CPU time, for latencies if that is another, for servers that the first cannot load."""
    at = (keys, options.load_cores)
    drivers = {"redis-benchmark": RedisBenchmark(*at), "memtier": Memtier(*at),
               "keyloom": KeyloomBench(*at, options.loadgen), "plain": Plain(*at)}
    name = options.driver
    if name == "auto":
        name = "redis-benchmark" if drivers["memtier"].missing(None) else "memtier"
    latency = drivers["keyloom"] if name == "redis-benchmark" and not options.no_latency else None
    return drivers[name], latency, drivers["plain"]


def chosen_kinds(options):
    """The servers to compare. Those that cannot be started are named with the reason."""
    kinds = []
    for name in options.only:
        try:
            kind = servers.find(name, options.keyloom)
            with Server(kind, options.cores):
                kinds.append(kind)
        except Failure as failure:
            print(f"without {name}: {failure}")
    if not kinds:
        raise Failure("there is no server to measure")
    return kinds


def print_machine(options, kinds, driver, latency):
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(f"machine   {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}")
    for kind in kinds:
        example = servers.pinned(options.cores, kind.argv("PORT", options.cores))
        print(f"{kind.name:11} {kind.version()}\n{'':11} {' '.join(word or repr('') for word in example)}")
    print(f"load      {driver.name} on CPU {servers.cpu_list(options.load_cores)}, {options.clients} connections, "
          f"{options.keys} keys, values of {options.data_size} bytes"
          + (f"; latencies by {latency.name} bench" if latency else ""))
    for kind in kinds:
        if driver.missing(kind):
            print(f"{'':9} but {kind.name} by scripts/bench/plain.py, because {driver.missing(kind)}: for a comparison "
                  "like for like, use --driver plain")
    print(f"rounds    {options.rounds}")


def measure(server, load, driver, latency):
    before_ns = server.cpu_ns()
    run = driver.run(server, load)
    cpu_us = (server.cpu_ns() - before_ns) / 1000
    if latency:
        times = latency.run(server, load)
        run = replace(run, p50_us=times.p50_us, p99_us=times.p99_us, p999_us=times.p999_us)
    return run, cpu_us


def show_progress(text):
    """One line of a terminal, overwritten each time."""
    if sys.stderr.isatty():
        print(f"\r{text:40}\r", end="", file=sys.stderr, flush=True)


def drivers_for(kind, op, driver, latency, fallback):
    if op not in PLAIN_OPS:
        return RedisBenchmark(driver.keys, driver.cpus), None
    if driver.missing(kind):
        return fallback, None
    # The floor answers in form only: the latency generator, which reads replies, would complain.
    return driver, latency if kind.stores else None


def run_rounds(options, kinds, keys, *drivers):
    """All results, and what went wrong. An interruption ends it early."""
    results, complaints = [], []
    try:
        for number in range(1, options.rounds + 1):
            run_round(number, options, kinds, keys, drivers, results, complaints)
    except KeyboardInterrupt:
        complaints.append("the rest, because of an interruption")
    show_progress("")
    return results, complaints


def run_round(number, options, kinds, keys, drivers, results, complaints):
    turn = number % len(kinds)
    for kind in kinds[turn:] + kinds[:turn]:
        show_progress(f"round {number} of {options.rounds}: {kind.name}")
        try:
            with Server(kind, options.cores) as server:
                if kind.stores:
                    server.fill(keys)
                for load in loads(options):
                    if load.op not in PLAIN_OPS and not (kind.speaks_resp and kind.stores):
                        continue
                    run, cpu_us = measure(server, load, *drivers_for(kind, load.op, *drivers))
                    per_op = cpu_us / run.ops
                    busy = per_op * run.ops_per_s / 1e6 / len(options.cores)
                    results.append(Result(number, kind.name, load.op, load.pipeline, per_op, busy, run))
        except Failure as failure:
            complaints.append(f"round {number}, {kind.name}: {failure}")


def median_of(results, value):
    values = [value(result) for result in results]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ratio(ours, theirs):
    """Median over the rounds of our CPU time per operation by theirs."""
    by_round = {result.round: result.cpu_us_per_op for result in theirs}
    ratios = [result.cpu_us_per_op / by_round[result.round] for result in ours if result.round in by_round]
    return statistics.median(ratios) if ratios else None


def cell(value, form, width):
    return f"{'-' if value is None else format(value, form):>{width}}"


def print_tables(options, kinds, results):
    groups = defaultdict(list)
    for result in results:
        groups[result.op, result.pipeline, result.server].append(result)
    for load in loads(options):
        ours = groups[load.op, load.pipeline, "keyloom"]
        print(f"\n{load.op.upper()}, {load.clients} connection{'s' * (load.clients > 1)}, P={load.pipeline}, "
              f"{load.requests} requests")
        print(f"{'':12}{'CPU us/op':>10}{'ours/this':>10}{'min..max us/op':>17}{'ops/s':>11}{'busy':>6}"
              f"{'p50 us':>9}{'p99 us':>9}{'p99.9 us':>9}")
        for kind in kinds:
            group = groups[load.op, load.pipeline, kind.name]
            if not group:
                continue
            costs = [result.cpu_us_per_op for result in group]
            print(f"{kind.name:12}" + cell(statistics.median(costs), ".3f", 10)
                  + cell(ratio(ours, group) if kind.name != "keyloom" else None, ".2f", 10)
                  + f"{min(costs):>9.3f}..{max(costs):.3f}".rjust(17)
                  + cell(median_of(group, lambda r: r.run.ops_per_s), ".0f", 11)
                  + cell(median_of(group, lambda r: r.busy), ".0%", 6)
                  + cell(median_of(group, lambda r: r.run.p50_us), ".0f", 9)
                  + cell(median_of(group, lambda r: r.run.p99_us), ".0f", 9)
                  + cell(median_of(group, lambda r: r.run.p999_us), ".0f", 9))


def write_csv(path, driver, results):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["round", "server", "op", "pipeline", "driver", "ops", "cpu_us_per_op", "busy", "ops_per_s",
                         "p50_us", "p99_us", "p99_9_us"])
        for r in results:
            writer.writerow([r.round, r.server, r.op, r.pipeline, driver.name, r.run.ops, f"{r.cpu_us_per_op:.4f}",
                             f"{r.busy:.3f}", f"{r.run.ops_per_s:.0f}", r.run.p50_us, r.run.p99_us, r.run.p999_us])


def main():
    # SIGTERM unwinds like Ctrl-C, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    keys = Keys(options.keys, options.data_size)
    try:
        driver, latency, fallback = chosen_drivers(options, keys)
        kinds = chosen_kinds(options)
        missing = latency and latency.missing(next((kind for kind in kinds if kind.speaks_resp), kinds[0]))
        if missing:
            print(f"without a run of its own for latencies: {missing}")
            latency = None
        print_machine(options, kinds, driver, latency)
        results, complaints = run_rounds(options, kinds, keys, driver, latency, fallback)
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    print_tables(options, kinds, results)
    for complaint in complaints:
        print(f"\nnot measured: {complaint}")
    if options.csv:
        write_csv(options.csv, driver, results)
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
