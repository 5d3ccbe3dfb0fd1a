"""The load generators, and what one run of each says.

A driver's `run` returns a `Run`. Its `ops` is exact or off by less than the requests in flight at the end.
"""

import csv
import io
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from servers import Failure, pinned

RUN_S_MAX = 120

# What every driver can do.
PLAIN_OPS = ("get", "set")
# What redis-benchmark can do besides: commands on one collection, but for MSET, which sets ten keys. `__rand_int__` is a
# random number below the number of keys.
COMMANDS = {
    "mset": None,
    "lpush": None,
    "lpop": None,
    "lrange": ["LRANGE", "mylist", "0", "9"],
    "sadd": None,
    "sismember": ["SISMEMBER", "myset", "element:__rand_int__"],
    "spop": None,
    "hset": None,
    "hget": ["HGET", "myhash", "element:__rand_int__"],
    "zadd": None,
    "zrangebyscore": ["ZRANGEBYSCORE", "myzset", "__rand_int__", "+inf", "LIMIT", "0", "10"],
    "zpopmin": None,
}


@dataclass(frozen=True)
class Load:
    """What is sent: `op` is one of `PLAIN_OPS` or `COMMANDS`; `requests` is the sum over all clients."""

    op: str
    clients: int
    pipeline: int
    requests: int
    # One per CPU that the load may use.
    threads: int = 1


@dataclass(frozen=True)
class Run:
    ops: int
    ops_per_s: float
    # Latency percentiles, µs; None where the driver does not tell.
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None


def output_of(argv, cpus):
    """Standard output of a load generator that runs on `cpus`."""
    try:
        done = subprocess.run(pinned(cpus, argv), capture_output=True, text=True, timeout=RUN_S_MAX, check=False,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Failure(f"{argv[0]} did not end within {RUN_S_MAX} s") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Failure(f"{argv[0]} failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return done.stdout


class RedisBenchmark:
    name = "redis-benchmark"

    def __init__(self, keys, cpus):
        self.keys, self.cpus = keys, cpus

    @staticmethod
    def missing(kind):
        if not kind.speaks_resp:
            return "redis-benchmark does not speak its protocol"
        return None if shutil.which("redis-benchmark") else "redis-benchmark is not installed"

    def run(self, server, load):
        threads = ["--threads", str(load.threads)] if load.threads > 1 else []
        out = output_of(
            ["redis-benchmark", "-h", "127.0.0.1", "-p", str(server.port), "-c", str(load.clients),
             "-n", str(load.requests), "-r", str(self.keys.count), "-d", str(self.keys.value_bytes),
             "-P", str(load.pipeline), "--precision", "3", "--csv", *threads,
             *(COMMANDS.get(load.op) or ["-t", load.op])], self.cpus)
        for row in csv.reader(io.StringIO(out)):
            if len(row) == 8 and row[0].lower().split(" ")[0] == load.op:
                return Run(load.requests, float(row[1]), float(row[4]) * 1000, float(row[6]) * 1000)
        raise Failure(f"redis-benchmark printed no result: {out.strip()[:200]!r}")


class KeyloomBench:
    """`keyloom bench`, closed loop."""

    name = "keyloom"
    # Further options.
    extra = ()

    def __init__(self, keys, cpus, binary):
        self.keys, self.cpus, self.binary = keys, cpus, binary

    def missing(self, kind):
        if not kind.speaks_resp:
            return "keyloom bench does not speak its protocol"
        shown = subprocess.run([self.binary, "bench", "--help"], capture_output=True, text=True, check=False)
        return None if "--ratio" in shown.stdout else f"{self.binary} has no load generator"

    def run(self, server, load):
        prefix, low, high = self.keys.unpadded()
        clients = max(1, load.clients // load.threads)
        out = output_of(
            [self.binary, "bench", *self.extra, "--host", "127.0.0.1", "--port", str(server.port), "--threads", str(load.threads),
             "--clients", str(clients), "--pipeline", str(load.pipeline),
             "--requests", str(load.requests // (clients * load.threads)),
             "--ratio", "1:0" if load.op == "set" else "0:1", "--key-prefix", prefix, "--key-minimum", str(low),
             "--key-maximum", str(high), "--data-size", str(self.keys.value_bytes), "--quiet", "--json", "-"],
            self.cpus)
        run = json.loads(out)["run"]
        totals = run["totals"]
        if totals["errors"] or run["lost_connections"]:
            raise Failure(f"keyloom bench saw errors: {run['first_error'] or run['first_loss']}")
        if load.op == "get" and server.kind.stores and totals["misses"]:
            raise Failure(f"{server.kind.name} has lost {totals['misses']} of {totals['requests']} keys")
        times = totals["response_us"]
        return Run(totals["requests"], totals["ops_per_s"], times["p50"], times["p99"], times["p99.9"])


class Memtier:
    name = "memtier"

    def __init__(self, keys, cpus):
        self.keys, self.cpus = keys, cpus

    @staticmethod
    def missing(_kind):
        return None if shutil.which("memtier_benchmark") else "memtier_benchmark is not installed"

    def run(self, server, load):
        prefix, low, high = self.keys.unpadded()
        clients = max(1, load.clients // load.threads)
        per_client = load.requests // (clients * load.threads)
        protocol = "redis" if server.kind.speaks_resp else "memcache_text"
        # Without the last two options all clients walk the same keys in the same order, which flatters every cache.
        with tempfile.NamedTemporaryFile(suffix=".json") as result:
            output_of(
                ["memtier_benchmark", "--server=127.0.0.1", f"--port={server.port}", f"--protocol={protocol}",
                 f"--threads={load.threads}", f"--clients={clients}", f"--pipeline={load.pipeline}",
                 f"--requests={per_client}", "--ratio=1:0" if load.op == "set" else "--ratio=0:1",
                 f"--key-prefix={prefix}", f"--key-minimum={low}", f"--key-maximum={high}", "--key-pattern=R:R",
                 f"--data-size={self.keys.value_bytes}", "--print-percentiles=50,99,99.9", "--hide-histogram",
                 f"--json-out-file={result.name}", "--distinct-client-seed", "--randomize"], self.cpus)
            totals = json.load(result)["ALL STATS"]["Totals"]
        times = {float(name.lstrip("p")): ms * 1000 for name, ms in totals["Percentile Latencies"].items()
                 if name.startswith("p")}
        return Run(per_client * clients * load.threads, totals["Ops/sec"], times.get(50.0), times.get(99.0),
                   times.get(99.9))


class Plain:
    """`plain.py`, for memcached where memtier_benchmark is missing."""

    name = "plain"

    def __init__(self, keys, cpus):
        self.keys, self.cpus = keys, cpus

    @staticmethod
    def missing(_kind):
        return None

    def run(self, server, load):
        job = {"port": server.port, "protocol": "resp" if server.kind.speaks_resp else "memcached", "op": load.op,
               "keys": self.keys.count, "value_bytes": self.keys.value_bytes, "clients": load.clients,
               "pipeline": load.pipeline, "requests": load.requests}
        script = str(Path(__file__).with_name("plain.py"))
        return Run(**json.loads(output_of([sys.executable, script, json.dumps(job)], self.cpus)))
