"""Registrations in a dict: the reference that other backends are compared with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from micro.domain import errors
from micro.domain.registrations import Action, Registrations, Step, Synced
from micro.domain.service import Change, Registration
from micro.ports.registry import Registry


class MemoryRegistry(Registry):
    """Remembers the last `history` changes; a watcher that falls further behind begins anew."""

    def __init__(self, history: int = 4096) -> None:
        self._state = Registrations(history, whole=True)
        self._changed = asyncio.Event()

    async def start(self, stack: AsyncExitStack) -> None:
        pass

    def healthy(self) -> bool:
        return True

    async def put(self, registration: Registration) -> int:
        entry = self._state.get(registration.key)
        if entry is not None and entry.registration == registration:
            return entry.revision
        return self._apply(Change(self._state.revision + 1, registration.key, registration))

    async def delete(self, key: tuple[str, str, str], *, expired: bool = False) -> int:
        if self._state.get(key) is None:
            return self._state.revision
        return self._apply(Change(self._state.revision + 1, key, None, expired))

    async def snapshot(self) -> tuple[int, list[Registration]]:
        registrations = [entry.registration for entry in self._state.entries()]
        return self._state.revision, sorted(registrations, key=lambda registration: registration.key)

    async def watch(self, after: int = 0) -> AsyncGenerator[Change | Synced]:
        if after == 0:
            cursor = self._state.revision
            for entry in self._state.entries():
                yield Change(entry.revision, entry.registration.key, entry.registration)
        else:
            cursor = after
            for change in self._since(after):
                yield change
                cursor = change.revision
        yield Synced(cursor)
        while True:
            changed = self._changed
            for change in self._since(cursor):
                yield change
                cursor = change.revision
            await changed.wait()

    def _apply(self, change: Change) -> int:
        self._state.apply(change)
        self._changed.set()
        self._changed = asyncio.Event()
        return change.revision

    def _since(self, revision: int) -> list[Change]:
        steps = self._state.since(revision)
        if steps is None:
            raise errors.out_of_range(f"the registry's history after revision {revision} is not known: watch from 0")
        return [_change(step) for step in steps]


def _change(step: Step) -> Change:
    key = step.registration.key
    if step.present:
        return Change(step.revision, key, step.registration)
    return Change(step.revision, key, None, step.action is Action.EXPIRE)
