"""What eviction costs: CPU time and throughput when every SET evicts, and resident memory beside `maxmemory`.

Throughput: a server is filled with keys and limited to the memory that this took (allkeys-lru), then gets SETs of keys
that it does not have, so that each evicts about one. Beside it, the same SETs go to the same server without a limit.
Rounds alternate the two; each starts a fresh server. The cost of eviction is the ratio of CPU time per SET; a server
without a limit pays for growing, so the ratio can be below 1.

Resident memory: SETs of values from 10 bytes to 100 KiB, log-uniform (as many between 10 and 100 bytes as between 1 and
10 KiB), to keys that are drawn from some more than fit, so that values are replaced by others of another size, too.
"""

import argparse
import math
import random
import signal
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass

import servers
from drivers import Load, RedisBenchmark
from servers import MIB, Failure, Keys, Server

NAMES = ("keyloom", "redis", "valkey")
SERVER_CPUS = [0]
LOAD_CPUS = [1]
CLIENTS = 50
VALUE_BYTES = 64
# Keys are drawn from so many: one that is present is rare. The most that redis-benchmark can count to, rounded.
KEYS_DRAWN = 2_000_000_000
REQUESTS = {1: 200_000, 16: 2_000_000}
QUICK_DIVISOR = 5
# At least this part of the SETs must have evicted a key: a table that shrinks its share of memory evicts more.
EVICTED_MIN = 0.9

MIXED_BYTES_MIN, MIXED_BYTES_MAX = 10, 100 << 10
# Mean of the log-uniform distribution between the two.
MIXED_BYTES_MEAN = (MIXED_BYTES_MAX - MIXED_BYTES_MIN) / math.log(MIXED_BYTES_MAX / MIXED_BYTES_MIN)
# Written in all, and keys drawn from, in multiples of what fits.
MIXED_WRITTEN, MIXED_KEYS = 10, 4
MIXED_BATCH = 20
MIXED_SAMPLES = 100
SEED = 1


@dataclass(frozen=True)
class Result:
    cpu_us_per_op: float
    ops_per_s: float
    evicted_per_op: float


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/evict.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, help="rounds (default 3)")
    add("--quick", action="store_true", help="1 round of a fifth of the requests")
    add("--keys", type=int, default=1_000_000, help="keys before the SETs (default %(default)s)")
    add("--pipelines", default="1 16", metavar="'N ..'", help="requests in flight per connection (default '1 16')")
    add("--policy", default="allkeys-lru", help="policy (default %(default)s)")
    add("--maxmemory", type=int, default=256, metavar="MIB", help="limit with mixed values (default %(default)s)")
    add("--no-throughput", action="store_true", help="resident memory only")
    add("--no-memory", action="store_true", help="throughput only")
    add("--only", default=",".join(NAMES), help="servers (default %(default)s)")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    options = parser.parse_args()
    options.only = options.only.split(",")
    options.pipelines = [int(word) for word in options.pipelines.split()]
    options.rounds = options.rounds or (1 if options.quick else 3)
    unknown = set(options.only) - set(NAMES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if min(options.rounds, options.keys, options.maxmemory, *options.pipelines) < 1:
        parser.error("all numbers must be positive")
    return options


def requests_for(options, pipeline):
    requests = REQUESTS.get(pipeline, min(REQUESTS[1] * pipeline, REQUESTS[16]))
    return requests // QUICK_DIVISOR if options.quick else requests


def churn(kind, options, pipeline, limited):
    """SETs of new keys to a fresh server that is full, or has no limit."""
    load = Load("set", CLIENTS, pipeline, requests_for(options, pipeline))
    driver = RedisBenchmark(Keys(KEYS_DRAWN, VALUE_BYTES), LOAD_CPUS)
    with Server(kind, SERVER_CPUS) as server, server.connect() as client:
        server.fill(Keys(options.keys, VALUE_BYTES))
        if limited:
            used_bytes, _keys = kind.usage(client)
            kind.limit(client, used_bytes, options.policy)
        before_ns = server.cpu_ns()
        run = driver.run(server, load)
        cpu_us = (server.cpu_ns() - before_ns) / 1000
        evicted = int(servers.info(client)["evicted_keys"]) / run.ops
    if limited and evicted < EVICTED_MIN:
        raise Failure(f"only {evicted:.0%} of the SETs evicted a key")
    return Result(cpu_us / run.ops, run.ops_per_s, evicted)


def throughput(kinds, options, complaints):
    missing = kinds and RedisBenchmark.missing(kinds[0])
    if missing:
        complaints.append(f"throughput: {missing}")
        return
    pairs = defaultdict(list)
    for number in range(options.rounds):
        for pipeline in options.pipelines:
            for kind in kinds[number % len(kinds):] + kinds[:number % len(kinds)]:
                try:
                    order = (False, True) if number % 2 else (True, False)
                    pair = {limited: churn(kind, options, pipeline, limited) for limited in order}
                    pairs[kind.name, pipeline].append((pair[True], pair[False]))
                except Failure as failure:
                    complaints.append(f"{kind.name}, P={pipeline}: {failure}")
    print(f"\nSET of new keys, redis-benchmark, {CLIENTS} connections, {VALUE_BYTES}-byte values, {options.keys} keys "
          f"before, {options.policy}; medians of {options.rounds} rounds")
    print(f"{'':10}{'':5}{'evicting us/op':>15}{'unlimited us/op':>16}{'ratio':>7}{'evicting ops/s':>16}"
          f"{'unlimited ops/s':>16}{'evicted/op':>11}")
    for pipeline in options.pipelines:
        for kind in kinds:
            rounds = pairs[kind.name, pipeline]
            if rounds:
                print_pairs(f"{kind.name:10}P={pipeline:<3}", rounds)


def print_pairs(label, rounds):
    def median(value):
        return statistics.median(value(limited, free) for limited, free in rounds)

    print(label + f"{median(lambda limited, _: limited.cpu_us_per_op):15.3f}"
          f"{median(lambda _, free: free.cpu_us_per_op):16.3f}"
          f"{median(lambda limited, free: limited.cpu_us_per_op / free.cpu_us_per_op):7.2f}"
          f"{median(lambda limited, _: limited.ops_per_s):16.0f}{median(lambda _, free: free.ops_per_s):16.0f}"
          f"{median(lambda limited, _: limited.evicted_per_op):11.3f}")


def mixed_values(kind, options):
    """Most and last memory, as multiples of the limit, while values of all sizes are set."""
    limit_bytes = options.maxmemory * MIB
    draw = random.Random(SEED)
    keys = int(limit_bytes / MIXED_BYTES_MEAN * MIXED_KEYS)
    sets = int(limit_bytes / MIXED_BYTES_MEAN * MIXED_WRITTEN) // (QUICK_DIVISOR if options.quick else 1)
    filler = b"x" * MIXED_BYTES_MAX
    used, resident = [], []
    with Server(kind, SERVER_CPUS) as server, server.connect() as client:
        kind.limit(client, limit_bytes, options.policy)
        for batch in range(sets // MIXED_BATCH):
            requests = []
            for _ in range(MIXED_BATCH):
                value_bytes = int(math.exp(draw.uniform(math.log(MIXED_BYTES_MIN), math.log(MIXED_BYTES_MAX))))
                requests.append(kind.set_request(b"memtier-%d" % draw.randrange(keys), filler[:value_bytes]))
            client.sendall(b"".join(requests))
            servers.expect(client, kind.set_reply * MIXED_BATCH, f"{kind.name} refuses a SET")
            if batch % (sets // MIXED_BATCH // MIXED_SAMPLES + 1) == 0:
                used.append(kind.usage(client)[0] / limit_bytes)
                resident.append(server.resident_bytes() / limit_bytes)
        held = kind.usage(client)[1]
    print(f"{kind.name:10}{max(used):9.3f}{used[-1]:9.3f}{max(resident):9.3f}{resident[-1]:9.3f}{held:11}", flush=True)


def memory(kinds, options, complaints):
    print(f"\nvalues of {MIXED_BYTES_MIN} bytes to {MIXED_BYTES_MAX >> 10} KiB, log-uniform, maxmemory "
          f"{options.maxmemory} MiB, {options.policy}; multiples of maxmemory")
    print(f"{'':10}{'used max':>9}{'at end':>9}{'RSS max':>9}{'at end':>9}{'keys held':>11}")
    for kind in kinds:
        try:
            mixed_values(kind, options)
        except (Failure, OSError) as failure:
            complaints.append(f"{kind.name}, mixed values: {failure}")


def main():
    # SIGTERM unwinds like Ctrl-C, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options, complaints = arguments(), []
    try:
        kinds = servers.find_all(options.only, options.keyloom)
        if not options.no_throughput:
            throughput(kinds, options, complaints)
        if not options.no_memory:
            memory(kinds, options, complaints)
    except KeyboardInterrupt:
        sys.exit(130)
    for complaint in complaints:
        print(f"\nnot measured: {complaint}")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
