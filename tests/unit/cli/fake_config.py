"""The config service itself behind the fake platform's port, over a store in memory."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from fake_platform import FakePlatform, Refusal

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.store import MemoryStore
from micro.domain import names
from micro.domain.account import Account
from micro.domain.errors import Error
from micro.rpc.context import Context
from micro.rpc.gen.micro.config.v1 import config_pb as pb
from micro.services.config import ConfigService


class FakeConfig(FakePlatform):
    """Everybody who calls is `account`."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account("ada", "micro", scopes=frozenset({"admin"}))
        self.loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._running = threading.Thread(target=self.loop.run_forever)
        keyring = Keyring(base64.b64encode(bytes(32)).decode(), Path("/nonexistent/key"))
        self.config = ConfigService(MemoryStore(), AesGcmSealing(keyring), clock=lambda: 1_767_225_600_000)

    def __enter__(self) -> Self:
        self._running.start()
        self._run(self.config.start(self._stack))
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._run(self._stack.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._running.join()
        self.loop.close()

    def unary(self, path: str, request: dict[str, Any], headers: dict[str, str]) -> Any:
        if not path.startswith("/micro.config.v1.Config/"):
            return super().unary(path, request, headers)
        method = path.rpartition("/")[2]
        message = getattr(pb, f"{method}Request").from_json(json.dumps(request))
        return json.loads(self._run(getattr(self.config, names.snake(method))(message, self._ctx())).to_json())

    def stream(self, path: str, requests: Iterator[dict[str, Any]]) -> Iterator[Any]:
        message = pb.WatchRequest.from_json(json.dumps(next(requests)))
        answers = self.config.watch(message, self._ctx())
        try:
            while True:
                answer = self._run(anext(answers))
                yield json.loads(answer.to_json())
                if answer.value is not None and answer.value.data == '"the end"':
                    raise Refusal("permission_denied", "enough", 403)
        finally:
            self._run(answers.aclose())  # type: ignore[attr-defined]

    def _ctx(self) -> Context:
        ctx = Context(None, {"headers": []}, None)  # type: ignore[arg-type]
        ctx.account = self.account
        return ctx

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)
        except Error as error:
            raise Refusal(error.kind.code, error.message, error.kind.http_status) from None
