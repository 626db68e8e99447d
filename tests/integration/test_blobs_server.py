"""Blobs of a real server: written and read through its processes, and public ones by whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest
from worlds import MICRO, World, eventually, world

from micro.ports.sessions import Sessions
from micro.rpc.client import Client
from micro.rpc.gen.micro.store.v1 import store_connect as pb_connect
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.server.settings import Settings

PIECE = 256 << 10
SIZE = (1 << 30) if os.environ.get("MICRO_SOAK") else (128 << 20)
GROWTH = 64 << 20
"""Bytes that no process may grow by, whatever is written or read."""

PAYING = ("store", "mesh", "api", "proxy")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("blobs"), MICRO_STORE="memory") as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose pieces differ."""
    path = tmp_path_factory.mktemp("large") / "large.bin"
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(number.to_bytes(8, "big") + piece[8:])
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get(
    server: World, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """A request to the HTTP gateway by nobody."""
    connection = http.client.HTTPConnection(server.api, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def resident(pid: int) -> int:
    """Bytes that a process has in memory that are its own."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) << 10


async def through_the_mesh(server: World, file: Path) -> None:
    """Write the file and read it as services do."""
    session = Sessions(server.home).read("local").session
    mesh = Settings.load(server.layout.settings.read_text()).mesh_address
    caller = Client(mesh, metadata={"authorization": f"Bearer {session.access_token}"})
    store = caller.of(pb_connect.BlobStoreClient)

    async def messages() -> AsyncIterator[pb.BlobStoreWriteRequest]:
        yield pb.BlobStoreWriteRequest(key="meshed", options=pb.BlobOptions(checksum=digest(file)))
        with file.open("rb") as content:
            while piece := content.read(PIECE):
                yield pb.BlobStoreWriteRequest(data=piece)

    assert (await store.write(messages())).blob.size == file.stat().st_size
    told = hashlib.sha256()
    async for message in store.read(pb.BlobStoreReadRequest(key="meshed")):
        told.update(message.data)
    assert told.hexdigest() == digest(file)
    await caller.close()


class Watch(threading.Thread):
    """The most that each process had in memory while this ran, over what it had before."""

    def __init__(self, server: World) -> None:
        super().__init__(daemon=True)
        self._pids = {name: pid for name, pid in server.processes().items() if name in PAYING}
        self._before = {name: resident(pid) for name, pid in self._pids.items()}
        self._most = dict(self._before)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            for name, pid in self._pids.items():
                self._most[name] = max(self._most[name], resident(pid))

    def growth(self) -> dict[str, int]:
        return {name: self._most[name] - self._before[name] for name in self._pids}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@pytest.mark.timeout(1200)
def test_a_large_blob_takes_no_memory_anywhere(server: World, large: Path, tmp_path: Path) -> None:
    server.cli("blob", "write", "warm", str(large.parent / "large.bin"), "--public", timeout=300)
    get(server, "/blob/micro/warm", {"range": "bytes=0-9999999"})
    with Watch(server) as watch:
        began = time.monotonic()
        server.cli("blob", "write", "large", str(large), "--public", timeout=300)
        wrote = time.monotonic()
        server.cli("blob", "read", "large", str(tmp_path / "copy"), timeout=300)
        read = time.monotonic()
        connection = http.client.HTTPConnection(server.api, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/blob/micro/large")
            answer, told = connection.getresponse(), hashlib.sha256()
            while piece := answer.read(PIECE):
                told.update(piece)
        ended = time.monotonic()
        asyncio.run(through_the_mesh(server, large))
    speeds = {"write": wrote - began, "read": read - wrote, "api": ended - read}
    print({name: f"{SIZE / seconds / 1e6:.0f} MB/s" for name, seconds in speeds.items()}, watch.growth())
    assert digest(tmp_path / "copy") == told.hexdigest() == digest(large)
    assert set(watch.growth()) == set(PAYING)
    assert max(watch.growth().values()) <= GROWTH, watch.growth()


def test_a_writer_that_is_killed_leaves_what_was_there(server: World, tmp_path: Path) -> None:
    server.cli("blob", "write", "killed", "-", stdin="old")
    drafts = server.layout.blobs / ".drafts"
    for key in ("killed", "never"):
        writer = subprocess.Popen([MICRO, "blob", "write", key], env=server.env, stdin=subprocess.PIPE)
        assert writer.stdin is not None
        for _ in range(20):
            writer.stdin.write(os.urandom(PIECE))
        writer.stdin.flush()
        assert eventually(lambda: any(draft.stat().st_size > PIECE for draft in drafts.iterdir()))
        writer.kill()
        writer.wait()
        with contextlib.suppress(BrokenPipeError):
            writer.stdin.close()
        assert eventually(lambda: not list(drafts.iterdir())), "the store has noticed"
    assert server.cli("blob", "read", "killed").stdout == "old"
    done = server.cli("blob", "stat", "never", check=False)
    assert "there is no blob 'never'" in done.stderr


def test_a_store_that_is_killed_during_a_write_has_what_was_there(server: World) -> None:
    server.cli("blob", "write", "survivor", "-", stdin="old")
    writer = subprocess.Popen([MICRO, "blob", "write", "survivor"], env=server.env, stdin=subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write(os.urandom(8 * PIECE))
    writer.stdin.flush()
    drafts = server.layout.blobs / ".drafts"
    assert eventually(lambda: any(draft.stat().st_size > PIECE for draft in drafts.iterdir()))
    killed = server.processes()["store"]
    os.kill(killed, 9)
    with contextlib.suppress(BrokenPipeError):
        writer.stdin.close()
    assert writer.wait(60) != 0
    assert eventually(lambda: server.processes().get("store") not in (None, killed), 30)
    assert eventually(lambda: server.cli("blob", "read", "survivor", check=False).stdout == "old", 30)
    assert list(drafts.iterdir()) == []


def test_readers_and_writers_that_stall_hold_little(server: World, large: Path) -> None:
    server.cli("blob", "write", "stalled", str(large), "--public", timeout=300)
    host, _, port = server.api.rpartition(":")
    with contextlib.ExitStack() as stack, Watch(server) as watch:
        readers = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(8)]
        for reader in readers:
            reader.sendall(f"GET /blob/micro/stalled HTTP/1.1\r\nhost: {server.api}\r\n\r\n".encode())
            assert reader.recv(100).startswith(b"HTTP/1.1 200")
        writers = [
            subprocess.Popen([MICRO, "blob", "write", f"slow{number}"], env=server.env, stdin=subprocess.PIPE)
            for number in range(3)
        ]
        drafts = server.layout.blobs / ".drafts"
        for writer in writers:
            stack.callback(writer.wait)
            stack.callback(writer.kill)
            assert writer.stdin is not None
            writer.stdin.write(os.urandom(8 * PIECE))
            writer.stdin.flush()
        assert eventually(lambda: sum(draft.stat().st_size > PIECE for draft in drafts.iterdir()) == 3, 30)
        assert server.cli("blob", "read", "stalled", "--length", "5").stdout is not None
    assert max(watch.growth().values()) <= GROWTH, watch.growth()


def test_public_blobs_are_for_everybody_and_others_are_not(server: World) -> None:
    server.cli("blob", "write", "site/a b.html", "-", "--public", stdin="<script>alert(1)</script>")
    server.cli("blob", "write", "secret.html", "-", stdin="mine")
    foreign = {"origin": "http://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    for path, more in itertools.product(
        ("/blob/micro/site/a%20b.html", "/blob/micro/site/a%20b.html?v=2"), ({}, foreign)
    ):
        status, headers, body = get(server, path, more)
        assert (status, body) == (200, b"<script>alert(1)</script>")
        assert headers["content-type"] == "text/html"
        assert headers["content-length"] == str(len(body))
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"]
        assert get(server, path, {"if-none-match": headers["etag"]})[0] == 304
        assert get(server, path, {"range": "bytes=1-6"})[::2] == (206, b"script")
        status, headers, body = get(server, path, method="HEAD")
        assert (status, headers["content-length"], body) == (200, "25", b"")
    told = {get(server, f"/blob/micro/{key}")[::2] for key in ("secret.html", "absent.html")}
    assert told == {(404, b'{"code":"not_found","message":"there is no public blob at this address"}')}
    assert get(server, "/blob/micro/site/a%20b.html", method="POST")[0] == 405
    assert get(server, "/micro.store.v1.BlobStore/Read", method="POST")[0] in (403, 404)
    server.cli("blob", "delete", "site/a b.html")
    assert get(server, "/blob/micro/site/a%20b.html")[0] == 404


def test_a_namespace_goes_with_its_blobs(server: World) -> None:
    server.cli("namespace", "create", "shop")
    server.cli("--namespace", "shop", "blob", "write", "k", "-", "--public", stdin="shop's")
    assert get(server, "/blob/shop/k")[::2] == (200, b"shop's")
    assert server.cli("blob", "list").stdout.find("k\n") < 0
    server.cli("namespace", "delete", "shop", "--force", stdin="shop\n")
    assert get(server, "/blob/shop/k")[0] == 404
    assert not (server.layout.blobs / "shop").exists()


def test_the_command_line_tells_what_it_keeps(server: World, tmp_path: Path) -> None:
    file = tmp_path / "ann.png"
    file.write_bytes(os.urandom(3 * PIECE))
    words = ("--metadata", "who=Ann", "--metadata", "n=", "-o", "json")
    written = json.loads(server.cli("blob", "write", "photos/ann", str(file), *words).stdout)
    assert written["content_type"] == "image/png"
    assert written["metadata"] == {"who": "Ann", "n": ""}
    assert written["checksum"] == digest(file)
    assert json.loads(server.cli("blob", "stat", "photos/ann", "-o", "json").stdout) == written
    assert json.loads(server.cli("blob", "list", "photos/", "-o", "json").stdout) == [written]
    server.cli("blob", "read", "photos/ann", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    server.cli("blob", "read", "photos/ann", str(tmp_path / "part"), "--offset", "10", "--length", "20")
    assert (tmp_path / "part").read_bytes() == file.read_bytes()[10:30]
    wrong = server.cli("blob", "write", "photos/ann", str(file), "--checksum", "0" * 64, check=False)
    assert "nothing was kept" in wrong.stderr
    assert json.loads(server.cli("blob", "stat", "photos/ann", "-o", "json").stdout) == written
    assert "there is no blob" in server.cli("blob", "read", "absent", str(tmp_path / "none"), check=False).stderr
    assert not (tmp_path / "none").exists()
