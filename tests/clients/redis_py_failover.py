"""An application that goes on while nodes die, are upgraded, join and leave, with redis-py's client for clusters. Arguments: the port. It says `ready` when
it is under way, and ends when its standard input does. Prints `passed` at the end, and how long the longest call took."""

import sys
import threading
import time

try:
    from redis.backoff import ConstantBackoff
    from redis.cluster import RedisCluster
    from redis.exceptions import ClusterDownError, ConnectionError, TimeoutError
    from redis.retry import Retry
except ImportError:
    sys.exit("redis-py is missing: run scripts/install-peers.sh")

KEYS = 60


def main():
    retry = Retry(ConstantBackoff(0.05), 200, supported_errors=(ConnectionError, TimeoutError, ClusterDownError))
    client = RedisCluster(host="127.0.0.1", port=int(sys.argv[1]), socket_timeout=5, retry=retry)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    longest, number = 0.0, 0
    while not over.is_set():
        number += 1
        for key in range(KEYS):
            begun = time.monotonic()
            client.set(f"key:{key}", number)
            longest = max(longest, time.monotonic() - begun)
        if number == 2:
            print("ready", flush=True)
    values = {client.get(f"key:{key}") for key in range(KEYS)}
    if values != {b"%d" % number}:
        raise AssertionError(f"{values} instead of {number}")
    print(f"passed: {number} rounds, longest call {longest * 1000:.0f} ms")


main()
