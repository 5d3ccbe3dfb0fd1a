"""A steady load, `keyloom bench` in an open loop: requests are due at a fixed rate, and times count from when they were."""

import argparse
import json
import subprocess

import servers
from servers import Failure

CPUS = [1]
# What else runs on that CPU shall not be measured; without the privilege it runs as any other.
FIRST = ["nice", "-n", "-19"]
CLIENTS = 20
# Requests in flight per connection: an open loop must not wait for a server that does.
PIPELINE = 64
PERCENTILES = ("p50", "p99", "p99.9", "max")
BEYOND_S_MAX = 30


def parser(script, doc, mib, rate, names):
    """The options of a script that compares servers, filled and then under this load."""
    made = argparse.ArgumentParser(prog=script, description=doc.splitlines()[0])
    add = made.add_argument
    add("--mib", type=int, default=mib, help="bytes of values, MiB (default %(default)s)")
    add("--value-bytes", type=int, default=1024, help="bytes of a value (default %(default)s)")
    add("--rate", type=int, default=rate, help="requests per second (default %(default)s)")
    add("--seconds", type=int, default=20, help="of each run (default %(default)s)")
    add("--only", default=",".join(names), help="servers (default %(default)s)")
    add("--keyloom", default=servers.OWN_BINARY, metavar="PATH",
        help="keyloom's binary (default: built from this tree)")
    return made


def parsed(made, names):
    """What such a script was given."""
    options = made.parse_args()
    options.only = options.only.split(",")
    unknown = set(options.only) - set(names)
    if unknown:
        made.error(f"unknown: {', '.join(sorted(unknown))}")
    if min(value for value in vars(options).values() if isinstance(value, int)) < 1:
        made.error("all numbers must be positive")
    return options


class OpenLoop:
    """GETs and SETs of some keys, for some seconds from now on. With `alone` it has its CPU for itself, and
    stays awake for what is nearly due."""

    def __init__(self, binary, server, keys, rate, seconds, ratio="1:1", first=True, alone=True):
        self.seconds = seconds
        self.process = subprocess.Popen(
            servers.pinned(CPUS, (FIRST if first else []) + [
                binary, "bench", "--host", "127.0.0.1", "--port", str(server.port), "--clients", str(CLIENTS),
                "--pipeline", str(PIPELINE), "--rate", str(rate), "--test-time", str(seconds), "--ratio", ratio,
                "--key-prefix", "key:", "--key-width", "12", "--key-minimum", "0", "--key-maximum", str(keys.count - 1),
                "--data-size", str(keys.value_bytes), "--quiet", "--json", "-"] + ([] if alone else ["--spin", "0"])),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def times_ms(self):
        """Waits for its end: response times by percentile. Every key was there, and nothing failed."""
        out, _ = self.process.communicate(timeout=self.seconds + BEYOND_S_MAX)
        if self.process.returncode != 0:
            raise Failure(f"keyloom bench failed with exit code {self.process.returncode}")
        totals = json.loads(out)["run"]["totals"]
        if totals["errors"] or totals["misses"]:
            raise Failure(f"{totals['errors']} errors and {totals['misses']} misses in the load")
        return {name: totals["response_us"][name] / 1000 for name in PERCENTILES}

    def is_running(self):
        return self.process.poll() is None

    def stop(self):
        if self.is_running():
            self.process.kill()
            self.process.wait()
