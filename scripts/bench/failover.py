"""How long nobody takes writes when a node of a cluster is killed, ends, or gives its roles away.

A cluster of some nodes runs on this machine, with default settings. Again and again one of them, which leads
partitions, gets SIGKILL: one that does not lead raft, or the one that does (--raft-leader). A client that follows
MOVED and otherwise tries again every few milliseconds writes to a slot that the node led. The gap is the time from
the signal until the first write is accepted, by another node. Then the node is started again, and the next kill comes
when all copies are in sync and all nodes lead their part.

With --how terminate the node gets SIGTERM, with --how hand-over another node gets CLUSTER FAILOVER. Nobody has to find
out then that somebody is gone: the client writes all the time, and the gap is its longest time between two writes that
were accepted, the first one by the other node among them.

All nodes and the client share the CPUs of this machine, and every node uses all of them.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import servers
from servers import Failure, ask, request

HOST = "127.0.0.1"
RETRY_S = 0.005
GAP_S_MAX = 60
HEALTHY_S_MAX = 60
# A client's patience with one node: one that is alive answers.
REPLY_S_MAX = 1


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/failover.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kills", type=int, default=50, help="how often that is done (default %(default)s)")
    add("--how", default="kill", choices=("kill", "terminate", "hand-over"), help="what happens (default %(default)s)")
    add("--nodes", type=int, default=3, help="nodes of the cluster (default %(default)s)")
    add("--raft-leader", action="store_true", help="to the node that leads raft")
    add("--durability", default="memory", choices=("memory", "quorum"),
        help="what the client wants of its writes (default %(default)s)")
    add("--seed", type=int, default=1, help="chooses nodes and keys (default %(default)s)")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    add("directives", nargs="*", metavar="DIRECTIVE", help="of the nodes, after '--'")
    options = parser.parse_args()
    if options.kills < 1 or options.nodes < 3:
        parser.error("it takes one kill and three nodes at least")
    options.cores = 0
    return options


class Node:
    """A process, and where it keeps what it needs."""

    def __init__(self, options, home, number):
        self.number = number
        self.port, self.bus_port, self.admin_port = (servers.free_port() for _ in range(3))
        self.directory = Path(home) / str(number)
        self.directory.mkdir()
        self.argv = [options.keyloom, "--bind", HOST, "--port", str(self.port), "--cluster-enabled", "yes",
                     "--cluster-port", str(self.bus_port), "--admin-port", str(self.admin_port),
                     "--dir", str(self.directory), *options.directives]
        if options.cores:
            # Of the CPUs that there are, each node takes those after the last one's.
            cpus = sorted(os.sched_getaffinity(0))
            own = {cpus[(number * options.cores + core) % len(cpus)] for core in range(options.cores)}
            self.argv += ["--cpus", ",".join(map(str, sorted(own)))]
        self.process = None

    def start(self):
        deadline = time.monotonic() + servers.READY_S_MAX
        with open(self.directory / "output", "ab") as output:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=subprocess.STDOUT, start_new_session=True)
        while True:
            try:
                with self.connect() as client:
                    ask(client, b"PING")
                return
            except (OSError, Failure):
                ended = self.process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise Failure(f"node {self.number} does not start: {self.last_log_line()}") from None
                time.sleep(0.02)

    def connect(self):
        return socket.create_connection((HOST, self.port), timeout=REPLY_S_MAX)

    def last_log_line(self):
        lines = (self.directory / "output").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    def panic(self):
        """What a part of the node has met that it takes for impossible, if anything."""
        output = (self.directory / "output").read_text(errors="replace")
        return " ".join(output[output.index("panicked at"):].splitlines()[:4]) if "panicked at" in output else None

    def signal(self, number):
        """Sends a signal; when that was."""
        at = time.monotonic()
        self.process.send_signal(number)
        return at

    def status(self):
        with self.connect() as client:
            return json.loads(ask(client, b"CLUSTER", b"STATUS"))


class Cluster:
    """The nodes, which end with the `with` block."""

    def __init__(self, options):
        self.options = options
        self.home = tempfile.TemporaryDirectory(prefix="keyloom-bench-")
        self.nodes = [Node(options, self.home.name, number) for number in range(options.nodes)]

    def __enter__(self):
        try:
            for node in self.nodes:
                node.start()
            addresses = [f"{HOST}:{node.port}" for node in self.nodes]
            made = subprocess.run([self.options.keyloom, "cluster", "create", *addresses],
                                  capture_output=True, text=True, check=False)
            if made.returncode:
                raise Failure(f"there is no cluster: {made.stderr.strip()}")
            self.wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.process.kill()
            if node.process:
                node.process.wait()
        self.home.cleanup()

    def wait_until_healthy(self):
        """Until every node says that everything is served and in sync, and roles are even unless somebody moves them by
        hand; what the first one says."""
        by_hand = self.options.how == "hand-over"
        deadline = time.monotonic() + HEALTHY_S_MAX
        while True:
            try:
                all_said = [node.status() for node in self.nodes]
            except (OSError, Failure, ValueError) as error:
                all_said, wrong = [], str(error)
            for said in all_said:
                in_sync = sum(node["in_sync"] for node in said["nodes"])
                alive = all(node["state"] == "alive" for node in said["nodes"])
                if said["served"] != said["partitions"] or in_sync != said["partitions"] * said["copies"] or not alive:
                    wrong = f"{said['served']} of {said['partitions']} partitions are served, {in_sync} copies in sync"
                    break
                if said["lease_ms"] <= 0:
                    wrong = f"node {said['me']} has no lease"
                    break
                led = [node["leads"] for node in said["nodes"]]
                if max(led) - min(led) > 1 and not by_hand:
                    wrong = f"nodes lead {led} partitions"
                    break
            else:
                leaders = {said["raft_leader"] for said in all_said}
                if all_said and len(leaders) == 1 and None not in leaders:
                    return all_said[0]
                wrong = wrong if not all_said else "nodes do not agree on who leads raft"
            if time.monotonic() > deadline:
                raise Failure(f"the cluster is not healthy after {HEALTHY_S_MAX} s: {wrong}")
            time.sleep(0.05)

    def leader_of_raft(self, status):
        ports = {node["node"]: node["port"] for node in status["nodes"]}
        return next(node for node in self.nodes if node.port == ports[status["raft_leader"]])


class Writer:
    """A client that follows MOVED, and tries again if nobody leads."""

    def __init__(self, cluster):
        self.nodes = {node.port: node for node in cluster.nodes}
        self.connections = {}
        self.durability = cluster.options.durability.encode()

    def ask(self, port, *words):
        """The first line of the answer; None if there is none."""
        try:
            if port not in self.connections:
                connection = self.nodes[port].connect()
                self.connections[port] = connection
                if self.durability != b"memory":
                    ask(connection, b"CLIENT", b"DURABILITY", self.durability)
            connection = self.connections[port]
            connection.sendall(request(*words))
            line = b""
            while not line.endswith(b"\r\n"):
                part = connection.recv(4096)
                if not part:
                    raise OSError("the connection is closed")
                line += part
            return line.strip()
        except (OSError, Failure):
            connection = self.connections.pop(port, None)
            if connection:
                connection.close()
            return None

    def disconnect(self):
        while self.connections:
            self.connections.popitem()[1].close()

    def until_written(self, port, key):
        """Writes until that is accepted; by whom."""
        others = [other for other in self.nodes if other != port]
        deadline = time.monotonic() + GAP_S_MAX
        while time.monotonic() < deadline:
            answer = self.ask(port, b"SET", key, b"1")
            if answer == b"+OK":
                return port
            if answer and answer.startswith(b"-MOVED "):
                to = int(answer.rpartition(b":")[2])
                if to != port and to in others:
                    port = to
                    continue
            # Whoever does not answer or lead may know no more than this one.
            port = others[(others.index(port) + 1) % len(others)] if port in others else others[0]
            time.sleep(RETRY_S)
        panics = [node.panic() for node in self.nodes.values() if node.panic()]
        raise Failure(f"nobody takes a write after {GAP_S_MAX} s{': ' if panics else ''}{'; '.join(panics)}")


    def longest_pause(self, port, key, since):
        """Writes until somebody else than the node at this port accepts it; the longest time between two that were accepted."""
        longest, before, deadline = 0, since, time.monotonic() + GAP_S_MAX
        while time.monotonic() < deadline:
            by = self.until_written(port, key)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
            if by != port:
                return longest
        raise Failure(f"the node leads what it was to give away after {GAP_S_MAX} s")


def key_led_by(node, chance):
    """A key, at random, whose slot a node leads."""
    while True:
        key = b"failover:%d" % chance.randrange(1 << 32)
        with node.connect() as client:
            client.sendall(request(b"GET", key))
            if client.recv(4096)[:1] == b"$":
                return key


def befall_once(cluster, writer, chance):
    """Seconds without writes."""
    how = cluster.options.how
    status = cluster.wait_until_healthy()
    leader = cluster.leader_of_raft(status)
    leading = {node["port"] for node in status["nodes"] if node["leads"] > 0}
    victims = [node for node in cluster.nodes if (node is leader) == cluster.options.raft_leader]
    # After a handover one node leads everything.
    victims = [node for node in victims if node.port in leading] or [node for node in cluster.nodes if node.port in leading]
    victim = chance.choice(victims)
    key = key_led_by(victim, chance)
    # Those to nodes that have started anew since are dead.
    writer.disconnect()
    if writer.until_written(victim.port, key) != victim.port:
        raise Failure("somebody else leads all of a sudden")
    if how == "hand-over":
        to = chance.choice([node for node in cluster.nodes if node is not victim])
        since = time.monotonic()
        with to.connect() as client:
            ask(client, b"CLUSTER", b"FAILOVER")
        return writer.longest_pause(victim.port, key, since)
    since = victim.signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
    if how == "kill":
        by = writer.until_written(victim.port, key)
        gap = time.monotonic() - since
        if by == victim.port:
            raise Failure("a node that was killed takes writes")
    else:
        gap = writer.longest_pause(victim.port, key, since)
    victim.process.wait()
    victim.start()
    return gap


def main():
    options = arguments()
    chance = random.Random(options.seed)
    whom = "the node that leads raft" if options.raft_leader else "a node that does not lead raft"
    what = {"kill": "SIGKILL to", "terminate": "SIGTERM to", "hand-over": "CLUSTER FAILOVER takes the roles of"}[options.how]
    print(f"{options.nodes} nodes, {options.kills} times {what} {whom}, writes of durability {options.durability}; ms\n")
    gaps = []
    with Cluster(options) as cluster:
        writer = Writer(cluster)
        while len(gaps) < options.kills:
            gaps.append(befall_once(cluster, writer, chance) * 1000)
            print(f"{gaps[-1]:.0f}", end=" ", flush=True)
    gaps.sort()
    at_90 = gaps[min(len(gaps) - 1, int(len(gaps) * 0.9))]
    print(f"\n\nmedian {median(gaps):.0f}, p90 {at_90:.0f}, max {gaps[-1]:.0f}")


if __name__ == "__main__":
    # However this ends, no node is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except Failure as failure:
        sys.exit(f"failover.py: {failure}")
