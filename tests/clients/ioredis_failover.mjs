// An application that goes on while nodes die, are upgraded, join and leave, with ioredis' client for clusters. Arguments: the port. It says `ready` when it
// is under way, and ends when its standard input does. Prints `passed` at the end, and how long the longest call took.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.CLIENTS}/`);
const { Cluster } = require("ioredis");

const KEYS = Array.from({ length: 60 }, (_, number) => `key:${number}`);
const cluster = new Cluster([{ host: "127.0.0.1", port: Number(process.argv[2]) }], {
    clusterRetryStrategy: () => 50,
    retryDelayOnClusterDown: 50,
    retryDelayOnFailover: 50,
    retryDelayOnTryAgain: 50,
    maxRedirections: 400,
    redisOptions: { commandTimeout: 20000 },
});

let over = false;
process.stdin.resume().on("end", () => (over = true));
let longest = 0;
let round = 0;
while (!over) {
    round += 1;
    for (const key of KEYS) {
        const begun = performance.now();
        await cluster.set(key, String(round));
        longest = Math.max(longest, performance.now() - begun);
    }
    if (round === 2) console.log("ready");
}
const values = new Set(await Promise.all(KEYS.map((key) => cluster.get(key))));
assert.deepEqual([...values], [String(round)]);
console.log(`passed: ${round} rounds, longest call ${longest.toFixed(0)} ms`);
cluster.disconnect();
