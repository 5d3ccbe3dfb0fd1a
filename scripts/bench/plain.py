"""A small closed-loop load generator for servers that the others cannot talk to; run by `drivers.Plain`.

It speaks RESP and memcached's text protocol. All keys exist and all values have one size, so all replies to one
operation have the same length: they are counted in bytes and not parsed. A miss or an error makes a reply shorter,
which ends the run. One thread; Python makes it slower than the compiled generators, which raises the server's CPU
time per operation: it sleeps and wakes more often. Compare servers under the same generator only.
"""

import json
import random
import select
import socket
import sys
import time
from collections import namedtuple

# A server that sends nothing for so long has not sent what was expected.
SILENCE_S_MAX = 5
RECEIVE_BYTES_MAX = 1 << 18

Form = namedtuple("Form", "request reply_bytes")


def form(protocol, op, value_bytes):
    """A request with a place for the key's number, and the length of its reply."""
    value = b"x" * value_bytes
    reply_value = b"%d\r\n%s\r\n" % (value_bytes, value)
    if protocol == "resp":
        if op == "get":
            return Form(b"*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n", len(b"$" + reply_value))
        return Form(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%%012d\r\n$%d\r\n%s\r\n" % (value_bytes, value), len(b"+OK\r\n"))
    if op == "get":
        return Form(b"get key:%012d\r\n", len(b"VALUE key:000000000000 0 " + reply_value + b"END\r\n"))
    return Form(b"set key:%%012d 0 0 %d\r\n%s\r\n" % (value_bytes, value), len(b"STORED\r\n"))


def run(connect, form, keys, clients, pipeline, requests):
    """Latencies of all batches of `pipeline` requests, in ns, and the time that the run took."""
    batch_form, batch_bytes = form.request * pipeline, form.reply_bytes * pipeline
    draw = random.Random().random

    def batch():
        return batch_form % tuple([int(draw() * keys) for _ in range(pipeline)])

    poll = select.epoll()
    sockets = {}
    for _ in range(clients):
        client = connect()
        sockets[client.fileno()] = client
        poll.register(client, select.EPOLLIN)
    awaited, sent_ns, latencies_ns = {}, {}, []
    unsent = max(requests // pipeline, clients)
    start_ns = time.perf_counter_ns()
    for fd, client in sockets.items():
        awaited[fd], sent_ns[fd] = batch_bytes, time.perf_counter_ns()
        client.sendall(batch())
        unsent -= 1
    while awaited:
        events = poll.poll(SILENCE_S_MAX)
        if not events:
            sys.exit("replies are missing or too short: a key is missing, or the server answers an error")
        for fd, _ in events:
            client = sockets[fd]
            part = len(client.recv(RECEIVE_BYTES_MAX))
            left = awaited[fd] - part
            if part == 0 or left < 0:
                sys.exit("the server closed a connection" if part == 0 else "replies are too long")
            if left:
                awaited[fd] = left
                continue
            now_ns = time.perf_counter_ns()
            latencies_ns.append(now_ns - sent_ns[fd])
            if unsent:
                unsent -= 1
                awaited[fd], sent_ns[fd] = batch_bytes, now_ns
                client.sendall(batch())
            else:
                del awaited[fd]
    return latencies_ns, time.perf_counter_ns() - start_ns


def main():
    job = json.loads(sys.argv[1])

    def connect():
        client = socket.create_connection(("127.0.0.1", job["port"]))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    latencies_ns, elapsed_ns = run(connect, form(job["protocol"], job["op"], job["value_bytes"]), job["keys"],
                                   job["clients"], job["pipeline"], job["requests"])
    latencies_ns.sort()
    ops = len(latencies_ns) * job["pipeline"]

    def percentile_us(share):
        return latencies_ns[min(int(len(latencies_ns) * share), len(latencies_ns) - 1)] / 1000

    print(json.dumps({"ops": ops, "ops_per_s": ops * 1e9 / elapsed_ns, "p50_us": percentile_us(0.5),
                      "p99_us": percentile_us(0.99), "p999_us": percentile_us(0.999)}))


if __name__ == "__main__":
    main()
