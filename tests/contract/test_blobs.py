"""The blobs' port over every backend that we ship."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from micro.backends.files.blobs import FileBlobs
from micro.backends.memory.blobs import MemoryBlobs
from micro.backends.objects.blobs import ObjectBlobs
from micro.domain.errors import Error, Kind
from micro.ports.blobs import Blobs
from micro.ports.free_address import free_address
from micro.testing.contracts.blobs import BlobsContract, read, stream
from micro.testing.s3 import S3Child, s3_child


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Child]:
    with s3_child(tmp_path_factory.mktemp("s3")) as child:
        child.make("bucket")
        yield child


class TestMemory(BlobsContract):
    @pytest.fixture
    async def blobs(self) -> AsyncGenerator[Blobs]:
        async with AsyncExitStack() as stack:
            backend = MemoryBlobs()
            await backend.start(stack)
            yield backend


class TestFiles(BlobsContract):
    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncGenerator[Blobs]:
        async with AsyncExitStack() as stack:
            backend = FileBlobs(tmp_path / "blobs")
            await backend.start(stack)
            yield backend


class TestObjects(BlobsContract):
    @pytest.fixture(autouse=True)
    def credentials(self, server: S3Child, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in server.credentials.items():
            monkeypatch.setenv(name, value)

    @pytest.fixture
    async def blobs(self, server: S3Child) -> AsyncGenerator[Blobs]:
        prefix = secrets.token_hex(4)
        async with AsyncExitStack() as stack:
            backend = ObjectBlobs(server.url("bucket", prefix))
            await backend.start(stack)
            yield backend

    async def test_an_upload_that_is_given_up_leaves_nothing_behind(self, server: S3Child) -> None:
        server.make("given-up")
        async with AsyncExitStack() as stack:
            backend = ObjectBlobs(server.url("given-up"))
            await backend.start(stack)
            waits = asyncio.Event()

            async def slow() -> AsyncIterator[bytes]:
                for _ in range(20):
                    yield bytes(1 << 20)
                waits.set()
                await asyncio.Event().wait()

            writing = asyncio.ensure_future(backend.write("shop", "k", slow()))  # owned: awaited below
            await asyncio.wait_for(waits.wait(), 20)
            assert "<UploadId>" in server.uploads("given-up")
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        assert "<UploadId>" not in server.uploads("given-up")
        assert "<Contents>" not in server.objects("given-up")

    async def test_bytes_that_nothing_points_to_are_removed_once_their_readers_had_their_time(
        self, server: S3Child
    ) -> None:
        server.make("buried")
        async with AsyncExitStack() as stack:
            backend = ObjectBlobs(server.url("buried"), grace=0.01)
            await backend.start(stack)
            await backend.write("shop", "k", stream(b"old"))
            await backend.write("shop", "k", stream(b"new"))
            await backend.write("shop", "gone", stream(b"v"))
            await backend.delete("shop", "gone")
            async with asyncio.timeout(20):
                while server.objects("buried").count("<Key>") > 2:
                    await asyncio.sleep(0.02)
            assert await read(backend, "k") == b"new"

    async def test_what_crashed_writers_left_is_swept_after_a_start(self, server: S3Child) -> None:
        server.make("swept")
        long = "x" * 1000
        async with AsyncExitStack() as stack:
            backend = ObjectBlobs(server.url("swept"), grace=1000)
            await backend.start(stack)
            for key in ("k", "k2", long):
                await backend.write("shop", key, stream(b"old"))
                await backend.write("shop", key, stream(b"new"))
            await backend.write("shop", "gone", stream(b"v"))
            await backend.delete("shop", "gone")
        assert server.objects("swept").count("<Key>") == 10, "one index and two objects each, one without an index"
        async with AsyncExitStack() as stack:
            backend = ObjectBlobs(server.url("swept"), grace=0.01, abandoned=timedelta(hours=-1))
            await backend.start(stack)
            async with asyncio.timeout(20):
                while server.objects("swept").count("<Key>") > 6:
                    await asyncio.sleep(0.02)
            for key in ("k", "k2", long):
                assert await read(backend, key) == b"new"

    async def test_a_storage_that_is_away_is_told_and_does_not_keep_the_store_from_starting(self) -> None:
        async with AsyncExitStack() as stack:
            backend = ObjectBlobs(f"s3://bucket/p?endpoint=http://{free_address('127.0.0.1')}&region=us-east-1")
            await backend.start(stack)
            assert not backend.healthy()
            with pytest.raises(Error, match="blob 'k' cannot be reached") as told:
                await backend.write("shop", "k", stream(b"v"))
            assert told.value.kind is Kind.UNAVAILABLE
            assert "\n" not in told.value.message

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            ("s3://", "has no bucket"),
            ("http://bucket", "has no bucket"),
            ("s3://bucket?region=x&acl=public", "sets acl"),
            ("s3://bucket/" + "p" * 101, "prefix of more than 100"),
            ("s3://ME:HIDDEN@bucket/p", "names an account"),
        ],
    )
    def test_a_wrong_url_is_told_without_what_may_be_secret(self, url: str, told: str) -> None:
        with pytest.raises(Error, match=told) as error:
            ObjectBlobs(url)
        assert error.value.kind is Kind.INVALID_ARGUMENT
        assert "HIDDEN" not in error.value.message
