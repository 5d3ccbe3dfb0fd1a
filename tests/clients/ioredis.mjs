// What an application does with ioredis. Arguments: the port, the RESP version (2 or 3). Prints `passed` at the end.
// The environment variable CLIENTS names the directory whose node_modules has it.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const [port, protocol] = process.argv.slice(2).map(Number);

function load() {
    try {
        const require = createRequire(`${process.env.CLIENTS}/`);
        assert.equal(require("ioredis/package.json").version.split(".")[0], "6");
        return require("ioredis").Redis;
    } catch (error) {
        console.error(`ioredis 6 is missing: run scripts/install-peers.sh (${error.message})`);
        process.exit(1);
    }
}

const Redis = load();
const connect = (options = {}) => {
    const client = new Redis({ port, host: "127.0.0.1", protocol, retryStrategy: null, ...options });
    client.on("error", (error) => {
        throw error;
    });
    return client;
};

// Every byte, and what the protocol itself is made of.
const BINARY = Buffer.concat([Buffer.from(Array.from({ length: 256 }, (_, i) => i)), Buffer.from("\r\n$-1\r\n")]);

async function connection(client) {
    assert.equal(await client.ping(), "PONG");
    assert.deepEqual(await client.echoBuffer(BINARY), BINARY);
    const hello = await client.call("HELLO");
    assert.equal(hello[hello.indexOf("proto") + 1], protocol);
    assert.equal(await client.client("SETNAME", "ioredis"), "OK");
    assert.equal(await client.client("GETNAME"), "ioredis");
    const lines = (await client.client("LIST")).trimEnd().split("\n");
    const own = lines.filter((line) => line.startsWith(`id=${own_id} `));
    assert.equal(own.length, 1);
    assert.match(own[0], new RegExp(` name=ioredis .* db=0 .* cmd=client\\|list .* resp=${protocol} `));
}

async function values(client) {
    assert.equal(await client.get("absent"), null);
    assert.equal(await client.set("key", "value"), "OK");
    assert.equal(await client.get("key"), "value");
    assert.equal(await client.set("key", "other", "NX"), null);
    assert.equal(await client.set(BINARY, BINARY), "OK");
    assert.deepEqual(await client.getBuffer(BINARY), BINARY);
    assert.deepEqual(await client.keysBuffer("*$-1*"), [BINARY]);
    const big = Buffer.alloc(5 * 1024 * 1024, BINARY);
    assert.equal(await client.set("big", big), "OK");
    assert.equal(await client.strlen("big"), big.length);
    assert.ok(big.equals(await client.getBuffer("big")), "a large value comes back changed");
    assert.deepEqual(await client.getrangeBuffer("big", 254, 258), Buffer.from("\xfe\xff\r\n$", "latin1"));
    assert.equal(await client.incr("count"), 1);
    assert.equal(await client.incrby("count", 41), 42);
    assert.equal(await client.incrbyfloat("count", 0.5), "42.5");
}

async function pipeline(client) {
    const pipe = client.pipeline();
    const expected = [];
    for (let i = 0; i < 500; i++) {
        pipe.set(`pipe:${i}`, i).get(`pipe:${i}`);
        expected.push([null, "OK"], [null, `${i}`]);
    }
    assert.deepEqual(await pipe.exec(), expected);
    // An error takes the place of its reply and no other.
    const [first, failed, last] = await client.pipeline().set("word", "abc").incr("word").get("word").exec();
    assert.deepEqual([first, last], [[null, "OK"], [null, "abc"]]);
    assert.match(failed[0].message, /^ERR value is not an integer or out of range$/);
}

async function errors(client) {
    await client.set("word", "abc");
    await assert.rejects(client.incr("word"), { message: "ERR value is not an integer or out of range" });
    await assert.rejects(client.call("NOSUCH", "a"), { message: /^ERR unknown command 'NOSUCH'/ });
    await assert.rejects(client.call("GET"), { message: "ERR wrong number of arguments for 'get' command" });
    await assert.rejects(client.call("SET", "a", "b", "NOSUCH"), { message: "ERR syntax error" });
    await assert.rejects(client.select(16), { message: "ERR DB index is out of range" });
    assert.equal(await client.ping(), "PONG");
}

async function manyKeys(client) {
    const pairs = new Map(Array.from({ length: 200 }, (_, i) => [`many:${i}`, `value ${i}`]));
    const names = [...pairs.keys()];
    assert.equal(await client.mset(pairs), "OK");
    assert.deepEqual(await client.mget("absent", ...names), [null, ...pairs.values()]);
    assert.equal(await client.exists(...names, "absent"), 200);
    assert.equal(await client.msetnx("many:0", "x", "new", "x"), 0);
    assert.equal(await client.del(...names, "absent"), 200);
    assert.deepEqual(await client.mget(names), Array(200).fill(null));
}

async function expiry(client) {
    assert.equal(await client.set("lease", "x", "EX", 100), "OK");
    const [ttl, pttl] = [await client.ttl("lease"), await client.pttl("lease")];
    assert.ok(ttl > 90 && ttl <= 100 && pttl > 90_000 && pttl <= 100_000, `${ttl} s, ${pttl} ms`);
    assert.equal(await client.persist("lease"), 1);
    assert.deepEqual([await client.ttl("lease"), await client.ttl("absent")], [-1, -2]);
    assert.equal(await client.pexpire("lease", 1), 1);
    const end = Date.now() + 20_000;
    while ((await client.get("lease")) !== null) {
        assert.ok(Date.now() < end, "a key does not expire");
        await sleep(2);
    }
    assert.equal(await client.exists("lease"), 0);
}

async function scan(client) {
    const expected = Array.from({ length: 2000 }, (_, i) => `scan:${i}`).sort();
    await client.mset(new Map(expected.map((key) => [key, ""])));
    const seen = new Set();
    for await (const keys of client.scanStream({ match: "scan:*", count: 100 })) {
        keys.forEach((key) => seen.add(key));
    }
    assert.deepEqual([...seen].sort(), expected);
}

async function databases(client) {
    assert.equal(await client.flushall(), "OK");
    await client.set("where", "zero");
    const third = connect({ db: 3 });
    assert.equal(await third.get("where"), null);
    await third.mset("a", 1, "b", 2, "c", 3);
    assert.deepEqual([await third.dbsize(), await client.dbsize()], [3, 1]);
    assert.match(await client.info("keyspace"), /db0:keys=1,expires=0.*\r\ndb3:keys=3,expires=0/);
    assert.equal(await third.select(0), "OK");
    assert.equal(await third.get("where"), "zero");
    assert.equal(await third.quit(), "OK");
}

async function messages(client) {
    // Several, so that both cores have some.
    const subscribers = [connect(), connect(), connect()];
    const received = subscribers.map(() => []);
    for (const [at, subscriber] of subscribers.entries()) {
        subscriber.on("messageBuffer", (channel, message) => received[at].push([`${channel}`, message]));
        subscriber.on("pmessageBuffer", (pattern, channel, message) => received[at].push([`${pattern}`, `${channel}`, message]));
        assert.equal(await subscriber.subscribe("news", "weather"), 2);
        assert.equal(await subscriber.psubscribe("n*s"), 3);
    }
    assert.equal(await client.publish("news", BINARY), 6);
    assert.equal(await client.publish("weather", "rain"), 3);
    for (const [at, subscriber] of subscribers.entries()) {
        // What was published before is there when this is answered.
        assert.equal(await subscriber.unsubscribe("news", "weather"), 1);
        assert.deepEqual(received[at], [["news", BINARY], ["n*s", "news", BINARY], ["weather", Buffer.from("rain")]]);
        assert.equal(await subscriber.punsubscribe(), 0);
        assert.equal(await subscriber.ping(), "PONG");
        assert.equal(await subscriber.quit(), "OK");
    }
    assert.equal(await client.publish("news", "none"), 0);
}

async function server(client) {
    assert.deepEqual(await client.config("GET", "maxmemory-policy"), ["maxmemory-policy", "noeviction"]);
    assert.deepEqual(await client.config("GET", "no-such-*"), []);
    const info = Object.fromEntries((await client.info()).split("\r\n").map((line) => line.split(":", 2)));
    assert.equal(info.tcp_port, `${port}`);
    assert.equal(info.redis_mode, "standalone");
    assert.ok(Number(info.connected_clients) >= 1 && Number(info.total_commands_processed) > 1000);
}

const client = connect();
await client.flushall();
const own_id = await client.client("ID");
for (const part of [connection, values, pipeline, errors, manyKeys, expiry, scan, databases, messages, server]) {
    await part(client);
}
assert.equal(await client.quit(), "OK");
console.log("passed");
