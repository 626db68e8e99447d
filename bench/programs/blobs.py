"""Copies a file through a plain socket and through the blobs, both ways in turns, and prints what each took, as JSON:

`blobs.py ID SECRET FILE ROUNDS`, as the account of that id. What leaves is synced before a copy ends; what comes
back is written.
"""

import asyncio
import json
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import uvloop

PIECE = 256 << 10


def keep(listener: socket.socket, target: Path) -> None:
    """For each connection: take a file when eight bytes tell its length, give it when they are none."""
    while True:
        connection, _ = listener.accept()
        with connection:
            length = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
            if length:
                with target.open("wb") as file:
                    take(connection, file, length)
                    file.flush()
                    os.fsync(file.fileno())
                connection.sendall(b".")
            else:
                give(connection, target)


def take(connection, file, length: int) -> None:
    while length:
        piece = connection.recv(min(PIECE, length))
        file.write(piece)
        length -= len(piece)


def give(connection, path: Path) -> None:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            connection.sendall(piece)


def plain_write(address, source: Path) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(source.stat().st_size.to_bytes(8, "big"))
        give(connection, source)
        connection.recv(1)


def plain_read(address, target: Path, length: int) -> None:
    with socket.create_connection(address) as connection, target.open("wb") as file:
        connection.sendall(bytes(8))
        take(connection, file, length)


async def pieces(source: Path):
    with source.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


async def main(source: Path, rounds: int, address) -> None:
    from micro import blobs

    copy, size = source.with_suffix(".back"), source.stat().st_size
    taken: dict[str, list[float]] = {name: [] for name in ("plain write", "write", "plain read", "read")}

    async def back() -> None:
        with copy.open("wb") as file:
            async for piece in blobs.read("bench"):
                file.write(piece)
        if copy.stat().st_size != size:
            raise SystemExit("the blob that came back has another length")

    for number in range(rounds):
        for name, work in (
            ("plain write", lambda: asyncio.to_thread(plain_write, address, source)),
            ("write", lambda: blobs.write("bench", pieces(source))),
            ("plain read", lambda: asyncio.to_thread(plain_read, address, copy, size)),
            ("read", back),
        ):
            begin = time.perf_counter()
            await work()
            if number:  # the first round warms up
                taken[name].append(time.perf_counter() - begin)
            os.sync()  # else the next one would wait for the disk to have what this one left in memory
    print(json.dumps(taken))


if __name__ == "__main__":
    os.environ["MICRO_AUTH_ID"], os.environ["MICRO_AUTH_SECRET"] = sys.argv[1:3]
    path = Path(sys.argv[3])
    with socket.create_server(("127.0.0.1", 0)) as server:
        keeper = multiprocessing.Process(target=keep, args=(server, path.with_suffix(".kept")), daemon=True)
        keeper.start()
        uvloop.run(main(path, int(sys.argv[4]), server.getsockname()))
        keeper.terminate()
