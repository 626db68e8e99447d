"""Writes, lists and reads as a service would, and prints what each took, as JSON:

`state.py ID SECRET IN_FLIGHT KEYS`, as the account of that id.
"""

import asyncio
import json
import os
import sys
import time

import uvloop

from micro import config, store


async def main(in_flight: int, keys: int) -> None:
    left, taken = iter(range(2 * keys)), []

    async def worker() -> None:
        for number in left:
            begin = time.perf_counter()
            await store.write(f"user/{number % keys:08}", b"%0100d" % number)
            taken.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    rate = 2 * keys / (time.perf_counter() - begin)

    lists = []
    for _ in range(5):
        begin = time.perf_counter()
        found = [key async for key in store.keys(prefix="user/0")]
        lists.append(time.perf_counter() - begin)
        if len(found) != keys:
            raise SystemExit(f"{len(found)} keys were listed")

    await config.set("bench.host", "localhost")
    looks = 100_000
    await config.get("bench.host")
    begin = time.perf_counter()
    for _ in range(looks):
        await config.get("bench.host")
    look = (time.perf_counter() - begin) / looks
    p99 = sorted(taken)[int(len(taken) * 0.99)]
    print(json.dumps({"rate": rate, "p99": p99, "list": sorted(lists)[2], "config": look}))


os.environ["MICRO_AUTH_ID"], os.environ["MICRO_AUTH_SECRET"] = sys.argv[1:3]
uvloop.run(main(int(sys.argv[3]), int(sys.argv[4])))
