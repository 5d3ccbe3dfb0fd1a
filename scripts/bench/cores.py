"""What a second core costs clients of a cluster, with and without a port of its own for each core.

Three nodes, each a cluster of its own: one core; two cores, and clients know the port of the node only; two cores, and
clients know the port of each (`core-endpoints yes`). All three run beside each other and are loaded in turn, by `keyloom
bench --cluster`, so that what disturbs the machine disturbs all alike. Each core shares its CPU with one thread of the load,
and in all three it has the same number of requests in flight, and as many of them in a connection: a core that finds more
requests at a time has less to do for each of them. A client that knows both cores has two connections, and what it has in
flight is divided among these; so it has twice as much in flight. With one request at a time there are twice as many clients
instead. CPU time is that of the server per request; a hop is a request that was handed from one core to another.
"""

import argparse
import statistics
import sys

import servers
from drivers import KeyloomBench, Load
from servers import Failure, Keys, Server

ONE, NODE_PORT, CORE_PORTS = "one core", "two, port of the node", "two, ports of cores"


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/cores.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    add("--requests", type=int, default=300_000, help="requests to a core in a run (default %(default)s)")
    add("--clients", type=int, default=24,
        help="that have requests in flight to a core at a time, an even number (default %(default)s)")
    add("--pipelines", type=int, nargs="+", default=[1, 16],
        help="requests in flight in a connection to a core (default %(default)s)")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    options = parser.parse_args()
    if options.clients % 2:
        parser.error("--clients must be even")
    if min(options.rounds, options.requests, options.clients, *options.pipelines) < 1:
        parser.error("all numbers must be positive")
    return options


class ClusterBench(KeyloomBench):
    """`keyloom bench --cluster`: each client has a connection to every target that it is told of."""

    extra = ("--cluster",)


def hops(server):
    with server.connect() as client:
        return int(servers.info(client)["core_hops"])


def measure(options):
    keys = Keys(100_000, 64)

    def node(cpus, *extra):
        return Server(servers.keyloom(options.keyloom, ["--cluster-enabled", "yes", *extra]), cpus)

    def core_ports():
        return "--core-endpoints", "yes", "--core-port", str(servers.free_ports(2))

    with node([0]) as one, node([0, 1]) as by_node, node([0, 1], *core_ports()) as by_core:
        # With their CPUs.
        nodes = {ONE: (one, [0]), NODE_PORT: (by_node, [0, 1]), CORE_PORTS: (by_core, [0, 1])}
        for server, _ in nodes.values():
            server.fill(keys)
        print(f"{'':34}{'µs/op':>8}{'to one core':>13}{'hops/op':>9}{'p50 µs':>8}{'p99 µs':>8}")
        for pipeline in options.pipelines:
            for op in ("get", "set"):
                runs = {name: [] for name in nodes}
                for _ in range(options.rounds):
                    for name, (server, cpus) in nodes.items():
                        divided = name == CORE_PORTS and pipeline > 1
                        clients, in_flight = (1, pipeline * len(cpus)) if divided else (len(cpus), pipeline)
                        requests = options.requests * len(cpus)
                        load = Load(op, options.clients * clients, in_flight, requests, threads=len(cpus))
                        bench = ClusterBench(keys, cpus, options.keyloom)
                        before, hopped = server.cpu_ns(), hops(server)
                        run = bench.run(server, load)
                        cost = (server.cpu_ns() - before) / 1000 / run.ops
                        runs[name].append((cost, (hops(server) - hopped) / run.ops, run))
                report(op, pipeline, runs)


def report(op, pipeline, runs):
    base = [cost for cost, _, _ in runs[ONE]]
    for name, measured in runs.items():
        cost = statistics.median(cost for cost, _, _ in measured)
        ratio = statistics.median(cost / one for (cost, _, _), one in zip(measured, base))
        hopped = statistics.median(hopped for _, hopped, _ in measured)
        p50, p99 = (statistics.median(getattr(run, which) for _, _, run in measured) for which in ("p50_us", "p99_us"))
        label = f"{op.upper()} P={pipeline}, {name}"
        print(f"{label:34}{cost:8.3f}{ratio:13.3f}{hopped:9.3f}{p50:8.1f}{p99:8.1f}")


def main():
    try:
        measure(arguments())
    except Failure as failure:
        sys.exit(f"scripts/cores.sh: {failure}")


if __name__ == "__main__":
    main()
