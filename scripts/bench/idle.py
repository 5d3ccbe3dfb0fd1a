"""What idle connections cost keyloom: memory and CPU time while they do nothing, and latency of those that are active.

The connections have each had one reply, so that the server has done for them what it ever does. Resident memory does
not include the kernel's socket buffers. The active load runs with and without the idle connections in alternation.
"""

import argparse
import resource
import signal
import socket
import statistics
import sys
import time

import servers
from drivers import KeyloomBench, Load, RedisBenchmark
from servers import Failure, Keys, Server

SERVER_CPUS = [0]
LOAD_CPUS = [1]
# Descriptors of this process and of the server beyond the connections.
DESCRIPTORS_RESERVED = 256
SETTLE_S = 2
OPENING_BATCH = 200


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/idle.sh", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--connections", type=int, default=10_000, help="idle connections (default %(default)s)")
    add("--seconds", type=float, default=10, help="time over which idle CPU is measured (default %(default)s)")
    add("--rounds", type=int, default=5, help="rounds of the active load (default %(default)s)")
    add("--requests", type=int, default=200_000, help="requests of the active load (default %(default)s)")
    add("--clients", type=int, default=50, help="connections of the active load (default %(default)s)")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    add("--loadgen", metavar="PATH", help="binary whose `bench` is the load (default: that of --keyloom)")
    options = parser.parse_args()
    options.loadgen = options.loadgen or options.keyloom
    if min(options.connections, options.rounds, options.requests, options.clients) < 1 or options.seconds <= 0:
        parser.error("all numbers must be positive")
    return options


def raise_open_files(connections):
    """Sets the limit of open files, which the server inherits."""
    needed = connections + DESCRIPTORS_RESERVED
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Failure(f"{connections} connections need {needed} open files, the limit is {hard}: see ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_idle(server, count):
    """Connections that have each had the reply to a PING."""
    clients = []
    while len(clients) < count:
        batch = []
        for _ in range(min(OPENING_BATCH, count - len(clients))):
            client = server.connect()
            client.sendall(server.kind.ping)
            batch.append(client)
        for client in batch:
            servers.expect(client, b"+PONG\r\n", "no answer to PING on an idle connection")
        clients += batch
    return clients


def check_alive(clients):
    """The server must not have bought its figures by closing connections."""
    for client in clients:
        client.setblocking(False)
        try:
            if not client.recv(1, socket.MSG_PEEK):
                raise Failure("the server has closed an idle connection")
        except BlockingIOError:
            pass


def close_all(server, clients):
    """Closes them, and waits until the server has let go of them."""
    for client in clients:
        client.close()
    deadline = time.monotonic() + servers.REPLY_S_MAX
    while connected(server) > 1:
        if time.monotonic() > deadline:
            raise Failure("the server still counts connections that are closed")
        time.sleep(0.05)


def connected(server):
    with server.connect() as client:
        client.sendall(b"INFO clients\r\n")
        return int(client.recv(65536).split(b"connected_clients:")[1].split()[0])


def idle_cpu(server, seconds):
    """Share of one CPU."""
    time.sleep(SETTLE_S)
    before_ns, start = server.cpu_ns(), time.monotonic()
    time.sleep(seconds)
    return (server.cpu_ns() - before_ns) / 1e9 / (time.monotonic() - start)


def active(driver, server, load):
    before_ns = server.cpu_ns()
    run = driver.run(server, load)
    return run, (server.cpu_ns() - before_ns) / 1000 / run.ops


def report(label, runs):
    def median(values):
        values = [value for value in values if value is not None]
        return f"{statistics.median(values):9.1f}" if values else f"{'-':>9}"

    print(f"{label:12}" + median(cost for _, cost in runs) + "".join(
        median(getattr(run, name) for run, _ in runs) for name in ("p50_us", "p99_us", "p999_us")))


def measure(options):
    keys = Keys(100_000, 64)
    kind = servers.keyloom(options.keyloom, ["--maxclients", str(options.connections + DESCRIPTORS_RESERVED)])
    driver = KeyloomBench(keys, LOAD_CPUS, options.loadgen)
    if driver.missing(kind):
        driver = RedisBenchmark(keys, LOAD_CPUS)
    if driver.missing(kind):
        raise Failure(driver.missing(kind))
    load = Load("get", options.clients, 1, options.requests)
    with Server(kind, SERVER_CPUS) as server:
        print(f"{kind.version()}: {' '.join(server.argv)}")
        server.fill(keys)
        # Buffers that the load needs once are not the idle connections' memory.
        driver.run(server, load)
        print(f"idle CPU without connections      {idle_cpu(server, options.seconds):8.2%} of a core")

        before_bytes = server.resident_bytes()
        clients = open_idle(server, options.connections)
        cpu = idle_cpu(server, options.seconds)
        grown_bytes = server.resident_bytes() - before_bytes
        print(f"idle CPU with {options.connections:6} connections    {cpu:8.2%} of a core")
        print(f"resident memory per connection    {grown_bytes / options.connections:8.0f} bytes")

        with_idle, without = [], []
        for _ in range(options.rounds):
            with_idle.append(active(driver, server, load))
            check_alive(clients)
            close_all(server, clients)
            without.append(active(driver, server, load))
            clients = open_idle(server, options.connections)
        close_all(server, clients)
    print(f"\nactive: {driver.name}, GET, {options.clients} connections, P=1, medians of {options.rounds} rounds")
    print(f"{'':12}{'CPU us/op':>9}{'p50 us':>9}{'p99 us':>9}{'p99.9 us':>9}")
    report("without", without)
    report("with idle", with_idle)
    ratio = statistics.median(w.p99_us / n.p99_us for (w, _), (n, _) in zip(with_idle, without))
    print(f"p99 with idle connections by without, median of the rounds: {ratio:.2f}")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    try:
        raise_open_files(options.connections)
        measure(options)
    except Failure as failure:
        sys.exit(f"idle: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
