"""Services that live by events and messages: tried again, given up, in order, drained, shared."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
from frail import Frail

from gen.helloworld.helloworld_connect import Helloworld
from gen.helloworld.helloworld_pb import Request, Response
from micro import Service, broker, client, events
from micro.framework import consumers
from micro.framework.consumers import Handling
from micro.testing import platform
from micro.testing.app import Connection, connect, started


@dataclass
class Order:
    id: str


class Handler(Helloworld):
    """Answers nothing: what is told here comes by events."""


def made(name: str = "mailer") -> Service:
    return Service(name, Handler())


async def test_what_fails_is_tried_again_and_given_up_with_its_reason() -> None:
    app, tries = made(), list[tuple[str, int]]()

    @app.consume("orders", max_deliver=3)
    async def mail(order: Order, handling: Handling) -> None:
        tries.append((order.id, handling.attempt))
        if order.id == "bad" or handling.attempt < 2:
            raise ValueError("no\nway")

    async with platform.running(app) as running:
        await running.publish("orders", Order("good"), group="mailer")
        await running.publish("orders", Order("bad"))
        await running.publish("orders", b"nonsense")
        first, second = await running.dead_letters("orders", "mailer")
    assert tries == [("good", 1), ("good", 2), ("bad", 1), ("bad", 2), ("bad", 3)]
    assert (first.attempts, first.reason) == (3, "ValueError: no way")
    # No other try would make an order of it.
    assert (second.attempts, second.reason) == (1, "event 3 of orders is no Order: it is not JSON")


async def test_events_of_one_key_are_handled_in_order_and_no_more_at_a_time_than_allowed() -> None:
    app, seen, busy, most = made(), defaultdict[str, list[int]](list), Counter[str](), list[int]()

    @app.consume("orders", concurrency=4)
    async def handle(event: events.Event[int]) -> None:
        busy[event.key] += 1
        most.append(busy.total())
        assert busy[event.key] == 1
        await asyncio.sleep(0)
        busy[event.key] -= 1
        if event.value % 7 == 0 and event.attempt == 1:
            raise ValueError
        seen[event.key].append(event.value)

    async with platform.running(app) as running:
        await events.publish_batch("orders", [events.New(number, key=f"k{number % 6}") for number in range(120)])
        await running.handled("orders")
    assert dict(seen) == {f"k{key}": list(range(key, 120, 6)) for key in range(6)}
    assert 1 < max(most) <= 4


async def test_a_stop_finishes_what_is_in_hand_and_gives_back_the_rest_uncounted() -> None:
    first, second, begun, go = made(), made(), asyncio.Event(), asyncio.Event()
    done: list[tuple[str, int, int]] = []

    @first.consume("orders", concurrency=2, max_deliver=1)
    async def slow(event: events.Event[bytes]) -> None:
        begun.set()
        await (go.wait() if event.offset == 1 else asyncio.Event().wait())
        done.append(("first", event.offset, event.attempt))

    @second.consume("orders", max_deliver=1)
    def quick(event: events.Event[bytes]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        done.append(("second", event.offset, event.attempt))

    first.consumers.drain = 0.2
    async with platform.running() as running:
        async with started(first):
            await first.consumers.joined()
            await events.publish_batch("orders", [b""] * 5)
            await begun.wait()
            go.set()
        async with started(second):
            await running.handled("orders", "mailer")
        assert await running.dead_letters("orders", "mailer") == []
    assert sorted(done) == [("first", 1, 1), *(("second", offset, 1) for offset in range(2, 6))]


async def test_subscribers_of_a_queue_share_and_others_get_everything() -> None:
    apps, got = [made(), made(), made("audit")], Counter[str]()
    all_of_it = asyncio.Event()

    def count(name: str) -> None:
        got[name] += 1
        if got.total() == 20:
            all_of_it.set()

    for app in apps:

        @app.subscribe("orders.*")
        async def hear(order: Order, handling: Handling) -> None:
            assert handling.topic == "orders.created"
            count(handling.service)

    async with platform.running(apps[2]), started(apps[0]), started(apps[1]):
        await apps[0].consumers.joined()
        await apps[1].consumers.joined()
        for number in range(10):
            await broker.publish("orders.created", Order(str(number)))
        await asyncio.wait_for(all_of_it.wait(), 30)
    assert got == {"mailer": 10, "audit": 10}


async def test_the_registry_is_told_what_a_service_consumes() -> None:
    app = made()

    @app.consume("orders")
    @app.consume("payments", group="books")
    async def handle(event: Any) -> None: ...

    app.subscribe("prices.>", queue="")(handle)
    told = app.registration().metadata
    assert told == {"consumes": "payments/books orders/mailer", "subscribes": "prices.>"}


def test_bad_declarations_are_told_at_import() -> None:
    app = made()

    async def fine(event: Any) -> None: ...

    async def too_many(one: Any, two: Any, three: Any) -> None: ...

    async def yields(event: Any) -> Any:
        yield event

    wrong: Any = app.consume
    app.consume("orders")(fine)
    for declare, said in [
        (lambda: wrong(fine)(fine), "needs the name of a topic"),
        (lambda: app.consume("no topic")(fine), "is not a topic"),
        (lambda: app.consume("orders", group="a/b")(fine), "is not a group"),
        (lambda: app.consume("orders")(fine), "has a function for it already"),
        (lambda: app.consume("other")(too_many), "takes one parameter"),
        (lambda: app.consume("other")(yields), "yields"),
        (lambda: app.consume("other", concurrency=0)(fine), "concurrency=0"),
        (lambda: wrong("other", start="old")(fine), "no place in a topic"),
        (lambda: wrong("other", as_type="Order")(fine), "is no type"),
        (lambda: app.subscribe(">.a")(fine), "is not a topic or a pattern"),
    ]:
        with pytest.raises(TypeError, match=said):
            declare()


async def test_a_service_that_starts_while_events_is_away_answers_calls_and_consumes_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hello(Helloworld):
        async def call(self, request: Request, ctx: Any) -> Response:
            return Response(msg=f"Hello {request.name}")

    app, came = Service("mailer", Hello()), asyncio.Event()
    monkeypatch.setattr(consumers, "LONG", 0.0)

    @app.consume("orders", start="all")
    async def mail(order: Order) -> None:
        came.set()

    async with platform.running() as running:
        await events.publish("orders", Order("1"))
        with client.pool.through(frail := Frail(running.services)):
            frail.away = True
            async with connect(app) as service:
                await app.consumers.joined()
                assert await service.call("call", {"name": "Ann"}) == {"msg": "Hello Ann"}
                assert await health(service) == "SERVING"
                assert await health(service, "consumers") == "NOT_SERVING"
                assert await health(service, "consumers/orders/mailer") == "NOT_SERVING"
                assert "nothing is there" in app.consumers.reasons["orders/mailer"]
                frail.away = False
                await asyncio.wait_for(came.wait(), 30)
                assert await health(service, "consumers") == "SERVING"


async def health(service: Connection, name: str = "") -> str:
    """What the service says of itself, or of one side of it."""
    answer = await service.http("POST", "/grpc.health.v1.Health/Check", {"service": name})
    return str(answer.json()["status"])


async def test_a_stream_that_breaks_under_a_handler_does_not_have_the_event_handled_twice() -> None:
    app, begun, go = made(), asyncio.Event(), asyncio.Event()
    tries: list[tuple[int, int]] = []

    @app.consume("orders", start="all")
    async def handle(event: events.Event[bytes]) -> None:
        tries.append((event.offset, event.attempt))
        if event.offset == 1:
            begun.set()
            await go.wait()

    async with platform.running() as running:
        await events.publish_batch("orders", [b""] * 3)
        with client.pool.through(frail := Frail(running.services)):
            async with started(app):
                await begun.wait()
                frail.cut()
                async with asyncio.timeout(30):
                    while frail.streams < 2:
                        await asyncio.sleep(0)
                go.set()
                await running.handled("orders", "mailer")
                assert [offset for offset, _ in tries].count(1) == 1
                assert tries[0] == (1, 1)
                assert {offset for offset, _ in tries} == {1, 2, 3}
        assert await running.dead_letters("orders", "mailer") == []


async def test_a_plain_function_that_outlives_the_drain_gives_its_event_to_another_and_counts_for_nothing() -> None:
    first, second, begun = made(), made(), asyncio.Event()
    go, ended = threading.Event(), threading.Event()
    done: list[tuple[int, int]] = []
    loop = asyncio.get_running_loop()

    @first.consume("orders", max_deliver=1)
    def slow(event: events.Event[bytes]) -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait(30)
        ended.set()
        raise ValueError("too late")

    @second.consume("orders", max_deliver=1)
    async def quick(event: events.Event[bytes]) -> None:
        done.append((event.offset, event.attempt))

    first.consumers.drain = 0.0
    async with platform.running() as running:
        async with started(first):
            await first.consumers.joined()
            await events.publish("orders", b"")
            await begun.wait()
        assert not ended.is_set()
        async with started(second):
            await running.handled("orders", "mailer")
            go.set()
            await asyncio.to_thread(ended.wait, 30)
            await running.publish("orders", b"")
        assert await running.dead_letters("orders", "mailer") == []
    assert done == [(1, 1), (2, 1)]


async def test_a_service_that_only_consumes_needs_no_handler() -> None:
    app, came = Service("mailer"), list[str]()

    @app.consume("orders")
    async def mail(order: Order) -> None:
        came.append(order.id)

    async with platform.running(app) as running:
        await running.publish("orders", Order("7"), group="mailer")
    assert came == ["7"]
    told = app.registration()
    assert (told.endpoints, told.metadata) == ((), {"consumes": "orders/mailer"})
    async with connect(app) as service:
        answer = await service.http("POST", "/mailer/list", {})
        assert (answer.status, "mailer has no endpoint at /mailer/list: it takes no calls" in answer.body.decode()) == (
            404,
            True,
        )
        assert await health(service) == "SERVING"


async def test_a_handler_that_takes_longer_than_its_event_has_time_is_cancelled_and_told_why() -> None:
    app, cancelled = made(), list[int]()

    @app.consume("orders", ack_wait=0.5, max_deliver=2)
    async def hang(event: events.Event[bytes]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.attempt)
            raise

    async with platform.running(app) as running:
        await running.publish("orders", b"", group="mailer")
        (dead,) = await running.dead_letters("orders", "mailer")
    assert cancelled == [1, 2]
    assert dead.reason == "it took longer than ack_wait, 0.5 s"


async def test_what_waits_in_a_service_for_its_turn_is_not_late() -> None:
    app, seen = made(), list[tuple[int, int]]()

    @app.consume("orders", concurrency=1, ack_wait=1.5, max_deliver=1)
    async def slow(event: events.Event[bytes]) -> None:
        await asyncio.sleep(0.4)
        seen.append((event.offset, event.attempt))

    async with platform.running(app) as running:
        await events.publish_batch("orders", [b""] * 6)
        await running.handled("orders", "mailer")
        assert await running.dead_letters("orders", "mailer") == []
    assert seen == [(number, 1) for number in range(1, 7)]


async def test_what_a_test_asserts_reaches_it_as_it_is() -> None:
    with pytest.raises(AssertionError, match="one is not two"):
        async with platform.running(made()):
            raise AssertionError("one is not two")
