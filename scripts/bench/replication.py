"""How far a replica is behind, and what clients of a primary notice of a full copy: keyloom and redis-server.

A primary is filled, and `keyloom bench` sends it GETs and SETs at a steady rate (open loop): first while a replica copies
everything, to know how long that takes. Then come rounds of two runs of just that length: one without a replica
("alone"), one while a new replica copies everything ("copy"); the medians of the rounds are shown. Last comes a run
during which the replica follows ("follow").
Meanwhile a number is written to the primary every few milliseconds, and a client of the replica reads it in a loop. The
lag of a number is the time from the primary's answer to it until the replica shows it; it is exact to about the time of
one read. Response times are those of the primary, and count from when a request was due.

The primary has one CPU, and how busy that is stands behind each line. The load, the replica and the reader share the other;
the load sleeps when nothing is due and goes first there, but for the last run. It cannot go before what the kernel does for
the replica, so part of what "copy" and "follow" show beyond "alone" is that.
"""

import math
import sys
import threading
import time
from statistics import median

import openloop
import servers
from openloop import PERCENTILES, OpenLoop
from servers import REPLICA_CPUS, Failure, Keys, Kind, Server

NAMES = ("keyloom", "redis")
SERVER_CPUS = [0]
NUMBER = b"replication-lag"
NUMBER_EVERY_S = 0.005
READ_EVERY_S = 0.0002
COPY_S_MAX = 120


def arguments():
    made = openloop.parser("scripts/replication.sh", __doc__, 512, 40_000, NAMES)
    made.add_argument("--rounds", type=int, default=5, help="runs without and with a copy (default %(default)s)")
    return openloop.parsed(made, NAMES)


class Lag:
    """Writes numbers to one server, reads them from another, and knows how long each took."""

    def __init__(self, primary, replica):
        self.primary, self.replica = primary, replica
        self.answered_at = []
        self.seen_at = []
        self.ended = False
        with primary.connect() as client, replica.connect() as reader:
            servers.ask(client, b"SET", NUMBER, b"none")
            while servers.ask(reader, b"EXISTS", NUMBER) != b"1":
                time.sleep(READ_EVERY_S)
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.write, self.read)]
        for thread in self.threads:
            thread.start()

    def write(self):
        with self.primary.connect() as client:
            while not self.ended:
                servers.ask(client, b"SET", NUMBER, b"%d" % len(self.answered_at))
                self.answered_at.append(time.monotonic())
                time.sleep(NUMBER_EVERY_S)

    def read(self):
        with self.replica.connect() as client:
            while not self.ended or len(self.seen_at) < len(self.answered_at):
                number = servers.ask(client, b"GET", NUMBER)
                now = time.monotonic()
                newest = int(number) if number.isdigit() else -1
                while len(self.seen_at) <= newest < len(self.answered_at) + 1:
                    self.seen_at.append(now)
                time.sleep(READ_EVERY_S)

    def lags_ms(self):
        """Ends it: how long each number took, ms, ascending. A replica may be faster than the primary's answer."""
        self.ended = True
        for thread in self.threads:
            thread.join(servers.REPLY_S_MAX)
            if thread.is_alive():
                raise Failure("the replica does not show what was written")
        pairs = zip(self.answered_at, self.seen_at)
        return sorted(max(0.0, (seen - answered) * 1000) for answered, seen in pairs)


def copy(replica, primary):
    """Lets a server follow; seconds until it has everything."""
    started = time.monotonic()
    with replica.connect() as client:
        servers.ask(client, b"REPLICAOF", b"127.0.0.1", b"%d" % primary.port)
        while servers.info(client).get("master_link_status") != "up":
            if time.monotonic() - started > COPY_S_MAX:
                raise Failure(f"no copy after {COPY_S_MAX} s")
            time.sleep(0.02)
    return time.monotonic() - started


class Primary:
    """A filled server and its load."""

    def __init__(self, server, keys, options):
        self.server, self.keys, self.options = server, keys, options

    def load(self, seconds, first=True):
        options = self.options
        return OpenLoop(options.keyloom, self.server, self.keys, options.rate, seconds, first=first, alone=False)

    def during(self, seconds, act=lambda: None, first=True):
        """What clients see while `act` is done: times by percentile, how busy the server is (%), what `act` gave."""
        cpu_ns, running = self.server.cpu_ns(), self.load(seconds, first)
        given = act()
        times = running.times_ms()
        return times, (self.server.cpu_ns() - cpu_ns) / seconds / 1e7, given


def lag_of(primary, replica):
    """Begins to measure the lag once the load is there."""
    time.sleep(1)
    return Lag(primary, replica)


def measure(kind, options):
    keys = Keys(options.mib * servers.MIB // options.value_bytes, options.value_bytes)
    single = Kind(kind.name + "'s replica", kind.argv)

    def line(label, runs, rest=""):
        times, busy, _ = zip(*runs)
        print(f"{kind.name:9}{label:>9}" + "".join(f"{median(run[name] for run in times):10.2f}" for name in PERCENTILES)
              + f"{median(busy):9.0f} %{rest}", flush=True)

    with Server(kind, SERVER_CPUS) as server:
        server.fill(keys)
        primary = Primary(server, keys, options)
        with Server(single, REPLICA_CPUS) as replica:
            running = primary.load(COPY_S_MAX)
            try:
                seconds = math.ceil(copy(replica, server))
            finally:
                running.stop()
        alone, copying = [], []
        for last in range(options.rounds - 1, -1, -1):
            alone.append(primary.during(seconds))
            with Server(single, REPLICA_CPUS) as replica:
                copying.append(primary.during(seconds, lambda: copy(replica, server)))
                if last == 0:
                    # The replica must not wait for the load.
                    following = primary.during(options.seconds, lambda: lag_of(server, replica), first=False)
                    lags = following[2].lags_ms()
    line("alone", alone)
    line("copy", copying, f"   copied in {median(run[2] for run in copying):.1f} s")
    line("follow", [following])
    at = [lags[min(len(lags) - 1, int(len(lags) * share))] for share in (0.5, 0.99, 0.999, 1)]
    print(f"{'':9}{'lag':>9}" + "".join(f"{value:10.2f}" for value in at) + f"   of {len(lags)} writes", flush=True)


def main():
    options = arguments()
    kinds = servers.find_all(options.only, options.keyloom)
    print(f"\n{options.mib} MiB in values of {options.value_bytes} bytes, {options.rate} requests/s, times in ms\n")
    print(f"{'':18}" + "".join(f"{name:>10}" for name in PERCENTILES) + f"{'busy':>11}")
    for kind in kinds:
        measure(kind, options)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"replication.py: {failure}")
