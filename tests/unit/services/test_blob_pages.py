"""Public blobs, as browsers ask for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from micro.backends.memory.blobs import MemoryBlobs
from micro.domain import errors
from micro.ports.blobs import PIECE_BYTES, Opened, damaged
from micro.services.blob_pages import BlobPages

CONTENT = bytes(range(256)) * 4000


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.fixture
async def blobs() -> MemoryBlobs:
    made = MemoryBlobs()
    await made.write("shop", "photos/ann ☃.png", stream(CONTENT), content_type="image/png", public=True)
    await made.write("shop", "private", stream(CONTENT))
    await made.write("shop", "empty", stream(), public=True)
    return made


class Answer:
    """What a browser is told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.pieces = 0

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not self.status, "one answer a request"
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]
            self.pieces += 1
            assert len(message["body"]) <= PIECE_BYTES


async def get(blobs: MemoryBlobs, path: str, method: str = "GET", **headers: str) -> Answer:
    answer = Answer()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    await BlobPages(blobs)(scope, None, answer.send)
    return answer


ANN = "/blob/shop/photos/ann%20%E2%98%83.png"


async def test_a_public_blob_is_told_with_all_that_browsers_want(blobs: MemoryBlobs) -> None:
    answer = await get(blobs, ANN)
    blob = await blobs.stat("shop", "photos/ann ☃.png")
    assert blob is not None
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.pieces > 2
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["etag"] == f'"{blob.checksum}"'
    assert answer.headers["last-modified"].endswith("GMT")
    assert answer.headers["cache-control"] == "public, max-age=60"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_a_head_has_no_body(blobs: MemoryBlobs) -> None:
    answer = await get(blobs, ANN, "HEAD", range="bytes=0-1")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", str(len(CONTENT)))


async def test_an_empty_one_is_told(blobs: MemoryBlobs) -> None:
    answer = await get(blobs, "/blob/shop/empty")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    "path",
    [
        "/blob/shop/private",
        "/blob/shop/absent",
        "/blob/other/empty",
        "/blob/shop/",
        "/blob/shop",
        "/blob//empty",
        "/blob/",
        "/blob/..%2Fshop/empty",
        "/blob/shop/%ff",
        "/blob/shop/" + "x" * 2000,
    ],
)
async def test_what_is_not_public_and_what_is_not_there_are_the_same(blobs: MemoryBlobs, path: str) -> None:
    answer = await get(blobs, path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == b'{"code":"not_found","message":"there is no public blob at this address"}'


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_only_reading_is_possible(blobs: MemoryBlobs, method: str) -> None:
    answer = await get(blobs, ANN, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_what_the_reader_has_is_not_sent_again(blobs: MemoryBlobs) -> None:
    first = await get(blobs, ANN)
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    for headers in (
        {"if_none_match": etag},
        {"if_none_match": f'"other", W/{etag}'},
        {"if_none_match": "*"},
        {"if_modified_since": modified},
        {"if_modified_since": "Fri, 31 Dec 2100 00:00:00 GMT"},
    ):
        answer = await get(blobs, ANN, **headers)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag), headers
    for headers in (
        {"if_none_match": '"other"'},
        {"if_none_match": '"other"', "if_modified_since": modified},
        {"if_modified_since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"if_modified_since": "some day"},
    ):
        assert (await get(blobs, ANN, **headers)).status == 200, headers


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        (f"bytes=5-{len(CONTENT) + 10}", 5, len(CONTENT)),
        ("bytes=500000-", 500000, len(CONTENT)),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
        ("bytes=-9999999", 0, len(CONTENT)),
    ],
)
async def test_a_range_is_told_as_one(blobs: MemoryBlobs, asked: str, start: int, end: int) -> None:
    answer = await get(blobs, ANN, range=asked)
    assert (answer.status, answer.body) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", [f"bytes={len(CONTENT)}-", "bytes=-0", f"bytes={10**17}-{10**17 + 1}"])
async def test_a_range_of_nothing_is_refused(blobs: MemoryBlobs, asked: str) -> None:
    answer = await get(blobs, ANN, range=asked)
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["bytes=9-5", "bytes=0-1,3-4", "lines=1-2", "bytes=-", "bytes=" + "9" * 30 + "-"])
async def test_what_is_no_range_is_answered_with_all(blobs: MemoryBlobs, asked: str) -> None:
    assert (await get(blobs, ANN, range=asked)).status == 200


async def test_a_part_of_another_one_is_not_what_is_wanted(blobs: MemoryBlobs) -> None:
    etag = (await get(blobs, ANN)).headers["etag"]
    assert (await get(blobs, ANN, range="bytes=0-1", if_range=etag)).status == 206
    assert (await get(blobs, ANN, range="bytes=0-1", if_range='"other"')).status == 200


async def test_damage_is_an_error_or_a_broken_answer_never_a_whole_one(blobs: MemoryBlobs) -> None:
    async def broken(kept: Any, after: int) -> None:
        whole = kept.pieces

        async def pieces(start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
            told = 0
            async for piece in whole(start, length):
                if told == after:
                    raise errors.data_loss("damaged")
                told += 1
                yield piece

        kept.pieces = pieces

    kept = blobs._kept["shop"]["photos/ann ☃.png"]
    await broken(kept, 1)
    answer = Answer()
    scope = {"type": "http", "method": "GET", "path": ANN, "raw_path": ANN.encode(), "headers": []}
    with pytest.raises(errors.Error, match="damaged"):
        await BlobPages(blobs)(scope, None, answer.send)
    assert (answer.status, len(answer.body)) == (200, PIECE_BYTES)
    await broken(kept, 0)
    assert (await get(blobs, ANN)).status == 500


class Failing(MemoryBlobs):
    """Blobs that cannot be opened, for one reason."""

    def __init__(self, reason: errors.Error) -> None:
        super().__init__()
        self.reason = reason

    @asynccontextmanager
    async def open(self, namespace: str, key: str) -> AsyncGenerator[Opened]:
        raise self.reason
        yield


async def test_a_private_blob_is_not_betrayed_by_its_damage(blobs: MemoryBlobs) -> None:
    absent, hurt = await get(blobs, "/blob/shop/absent"), await get(Failing(damaged("private")), "/blob/shop/private")
    assert (hurt.status, hurt.body, hurt.headers) == (absent.status, absent.body, absent.headers)


async def test_where_blobs_are_kept_is_not_told(blobs: MemoryBlobs) -> None:
    answer = await get(Failing(errors.unavailable("blob 'x': GET http://10.0.0.7/bucket failed")), "/blob/shop/x")
    assert answer.status == 503
    assert b"10.0.0.7" not in answer.body
