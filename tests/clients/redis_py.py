"""What an application does with redis-py. Arguments: the port, the RESP version (2 or 3). Prints `passed` at the end."""

import sys
import time

try:
    import redis
except ImportError:
    sys.exit("redis-py is missing: run scripts/install-peers.sh")
if redis.__version__.split(".")[0] != "8":
    sys.exit(f"redis-py is {redis.__version__}, not 8: run scripts/install-peers.sh")

PORT, PROTOCOL = int(sys.argv[1]), int(sys.argv[2])
# Every byte, and what the protocol itself is made of.
BINARY = bytes(range(256)) + b"\r\n$-1\r\n"


def connect(**options):
    return redis.Redis(port=PORT, protocol=PROTOCOL, socket_timeout=20, **options)


def equal(got, expected):
    if got != expected:
        raise AssertionError(f"got {got!r:.300}, expected {expected!r:.300}")


def fails(text, command, *args):
    try:
        got = command(*args)
    except redis.ResponseError as error:
        assert text in str(error), f"{error} does not say {text}"
    else:
        raise AssertionError(f"{got!r} instead of an error")


def connection(client):
    equal(client.ping(), True)
    equal(client.echo(BINARY), BINARY)
    hello = client.execute_command("HELLO")
    if PROTOCOL == 2:
        hello = dict(zip(hello[::2], hello[1::2]))
    equal(hello[b"proto"], PROTOCOL)
    equal(client.client_setname("redis-py"), True)
    # Over RESP3 redis-py leaves it as bytes.
    equal(client.client_getname(), "redis-py" if PROTOCOL == 2 else b"redis-py")
    (own,) = [entry for entry in client.client_list() if entry["id"] == str(client.client_id())]
    equal((own["name"], own["db"], own["resp"], own["cmd"]), ("redis-py", "0", str(PROTOCOL), "client|list"))
    equal((own["lib-name"], own["lib-ver"]), ("redis-py", redis.__version__))


def values(client):
    equal(client.get("absent"), None)
    equal(client.set("key", "value"), True)
    equal(client.get("key"), b"value")
    equal(client.set("key", "other", nx=True), None)
    equal(client.set("key", "other", get=True), b"value")
    equal(client.set(BINARY, BINARY[::-1]), True)
    equal(client.get(BINARY), BINARY[::-1])
    equal(client.keys("*$-1*"), [BINARY])
    equal(client.set("empty", b""), True)
    equal(client.get("empty"), b"")
    big = BINARY * (5 * 1024 * 1024 // len(BINARY) + 1)
    equal(client.set("big", big), True)
    equal(client.strlen("big"), len(big))
    assert client.get("big") == big, "a large value comes back changed"
    equal(client.getrange("big", 254, 258), b"\xfe\xff\r\n$")
    equal(client.incr("count"), 1)
    equal(client.incrby("count", 41), 42)
    equal(client.incrbyfloat("count", 0.5), 42.5)


def pipeline(client):
    pipe = client.pipeline(transaction=False)
    for i in range(500):
        pipe.set(f"pipe:{i}", i)
        pipe.get(f"pipe:{i}")
    expected = [reply for i in range(500) for reply in (True, str(i).encode())]
    equal(pipe.execute(), expected)
    # An error takes the place of its reply and no other.
    pipe = client.pipeline(transaction=False)
    pipe.set("word", "abc").incr("word").get("word")
    first, error, last = pipe.execute(raise_on_error=False)
    equal((first, type(error), last), (True, redis.ResponseError, b"abc"))


def errors(client):
    client.set("word", "abc")
    fails("value is not an integer or out of range", client.incr, "word")
    fails("unknown command", client.execute_command, "NOSUCH", "a")
    fails("wrong number of arguments for 'get' command", client.execute_command, "GET")
    fails("syntax error", client.execute_command, "SET", "a", "b", "NOSUCH")
    fails("DB index is out of range", client.execute_command, "SELECT", 16)
    equal(client.ping(), True)


def many_keys(client):
    pairs = {f"many:{i}": f"value {i}" for i in range(200)}
    equal(client.mset(pairs), True)
    names = list(pairs)
    equal(client.mget(names[:100] + ["absent"] + names[100:]).count(None), 1)
    equal(client.mget(names), [value.encode() for value in pairs.values()])
    equal(client.exists(*names, "absent"), 200)
    equal(client.msetnx({"many:0": "x", "new": "x"}), False)
    equal(client.delete(*names, "absent"), 200)
    equal(client.mget(names), [None] * 200)


def expiry(client):
    equal(client.set("lease", "x", ex=100), True)
    assert 90 < client.ttl("lease") <= 100
    assert 90_000 < client.pttl("lease") <= 100_000
    equal(client.persist("lease"), True)
    equal((client.ttl("lease"), client.ttl("absent")), (-1, -2))
    at = int(time.time()) + 1000
    equal(client.expireat("lease", at), True)
    equal(client.expiretime("lease"), at)
    equal(client.pexpire("lease", 1), True)
    end = time.monotonic() + 20
    while client.get("lease") is not None:
        assert time.monotonic() < end, "a key does not expire"
        time.sleep(0.002)
    equal((client.exists("lease"), client.ttl("lease")), (0, -2))


def scan(client):
    expected = {f"scan:{i}".encode() for i in range(2000)}
    client.mset({key: b"" for key in expected})
    client.set("other", "x")
    equal(set(client.scan_iter(match="scan:*", count=100)), expected)
    equal(set(client.scan_iter()), set(client.keys()))
    equal(list(client.scan_iter(match="scan:1234", _type="string")), [b"scan:1234"])


def databases(client):
    equal(client.flushall(), True)
    client.set("where", "zero")
    with connect(db=3) as third:
        equal(third.get("where"), None)
        third.mset({f"k{i}": i for i in range(7)})
        equal((third.dbsize(), client.dbsize()), (7, 1))
        entries = {entry["db"] for entry in client.client_list()}
        equal(entries, {"0", "3"})
        info = client.info("keyspace")
        equal((info["db0"]["keys"], info["db3"]["keys"], info["db3"]["expires"]), (1, 7, 0))
    # On one connection, to another database and back.
    with connect(single_connection_client=True) as mover:
        equal(mover.execute_command("SELECT", 3), True)
        equal(mover.get("k6"), b"6")
        equal(mover.execute_command("SELECT", 0), True)
        equal(mover.get("where"), b"zero")


def messages(client):
    def next_message(subscriber):
        message = subscriber.get_message(timeout=20)
        return tuple(message[field] for field in ("type", "pattern", "channel", "data"))

    # Several, so that both cores have some.
    subscribers = [client] + [connect() for _ in range(3)]
    subscribers = [other.pubsub() for other in subscribers]
    for subscriber in subscribers:
        subscriber.subscribe("news", "weather")
        subscriber.psubscribe("n*s")
        equal(next_message(subscriber), ("subscribe", None, b"news", 1))
        equal(next_message(subscriber), ("subscribe", None, b"weather", 2))
        equal(next_message(subscriber), ("psubscribe", None, b"n*s", 3))
    with connect() as publisher:
        equal(publisher.publish("news", BINARY), 8)
        equal(publisher.publish("weather", "rain"), 4)
        equal(publisher.pubsub_numsub("news", "none"), [(b"news", 4), (b"none", 0)])
        equal(publisher.pubsub_numpat(), 1)
        equal(sorted(publisher.pubsub_channels()), [b"news", b"weather"])
        for subscriber in subscribers:
            equal(next_message(subscriber), ("message", None, b"news", BINARY))
            equal(next_message(subscriber), ("pmessage", b"n*s", b"news", BINARY))
            equal(next_message(subscriber), ("message", None, b"weather", b"rain"))
            subscriber.unsubscribe()
            equal({next_message(subscriber)[:3:2] for _ in range(2)}, {("unsubscribe", b"news"), ("unsubscribe", b"weather")})
        equal(publisher.publish("news", "only by the pattern"), 4)
        for subscriber in subscribers:
            equal(next_message(subscriber), ("pmessage", b"n*s", b"news", b"only by the pattern"))
            subscriber.close()


def server(client):
    equal(client.config_get("maxmemory-policy"), {"maxmemory-policy": "noeviction"})
    equal(client.config_get("port", "databases"), {"port": str(PORT), "databases": "16"})
    equal(client.config_get("no-such-*"), {})
    info = client.info()
    equal((info["tcp_port"], info["redis_mode"]), (PORT, "standalone"))
    assert info["connected_clients"] >= 1 and info["total_commands_processed"] > 1000
    assert info["used_memory"] > 0
    equal(client.command_count(), len(client.command()))


with connect(single_connection_client=True) as client:
    client.flushall()
    for part in (connection, values, pipeline, errors, many_keys, expiry, scan, databases, messages, server):
        part(client)
print("passed")
