"""Asking an Envoy's administration: what is made of its answers, and of its silence."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from micro.backends.envoy.admin import Admin
from micro.domain import errors

LIVE = (200, "LIVE\n")


@asynccontextmanager
async def envoy(folder, *answers, chunked=False):
    """An admin socket that gives these answers, the last one for ever; yields what it was asked."""
    asked, left = [], list(answers)

    async def serve(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" HTTP/1.1")[0].decode())
        status, body = left.pop(0) if len(left) > 1 else left[0]
        if chunked:
            half = len(body) // 2
            parts = "".join(f"{len(part):x}\r\n{part}\r\n" for part in (body[:half], body[half:]) if part)
            writer.write(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n{parts}0\r\n\r\n".encode())
        else:
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()

    server = await asyncio.start_unix_server(serve, folder / "admin.sock")
    async with server:
        yield asked


def stats(api, admin=1):
    return 200, f"http.admin.downstream_rq_active: {admin}\nhttp.api.downstream_rq_active: {api}\n"


async def test_ready_is_said_by_envoy_and_by_nobody_else(tmp_path):
    admin = Admin(tmp_path / "admin.sock")
    assert not await admin.ready()
    async with envoy(tmp_path, LIVE):
        assert await admin.ready()
        await admin.wait_ready(1)


async def test_an_envoy_that_initialises_or_drains_is_not_ready(tmp_path):
    async with envoy(tmp_path, (503, "PRE_INITIALIZING\n")):
        assert not await Admin(tmp_path / "admin.sock").ready()


async def test_waiting_ends_when_it_is_ready_or_with_a_word_of_what_to_do(tmp_path):
    async with envoy(tmp_path, (503, "INITIALIZING\n"), LIVE) as asked:
        await Admin(tmp_path / "admin.sock").wait_ready(5)
        assert asked == ["GET /ready"] * 2
    with pytest.raises(errors.Error, match="see its log") as late:
        await Admin(tmp_path / "nobody.sock").wait_ready(0.1)
    assert late.value.kind is errors.Kind.UNAVAILABLE


async def test_draining_is_graceful_and_leaves_the_process_to_its_owner(tmp_path):
    async with envoy(tmp_path, (200, "OK\n")) as asked:
        await Admin(tmp_path / "admin.sock").drain()
    assert asked == ["POST /drain_listeners?graceful&skip_exit"]


async def test_a_refused_drain_and_a_missing_envoy_are_told(tmp_path):
    async with envoy(tmp_path, (400, "no")):
        with pytest.raises(errors.Error, match="refused to drain: no"):
            await Admin(tmp_path / "admin.sock").drain()
    with pytest.raises(errors.Error, match="no Envoy answers"):
        await Admin(tmp_path / "nobody.sock").drain()


@pytest.mark.parametrize("chunked", [False, True])
async def test_requests_in_flight_are_counted_without_the_question_itself(tmp_path, chunked):
    async with envoy(tmp_path, stats(7), chunked=chunked):
        assert await Admin(tmp_path / "admin.sock").active_requests() == 7


async def test_idle_is_waited_for(tmp_path):
    async with envoy(tmp_path, stats(2), stats(1), stats(0)) as asked:
        assert await Admin(tmp_path / "admin.sock").wait_idle(5)
        assert len(asked) == 3


async def test_an_envoy_that_stays_busy_is_told_so_and_one_that_is_gone_is_idle(tmp_path):
    async with envoy(tmp_path, stats(1)):
        assert not await Admin(tmp_path / "admin.sock").wait_idle(0.2)
    assert await Admin(tmp_path / "nobody.sock").wait_idle(1)
