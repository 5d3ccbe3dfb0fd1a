"""A steady load, `keyloom bench` in an open loop: requests are due at a fixed rate, and times count from when they were."""

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


class OpenLoop:
    """GETs and SETs of some keys, for some seconds from now on."""

    def __init__(self, binary, server, keys, rate, seconds, ratio="1:1", first=True):
        self.seconds = seconds
        self.process = subprocess.Popen(
            servers.pinned(CPUS, (FIRST if first else []) + [
                binary, "bench", "--host", "127.0.0.1", "--port", str(server.port), "--clients", str(CLIENTS),
                "--pipeline", str(PIPELINE), "--rate", str(rate), "--test-time", str(seconds), "--ratio", ratio,
                "--key-prefix", "key:", "--key-width", "12", "--key-minimum", "0", "--key-maximum", str(keys.count - 1),
                "--data-size", str(keys.value_bytes), "--quiet", "--json", "-"]),
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
