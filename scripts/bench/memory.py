"""The memory that a key takes: in a server that was just filled, and in one whose keys have changed since.

Each state is that of a server of its own, except those after a shift of the sizes, which follow from each other:

filled        keys `memtier-0` to `memtier-999999` with values of 64 bytes
with a TTL    the same keys, each with an expiry in ten days
evicted       filled, limited to what that took, then three new keys for each: each evicts one (policy allkeys-lru)
replaced      filled, then three new keys for each, the oldest deleted before each: no limit, no eviction
grown         filled, then each key set again with 200 bytes
shrunk        then each second key deleted, the others set again with 40 bytes
regrown       then each of the deleted keys set again with 200 bytes

"live" are the bytes of keys and values. The columns "used" (what the server says: used_memory, or memcached's bytes in
items) and "RSS" (resident memory, of the kernel) are per key, beyond its key and value. What the server used and held
before the first key is subtracted, so fixed costs are not in the figures. "RSS/live" shows what a shift leaves behind.
Allocators give memory back with a delay: resident memory is read when it has stopped falling.
"""

import argparse
import signal
import sys
import time
from dataclasses import dataclass

import servers
from servers import FILL_BATCH, Failure, Server

NAMES = ("keyloom", "redis", "valkey", "memcached")
CPUS = [0]
TTL_S = 10 * 86400
VALUE_BYTES = 64
# New keys for each key of the fill, in the states after a churn.
CHURN = 3
# Resident memory counts as settled when it has not fallen for so long.
SETTLED_S = 2
SETTLE_S_MAX = 20
SETTLE_POLL_S = 0.25


@dataclass(frozen=True)
class Usage:
    used_bytes: int
    resident_bytes: int
    keys: int


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/memory.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--keys", type=int, default=1_000_000, help="keys in a server (default %(default)s)")
    add("--only", default=",".join(NAMES), help="servers (default %(default)s)")
    add("--states", help=f"of {','.join(STATES)} (default: all)")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    options = parser.parse_args()
    options.only = options.only.split(",")
    options.states = options.states.split(",") if options.states else list(STATES)
    unknown = set(options.only) - set(NAMES) | set(options.states) - set(STATES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.keys < 2:
        parser.error("at least two keys")
    return options


def name(number):
    return b"memtier-%d" % number


class Filling:
    """One server, its keys, and the memory it took before the first."""

    def __init__(self, server, keys):
        self.server, self.kind, self.keys = server, server.kind, keys
        self.client = server.connect()
        self.empty = self.usage()

    def usage(self):
        used_bytes, keys = self.kind.usage(self.client)
        return Usage(used_bytes, settled_resident_bytes(self.server), keys)

    def send(self, numbers, command, replies):
        """Sends `command(number)` for each number and expects `replies` to each."""
        for start in range(0, len(numbers), FILL_BATCH):
            batch = numbers[start:start + FILL_BATCH]
            self.client.sendall(b"".join(map(command, batch)))
            servers.expect(self.client, replies * len(batch), f"{self.kind.name} refuses a command")

    def set(self, numbers, value_bytes=VALUE_BYTES, ttl_s=None):
        value = b"x" * value_bytes
        self.send(numbers, lambda number: self.kind.set_request(name(number), value, ttl_s), self.kind.set_reply)

    def delete(self, numbers):
        self.send(numbers, lambda number: self.kind.delete_request(name(number)), self.kind.delete_reply)

    def fill(self, ttl_s=None):
        self.set(range(self.keys), ttl_s=ttl_s)


def settled_resident_bytes(server):
    lowest, since = server.resident_bytes(), time.monotonic()
    deadline = since + SETTLE_S_MAX
    while time.monotonic() < min(since + SETTLED_S, deadline):
        time.sleep(SETTLE_POLL_S)
        now = server.resident_bytes()
        if now < lowest:
            lowest, since = now, time.monotonic()
    return lowest


def key_bytes(numbers):
    return sum(len(name(number)) for number in numbers)


def filled(filling):
    filling.fill()
    yield "filled", key_bytes(range(filling.keys)) + filling.keys * VALUE_BYTES


def with_ttl(filling):
    filling.fill(TTL_S)
    yield "with a TTL", key_bytes(range(filling.keys)) + filling.keys * VALUE_BYTES


def evicted(filling):
    filling.fill()
    used_bytes, _keys = filling.kind.usage(filling.client)
    filling.kind.limit(filling.client, used_bytes)
    filling.set(range(filling.keys, filling.keys * (CHURN + 1)))
    _used, left = filling.kind.usage(filling.client)
    # Those set last are left, or about so: the names' lengths differ by a byte at the most.
    last = filling.keys * (CHURN + 1)
    yield "evicted", key_bytes(range(last - left, last)) + left * VALUE_BYTES


def replaced(filling):
    filling.fill()
    keys, value = filling.keys, b"x" * VALUE_BYTES

    def replace(number):
        return filling.kind.delete_request(name(number - keys)) + filling.kind.set_request(name(number), value)

    filling.send(range(keys, keys * (CHURN + 1)), replace, filling.kind.delete_reply + filling.kind.set_reply)
    yield "replaced", key_bytes(range(keys * CHURN, keys * (CHURN + 1))) + keys * VALUE_BYTES


def shifted(filling):
    filling.fill()
    everything, kept, deleted = (range(*limits) for limits in
                                 ((filling.keys,), (0, filling.keys, 2), (1, filling.keys, 2)))
    filling.set(everything, 200)
    yield "grown", key_bytes(everything) + len(everything) * 200
    for number in range(0, filling.keys, FILL_BATCH):
        end = min(number + FILL_BATCH, filling.keys)
        filling.delete(range(number + 1, end, 2))
        filling.set(range(number, end, 2), 40)
    yield "shrunk", key_bytes(kept) + len(kept) * 40
    filling.set(deleted, 200)
    yield "regrown", key_bytes(everything) + len(kept) * 40 + len(deleted) * 200


STATES = {"filled": filled, "ttl": with_ttl, "evicted": evicted, "replaced": replaced, "shifted": shifted}


def report(kind, state, live_bytes, empty, usage):
    used = (usage.used_bytes - empty.used_bytes - live_bytes) / usage.keys
    resident_bytes = usage.resident_bytes - empty.resident_bytes
    print(f"{state:12}{kind.name:11}{usage.keys:9}{live_bytes / usage.keys:9.1f}{used:9.1f}"
          f"{(resident_bytes - live_bytes) / usage.keys:9.1f}{resident_bytes / live_bytes:10.3f}", flush=True)


def measure(options):
    complaints = []
    kinds = servers.find_all(options.only, options.keyloom)
    print(f"\n{'':12}{'':11}{'keys':>9}{'live/key':>9}{'used':>9}{'RSS':>9}{'RSS/live':>10}")
    for state in options.states:
        for kind in kinds:
            try:
                with Server(kind, CPUS) as server:
                    filling = Filling(server, options.keys)
                    for reached, live_bytes in STATES[state](filling):
                        report(kind, reached, live_bytes, filling.empty, filling.usage())
            except (Failure, OSError) as failure:
                complaints.append(f"{kind.name}, {state}: {failure}")
    for complaint in complaints:
        print(f"\nnot measured: {complaint}")
    return not complaints


def main():
    # SIGTERM unwinds like Ctrl-C, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(0 if measure(arguments()) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
