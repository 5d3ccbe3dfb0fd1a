"""What an application does with redis-py's client for clusters. Arguments: the port, the RESP version (2 or 3). Prints
`passed` at the end."""

import sys

try:
    from redis.cluster import RedisCluster
    from redis.exceptions import RedisClusterException
except ImportError:
    sys.exit("redis-py is missing: run scripts/install-peers.sh")

PORT, PROTOCOL = int(sys.argv[1]), int(sys.argv[2])


def equal(got, expected):
    if got != expected:
        raise AssertionError(f"got {got!r:.300}, expected {expected!r:.300}")


def fails(kind, text, command, *args):
    try:
        got = command(*args)
    except kind as error:
        assert text in str(error), f"{error} does not say {text}"
    else:
        raise AssertionError(f"{got!r} instead of an error")


def main():
    client = RedisCluster(host="127.0.0.1", port=PORT, protocol=PROTOCOL, socket_timeout=20)
    (node,) = client.get_nodes()
    equal((node.host, node.port, node.server_type), ("127.0.0.1", PORT, "primary"))
    client.flushall()
    for number in range(200):
        equal(client.set(f"key:{number}", number), True)
    equal([client.get(f"key:{number}") for number in range(200)], [b"%d" % number for number in range(200)])
    equal(client.dbsize(), 200)
    equal(client.mset({"{tag}a": 1, "{tag}b": 2}), True)
    equal(client.mget("{tag}a", "{tag}b"), [b"1", b"2"])
    fails(RedisClusterException, "same key slot", client.mget, "a", "b")
    # The client cuts it into a command for each slot.
    equal(client.mget_nonatomic("key:1", "key:2", "absent"), [b"1", b"2", None])
    pipeline = client.pipeline()
    for number in range(50):
        pipeline.incr(f"key:{number}")
    equal(pipeline.execute(), [number + 1 for number in range(50)])
    with client.pipeline(transaction=True) as transaction:
        transaction.incr("{tag}a")
        transaction.incr("{tag}b")
        equal(transaction.execute(), [2, 3])
    slot = client.keyslot("{tag}a")
    equal(client.cluster_keyslot("{tag}a"), slot)
    equal(client.cluster_countkeysinslot(slot), 2)
    equal(sorted(client.cluster_get_keys_in_slot(slot, 10)), ["{tag}a", "{tag}b"] if PROTOCOL == 2 else [b"{tag}a", b"{tag}b"])
    equal(client.cluster_info(target_nodes=RedisCluster.RANDOM)["cluster_state"], "ok")
    equal(len(list(client.scan_iter("key:*", count=50))), 200)
    equal(client.delete(*[f"key:{number}" for number in range(200)]), 200)
    client.close()
    print("passed")


main()
