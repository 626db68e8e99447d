"""The fake platform with a real broker and real events: the handlers of the services, over memory."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any, Self

from fake_platform import FakePlatform, Refusal

from micro.cli.transport import envelope
from micro.rpc.app import Application
from micro.testing import app


class FakeMessaging(FakePlatform):
    """Answers calls of broker and events, as an admin of namespace micro makes them."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._runner = threading.Thread(target=self._loop.run_forever)
        self.apps: dict[str, Application] = {}

    def __enter__(self) -> Self:
        self._runner.start()
        return super().__enter__()

    def __exit__(self, *about: object) -> None:
        super().__exit__(*about)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._runner.join()
        self._loop.close()

    def unary(self, path: str, request: dict[str, Any], headers: dict[str, str]) -> Any:
        application = self._application(path)
        if application is None:
            return super().unary(path, request, headers)
        given = {"content-type": "application/json", "micro-namespace": headers.get("micro-namespace", "micro")}
        asking = app.http(application, "POST", path, headers=given, body=json.dumps(request).encode())
        answer = asyncio.run_coroutine_threadsafe(asking, self._loop).result(20)
        found = json.loads(answer.body)
        if answer.status != 200:
            raise Refusal(found["code"], found["message"], answer.status)
        return found

    def stream(self, path: str, requests: Iterator[dict[str, Any]]) -> Iterator[Any]:
        application = self._application(path)
        if application is None:
            yield from super().stream(path, requests)
            return
        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        serving = _Serving(application, path, answers)
        task = asyncio.run_coroutine_threadsafe(serving.run(), self._loop)
        task.add_done_callback(lambda _: answers.put(None))
        feeder = threading.Thread(target=self._feed, args=(serving, requests), daemon=True)
        feeder.start()
        held = b""
        try:
            while (message := answers.get()) is not None:
                held += message.get("body", b"")
                while len(held) >= 5 and len(held) >= 5 + int.from_bytes(held[1:5], "big"):
                    size = int.from_bytes(held[1:5], "big")
                    flags, told, held = held[0], json.loads(held[5 : 5 + size]), held[5 + size :]
                    if not flags:
                        yield told
                    elif "error" in told:
                        raise Refusal(told["error"]["code"], told["error"].get("message", ""))
        finally:
            task.cancel()

    def _feed(self, serving: _Serving, requests: Iterator[dict[str, Any]]) -> None:
        """Hand on what the caller sends, and that the caller has left."""
        last: dict[str, Any] = {"type": "http.request", "body": b"", "more_body": False}
        try:
            for request in requests:
                message = {"type": "http.request", "body": envelope(json.dumps(request).encode()), "more_body": True}
                self._loop.call_soon_threadsafe(serving.given.put_nowait, message)
        except (ValueError, OSError):
            last = {"type": "http.disconnect"}
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(serving.given.put_nowait, last)

    def _application(self, path: str) -> Application | None:
        return next((one for prefix, one in self.apps.items() if path.startswith(prefix)), None)


class _Serving:
    """One stream of an application, fed and read from other threads."""

    def __init__(self, application: Application, path: str, answers: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        self.given: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._application = application
        self._answers = answers
        headers = {"content-type": "application/connect+json", "micro-namespace": "micro"}
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {},
        }

    async def run(self) -> None:
        async def send(message: dict[str, Any]) -> None:
            self._answers.put(message)

        await self._application(self._scope, self.given.get, send)
