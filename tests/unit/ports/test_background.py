"""Background work ends with the stack that owns it, and never in silence."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from micro.ports import background
from micro.ports.clock import MonotonicClock


async def test_work_is_cancelled_and_waited_for_when_the_stack_unwinds() -> None:
    events: list[str] = []

    async def work() -> None:
        try:
            events.append("began")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("ended")

    async with AsyncExitStack() as stack:
        task = background.spawn(stack, work(), "work")
        await asyncio.sleep(0)
        assert events == ["began"]
    assert events == ["began", "ended"]
    assert task.cancelled()


@pytest.mark.parametrize("fails", [True, False])
async def test_work_that_ends_by_itself_is_a_fault_that_is_logged(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        if fails:
            raise ValueError("the cause")

    async with AsyncExitStack() as stack:
        task = background.spawn(stack, work(), "the work")
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert "the work has ended" in caplog.text
    assert ("the cause" in caplog.text) == fails


async def test_a_clock_waits_for_the_event_or_the_time() -> None:
    clock = MonotonicClock()
    before = clock.now()
    event = asyncio.Event()
    await clock.wait(event, 0)
    event.set()
    await clock.wait(event, None)
    assert clock.now() >= before
