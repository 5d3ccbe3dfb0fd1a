// What an application does with ioredis' client for clusters. Arguments: the port, the RESP version, of which ioredis speaks
// one. Prints `passed` at the end.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.CLIENTS}/`);
const { Cluster } = require("ioredis");

const port = Number(process.argv[2]);
const cluster = new Cluster([{ host: "127.0.0.1", port }]);

await cluster.flushall();
const keys = Array.from({ length: 200 }, (_, number) => `key:${number}`);
await Promise.all(keys.map((key) => cluster.set(key, `value of ${key}`)));
assert.deepEqual(await Promise.all(keys.map((key) => cluster.get(key))), keys.map((key) => `value of ${key}`));
assert.deepEqual(cluster.nodes("master").map((node) => node.options.port), [port]);
assert.equal(cluster.nodes("slave").length, 0);
assert.equal(await cluster.mset("{tag}a", "1", "{tag}b", "2"), "OK");
assert.deepEqual(await cluster.mget("{tag}a", "{tag}b"), ["1", "2"]);
await assert.rejects(cluster.mget("a", "b"), /CROSSSLOT Keys in request don't hash to the same slot/);
assert.deepEqual(await cluster.multi().incr("{tag}a").incr("{tag}b").exec(), [[null, 2], [null, 3]]);

const subscriber = new Cluster([{ host: "127.0.0.1", port }], { shardedSubscribers: false });
const received = new Promise((resolve) => subscriber.on("message", (...message) => resolve(message)));
await subscriber.subscribe("news");
await cluster.publish("news", "hello");
assert.deepEqual(await received, ["news", "hello"]);

await Promise.all([cluster.quit(), subscriber.quit()]);
console.log("passed");
