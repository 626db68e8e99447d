"""Messages are cut out of a body as they were put into it, whatever pieces it comes in."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from micro.domain.errors import Error, Kind
from micro.rpc.envelopes import COMPRESSED, END, Envelopes, prefix

MESSAGES = [b"", b"a", os.urandom(300), b"", os.urandom(5000), b"z" * 17]


def cut(body: bytes, step: int, **options: int) -> list[tuple[int, bytes]]:
    envelopes, found = Envelopes(options.get("limit", 1 << 20), options.get("flags", 0)), []
    for start in range(0, len(body), step):
        envelopes.feed(body[start : start + step])
        while (one := envelopes.next()) is not None:
            found.append((one[0], b"".join(one[1])))
    envelopes.end()
    return found


@pytest.mark.parametrize("step", [1, 4, 5, 6, 64, 1000, 1 << 20])
def test_messages_come_out_as_they_went_in(step: int) -> None:
    body = b"".join(prefix(len(message)) + message for message in MESSAGES) + prefix(2, END) + b"{}"
    assert cut(body, step, flags=END) == [*((0, message) for message in MESSAGES), (END, b"{}")]


def test_a_message_that_is_too_long_is_refused_before_it_arrives() -> None:
    envelopes = Envelopes(10)
    envelopes.feed(prefix(11))
    with pytest.raises(Error, match="larger than configured max 10") as refused:
        envelopes.next()
    assert refused.value.kind is Kind.RESOURCE_EXHAUSTED


def test_flags_that_nobody_knows_are_refused() -> None:
    with pytest.raises(Error, match="invalid envelope flags"):
        cut(prefix(1, 4) + b"x", 100, flags=COMPRESSED)


@pytest.mark.parametrize(("body", "why"), [(prefix(5) + b"abc", "promised 5 bytes.*got 3"), (b"\0\0", "incomplete")])
def test_a_body_that_ends_too_early_is_a_mistake(body: bytes, why: str) -> None:
    with pytest.raises(Error, match=why) as refused:
        cut(body, 1)
    assert refused.value.kind is Kind.INVALID_ARGUMENT


def test_a_sender_of_crumbs_costs_what_it_sends() -> None:
    envelopes, crumb = Envelopes(1 << 20), b"xy"
    envelopes.feed(prefix(1 << 19))
    assert envelopes.next() is None
    tracemalloc.start()
    for _ in range(1 << 18):
        envelopes.feed(crumb)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1 << 20
    assert envelopes.next() is not None
