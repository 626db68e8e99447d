"""The parts that a conservation test starts as processes, and what they write down:

`conservation_parts.py publish FILE`: a line for each event that was acknowledged: id, offset, key, number, kind.
`conservation_parts.py consume FILE`: a line for each delivery, before it is answered: when, id, offset, key, number,
kind, attempt, "ok" or "failed".
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

from micro import errors, events

TOPIC = "conserved"
GROUP = "keepers"
KEYS = 12
TRIES = 3
EVERY = 40
"""One of so many events is made to fail whenever it is handled, another one at its first try."""


def kind(number: int) -> str:
    return {7: "poison", 23: "once"}.get(number % EVERY, "good")


class Notes:
    """Lines that are in the file even when their writer is killed right afterwards."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *fields: object) -> None:
        os.write(self._file, (json.dumps(fields) + "\n").encode())


def payload(key: str, number: int) -> bytes:
    """Bytes that no two events share, and not text."""
    head = json.dumps([key, number, kind(number)]).encode()
    return head + b"\0" + bytes(range(256))[: number % 256]


def read(content: bytes) -> tuple[str, int, str]:
    key, number, what = json.loads(content.partition(b"\0")[0])
    return key, number, what


async def publish(path: str) -> None:
    """Events of several keys, those of one key one after the other, each until it is acknowledged; ends by SIGTERM."""
    notes, stopping = Notes(path), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)

    async def one_key(key: str) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            while True:
                try:
                    done = await events.publish(TOPIC, payload(key, number), key=key, dedup_id=f"{key}/{number}")
                except errors.Error as error:
                    if error.kind not in (errors.Kind.UNAVAILABLE, errors.Kind.DEADLINE_EXCEEDED):
                        raise
                    await asyncio.sleep(0.05)
                else:
                    break
            notes.write(done.id, done.offset, key, number, kind(number))
            await asyncio.sleep(0.01)

    await asyncio.gather(*(one_key(f"k{number}") for number in range(KEYS)))


async def consume(path: str) -> None:
    """Handles what comes, until it is killed."""
    notes = Notes(path)
    consumed = events.consume(
        TOPIC, group=GROUP, start="all", manual=True, max_deliver=TRIES, backoff=(0.1,), max_in_flight=16
    )
    async for event in consumed:
        key, number, what = read(event.payload)
        failed = what == "poison" or (what == "once" and event.attempt == 1)
        fields = (event.id, event.offset, key, number, what, event.attempt, "failed" if failed else "ok")
        notes.write(time.monotonic_ns(), *fields)
        if failed:
            await event.nack(reason=f"{what} is made to fail")
        else:
            await event.ack()


if __name__ == "__main__":
    asyncio.run({"publish": publish, "consume": consume}[sys.argv[1]](sys.argv[2]))
