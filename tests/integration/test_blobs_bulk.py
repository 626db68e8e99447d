"""Blobs as the framework writes and reads them, and what becomes of those who do not go to the end."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from worlds import World, eventually, world

from micro.domain.errors import Error, Kind
from micro.ports.sessions import Sessions
from micro.rpc.client import Client
from micro.rpc.gen.micro.store.v1 import store_connect as pb_connect
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.server.settings import Settings

PIECE = 512 << 10
FULL = os.urandom(PIECE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("bulk"), MICRO_STORE="memory") as made:
        made.start()
        yield made


@pytest.fixture(params=["mesh", "proxy"])
async def blobs(server: World, request: pytest.FixtureRequest) -> AsyncIterator[pb_connect.BlobStoreClient]:
    """As services reach them, and as people's programs do."""
    session = Sessions(server.home).read("local").session
    settings = Settings.load(server.layout.settings.read_text())
    target = settings.mesh_address if request.param == "mesh" else server.env["MICRO_PROXY_ADDRESS"]
    client = Client(target, metadata={"authorization": f"Bearer {session.access_token}"})
    yield client.of(pb_connect.BlobStoreClient, bulk=True)
    await client.close()


async def writing(key: str, *pieces: bytes, **options: Any) -> AsyncIterator[pb.BlobStoreWriteRequest]:
    yield pb.BlobStoreWriteRequest(key=key, options=pb.BlobOptions(**options))
    for piece in pieces:
        yield pb.BlobStoreWriteRequest(data=piece)


async def endless(key: str, **options: Any) -> AsyncIterator[pb.BlobStoreWriteRequest]:
    yield pb.BlobStoreWriteRequest(key=key, options=pb.BlobOptions(**options))
    while True:
        yield pb.BlobStoreWriteRequest(data=FULL)


def drafts(server: World) -> list[Any]:
    return list((server.layout.blobs / ".drafts").iterdir())


async def read(blobs: pb_connect.BlobStoreClient, key: str, **fields: Any) -> bytes:
    return b"".join([found.data async for found in blobs.read(pb.BlobStoreReadRequest(key=key, **fields))])


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, 3 * PIECE + 17])
async def test_what_is_written_is_read(blobs: pb_connect.BlobStoreClient, size: int) -> None:
    content = os.urandom(size)
    cut = [content[start : start + 100_000] for start in range(0, size, 100_000)]
    told = (await blobs.write(writing("k", *cut, checksum=hashlib.sha256(content).hexdigest()))).blob
    assert told is not None
    assert told.size == size
    assert await read(blobs, "k") == content
    assert await read(blobs, "k", offset=7, length=PIECE + 1) == content[7 : PIECE + 8]


async def test_many_write_and_read_at_once(blobs: pb_connect.BlobStoreClient) -> None:
    async def one(number: int) -> None:
        content = bytes([number]) * (PIECE + number)
        await blobs.write(writing(f"many/{number}", content))
        assert await read(blobs, f"many/{number}") == content

    await asyncio.gather(*map(one, range(24)))


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"content_type": "no"}, Kind.INVALID_ARGUMENT), ({"namespace": "Not one"}, Kind.INVALID_ARGUMENT)],
)
async def test_a_refused_writer_hears_why_while_it_still_sends(
    blobs: pb_connect.BlobStoreClient, server: World, options: dict[str, str], kind: Kind
) -> None:
    with pytest.raises(Error) as refused:
        await asyncio.wait_for(blobs.write(endless("refused", **options)), 20)
    assert refused.value.kind is kind
    assert eventually(lambda: not drafts(server))


async def test_who_may_not_is_told_so(blobs: pb_connect.BlobStoreClient) -> None:
    headers = {"authorization": "Bearer nonsense"}
    with pytest.raises(Error) as refused:
        await asyncio.wait_for(blobs.write(endless("refused"), headers=headers), 20)
    assert refused.value.kind is Kind.UNAUTHENTICATED
    with pytest.raises(Error) as refused:
        async for _ in blobs.read(pb.BlobStoreReadRequest(key="k"), headers=headers):
            pass
    assert refused.value.kind is Kind.UNAUTHENTICATED


async def test_an_absent_blob_is_not_found(blobs: pb_connect.BlobStoreClient) -> None:
    with pytest.raises(Error, match="there is no blob 'absent'") as absent:
        await read(blobs, "absent")
    assert absent.value.kind is Kind.NOT_FOUND


async def test_a_writer_that_stops_leaves_what_was_there(blobs: pb_connect.BlobStoreClient, server: World) -> None:
    await blobs.write(writing("stopped", b"old"))

    async def failing() -> AsyncIterator[pb.BlobStoreWriteRequest]:
        async for message in writing("stopped", *[FULL] * 8):
            yield message
        assert eventually(lambda: len(drafts(server)) == 1)
        raise FileNotFoundError("the source is gone")

    with pytest.raises(FileNotFoundError, match="the source is gone"):
        await blobs.write(failing())
    assert eventually(lambda: not drafts(server))
    calling = asyncio.ensure_future(blobs.write(endless("stopped")))  # owned: cancelled below
    while not drafts(server):
        await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert eventually(lambda: not drafts(server))
    assert await read(blobs, "stopped") == b"old"


async def test_a_reader_that_leaves_early_frees_the_file(blobs: pb_connect.BlobStoreClient, server: World) -> None:
    await blobs.write(writing("left", *[FULL] * 256))  # far more than lies in buffers on the way
    store = server.processes()["store"]

    def opened() -> bool:
        found = (str(link.resolve()) for link in Path(f"/proc/{store}/fd").iterdir())
        return any("/blobs/" in path for path in found)

    answers: Any = blobs.read(pb.BlobStoreReadRequest(key="left"))
    async with aclosing(answers):
        for _ in range(3):
            await anext(answers)
        assert opened()
    assert await asyncio.to_thread(eventually, lambda: not opened())


async def test_damage_is_told_before_the_last_piece(blobs: pb_connect.BlobStoreClient, server: World) -> None:
    await blobs.write(writing("damaged", *[FULL] * 4))
    path = next(path for path in server.layout.blobs.rglob("damaged") if path.is_file())
    with path.open("r+b") as file:
        file.seek(3 * PIECE + 5)
        byte = file.read(1)
        file.seek(3 * PIECE + 5)
        file.write(bytes([byte[0] ^ 1]))
    answers = blobs.read(pb.BlobStoreReadRequest(key="damaged"))
    assert [len((await anext(answers)).data) for _ in range(4)] == [0, PIECE, PIECE, PIECE]
    with pytest.raises(Error, match="damaged") as damaged:
        await anext(answers)
    assert damaged.value.kind is Kind.DATA_LOSS
