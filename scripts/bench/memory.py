"""The memory that a key takes: in a server that was just filled, and in one whose keys have changed since; and that an
element of a large collection takes.

Each state is that of a server of its own, except those after a shift of the sizes, which follow from each other:

filled        keys `memtier-0` to `memtier-999999` with values of 64 bytes
with a TTL    the same keys, each with an expiry in ten days
evicted       filled, limited to what that took, then three new keys for each: each evicts one (policy allkeys-lru)
replaced      filled, then three new keys for each, the oldest deleted before each: no limit, no eviction
grown         filled, then each key set again with 200 bytes
shrunk        then each second key deleted, the others set again with 40 bytes
regrown       then each of the deleted keys set again with 200 bytes
list          one list of elements `memtier-0` to `memtier-999999`, and so on:
set           one set of these members
hash          one hash of these fields, with values of 16 bytes
sorted set    one sorted set of these members, with whole numbers as scores, in no order

"live" are the bytes of keys and values. The columns "used" (what the server says: used_memory, or memcached's bytes in
items) and "RSS" (resident memory, of the kernel) are per key or element, beyond its own bytes. What the server used and held
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
        """Sends `command(number)` for each number and expects `replies` to each, or `replies(number)`."""
        for start in range(0, len(numbers), FILL_BATCH):
            batch = numbers[start:start + FILL_BATCH]
            self.client.sendall(b"".join(map(command, batch)))
            expected = b"".join(map(replies, batch)) if callable(replies) else replies * len(batch)
            servers.expect(self.client, expected, f"{self.kind.name} refuses a command")

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


def collection(label, words_of, live_of=lambda words: len(words[0]), reply_of=lambda _number: b":1\r\n"):
    """One key with an element for each key of the other states, added by a command each."""

    def state(filling):
        if not filling.kind.speaks_resp:
            return

        def add(number):
            command, *words = words_of(number)
            return servers.request(command, b"collection", *words)

        filling.send(range(filling.keys), add, reply_of)
        yield label, sum(live_of(words_of(number)[1:]) for number in range(filling.keys)), filling.keys

    return state


def score(number, keys=1_000_000):
    """Far from those of its neighbours."""
    return b"%d" % (number * 618_033_989 % keys)


HASH_VALUE = b"v" * 16
STATES = {
    "filled": filled, "ttl": with_ttl, "evicted": evicted, "replaced": replaced, "shifted": shifted,
    "list": collection("list", lambda number: (b"RPUSH", name(number)), reply_of=lambda number: b":%d\r\n" % (number + 1)),
    "set": collection("set", lambda number: (b"SADD", name(number))),
    "hash": collection("hash", lambda number: (b"HSET", name(number), HASH_VALUE), lambda words: sum(map(len, words))),
    "zset": collection("sorted set", lambda number: (b"ZADD", score(number), name(number)), lambda words: len(words[1])),
}


def report(kind, state, live_bytes, count, empty, usage):
    used = (usage.used_bytes - empty.used_bytes - live_bytes) / count
    resident_bytes = usage.resident_bytes - empty.resident_bytes
    print(f"{state:12}{kind.name:11}{count:9}{live_bytes / count:9.1f}{used:9.1f}"
          f"{(resident_bytes - live_bytes) / count:9.1f}{resident_bytes / live_bytes:10.3f}", flush=True)


def measure(options):
    complaints = []
    kinds = servers.find_all(options.only, options.keyloom)
    print(f"\n{'':12}{'':11}{'keys':>9}{'live/key':>9}{'used':>9}{'RSS':>9}{'RSS/live':>10}")
    for state in options.states:
        for kind in kinds:
            try:
                with Server(kind, CPUS) as server:
                    filling = Filling(server, options.keys)
                    for reached, live_bytes, *count in STATES[state](filling):
                        usage = filling.usage()
                        report(kind, reached, live_bytes, count[0] if count else usage.keys, filling.empty, usage)
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
