"""A config service to try out, over a store of its own."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from callers import ROOT, admin, calling, robot, user

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.store import MemoryStore
from micro.domain.account import Account
from micro.ports.announcements import Announcements
from micro.ports.store import Store
from micro.rpc.gen.micro.config.v1 import config_pb as pb
from micro.services.config import ConfigService

ANN, ADA, SHOP = user("ann"), admin("ada"), robot("shop")
KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(3)]
CLEAR, SECRET = pb.Options(secret=True), pb.Options(secret=True)


class Clock:
    def __init__(self) -> None:
        self.time = 1_000

    def __call__(self) -> int:
        self.time += 1
        return self.time


class World:
    """The service, and what people ask of it."""

    def __init__(self, service: ConfigService, store: Store) -> None:
        self.service = service
        self.store = store

    async def set(self, path: str, value: Any, by: Account = ANN, *, secret: bool = False, **rest: Any) -> int:
        text = value if isinstance(value, str) and value[:1] in '{["' else json.dumps(value)
        request = pb.SetRequest(path=path, value=pb.Value(data=text), options=pb.Options(secret=secret), **rest)
        return (await self.service.set(request, calling(by))).revision

    async def text(self, path: str = "", by: Account = ANN, *, clear: bool = False) -> str:
        answer = await self.service.get(pb.GetRequest(path=path, options=pb.Options(secret=clear)), calling(by))
        assert answer.value is not None
        return answer.value.data

    async def get(self, path: str = "", by: Account = ANN, *, clear: bool = False) -> Any:
        return json.loads(await self.text(path, by, clear=clear))

    async def delete(self, path: str, by: Account = ANN) -> int:
        return (await self.service.delete(pb.DeleteRequest(path=path), calling(by))).revision

    async def rollback(self, path: str, revision: int, by: Account = ANN) -> int:
        return (await self.service.rollback(pb.RollbackRequest(path=path, revision=revision), calling(by))).revision

    async def list(self, path: str = "") -> dict[str, tuple[str, bool]]:
        answer = await self.service.list(pb.ListRequest(path=path), calling(ANN))
        return {one.path: (one.value.data, one.secret) for one in answer.entries if one.value is not None}

    async def history(self, path: str = "", **rest: Any) -> list[pb.Revision]:
        return list((await self.service.history(pb.HistoryRequest(path=path, **rest), calling(ANN))).revisions)

    def watch(self, path: str = "", by: Account = ANN, *, clear: bool = False) -> Any:
        return self.service.watch(pb.WatchRequest(path=path, options=pb.Options(secret=clear)), calling(by))

    async def rotate(self) -> int:
        return (await self.service.rotate(pb.RotateRequest(), calling(ROOT))).namespaces

    async def purge(self, namespace: str) -> None:
        await self.service.purge(pb.PurgeRequest(namespace=namespace), calling(ROOT))


async def told(stream: Any) -> Any:
    """The next value of a watch; None when nothing is there."""
    async with asyncio.timeout(5):
        answer = await anext(stream)
    return json.loads(answer.value.data) if answer.value.data else None


@asynccontextmanager
async def running(
    store: Store | None = None,
    *,
    given: str = KEYS[0],
    file: Path = Path("/nonexistent/key"),
    started: bool = False,
    announcements: Announcements | None = None,
) -> AsyncIterator[World]:
    """The service over a store; over one that it shares with others when there are several."""
    async with AsyncExitStack() as stack:
        state = store or MemoryStore()
        service = ConfigService(
            state,
            AesGcmSealing(Keyring(given, file)),
            exists=lambda name: name in ("shop", "rival"),
            clock=Clock(),
            announcements=announcements,
        )
        if not started:  # by somebody else, who shares it
            await service.start(stack)
        yield World(service, state)
