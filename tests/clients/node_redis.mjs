// What an application does with node-redis. Arguments: the port, the RESP version (2 or 3). Prints `passed` at the end.
// The environment variable CLIENTS names the directory whose node_modules has it.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const [port, RESP] = process.argv.slice(2).map(Number);

function load() {
    try {
        const require = createRequire(`${process.env.CLIENTS}/`);
        assert.equal(require("./node_modules/redis/package.json").version.split(".")[0], "6");
        return require("redis");
    } catch (error) {
        console.error(`node-redis 6 is missing: run scripts/install-peers.sh (${error.message})`);
        process.exit(1);
    }
}

const { createClient, RESP_TYPES } = load();
const connect = (options = {}) => {
    const client = createClient({ socket: { host: "127.0.0.1", port, reconnectStrategy: false }, RESP, ...options });
    client.on("error", (error) => {
        throw error;
    });
    return client.connect();
};

// Every byte, and what the protocol itself is made of.
const BINARY = Buffer.concat([Buffer.from(Array.from({ length: 256 }, (_, i) => i)), Buffer.from("\r\n$-1\r\n")]);

async function connection(client) {
    assert.equal(await client.ping(), "PONG");
    assert.equal((await client.hello()).proto, RESP);
    assert.equal(await client.clientSetName("node-redis"), "OK");
    assert.equal(await client.clientGetName(), "node-redis");
    const id = await client.clientId();
    const own = (await client.clientList()).filter((entry) => entry.id === id);
    assert.equal(own.length, 1);
    const { name, db, cmd, resp, libName } = own[0];
    assert.deepEqual({ name, db, cmd, resp }, { name: "node-redis", db: 0, cmd: "client|list", resp: RESP });
    assert.equal(libName, "node-redis");
}

async function values(client) {
    const bytes = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
    assert.equal(await client.get("absent"), null);
    assert.equal(await client.set("key", "value"), "OK");
    assert.equal(await client.get("key"), "value");
    assert.equal(await client.set("key", "other", { condition: "NX" }), null);
    assert.equal(await client.set("key", "other", { GET: true }), "value");
    assert.equal(await bytes.set(BINARY, BINARY), "OK");
    assert.deepEqual(await bytes.get(BINARY), BINARY);
    assert.deepEqual(await bytes.keys("*$-1*"), [BINARY]);
    const big = Buffer.alloc(5 * 1024 * 1024, BINARY);
    assert.equal(await bytes.set("big", big), "OK");
    assert.equal(await client.strLen("big"), big.length);
    assert.ok(big.equals(await bytes.get("big")), "a large value comes back changed");
    assert.deepEqual(await bytes.getRange("big", 254, 258), Buffer.from("\xfe\xff\r\n$", "latin1"));
    assert.equal(await client.incr("count"), 1);
    assert.equal(await client.incrBy("count", 41), 42);
    assert.equal(await client.incrByFloat("count", 0.5), "42.5");
}

async function pipeline(client) {
    // Commands of one tick leave in one write.
    const replies = [];
    const expected = [];
    for (let i = 0; i < 500; i++) {
        replies.push(client.set(`pipe:${i}`, `${i}`), client.get(`pipe:${i}`));
        expected.push("OK", `${i}`);
    }
    assert.deepEqual(await Promise.all(replies), expected);
    const multi = client.multi();
    for (let i = 0; i < 1000; i++) multi.get(`pipe:${i % 500}`);
    const gets = Array.from({ length: 1000 }, (_, i) => `${i % 500}`);
    assert.deepEqual(await multi.execAsPipeline(), gets);
    // An error takes the place of its reply and no other.
    const mixed = await Promise.allSettled([client.set("word", "abc"), client.incr("word"), client.get("word")]);
    assert.deepEqual([mixed[0].value, mixed[2].value], ["OK", "abc"]);
    assert.equal(mixed[1].reason.message, "ERR value is not an integer or out of range");
}

async function errors(client) {
    await client.set("word", "abc");
    const fails = (args, message) => assert.rejects(client.sendCommand(args), { message });
    await fails(["INCR", "word"], "ERR value is not an integer or out of range");
    await fails(["NOSUCH", "a"], /^ERR unknown command 'NOSUCH'/);
    await fails(["GET"], "ERR wrong number of arguments for 'get' command");
    await fails(["SET", "a", "b", "NOSUCH"], "ERR syntax error");
    await fails(["SELECT", "16"], "ERR DB index is out of range");
    assert.equal(await client.ping(), "PONG");
}

async function manyKeys(client) {
    const pairs = Array.from({ length: 200 }, (_, i) => [`many:${i}`, `value ${i}`]);
    const names = pairs.map(([name]) => name);
    assert.equal(await client.mSet(pairs), "OK");
    assert.deepEqual(await client.mGet(["absent", ...names]), [null, ...pairs.map(([, value]) => value)]);
    assert.equal(await client.exists([...names, "absent"]), 200);
    assert.equal(await client.mSetNX([["many:0", "x"], ["new", "x"]]), 0);
    assert.equal(await client.del([...names, "absent"]), 200);
    assert.deepEqual(await client.mGet(names), Array(200).fill(null));
}

async function expiry(client) {
    assert.equal(await client.set("lease", "x", { expiration: { type: "EX", value: 100 } }), "OK");
    const [ttl, pttl] = [await client.ttl("lease"), await client.pTTL("lease")];
    assert.ok(ttl > 90 && ttl <= 100 && pttl > 90_000 && pttl <= 100_000, `${ttl} s, ${pttl} ms`);
    assert.equal(await client.persist("lease"), 1);
    assert.deepEqual([await client.ttl("lease"), await client.ttl("absent")], [-1, -2]);
    assert.equal(await client.pExpire("lease", 1), 1);
    const end = Date.now() + 20_000;
    while ((await client.get("lease")) !== null) {
        assert.ok(Date.now() < end, "a key does not expire");
        await sleep(2);
    }
    assert.equal(await client.exists("lease"), 0);
}

async function scan(client) {
    const expected = Array.from({ length: 2000 }, (_, i) => `scan:${i}`).sort();
    await client.mSet(expected.map((key) => [key, ""]));
    const seen = new Set();
    for await (const keys of client.scanIterator({ MATCH: "scan:*", COUNT: 100 })) {
        keys.forEach((key) => seen.add(key));
    }
    assert.deepEqual([...seen].sort(), expected);
}

async function databases(client) {
    assert.equal(await client.flushAll(), "OK");
    await client.set("where", "zero");
    const third = await connect({ database: 3 });
    assert.equal(await third.get("where"), null);
    await third.mSet({ a: "1", b: "2", c: "3" });
    assert.deepEqual([await third.dbSize(), await client.dbSize()], [3, 1]);
    assert.match(await client.info("keyspace"), /db0:keys=1,expires=0.*\r\ndb3:keys=3,expires=0/);
    await third.select(0);
    assert.equal(await third.get("where"), "zero");
    await third.close();
}

async function messages(client) {
    // Several, so that both cores have some.
    const subscribers = await Promise.all([connect(), connect(), connect()]);
    const received = subscribers.map(() => []);
    for (const [at, subscriber] of subscribers.entries()) {
        const listener = (message, channel) => received[at].push([channel, message]);
        await subscriber.subscribe(["news", "weather"], listener);
        await subscriber.pSubscribe("n*s", listener);
        await subscriber.sSubscribe("news", listener);
    }
    assert.equal(await client.publish("news", "today"), 6);
    assert.equal(await client.publish("weather", "rain"), 3);
    assert.equal(await client.sPublish("news", "of the shard"), 3);
    for (const [at, subscriber] of subscribers.entries()) {
        // What was published before is there when this is answered.
        await subscriber.unsubscribe();
        assert.deepEqual(received[at], [
            ["news", "today"],
            ["news", "today"],
            ["weather", "rain"],
            ["news", "of the shard"],
        ]);
        await subscriber.pUnsubscribe();
        await subscriber.sUnsubscribe();
        // The client goes on to hand out bytes where it has been subscribed.
        assert.equal(`${await subscriber.ping()}`, "PONG");
        await subscriber.close();
    }
    assert.equal(await client.publish("news", "none"), 0);
}

async function server(client) {
    assert.deepEqual({ ...(await client.configGet("maxmemory-policy")) }, { "maxmemory-policy": "noeviction" });
    assert.deepEqual({ ...(await client.configGet("no-such-*")) }, {});
    const info = Object.fromEntries((await client.info()).split("\r\n").map((line) => line.split(":", 2)));
    assert.equal(info.tcp_port, `${port}`);
    assert.equal(info.redis_mode, "standalone");
    assert.ok(Number(info.connected_clients) >= 1 && Number(info.total_commands_processed) > 1000);
}

const client = await connect();
await client.flushAll();
for (const part of [connection, values, pipeline, errors, manyKeys, expiry, scan, databases, messages, server]) {
    await part(client);
}
await client.close();
console.log("passed");
