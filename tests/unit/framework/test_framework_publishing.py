"""What many publish at once goes together: in order, each with its own result, and no one for another's fault."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.framework.publishing import Lines


class Server:
    """Takes what is published; "bad" is refused, and everything while it is away."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.go = asyncio.Event()
        self.away = False

    async def one(self, topic: str, new: str) -> str:
        return (await self.many(topic, [new]))[0]

    async def many(self, topic: str, every: Sequence[str]) -> Sequence[str]:
        self.calls.append(list(every))
        await self.go.wait()
        if self.away:
            raise errors.unavailable("nobody is there")
        if "bad" in every:
            raise errors.invalid_argument("one is bad")
        return [f"{topic}:{one}" for one in every]

    def lines(self, most: int = 100, most_bytes: int = 1000) -> Lines[str, str]:
        return Lines(self.one, self.many, len, most, most_bytes)


async def started(*tasks: asyncio.Future[str]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_is_alone_goes_at_once_and_who_comes_meanwhile_goes_together() -> None:
    server = Server()
    lines = server.lines(most=3)
    every = [asyncio.ensure_future(lines.publish("t", str(number))) for number in range(6)]  # owned: awaited below
    await started(*every)
    assert server.calls == [["0"]]
    server.go.set()
    assert await asyncio.gather(*every) == [f"t:{number}" for number in range(6)]
    assert server.calls == [["0"], ["1", "2", "3"], ["4", "5"]]
    assert await lines.publish("t", "later") == "t:later"
    assert server.calls[-1] == ["later"]


async def test_a_batch_has_a_size_and_one_always_fits() -> None:
    server = Server()
    lines = server.lines(most_bytes=5)
    every = [asyncio.ensure_future(lines.publish("t", "x" * size)) for size in (1, 9, 2, 2, 2)]  # owned: awaited below
    await started(*every)
    server.go.set()
    await asyncio.gather(*every)
    assert [[len(one) for one in call] for call in server.calls] == [[1], [9], [2, 2], [2]]


async def test_what_is_refused_is_refused_alone() -> None:
    server = Server()
    lines = server.lines()
    every = [asyncio.ensure_future(lines.publish("t", one)) for one in ("a", "b", "bad", "c")]  # owned: awaited below
    await started(*every)
    server.go.set()
    first, second, refused, last = await asyncio.gather(*every, return_exceptions=True)
    assert (first, second, last) == ("t:a", "t:b", "t:c")
    assert isinstance(refused, Error)
    assert refused.kind is Kind.INVALID_ARGUMENT


async def test_all_hear_that_nobody_is_there_and_who_has_gone_is_not_sent() -> None:
    server = Server()
    server.away = True
    lines = server.lines()
    every = [asyncio.ensure_future(lines.publish("t", one)) for one in ("a", "b", "gone", "c")]  # owned: awaited below
    await started(*every)
    every[2].cancel()
    server.go.set()
    found = await asyncio.gather(*every, return_exceptions=True)
    assert [type(one) for one in found] == [Error, Error, asyncio.CancelledError, Error]
    assert server.calls == [["a"], ["b", "c"]]
    server.away = False
    assert await lines.publish("t", "again") == "t:again"


async def test_topics_do_not_wait_for_each_other() -> None:
    server = Server()
    lines = server.lines()
    one, other = (asyncio.ensure_future(lines.publish(name, "x")) for name in ("one", "other"))  # owned: awaited below
    await started(one, other)
    assert len(server.calls) == 2
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    server.go.set()
    assert await other == "other:x"
    assert await lines.publish("one", "y") == "one:y"


async def test_what_goes_wrong_with_some_is_not_told_to_those_behind_them() -> None:
    """Even what nobody thought of: the line goes on."""
    server = Server()
    many = server.many

    async def fails(topic: str, every: Sequence[str]) -> Sequence[str]:
        if "odd" in every:
            raise LookupError(every)
        return await many(topic, every)

    server.many = fails  # type: ignore[method-assign]
    lines = server.lines(most=2)
    calling = [asyncio.ensure_future(lines.publish("t", new)) for new in ("1", "2", "odd", "3", "4", "5")]
    await started(*calling)
    server.go.set()
    told = await asyncio.gather(*calling, return_exceptions=True)
    assert [one if isinstance(one, str) else type(one) for one in told] == [
        "t:1", LookupError, LookupError, "t:3", "t:4", "t:5",
    ]  # fmt: skip
    assert await lines.publish("t", "6") == "t:6"
