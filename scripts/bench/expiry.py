"""How late expired keys are removed, and how long other requests wait meanwhile.

A million keys that nobody looks at expire: spread over a minute, or all within one second. Meanwhile `keyloom bench`
sends GETs and SETs of other keys at a steady rate (open loop), a new run each second, so that the latencies of each
second are known for themselves; times count from when a request was due.

"lag" is from a key's deadline until it is gone, seen from outside by polling `expired_keys` of INFO: the n-th removal
is taken for that of the key with the n-th deadline, so of a server that removes keys out of order only the average is
right. It is exact to the time between two polls. "own figures" are those that keyloom publishes.

At the end, DBSIZE must be the number of the other keys: a key that is forgotten counts as a failure.
"""

import argparse
import signal
import statistics
import sys
import time
from dataclasses import dataclass

import servers
from openloop import PERCENTILES, OpenLoop
from servers import FILL_BATCH, Failure, Keys, Server

NAMES = ("keyloom", "redis", "valkey")
SERVER_CPUS = [0]
# The keys of the requests, which do not expire.
LIVE = Keys(10_000, 64)
# Odd and prime to a million: deadlines are unrelated to the order of the keys.
SPREAD = 618_033_989
FILL_KEYS_PER_S_MIN = 50_000
BEFORE_S, AFTER_S = 3, 4
POLL_S = 0.01
GONE_S_MAX = 60


@dataclass(frozen=True)
class Slice:
    """One second of requests: latencies in ms."""

    # When it began, s from the first deadline.
    start_s: int
    times_ms: dict


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/expiry.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--keys", type=int, default=1_000_000, help="keys that expire (default %(default)s)")
    add("--seconds", default="60 1", metavar="'S ..'", help="times over which they do (default '60 1')")
    add("--rate", type=int, default=20_000, help="other requests per second (default %(default)s)")
    add("--only", default=",".join(NAMES), help="servers (default %(default)s)")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    options = parser.parse_args()
    options.only = options.only.split(",")
    options.seconds = [int(word) for word in options.seconds.split()]
    unknown = set(options.only) - set(NAMES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if min(options.keys, options.rate, *options.seconds) < 1:
        parser.error("all numbers must be positive")
    return options


def fill(server, keys, first_ms, span_ms):
    """Sets the keys that expire, their deadlines evenly spaced over `span_ms` from `first_ms` on."""
    def set_request(number):
        deadline_ms = first_ms + number * SPREAD % keys * span_ms // keys
        return servers.request(b"SET", b"memtier-%d" % number, b"x" * 64, b"PXAT", b"%d" % deadline_ms)

    with server.connect() as client:
        for start in range(0, keys, FILL_BATCH):
            numbers = range(start, min(start + FILL_BATCH, keys))
            client.sendall(b"".join(map(set_request, numbers)))
            servers.expect(client, server.kind.set_reply * len(numbers), f"{server.kind.name} refuses a SET")


class Requests:
    """The load: one `keyloom bench` for each second, started on the second."""

    def __init__(self, server, options, first_s):
        self.binary, self.server, self.rate = options.keyloom, server, options.rate
        # Start of the next second, s from the first deadline.
        self.next_s, self.first_s = -BEFORE_S, first_s
        self.running = []

    def keep_up(self):
        """Starts the second that has begun."""
        if time.time() >= self.first_s + self.next_s:
            self.running.append((self.next_s, OpenLoop(self.binary, self.server, LIVE, self.rate, 1, "1:10")))
            self.next_s += 1

    def slices(self):
        return [Slice(start_s, load.times_ms()) for start_s, load in self.running]

    def stop(self):
        for _, load in self.running:
            load.stop()


def watch(client, requests, keys, first_s, span_s):
    """Polls until all keys have expired and the load has run its time. Lags in ms, each with the keys that have it."""
    lags_ms, seen = [], 0
    while seen < keys or requests.next_s < span_s + AFTER_S:
        if time.time() > first_s + span_s + GONE_S_MAX:
            raise Failure(f"{keys - seen} of {keys} keys are not removed {GONE_S_MAX} s after the last deadline")
        if requests.next_s < span_s + AFTER_S:
            requests.keep_up()
        expired = int(servers.info(client)["expired_keys"])
        if expired > seen:
            due_s = first_s + (seen + expired) / 2 / keys * span_s
            lags_ms.append((max(0.0, (time.time() - due_s) * 1000), expired - seen))
            seen = expired
        time.sleep(POLL_S)
    return lags_ms


def percentile(weighted, share):
    weighted = sorted(weighted)
    left = share * sum(count for _, count in weighted)
    for value, count in weighted:
        left -= count
        if left <= 0:
            return value
    return weighted[-1][0]


def print_lags(kind, lags_ms, fields):
    outside = ", ".join(f"{name} {percentile(lags_ms, share):.0f}"
                        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1)))
    own = ", ".join(f"{name} {fields[f'expire_lag_{name}_ms']}" for name in ("p50", "p99", "max")
                    if f"expire_lag_{name}_ms" in fields)
    print(f"{kind.name:10}lag, ms: {outside}" + (f"; own figures: {own}" if own else ""))


def print_slices(slices, span_s):
    """A line for each part of the time, and for each second around a short burst."""
    def line(label, part):
        values = [statistics.median(s.times_ms[name] for s in part) for name in PERCENTILES[:2]]
        values += [max(s.times_ms[name] for s in part) for name in PERCENTILES[2:]]
        print(f"{'':10}{label:22}" + "".join(f"{value:10.2f}" for value in values))

    print(f"{'':10}{'latency, ms':22}{'p50':>10}{'p99':>10}{'p99.9':>10}{'max':>10}")
    line("before", [s for s in slices if s.start_s < 0])
    line("while keys expire", [s for s in slices if 0 <= s.start_s < span_s])
    line("after", [s for s in slices if s.start_s >= span_s])
    if span_s <= AFTER_S:
        for s in slices:
            line(f"  second {s.start_s:+d}", [s])


def measure(kind, options, span_s):
    with Server(kind, SERVER_CPUS) as server, server.connect() as client:
        server.fill(LIVE)
        # Whole seconds, as the load's.
        first_s = int(time.time()) + 1 + options.keys // FILL_KEYS_PER_S_MIN + BEFORE_S
        fill(server, options.keys, first_s * 1000, span_s * 1000)
        if time.time() > first_s - BEFORE_S:
            raise Failure(f"filling took too long: fewer than {FILL_KEYS_PER_S_MIN} keys per second")
        requests = Requests(server, options, first_s)
        try:
            lags_ms = watch(client, requests, options.keys, first_s, span_s)
            slices = requests.slices()
        finally:
            requests.stop()
        print_lags(kind, lags_ms, servers.info(client))
        print_slices(slices, span_s)
        left = kind.usage(client)[1] - LIVE.count
        if left != 0:
            raise Failure(f"DBSIZE counts {left} keys too many")
        print(f"{'':10}none forgotten: DBSIZE is {LIVE.count}", flush=True)


def main():
    # SIGTERM unwinds like Ctrl-C, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options, complaints = arguments(), []
    try:
        kinds = servers.find_all(options.only, options.keyloom)
        for span_s in options.seconds:
            print(f"\n{options.keys} keys expire within {span_s} s; {options.rate} other requests per second")
            for kind in kinds:
                try:
                    measure(kind, options, span_s)
                except (Failure, OSError, subprocess.TimeoutExpired) as failure:
                    complaints.append(f"{kind.name}, {span_s} s: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    for complaint in complaints:
        print(f"\nnot measured: {complaint}")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
