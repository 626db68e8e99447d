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


async def test_owned_tasks_end_with_the_stack_and_those_they_started_on_the_way_too() -> None:
    ended: list[str] = []
    tasks = background.OwnedTasks()

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)
            if name == "first":
                tasks.spawn(work("second"), "second")

    async with AsyncExitStack() as stack:
        await tasks.start(stack)
        tasks.spawn(work("first"), "first")
        await asyncio.sleep(0)
        assert ended == []
    assert ended[0] == "first"
    assert not asyncio.all_tasks() - {asyncio.current_task()}


async def test_a_task_that_fails_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    tasks = background.OwnedTasks()
    done = asyncio.Event()

    async def fail() -> None:
        raise ValueError("the cause")

    async def answer() -> int:
        await done.wait()
        return 42

    async with AsyncExitStack() as stack:
        await tasks.start(stack)
        failing, other = tasks.spawn(fail(), "the failing"), tasks.spawn(answer(), "other")
        await asyncio.wait([failing])
        await asyncio.sleep(0)
        done.set()
        assert await other == 42
    assert "'the failing' ended unexpectedly" in caplog.text
    assert "the cause" in caplog.text


async def test_a_task_that_somebody_else_made_is_owned_while_it_says_so() -> None:
    tasks = background.OwnedTasks()
    joined, left = asyncio.Event(), asyncio.Event()

    async def converse() -> None:
        with tasks.joined():
            joined.set()
            await asyncio.Event().wait()

    async def leave() -> None:
        with tasks.joined():
            pass
        left.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        conversation, gone = group.create_task(converse()), group.create_task(leave())
        await joined.wait()
        await left.wait()
        await tasks.cancel()
        assert conversation.cancelled()
        assert not gone.done()
        gone.cancel()
