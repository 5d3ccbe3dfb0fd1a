"""What clients and memory notice of a snapshot: keyloom's, which goes through the keys while it serves, and
redis-server's, which forks.

A server is filled to so many bytes. Then `keyloom bench` sends GETs and SETs of these keys at a steady rate (open loop),
first for a time without a snapshot, then for as long with one, BGSAVE being sent in its first second; and so for some
rounds, whose medians are shown. Times count from when a request was due. Memory is the proportional set size of the server and its children, so that what a fork shares counts
once; the peak is the highest value seen during the snapshot, and its ratio is to the moment before.
"""

import sys
import time
from pathlib import Path
from statistics import median

import openloop
import servers
from openloop import PERCENTILES, OpenLoop
from servers import Failure, Keys, Server

NAMES = ("keyloom", "redis")
SERVER_CPUS = [0]
POLL_S = 0.02
SNAPSHOT_S_MAX = 300


def arguments():
    made = openloop.parser("scripts/snapshot.sh", __doc__, 2048, 20_000, NAMES)
    made.add_argument("--rounds", type=int, default=3, help="runs without and with a snapshot (default %(default)s)")
    return openloop.parsed(made, NAMES)


def load(server, keys, options):
    return OpenLoop(options.keyloom, server, keys, options.rate, options.seconds)


def family(pid):
    """A process and its children."""
    pids = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids += [int(child) for child in children.read_text().split()]
        except OSError:
            pass
    return pids


def pss_bytes(pid):
    total = 0
    for member in family(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def snapshot(server, client, before):
    """Sends BGSAVE, waits for its end; seconds, and the most memory meanwhile as a ratio."""
    started, peak = time.monotonic(), before
    servers.ask(client, b"BGSAVE")
    while time.monotonic() - started < SNAPSHOT_S_MAX:
        peak = max(peak, pss_bytes(server.process.pid))
        fields = servers.info(client)
        if fields["rdb_bgsave_in_progress"] == "0":
            if fields["rdb_last_bgsave_status"] != "ok":
                raise Failure(f"{server.kind.name}: the snapshot failed")
            return time.monotonic() - started, peak / before
        time.sleep(POLL_S)
    raise Failure(f"{server.kind.name}: no snapshot after {SNAPSHOT_S_MAX} s")


def measure(kind, options):
    keys = Keys(options.mib * servers.MIB // options.value_bytes, options.value_bytes)
    with Server(kind, SERVER_CPUS) as server, server.connect(timeout_s=SNAPSHOT_S_MAX) as client:
        server.fill(keys)
        rounds = [measure_round(server, client, keys, options) for _ in range(options.rounds)]
    without, with_it, seconds, memory = zip(*rounds)

    def line(label, runs, rest=""):
        times = "".join(f"{median(run[name] for run in runs):10.2f}" for name in PERCENTILES)
        print(f"{label:>18}{times}{rest}", flush=True)

    line(f"{kind.name}, without", without)
    line("with", with_it, f"{median(seconds):10.1f} s{median(memory):10.3f}")


def measure_round(server, client, keys, options):
    without = load(server, keys, options).times_ms()
    before = pss_bytes(server.process.pid)
    running = load(server, keys, options)
    time.sleep(1)
    seconds, memory = snapshot(server, client, before)
    if not running.is_running():
        raise Failure(f"{server.kind.name}: the snapshot took {seconds:.1f} s, longer than the load")
    return without, running.times_ms(), seconds, memory


def main():
    options = arguments()
    kinds = servers.find_all(options.only, options.keyloom)
    print(f"\n{options.mib} MiB in values of {options.value_bytes} bytes, {options.rate} requests/s, response times in ms\n")
    print(f"{'':18}" + "".join(f"{name:>10}" for name in PERCENTILES) + f"{'snapshot':>12}{'memory':>10}")
    for kind in kinds:
        measure(kind, options)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"snapshot.py: {failure}")
