"""Event streams on memory where time passes: what the contract cannot wait for."""

from micro.backends.memory.events import MemoryEvents
from micro.domain.event import DEDUP_SECONDS, New, Retention
from micro.testing.contracts.store import SettableClock

NS, TOPIC = "shop", "orders"


async def test_a_dedup_id_is_forgotten_after_a_while() -> None:
    clock = SettableClock()
    events = MemoryEvents(clock=clock)
    await events.configure(NS, TOPIC, Retention())
    for seconds, offset in ((0, 1), (DEDUP_SECONDS - 1, 1), (1, 2)):
        clock.advance(seconds)
        (told,) = await events.append(NS, TOPIC, [New("x", b"", dedup_id="1")])
        assert told.offset == offset


async def test_a_dedup_id_outlives_its_event() -> None:
    clock = SettableClock()
    events = MemoryEvents(clock=clock)
    await events.configure(NS, TOPIC, Retention(age=1))
    await events.append(NS, TOPIC, [New("x", b"", dedup_id="1")])
    clock.advance(2)
    assert await events.read(NS, TOPIC, 1, 10) == []
    (told,) = await events.append(NS, TOPIC, [New("y", b"", dedup_id="1")])
    assert (told.id, told.offset, told.duplicate) == ("x", 1, True)


async def test_events_go_when_they_are_as_old_as_is_said() -> None:
    clock = SettableClock()
    events = MemoryEvents(clock=clock)
    await events.configure(NS, TOPIC, Retention(age=60))
    for _ in range(3):
        await events.append(NS, TOPIC, [New("x", b"")])
        clock.advance(30)
    state = await events.state(NS, TOPIC)
    assert state is not None
    assert (state.first, state.last, state.count) == (3, 3, 1)
    assert await events.offset_at(NS, TOPIC, 0) == 3


async def test_a_clock_that_goes_back_leaves_the_order() -> None:
    clock = SettableClock()
    events = MemoryEvents(clock=clock)
    await events.configure(NS, TOPIC, Retention())
    start = clock.now
    await events.append(NS, TOPIC, [New("x", b"")])
    clock.now -= 5000
    await events.append(NS, TOPIC, [New("y", b"")])
    assert await events.offset_at(NS, TOPIC, start) == 1
    assert await events.offset_at(NS, TOPIC, start + 1) == 3
