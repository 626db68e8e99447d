"""Exchanges an id and a secret for tokens, twenty times, and prints the median milliseconds: `login.py ID SECRET`."""

import asyncio
import statistics
import sys
import time

from micro import client


async def main(account: str, secret: str) -> None:
    taken = []
    for _ in range(20):
        begin = time.perf_counter()
        await client.call("auth", "Auth.Token", {"id": account, "secret": secret})
        taken.append((time.perf_counter() - begin) * 1000)
    print(statistics.median(taken))


asyncio.run(main(sys.argv[1], sys.argv[2]))
