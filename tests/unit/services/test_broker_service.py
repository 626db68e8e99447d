"""The broker's handler over memory: what it takes, what it tells, and what it does with who reads slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Self

import pytest
from callers import ROOT, calling, robot, user

from micro.backends.memory.broker import MemoryBroker
from micro.domain.account import Account
from micro.domain.errors import Error, Kind
from micro.rpc.context import Context
from micro.rpc.gen.micro.broker.v1 import broker_pb as pb
from micro.services import broker as service
from micro.services.broker import BrokerHandler, Buffer

ANN, BOB = user("ann"), user("bob", "bank")
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
PATIENCE = 30.0


@pytest.fixture
def handler() -> BrokerHandler:
    return BrokerHandler(MemoryBroker(), lambda namespace: namespace in ("shop", "bank", "micro"))


def asking(account: Account, headers: Mapping[str, str]) -> Context:
    ctx = Context(None, {"headers": [(a.encode(), b.encode()) for a, b in headers.items()]}, None)  # type: ignore[arg-type]
    ctx.account = account
    return ctx


async def publish(
    handler: BrokerHandler,
    topic: str,
    body: bytes = b"",
    header: Mapping[str, str] | None = None,
    ctx: Context | None = None,
    namespace: str = "",
) -> None:
    message = pb.Message(header=dict(header or {}), body=body)
    request = pb.PublishRequest(topic=topic, message=message, namespace=namespace)
    await handler.publish(request, ctx or calling(ANN))


class Listener:
    """A subscription that is read when the test says so."""

    def __init__(self, handler: BrokerHandler, topic: str, account: Account = ANN, **more: Any) -> None:
        self._answers = handler.subscribe(pb.SubscribeRequest(topic=topic, **more), calling(account))

    async def __aenter__(self) -> Self:
        assert await self.answer() == pb.SubscribeResponse()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._answers.aclose()  # type: ignore[attr-defined]

    async def answer(self) -> pb.SubscribeResponse:
        async with asyncio.timeout(PATIENCE):
            return await anext(self._answers)


async def refused(kind: Kind, call: Any, *words: str) -> None:
    with pytest.raises(Error) as caught:
        await call
    assert caught.value.kind is kind
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


async def test_several_messages_come_in_one_answer(handler: BrokerHandler) -> None:
    async with Listener(handler, "orders.*") as listener:
        for number in range(5):
            await publish(handler, f"orders.{number}", b"%d" % number, {"n": "é"})
        answer = await listener.answer()
    assert [(each.topic, each.body, dict(each.header)) for each in answer.messages] == [
        (f"orders.{number}", b"%d" % number, {"n": "é"}) for number in range(5)
    ]
    assert answer.dropped == 0


async def test_namespaces_and_those_who_name_them(handler: BrokerHandler) -> None:
    async with Listener(handler, ">") as ours, Listener(handler, ">", ROOT, namespace="bank") as theirs:
        await publish(handler, "orders", b"shop", ctx=calling(robot("books")))
        await publish(handler, "orders", b"bank", ctx=calling(BOB))
        await publish(handler, "orders", b"bank too", ctx=calling(ROOT), namespace="bank")
        assert [each.body for each in (await ours.answer()).messages] == [b"shop"]
        assert [each.body for each in (await theirs.answer()).messages] == [b"bank", b"bank too"]
    await refused(Kind.PERMISSION_DENIED, publish(handler, "orders", namespace="bank"))
    await refused(Kind.NOT_FOUND, publish(handler, "orders", ctx=calling(ROOT), namespace="nope"), "nope")
    for asked, account, kind in (("bank", ANN, Kind.PERMISSION_DENIED), ("nope", ROOT, Kind.NOT_FOUND)):
        await refused(kind, Listener(handler, "orders", account, namespace=asked).answer())


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "a b", "a.*", ">", "a\n", "é", "a" * 256])
async def test_what_is_no_topic(handler: BrokerHandler, name: str) -> None:
    await refused(Kind.INVALID_ARGUMENT, publish(handler, name), "is not a topic")


@pytest.mark.parametrize("name", ["", "a..b", "a.>.b", "a*", ">.a", "a.**", " ", "a" * 256])
async def test_what_is_no_pattern(handler: BrokerHandler, name: str) -> None:
    await refused(Kind.INVALID_ARGUMENT, Listener(handler, name).answer(), "is not a topic or a pattern")


@pytest.mark.parametrize("name", ["a b", "*", ".", "q" * 64])
async def test_what_is_no_queue(handler: BrokerHandler, name: str) -> None:
    await refused(Kind.INVALID_ARGUMENT, Listener(handler, "orders", queue=name).answer(), "is not a group")


async def test_what_is_too_large_or_missing(handler: BrokerHandler) -> None:
    await publish(handler, "orders", b"x" * (1 << 20))
    await refused(Kind.INVALID_ARGUMENT, publish(handler, "orders", b"x" * ((1 << 20) + 1)), "1,048,577", "blob")
    await refused(Kind.INVALID_ARGUMENT, handler.publish(pb.PublishRequest(topic="a"), calling(ANN)), "message")
    many = {str(number): "" for number in range(65)}
    await refused(Kind.INVALID_ARGUMENT, publish(handler, "orders", header=many), "65 pairs")
    await refused(Kind.INVALID_ARGUMENT, publish(handler, "orders", header={"a": "x" * 17_000}), "the header")
    await refused(Kind.INVALID_ARGUMENT, publish(handler, "orders", header={"": "x"}), "without a name")


async def test_the_platforms_own_topics_are_only_listened_to(handler: BrokerHandler) -> None:
    for name in ("micro", "micro.auth"):
        await refused(Kind.PERMISSION_DENIED, publish(handler, name, ctx=calling(ROOT)), "the platform's own")
    await publish(handler, "microscope.sold")
    async with Listener(handler, "micro.>"):
        pass


@pytest.mark.parametrize(
    "name", ["Authorization", "cookie", "SET-COOKIE", "Proxy-Authorization", "micro-namespace", "Micro-Actor"]
)
async def test_credentials_do_not_go_into_a_message(handler: BrokerHandler, name: str) -> None:
    await refused(
        Kind.INVALID_ARGUMENT, publish(handler, "orders", header={name: "Bearer hush"}), name.lower(), "credentials"
    )


async def test_of_the_request_only_the_trace_goes_with_a_message(handler: BrokerHandler) -> None:
    shown = {"authorization": "Bearer hush", "cookie": "hush", "micro-namespace": "shop", "x-own": "hush"}
    trace = {"traceparent": PARENT, "tracestate": "vendor=1"}
    cases: list[tuple[dict[str, str], dict[str, str], dict[str, str]]] = [
        (trace, {"a": "b"}, {"a": "b", **trace}),
        ({"traceparent": PARENT}, {}, {"traceparent": PARENT}),
        (trace, {"TraceParent": "own"}, {"TraceParent": "own"}),
        (trace, {"tracestate": "own"}, {"tracestate": "own", "traceparent": PARENT}),
        ({"traceparent": "Bearer hush"}, {}, {}),
        ({"tracestate": "vendor=1"}, {}, {}),
        ({"traceparent": PARENT, "tracestate": "x" * 513}, {}, {"traceparent": PARENT}),
    ]
    for request, given, expected in cases:
        async with Listener(handler, "orders") as listener:
            await publish(handler, "orders", b"", given, asking(ANN, {**shown, **request}))
            (message,) = (await listener.answer()).messages
        assert dict(message.header) == expected


async def test_who_reads_slowly_loses_the_oldest_is_told_and_slows_nobody(handler: BrokerHandler) -> None:
    async with Listener(handler, "orders") as slow, Listener(handler, "orders") as quick:
        sent, read = [b"%d" % number for number in range(service.BUFFER_MESSAGES + 300)], []
        for number, body in enumerate(sent, 1):
            await publish(handler, "orders", body)
            if number % 100 == 0:
                read += [each.body for each in (await quick.answer()).messages]
        while len(read) < len(sent):
            read += [each.body for each in (await quick.answer()).messages]
        assert read == sent
        first = await slow.answer()
        assert first.dropped == 300
        late = [each.body for each in first.messages]
        while len(late) < service.BUFFER_MESSAGES:
            answer = await slow.answer()
            assert answer.dropped == 0
            late += [each.body for each in answer.messages]
        assert late == sent[300:]


async def test_a_buffer_is_bounded_in_bytes_and_keeps_one_at_least() -> None:
    buffer = Buffer(most=100, most_bytes=1000)
    for number in range(20):
        buffer.put(pb.Message(body=b"%d" % number), 300)
    await buffer.some()
    answer = buffer.take()
    assert ([each.body for each in answer.messages], answer.dropped) == ([b"17", b"18", b"19"], 17)
    buffer.put(pb.Message(body=b"large"), 5000)
    await buffer.some()
    answer = buffer.take()
    assert ([each.body for each in answer.messages], answer.dropped) == ([b"large"], 0)


async def test_an_answer_is_bounded(handler: BrokerHandler) -> None:
    async with Listener(handler, "orders") as listener:
        for _ in range(service.FRAME_MESSAGES + 1):
            await publish(handler, "orders")
        assert len((await listener.answer()).messages) == service.FRAME_MESSAGES
        assert len((await listener.answer()).messages) == 1
        for _ in range(3):
            await publish(handler, "orders", b"x" * (200 << 10))
        assert [len((await listener.answer()).messages) for _ in range(3)] == [1, 1, 1]


async def test_a_queue_shares_and_who_leaves_gets_nothing_more(handler: BrokerHandler) -> None:
    async with Listener(handler, "orders", queue="billing") as stays:
        async with Listener(handler, "orders", queue="billing"):
            pass
        for _ in range(4):
            await publish(handler, "orders")
        assert len((await stays.answer()).messages) == 4


async def test_subscriptions_of_a_namespace_are_bounded(
    handler: BrokerHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SUBSCRIPTIONS", 2)
    async with Listener(handler, "a"):
        async with Listener(handler, "b"):
            await refused(Kind.RESOURCE_EXHAUSTED, Listener(handler, "c").answer(), "shop", "2 subscriptions")
            async with Listener(handler, "c", BOB):
                pass
        async with Listener(handler, "c"):
            pass


async def test_a_subscription_that_is_left_leaves_nothing(handler: BrokerHandler) -> None:
    answers: AsyncIterator[pb.SubscribeResponse] = handler.subscribe(pb.SubscribeRequest(topic="a"), calling(ANN))
    async with aclosing(answers):  # type: ignore[type-var]
        await anext(answers)
    await publish(handler, "a")
    assert not handler._subscriptions


async def test_a_batch_comes_in_order_or_not_at_all(handler: BrokerHandler) -> None:
    def batch(*bodies: bytes, **more: Any) -> pb.PublishBatchRequest:
        return pb.PublishBatchRequest(topic="a.b", messages=[pb.Message(body=body) for body in bodies], **more)

    async with Listener(handler, "a.*") as listener:
        await handler.publish_batch(batch(b"1", b"2", b"3"), calling(ANN))
        heard: list[bytes] = []
        while len(heard) < 3:
            heard += [message.body for message in (await listener.answer()).messages]
        assert heard == [b"1", b"2", b"3"]
    for wrong, kind in (
        (batch(), Kind.INVALID_ARGUMENT),
        (batch(*[b""] * 1001), Kind.INVALID_ARGUMENT),
        (batch(*[bytes(1 << 20)] * 5), Kind.INVALID_ARGUMENT),
        (batch(b"ok", bytes((1 << 20) + 1)), Kind.INVALID_ARGUMENT),
        (batch(b"x", namespace="bank"), Kind.PERMISSION_DENIED),
    ):
        with pytest.raises(Error) as caught:
            await handler.publish_batch(wrong, calling(ANN))
        assert caught.value.kind is kind
