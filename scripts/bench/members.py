"""What it costs clients that a node joins a cluster with data, and leaves it again.

Three nodes run on this machine and are filled. Then `keyloom bench --cluster` sends requests at a fixed rate (open loop), a
share of the highest one at which 99 of 100 are answered in time: once while nothing happens, once while a fourth node joins,
and once while it leaves. Each run is as long as the others, and begins with two quiet seconds. A pause is the time for which
requests about a partition waited as its role went to another node, as the node before has measured it. All pauses of a run count, of
all nodes, and a quantile is the bound of the histogram's bucket that it lies in.

All nodes and the client share the CPUs of this machine. Every node has one data core, unless told otherwise; with more nodes
than CPUs, several have the same one.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import failover
import servers
from failover import HOST, Node
from servers import Failure, ask

QUIET_S = 2
STEP_S = 3
STEP = 1.3
FIRST_RATE = 4_000
IN_TIME_MS = 10
MOVED_S_MAX = 300
LOOK_S = 0.1
PAUSES = "keyloom_cluster_handover_pause_seconds_bucket"


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/members.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=float, default=1.0, help="GiB of values (default %(default)s)")
    add("--value", type=int, default=1024, help="bytes of a value (default %(default)s)")
    add("--copies", type=int, default=3, help="copies of each partition (default %(default)s)")
    add("--cores", type=int, default=1, help="data cores of a node; 0: all CPUs (default %(default)s)")
    add("--share", type=float, default=0.3, help="rate, of the highest (default %(default)s)")
    add("--rate", type=int, help="requests per second (default: that share)")
    add("--ratio", default="1:9", help="SETs to GETs (default %(default)s)")
    add("--seconds", type=int, default=40, help="of each run (default %(default)s)")
    add("--durability", default="memory", choices=("memory", "quorum"), help="of all writes (default %(default)s)")
    add("--rounds", type=int, default=1, help="joins and leaves (default %(default)s)")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    add("directives", nargs="*", metavar="DIRECTIVE", help="of the nodes, after '--'")
    options = parser.parse_args()
    if not 0 < options.share <= 1 or min(options.data, options.value, options.rounds) <= 0:
        parser.error("a share is between 0 and 1, and all numbers are positive")
    if options.seconds < 5 * QUIET_S:
        parser.error(f"--seconds: {5 * QUIET_S} at least")
    options.nodes, options.how = 3, "kill"
    options.directives += ["--cluster-copies", str(options.copies), "--write-durability", options.durability,
                           "--save", ""]
    return options


def pauses_of(node):
    """By upper bound, s: how many pauses were not longer, since the node was started."""
    with urllib.request.urlopen(f"http://{HOST}:{node.admin_port}/metrics", timeout=failover.REPLY_S_MAX) as page:
        lines = (line.split() for line in page.read().decode().splitlines() if line.startswith(PAUSES))
        return Counter({float(name.split('"')[1]): int(count) for name, count in lines})


def quantile(pauses, share):
    """Upper bound, ms; 0: there were none."""
    least = share * pauses[float("inf")]
    return 1000 * min(bound for bound in pauses if pauses[bound] >= least) if least else 0


class Cluster(failover.Cluster):
    """Three nodes, and sometimes a fourth."""

    def __init__(self, options):
        super().__init__(options)
        self.gone = Counter()

    def pauses(self):
        """Of all nodes there have been."""
        return sum((pauses_of(node) for node in self.nodes), self.gone)

    def operate(self, *words, look=lambda: None):
        """Has something done. As long as that lasts, it looks again and again."""
        process = subprocess.Popen([self.options.keyloom, "cluster", *words], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        while True:
            try:
                _, error = process.communicate(timeout=LOOK_S)
                break
            except subprocess.TimeoutExpired:
                look()
        if process.returncode:
            raise Failure(f"keyloom cluster {words[0]}: {error.strip()}")

    def join(self):
        node = Node(self.options, self.home.name, len(list(Path(self.home.name).iterdir())))
        self.nodes.append(node)
        node.start()
        self.operate("join", f"{HOST}:{node.port}", f"{HOST}:{self.nodes[0].port}")

    def leave(self):
        node, last = self.nodes[-1], Counter()

        def look():
            # It ends as soon as it has nothing any more.
            nonlocal last
            with contextlib.suppress(OSError):
                last = pauses_of(node)

        self.operate("leave", f"{HOST}:{node.port}", look=look)
        if node.process.wait(timeout=10):
            raise Failure("a node that has left ends with an error")
        self.nodes.pop()
        self.gone += last

    def numbers(self):
        """By node: numbers of INFO."""
        found = {}
        for node in self.nodes:
            with node.connect() as client:
                found[node.number] = servers.info(client)
        return found

    def bench(self, *words):
        argv = [self.options.keyloom, "bench", "--cluster", "-s", HOST, "-p", str(self.nodes[0].port), "-q",
                "-d", str(self.options.value), "--key-maximum", str(self.keys()), "--ratio", self.options.ratio,
                "--json", "-", *words]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def keys(self):
        return int(self.options.data * (1 << 30) / self.options.value)


def result(process):
    out, error = process.communicate()
    if process.returncode:
        raise Failure(f"keyloom bench: {error.strip() or 'no result'}")
    return json.loads(out)["run"]


def uneven(status, copies):
    """Why not every node has the floor or the ceiling of its part of all copies, and of all roles."""
    nodes, partitions = status["nodes"], status["partitions"]
    for name, whole in (("holds", partitions * copies), ("leads", partitions)):
        found = [node[name] for node in nodes]
        if sum(found) != whole or max(found) - min(found) > 1:
            return f"nodes have {found} of {whole}: {name}"
    return None


def wait_until_even(cluster):
    """Between two copies everything may be in sync, too."""
    deadline = time.monotonic() + MOVED_S_MAX
    while True:
        status = cluster.wait_until_healthy()
        why = uneven(status, min(cluster.options.copies, len(cluster.nodes)))
        if why is None:
            return status
        if time.monotonic() > deadline:
            raise Failure(why)
        time.sleep(0.05)


def load(cluster, rate, seconds):
    return cluster.bench("-c", "16", "-t", "2", "--rate", str(rate), "--spin", "0", "--test-time", str(seconds))


def highest_rate(cluster):
    """The highest rate, of a few, that the cluster keeps up with. (A closed loop with as many connections does several times as
    much: it sends when replies come, so that requests come together.) One that fails is tried again: something else may have had
    the CPUs for a moment."""

    def keeps_up(rate):
        return result(load(cluster, rate, STEP_S))["totals"]["response_us"]["p99"] <= IN_TIME_MS * 1000

    highest, rate = None, FIRST_RATE
    while keeps_up(rate) or keeps_up(rate):
        highest, rate = rate, int(rate * STEP)
    if highest is None:
        raise Failure(f"the cluster does not keep up with {FIRST_RATE} requests/s")
    return highest


def measure(cluster, rate, befalls):
    """One run, and how long what befalls the cluster took."""
    options = cluster.options
    process = load(cluster, rate, options.seconds)
    try:
        took = None
        time.sleep(QUIET_S)
        if befalls:
            since = time.monotonic()
            befalls()
            wait_until_even(cluster)
            took = time.monotonic() - since
            if process.poll() is not None:
                raise Failure(f"it took {took:.0f} s, longer than the run")
        return result(process), took
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def count(numbers, name):
    return sum(int(info[name]) for info in numbers.values())


def grown(before, after, name):
    return count(after, name) - count(before, name)


def report(what, run, took=None, moved=0, least=0, roles=0, pauses=None):
    totals = run["totals"]
    times = totals["response_us"]
    line = f"{what:12}" + "".join(f"{times[name]:>10.0f}" for name in ("p50", "p99", "p99.9", "max"))
    others = {kind.replace("_", " "): times for kind, times in run["cluster"]["failed"].items() if times}
    if took is not None:
        line += f"{took:>9.1f}{moved:>9}{moved / least:>9.3f}"
        line += f"{pauses[float('inf')]:>9}" + "".join(f"{quantile(pauses, share):>9.1f}" for share in (0.5, 0.99, 1))
    print(line)
    told = ", ".join(f"{kind} {times}" for kind, times in others.items()) or "nothing else"
    if took is not None and pauses[float("inf")] < roles:
        print(f"{'':12}  {roles} roles moved: some pauses of a node that is gone are not known")
    print(f"{'':12}  {totals['requests']} requests, {totals['errors']} errors, {run['unanswered']} unanswered; {told}",
          flush=True)


def main():
    options = arguments()
    with Cluster(options) as cluster:
        result(cluster.bench("--load", "-c", "1"))
        cluster.wait_until_healthy()
        rate, of = options.rate, ""
        if rate is None:
            highest = highest_rate(cluster)
            rate, of = int(highest * options.share), f", of {highest} at most"
        print(f"{cluster.keys()} values of {options.value} bytes, {options.copies} copies, durability"
              f" {options.durability}; {rate} requests/s{of}\n")
        print(f"{'µs':12}{'p50':>10}{'p99':>10}{'p99.9':>10}{'max':>10}{'took s':>9}{'copies':>9}{'/least':>9}"
              f"{'pauses':>9}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
        for _ in range(options.rounds):
            run, _ = measure(cluster, rate, None)
            report("nothing", run)
            before, paused = cluster.numbers(), cluster.pauses()
            run, took = measure(cluster, rate, cluster.join)
            status = wait_until_even(cluster)
            after = cluster.numbers()
            moved = grown(before, after, "cluster_copies_received")
            # What the new node has, is what had to move.
            least = min(node["holds"] for node in status["nodes"])
            roles = grown(before, after, "cluster_handovers_received")
            report("joins", run, took, moved, least, roles, cluster.pauses() - paused)
            leaving = status["nodes"][-1]["holds"]
            before = cluster.numbers()
            before.popitem()
            paused = cluster.pauses()
            run, took = measure(cluster, rate, cluster.leave)
            wait_until_even(cluster)
            after = cluster.numbers()
            moved = grown(before, after, "cluster_copies_received")
            roles = grown(before, after, "cluster_handovers_received")
            report("leaves", run, took, moved, leaving, roles, cluster.pauses() - paused)


if __name__ == "__main__":
    # However this ends, no node is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except Failure as failure:
        sys.exit(f"members.py: {failure}")
