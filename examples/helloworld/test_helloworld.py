"""The helloworld service, tested without a server: python -m unittest"""

from collections.abc import AsyncIterator
from unittest import IsolatedAsyncioTestCase

from micro import errors

from main import Handler
from proto.helloworld_pb import Ping, Request, StreamRequest


class HelloworldTest(IsolatedAsyncioTestCase):
    async def test_it_greets_by_name(self) -> None:
        answer = await Handler().call(Request(name="Ann"), None)
        assert answer.msg == "Hello Ann"

    async def test_it_refuses_an_empty_name(self) -> None:
        with self.assertRaisesRegex(errors.Error, "name is empty"):
            await Handler().call(Request(), None)

    async def test_it_counts(self) -> None:
        answers = Handler().stream(StreamRequest(count=3), None)
        assert [answer.count async for answer in answers] == [1, 2, 3]

    async def test_it_returns_the_ball(self) -> None:
        async def strokes() -> AsyncIterator[Ping]:
            yield Ping(stroke=1)
            yield Ping(stroke=2)

        pongs = Handler().ping_pong(strokes(), None)
        assert [pong.stroke async for pong in pongs] == [1, 2]
