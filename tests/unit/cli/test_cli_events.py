"""`micro events`: topics, groups and dead letters as people and scripts handle them, against the service's handlers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from fake_messaging import FakeMessaging
from shell import Result, Screen, Shell

from micro.backends.memory.events import MemoryEvents
from micro.cli import app
from micro.cli.session import Session
from micro.domain.account import Account
from micro.domain.event import DeadLetter, Event
from micro.rpc.app import Application
from micro.services.events import (
    DeadLettersHandler,
    EventsHandler,
    GroupsHandler,
    StreamHandler,
    Topics,
    TopicsHandler,
)
from micro.testing.callers import As

ODD = bytes(range(256))


class World(FakeMessaging):
    """Events on memory, and a look into them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = MemoryEvents()
        self.topics = Topics(self.kept)
        self._stack = AsyncExitStack()
        handlers = (
            StreamHandler(self.topics),
            EventsHandler(self.topics),
            TopicsHandler(self.topics),
            GroupsHandler(self.topics),
            DeadLettersHandler(self.topics),
        )
        admin = As(Account("ann", "micro", scopes=frozenset({"admin"})))
        self.apps["/micro.events."] = Application("events", handlers, guard=admin)

    def __enter__(self) -> Self:
        super().__enter__()
        self.do(self.topics.start(self._stack))
        return self

    def __exit__(self, *about: object) -> None:
        self.do(self._stack.aclose())
        super().__exit__(*about)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def bury(self, offset: int) -> None:
        """Have group billing of orders give up an event."""
        event = Event(f"e{offset}", offset, 1_767_225_600_000, b"broken", {}, "7")
        self.do(self.kept.bury("micro", "orders", "billing", DeadLetter(event, 5, "no such card", 1_767_225_700_000)))


@pytest.fixture
def world() -> Iterator[World]:
    with World() as running:
        yield running


@pytest.fixture
def micro(tmp_path: Path, world: World) -> Shell:
    return Shell(tmp_path / "home", world.address)


def records(result: Result) -> list[dict[str, Any]]:
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def orders(micro: Shell, count: int) -> None:
    for number in range(1, count + 1):
        assert micro("events", "publish", "orders", f'{{"id": {number}}}', "--key", str(number)).code == 0


def test_what_is_published_is_read_back_whatever_it_is(micro: Shell, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(ODD)
    published = micro(
        "events", "publish", "t", '{"a": 1}', "-k", "ann", "--metadata", "type=x", "--timestamp", "2026-01-01T00:00Z"
    )
    assert published == Result(0, "event 1 of t\n", "")
    assert micro("events", "publish", "t", f"@{tmp_path}/photo").out == "event 2 of t\n"
    assert micro("events", "publish", "t", "-", stdin="two\nlines").out == "event 3 of t\n"
    answer = json.loads(micro("events", "publish", "t", stdin="piped", terminal=False).out.replace("event 4 of t", "4"))
    first, second, third, fourth = records(micro("events", "read", "t", "-o", "json"))
    assert answer == fourth["offset"] == 4
    assert first | {"id": ""} == {
        "topic": "t", "id": "", "offset": 1, "timestamp": "2026-01-01T00:00:00Z", "key": "ann",
        "metadata": {"type": "x"}, "payload": {"a": 1}, "encoding": "json",
    }  # fmt: skip
    assert base64.b64decode(second["payload"]) == ODD
    assert (third["payload"], third["encoding"]) == ("two\nlines", "text")
    assert "key" not in third
    assert [line.split("  ")[-1] for line in micro("events", "read", "t").out.splitlines()] == [
        '{"a": 1}', f"(256 bytes: 0x{ODD[:20].hex()}…)", "two\\nlines", "piped",
    ]  # fmt: skip
    assert f"ann  {first['id']}  {{type=x}}" in micro("events", "read", "t", "-v").out


def test_a_dedup_id_publishes_once(micro: Shell) -> None:
    assert micro("events", "publish", "t", "x", "--dedup-id", "d").out == "event 1 of t\n"
    assert micro("events", "publish", "t", "--dedup-id", "d", "x").out == "event 1 of t, published before\n"
    told = json.loads(micro("events", "publish", "t", "x", "--dedup-id=d", "-o", "json").out)
    assert (told["offset"], told["duplicate"], len(told["id"]) > 8) == (1, True, True)


def test_reading_goes_page_by_page(micro: Shell) -> None:
    orders(micro, 5)
    cut = micro("events", "read", "orders", "--from", "2", "--limit", "2")
    assert [line[0] for line in cut.out.splitlines()] == ["2", "3"]
    assert cut.err == "2 more: micro events read orders --from 4\n"
    assert [one["offset"] for one in records(micro("events", "read", "orders", "--limit", "0", "-o", "json"))] == [
        1, 2, 3, 4, 5,
    ]  # fmt: skip
    assert micro("events", "read", "orders", "--from", "new") == Result(0, "", "")
    assert len(micro("events", "read", "orders", "--from", "10m").out.splitlines()) == 5
    assert micro("events", "read", "orders", "--from", "99") == Result(0, "", "")


def test_a_group_goes_on_where_it_was(micro: Shell) -> None:
    orders(micro, 4)
    first = micro("events", "consume", "orders", "-g", "billing", "--from", "all", "-l", "1")
    assert first.err == "consuming orders from 1 on, group billing; Ctrl-C ends\n"
    assert first.out.endswith('1  {"id": 1}\n')
    rest = micro("events", "consume", "orders", "-g", "billing", "-l", "3", "-o", "json")
    assert [(one["offset"], one["attempt"]) for one in records(rest)] == [(2, 1), (3, 1), (4, 1)]
    assert [one["lag"] for one in json.loads(micro("events", "groups", "orders", "-o", "json").out)] == [0]
    # Alone, everything is there still, and nothing is remembered.
    for _ in range(2):
        assert len(records(micro("events", "consume", "orders", "--from", "2", "-l", "3", "-o", "json"))) == 3


def test_a_topic_that_is_not_there_is_waited_for_and_not_made(micro: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    orders(micro, 1)
    steps = iter([lambda: None, lambda: micro("events", "publish", "orderz", "late")])
    monkeypatch.setattr(Session, "sleep", lambda *_: next(steps)())
    told = "there is no topic orderz yet (did you mean orders?); waiting for its first event, Ctrl-C ends\n"
    result = micro("events", "consume", "orderz", "-l", "1")
    assert result.out.endswith("late\n")
    assert result.err == told + "consuming orderz from 1 on; Ctrl-C ends\n"

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "sleep", leave)
    for words in ([], ["-g", "billing"], ["--from", "all"]):
        alone = micro("events", "consume", "prices", *words)
        assert (alone.code, alone.out) == (130, "")
        assert alone.err == "there is no topic prices yet; waiting for its first event, Ctrl-C ends\n"
    assert [one["name"] for one in json.loads(micro("events", "topics", "-o", "json").out)] == ["orders", "orderz"]


def test_a_group_that_waited_for_its_topic_gets_all_of_it(micro: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "sleep", lambda *_: orders(micro, 2))
    assert len(records(micro("events", "consume", "orders", "-g", "b", "--from", "new", "-l", "2", "-o", "json"))) == 2


def test_a_topic_of_the_platform_is_consumed_before_it_was_told(micro: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "flush", leave)
    assert "consuming micro.runtime from 1 on" in micro("events", "consume", "micro.runtime").err
    monkeypatch.undo()
    assert "there is no topic micro.nothing" in micro("events", "consume", "micro.nothing").err


def test_a_reader_that_leaves_gives_back_what_it_did_not_show(micro: Shell) -> None:
    orders(micro, 3)

    class Closed(Screen):
        """A pipe whose reader leaves after the first line."""

        def write(self, text: str) -> int:
            if self.getvalue():
                raise BrokenPipeError
            return super().write(text)

    out, err = Closed(), Screen()
    assert app.run(["events", "consume", "orders", "-g", "b", "--from", "all"], Screen(), out, err, micro.environ) == 0
    assert out.getvalue().startswith("1  ")
    again = records(micro("events", "consume", "orders", "-g", "b", "-l", "2", "-o", "json"))
    assert [(one["offset"], one["attempt"]) for one in again] == [(2, 1), (3, 1)]


def test_ctrl_c_leaves_a_group_in_order(micro: Shell) -> None:
    orders(micro, 2)

    class Watched(Screen):
        """Presses Ctrl-C once the second event is on the screen."""

        def write(self, text: str) -> int:
            if text.startswith("2  "):
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    out, before = Watched(), signal.getsignal(signal.SIGINT)
    words = ["events", "consume", "orders", "-g", "b", "--from", "all"]
    assert app.run(words, Screen(), out, Screen(), micro.environ) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert len(out.getvalue().splitlines()) == 2
    assert json.loads(micro("events", "groups", "orders", "-o", "json").out)[0]["next"] == 3


def test_a_consumer_goes_on_after_a_reset_and_ends_with_its_topic(micro: Shell) -> None:
    orders(micro, 2)
    told = threading.Event()

    class Watched(Screen):
        def write(self, text: str) -> int:
            if text.startswith("2  "):
                told.set()
            return super().write(text)

    out, err = Watched(), Screen()
    words = ["events", "consume", "orders", "--from", "all", "-o", "text", "-g", "b", "--limit", "4"]
    consuming = threading.Thread(target=app.run, args=(words, Screen(), out, err, micro.environ), daemon=True)
    # Signals are the main thread's; this one has none to hear.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)
        consuming.start()
        assert told.wait(30)
        assert (
            micro("events", "reset", "orders", "b", "--to", "all").out == "group b goes on at 1; 2 events to handle\n"
        )
        consuming.join(30)
    assert [line[0] for line in out.getvalue().splitlines()] == ["1", "2", "1", "2"]


def test_topics_are_listed_kept_and_deleted(micro: Shell) -> None:
    assert "has no topics yet; make one: micro events publish orders hello" in micro("events", "topics").err
    orders(micro, 2)
    micro("events", "consume", "orders", "-g", "billing", "--from", "all", "-l", "1")
    listed = micro("events", "topics").out.splitlines()
    assert listed[1].split() == ["orders", "2", listed[1].split()[2], "1", "2", "1", "7d", "1G"]
    one = json.loads(micro("events", "topic", "orders", "-o", "json").out)
    assert one["retention"] == {"age": 604800.0, "bytes": 1 << 30, "count": 0}
    assert [group["name"] for group in one["groups"]] == ["billing"]
    shown = micro("events", "topics", "orders").out.splitlines()
    assert shown[-1].split() == ["billing", "1", "2", "0", "0", "0"]

    said = micro("events", "retain", "orders", "--age", "12h", "--count", "1").out
    assert said == "orders keeps events for 12h, up to 1G, 1 event\n"
    assert micro("events", "retain", "orders", "--bytes", "0").out == "orders keeps events for 12h, up to 1 event\n"
    assert [one["offset"] for one in records(micro("events", "read", "orders", "-o", "json"))] == [2]
    assert "there is no topic order: did you mean orders?" in micro("events", "retain", "order", "--age", "1d").err
    made = micro("events", "retain", "later", "--age", "0", "--create")
    assert made == Result(0, "later keeps events for ever, up to 1G\n", "")

    refused = micro("events", "delete", "orders")
    assert (refused.code, refused.err) == (2, "micro: nothing was deleted: where nobody can be asked, add --force\n")
    assert micro("events", "delete", "orders", "--force").out == "topic orders deleted\n"
    assert micro("events", "delete", "orders", "--force").err == "there was no topic 'orders'\n"


def test_dead_letters_are_listed_redriven_and_dropped(micro: Shell, world: World) -> None:
    orders(micro, 3)
    micro("events", "consume", "orders", "-g", "billing", "--from", "all", "-l", "3")
    empty = micro("events", "dead-letters", "orders", "billing")
    assert empty == Result(0, "", "group billing of orders has no dead letters\n")
    for offset in (1, 2, 3):
        world.bury(offset)
    listed = micro("events", "dead-letters", "orders", "billing").out.splitlines()
    assert [line.split()[0] for line in listed] == ["OFFSET", "1", "2", "3"]
    assert "no such card" in listed[1]
    [one] = json.loads(micro("events", "dead-letters", "orders", "billing", "-l", "1", "-o", "json").out)
    assert (one["offset"], one["attempt"], one["payload"], one["reason"]) == (1, 5, "broken", "no such card")
    assert one["died"] == "2026-01-01T00:01:40Z"

    redriven = micro("events", "redrive", "orders", "billing", "2", "9")
    assert redriven.out == "1 event will be delivered to billing again\n"
    assert redriven.err == "1 of the offsets is no dead letter of the group\n"
    assert "add --force" in micro("events", "drop", "orders", "billing", "3").err
    assert micro("events", "drop", "orders", "billing", "3", "--force").out == "1 dead letter removed\n"
    again = records(micro("events", "consume", "orders", "-g", "billing", "-l", "1", "-o", "json"))
    assert [(event["offset"], event["payload"]) for event in again] == [(2, "broken")]
    assert micro("events", "drop", "orders", "billing", "1", "--force").out == "1 dead letter removed\n"
    assert micro("events", "forget", "orders", "billing", "--force").out == "group billing of orders removed\n"
    assert micro("events", "forget", "orders", "billing", "--force").err == "there was no group 'billing' of orders\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["publish", "a b", "x"], 2, "'a b' is not a topic"),
        (["publish", "micro.runtime", "x"], 2, "told by the platform itself"),
        (["publish", "t", "x", "--timestamp", "noon"], 2, "--timestamp takes a time"),
        (["publish", "t", "x", "--metadata", "half"], 2, "--metadata takes KEY=VALUE"),
        (["publish", "t", "x", "--key", "k" * 256], 2, "the key has 256 bytes"),
        (["consume", "t", "--from", "yesterday"], 2, "--from takes new, all"),
        (["consume", "t", "--group", "a/b"], 2, "'a/b' is not a group"),
        (["read", "nothing"], 1, "nothing"),
        (["groups", "nothing"], 1, "nothing"),
        (["reset", "nothing", "g", "--to", "all"], 1, "nothing"),
        (["reset", "nothing", "g"], 2, "--to"),
        (["redrive", "nothing", "g"], 1, "nothing"),
        (["drop", "t", "g", "x"], 2, "OFFSET takes a number"),
        (["publish", "t", "-"], 2, "PAYLOAD is empty: nothing came on standard input"),
        (["retain", "nothing", "--age", "1d"], 1, "there is no topic nothing: make it with --create"),
        (["retain", "t"], 2, "say how long events are kept"),
        (["retain", "t", "--age", "long"], 2, "--age takes a time such as 12h"),
        (["delete", "nothing"], 1, "nothing"),
        (["dead-letters", "t"], 2, "missing GROUP"),
    ],
)
def test_what_cannot_be_done_is_said(micro: Shell, words: list[str], code: int, said: str) -> None:
    result = micro("events", *words)
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert result.err.startswith("micro: ")
    assert result.err.count("\n") == 1


def test_a_mistyped_topic_names_the_one_that_was_meant(micro: Shell) -> None:
    orders(micro, 1)
    for words in (["read"], ["topics"], ["groups"]):
        assert micro("events", *words, "ordres").err == "micro: there is no topic ordres: did you mean orders?\n"


def test_tab_offers_actions_and_topics(micro: Shell) -> None:
    orders(micro, 1)
    assert micro("__complete", "--", "events", "rea").out == "read\n"
    assert micro("__complete", "--", "events", "consume", "").out == "orders\n"
    assert micro("__complete", "--", "events", "consume", "orders", "--g").out == "--group\n"
    assert micro("__complete", "--", "events", "read", "-o", "").out == "text\njson\n"
