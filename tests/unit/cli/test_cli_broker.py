"""`micro broker`: messages as people and scripts send and hear them, against the broker's own handler."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_messaging import FakeMessaging
from shell import Result, Shell

from micro.backends.memory.broker import MemoryBroker
from micro.domain.account import Account
from micro.rpc.app import Application
from micro.services.broker import BrokerHandler
from micro.testing.callers import As


class Told(MemoryBroker):
    """Says when somebody subscribes."""

    def __init__(self) -> None:
        super().__init__()
        self.subscribed = threading.Semaphore(0)

    def subscribe(self, *about, **more):
        found = super().subscribe(*about, **more)
        self.subscribed.release()
        return found


@pytest.fixture
def broker() -> Told:
    return Told()


@pytest.fixture
def micro(tmp_path: Path, broker: Told) -> Iterator[Shell]:
    with FakeMessaging() as running:
        admin = As(Account("ann", "micro", scopes=frozenset({"admin"})))
        running.apps["/micro.broker."] = Application("broker", (BrokerHandler(broker),), guard=admin)
        yield Shell(tmp_path / "home", running.address)


class Listening(threading.Thread):
    """A subscriber in a thread of its own, which has begun."""

    def __init__(self, micro: Shell, broker: Told, *words: str) -> None:
        super().__init__(daemon=True)
        self._micro, self._words, self._result = micro, words, Result(-1, "", "")
        self.start()
        assert broker.subscribed.acquire(timeout=30)

    def run(self) -> None:
        self._result = self._micro("broker", "subscribe", *self._words)

    def result(self) -> Result:
        self.join(30)
        return self._result


def test_a_message_reaches_who_listens(micro: Shell, broker: Told, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"\xff\x00")
    lines = Listening(micro, broker, "orders.*", "--limit", "3")
    records = Listening(micro, broker, "orders.>", "--limit=3", "-o", "json")
    for words, stdin in (
        (["orders.created", '{"id": 7}', "--header", "shop=berlin"], ""),
        (["orders.paid", f"@{tmp_path}/body"], ""),
        (["orders.sent", "-"], "two\nlines"),
    ):
        assert micro("broker", "publish", *words, stdin=stdin) == Result(0, "", "")
    assert lines.result() == Result(
        0,
        'orders.created shop=berlin  {"id": 7}\norders.paid  (2 bytes: 0xff00)\norders.sent  two\\nlines\n',
        "subscribed to orders.*; Ctrl-C ends\n",
    )
    assert [json.loads(line) for line in records.result().out.splitlines()] == [
        {"topic": "orders.created", "header": {"shop": "berlin"}, "body": {"id": 7}, "encoding": "json"},
        {"topic": "orders.paid", "header": {}, "body": "/wA=", "encoding": "base64"},
        {"topic": "orders.sent", "header": {}, "body": "two\nlines", "encoding": "text"},
    ]


def test_those_of_a_queue_share(micro: Shell, broker: Told) -> None:
    members = [Listening(micro, broker, "jobs", "--queue", "workers", "--limit", "1") for _ in range(2)]
    for number in range(2):
        micro("broker", "publish", "jobs", str(number))
    assert sorted(one.result().out for one in members) == ["jobs  0\n", "jobs  1\n"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["publish", "orders.*", "x"], "'orders.*' is not a topic"),
        (["publish", "micro.auth", "x"], "the platform's own"),
        (["publish", "orders", "x", "--header", "half"], "--header takes KEY=VALUE, not 'half'"),
        (["publish", "orders", "@/nowhere/at/all"], "cannot read /nowhere/at/all: No such file"),
        (["publish", "orders", "x", "--header", "authorization=Bearer"], "leave out credentials"),
        (["subscribe", "orders..created"], "is not a topic or a pattern"),
        (["subscribe", "orders", "--queue", "a b"], "'a b' is not a group"),
        (["subscribe", "orders", "--limit", "-1"], "--limit"),
        (["publish"], "missing TOPIC"),
        (["publish", "orders"], "BODY is empty: nothing came on standard input; to send nothing, type ''"),
    ],
)
def test_what_cannot_be_done_is_said(micro: Shell, words: list[str], said: str) -> None:
    result = micro("broker", *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1
