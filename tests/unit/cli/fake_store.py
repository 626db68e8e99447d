"""The fake platform with a real store: the handlers of the service, over memory."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from fake_platform import FakePlatform, Refusal

from micro.backends.memory.blobs import MemoryBlobs
from micro.backends.memory.store import MemoryStore
from micro.cli.transport import envelope
from micro.domain.account import Account
from micro.rpc.app import Application
from micro.services._store_databases import Databases
from micro.services.blobs import BlobHandler
from micro.services.store import StoreHandler
from micro.services.store_backup import BackupHandler
from micro.testing import app
from micro.testing.callers import As


class FakeStore(FakePlatform):
    """Answers calls of the store, as an admin of namespace micro makes them."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._runner = threading.Thread(target=self._loop.run_forever)
        self.kept = MemoryStore()
        databases = Databases(self.kept, lambda namespace: namespace in ("micro", "team"))
        admin = As(Account("ann", "micro", scopes=frozenset({"admin"})))
        self.blobs = MemoryBlobs()
        handlers = StoreHandler(databases), BackupHandler(databases), BlobHandler(self.blobs, databases)
        self._app = Application("store", handlers, guard=admin)

    def __enter__(self) -> Self:
        self._runner.start()
        return super().__enter__()

    def __exit__(self, *about: object) -> None:
        super().__exit__(*about)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._runner.join()
        self._loop.close()

    def keep(self, key: str, data: bytes, **rest: Any) -> None:
        """Write a blob of namespace micro, as `Blobs.write` does."""

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        writing = self.blobs.write("micro", key, pieces(), **rest)
        asyncio.run_coroutine_threadsafe(writing, self._loop).result(20)

    def unary(self, path: str, request: dict[str, Any], headers: dict[str, str]) -> Any:
        if not path.startswith("/micro.store."):
            return super().unary(path, request, headers)
        answer = self._asked(path, "application/json", json.dumps(request).encode(), headers)
        found = json.loads(answer.body)
        if answer.status != 200:
            raise Refusal(found["code"], found["message"], answer.status)
        return found

    def stream(self, path: str, requests: Iterator[dict[str, Any]]) -> Iterator[Any]:
        if not path.startswith("/micro.store."):
            yield from super().stream(path, requests)
            return
        sent = b"".join(envelope(json.dumps(request).encode()) for request in requests)
        body = self._asked(path, "application/connect+json", sent, {}).body
        while body:
            flags, size = body[0], int.from_bytes(body[1:5], "big")
            message, body = json.loads(body[5 : 5 + size]), body[5 + size :]
            if not flags:
                yield message
            elif "error" in message:
                raise Refusal(message["error"]["code"], message["error"]["message"])

    def _asked(self, path: str, kind: str, body: bytes, headers: dict[str, str]) -> app.Answer:
        given = {"content-type": kind, "micro-namespace": headers.get("micro-namespace", "micro")}
        asking = app.http(self._app, "POST", path, headers=given, body=body)
        return asyncio.run_coroutine_threadsafe(asking, self._loop).result(20)
