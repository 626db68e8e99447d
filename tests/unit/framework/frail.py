"""A way to services of this process that breaks when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from micro.domain import errors
from micro.rpc.app import Application
from micro.rpc.client import Metadata
from micro.testing.local import LocalChannel


class Frail(LocalChannel):
    """Leads to services as LocalChannel does, until it is cut: then all streams end as if a proxy had died.

    Attributes:
        away: what comes is refused as long as this is set.
        streams: how many of both ways have been opened.
    """

    def __init__(self, services: Mapping[str, Application]) -> None:
        super().__init__(services)
        self.away = False
        self.streams = 0
        self._cut = asyncio.Event()

    def cut(self) -> None:
        """Break all streams, this moment."""
        cut, self._cut = self._cut, asyncio.Event()
        cut.set()

    async def stream(
        self, call: Any, request: Any, timeout: float | None, metadata: Metadata
    ) -> AsyncGenerator[Any, None]:
        if self.away:
            raise errors.unavailable("nothing is there")
        self.streams += call.kind == "stream_stream"
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            async with aclosing(super().stream(call, request, timeout, metadata)) as answers:
                while True:
                    answer = asyncio.ensure_future(anext(answers, None))
                    await asyncio.wait({answer, cut}, return_when=asyncio.FIRST_COMPLETED)
                    if cut.done():
                        answer.cancel()
                        await asyncio.wait({answer})
                        raise errors.unavailable("the way there has broken")
                    if answer.result() is None:
                        return
                    yield answer.result()
        finally:
            cut.cancel()
