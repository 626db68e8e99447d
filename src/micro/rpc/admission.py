"""Calls that go on: a stream is let in once, and stopped when its caller would not be let in any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from micro.domain.errors import Error

if TYPE_CHECKING:
    from micro.rpc.context import Context
    from micro.rpc.guard import Guard


@dataclass(slots=True)
class _Section:
    """How often a task has entered, and how many cancellations it had then that are not ours."""

    cancelling: int
    depth: int = 0
    stopped: bool = False


class Admission:
    """A call that was let in, for as long as it goes on.

    As a context, which a task may enter again and several tasks at once, it marks where the call may be stopped: what
    waits there is cancelled, and leaving the outermost one raises what a new call would be told. So the call ends with
    an error like any other, in the words of its protocol.
    """

    def __init__(self) -> None:
        self._reason: Error | None = None
        self._sections: dict[asyncio.Task[object], _Section] = {}
        self._leave: Callable[[], None] | None = None

    @classmethod
    def of(cls, guard: Guard, ctx: Context, headers: Mapping[bytes, bytes]) -> Admission:
        """Let a call in that goes on; `leave` it when it is done. Raises as `guard.admit` does."""
        guard.admit(ctx, headers)
        made = ctx._admission = cls()
        made._leave = guard.keep(ctx, headers, made.end)
        return made

    def end(self, reason: Error) -> None:
        """Stop the call. To be called by the event loop that the call runs in, not by the call itself."""
        if self._reason is not None:
            return
        self._reason = reason
        for task, section in self._sections.items():
            section.stopped = True
            task.cancel()

    def leave(self) -> None:
        """The call is done."""
        if self._leave is not None:
            self._leave()
        self._leave = self._reason = None

    def __enter__(self) -> None:
        if self._reason is not None:
            raise self._reason
        task = _current()
        section = self._sections.get(task)
        if section is None:
            self._sections[task] = _Section(task.cancelling())
        else:
            section.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:
            return  # thrown away with its task, in no event loop any more
        task = _current()
        section = self._sections[task]
        if section.depth:
            section.depth -= 1
            return
        del self._sections[task]
        # Whatever the handler made of its cancellation: it is taken back, and only somebody else's goes on.
        if section.stopped and task.uncancel() <= section.cancelling and self._reason is not None:
            raise self._reason from None


_UNBOUND = contextlib.nullcontext()


def of(ctx: Context) -> contextlib.AbstractContextManager[None]:
    """Where a call may be stopped; does nothing for one that nobody guards, or that does not go on."""
    return ctx._admission or _UNBOUND


def leave(ctx: Context | None) -> None:
    """The call is done, if it ever was let in."""
    if ctx is not None and ctx._admission is not None:
        ctx._admission.leave()


def _current() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
