"""Commands that follow something for ever: what they say and do while the server is away."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_platform import FakePlatform, Refusal
from shell import Result, Shell

from micro.cli.session import Session

AWAY = Refusal("unavailable", "it is stopping", 503)
ENOUGH = Refusal("permission_denied", "enough", 403)


class Broken(FakePlatform):
    """A server whose streams tell what they are given, one list a connection, and break then."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[list[Any]] = []
        self.asked: list[dict[str, Any]] = []

    def stream(self, path: str, requests: Iterator[dict[str, Any]]) -> Iterator[Any]:
        self.asked.append(next(requests))
        for answer in self.connections.pop(0) if self.connections else [ENOUGH]:
            if isinstance(answer, Refusal):
                raise answer
            yield answer

    def do_info(self, *_: object) -> dict[str, Any]:
        return {"topic": {"name": "orders"}}


@pytest.fixture
def platform() -> Iterator[Broken]:
    with Broken() as running:
        yield running


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens while a command waits, one thing each time."""
    acts: list[Callable[[], object]] = []

    def sleep(*_: object) -> None:
        if acts:
            acts.pop(0)()

    monkeypatch.setattr(Session, "sleep", sleep)
    return acts


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def event(offset: int) -> dict[str, Any]:
    return {"events": [{"offset": str(offset), "topic": "orders", "payload": encoded(f"event {offset}")}]}


def change(revision: int) -> dict[str, Any]:
    record = {"key": f"k{revision}", "value": encoded("v")}
    return {"revision": str(revision), "changes": [{"action": "ACTION_WRITTEN", "record": record}]}


def message(text: str) -> dict[str, Any]:
    return {"messages": [{"topic": "orders", "body": encoded(text)}]}


BACK = "the server is back"
MISSING = "subscribed to orders again; what was published meanwhile is missing"


@pytest.mark.parametrize(
    ("command", "first", "second", "shown", "back"),
    [
        ("store watch", [{"revision": "4"}, change(5)], [{"revision": "5"}, change(6)], ["k5  v", "k6  v"], BACK),
        ("config watch a", [{"value": {"data": "1"}}], [{"value": {"data": "2"}}], ["1", "2"], BACK),
        ("events consume orders", [{"next": "1"}, event(1)], [{"next": "2"}, event(2)], ["event 1", "event 2"], BACK),
        ("broker subscribe orders", [{}, message("one")], [{}, message("two")], ["one", "two"], MISSING),
    ],
)
def test_an_outage_is_told_once_and_its_end_too(
    micro: Shell,
    platform: Broken,
    meanwhile: list[Callable[[], object]],
    command: str,
    first: list[Any],
    second: list[Any],
    shown: list[str],
    back: str,
) -> None:
    platform.connections = [[*first, AWAY], [AWAY], [AWAY], [*second, ENOUGH]]
    result = micro(*command.split())
    assert [line[-len(text) :] for line, text in zip(result.out.splitlines(), shown, strict=True)] == shown
    said = result.err.splitlines()
    waiting = said.index(f"waiting for the server at {platform.address} …")
    assert said[waiting + 1 :] == [back, "micro: enough"]
    assert result.code == 2


def test_what_is_followed_goes_on_where_it_was(
    micro: Shell, platform: Broken, meanwhile: list[Callable[[], object]]
) -> None:
    platform.connections = [[{"revision": "4"}, change(5), AWAY], []]
    micro("store", "watch")
    assert [one.get("after") for one in platform.asked] == [None, 5, 5]
    platform.asked.clear()
    platform.connections = [[{"next": "7"}, event(7), AWAY], []]
    micro("events", "consume", "orders")
    assert [one.get("from") for one in platform.asked] == [None, {"offset": "8"}, {"offset": "8"}]


def test_who_was_not_reached_at_first_is_not_waited_for(micro: Shell, platform: Broken) -> None:
    for command in ("store watch", "config watch", "events consume orders", "broker subscribe orders"):
        platform.connections = [[AWAY]]
        result = micro(*command.split())
        assert (result.code, result.out) == (4, "")
        assert result.err.endswith("is not available: it is stopping; see: micro health\n")


def test_a_service_that_is_not_routed_yet_is_waited_for(
    micro: Shell, platform: Broken, meanwhile: list[Callable[[], object]]
) -> None:
    unrouted = Refusal("not_found", "service config not found in namespace micro; see what runs: micro services", 404)
    platform.connections = [[{"value": {"data": "1"}}, AWAY], [unrouted], [{"value": {"data": "2"}}]]
    assert micro("config", "watch").out == "1\n2\n"
    platform.connections = [[unrouted]]
    assert micro("config", "watch") == Result(4, "", "micro: config is not available; see: micro health\n")


def test_another_server_at_the_usual_address_is_not_taken_for_the_one_that_was_followed(
    micro: Shell, platform: Broken, meanwhile: list[Callable[[], object]]
) -> None:
    state = micro.home / "server" / "state.json"
    running = state.read_text()
    stopped = json.dumps({**json.loads(running), "pid": "none"})
    platform.connections = [[{"revision": "4"}, AWAY], [change(5), ENOUGH]]
    asked: list[int] = []
    meanwhile += [
        lambda: state.write_text(stopped),
        lambda: asked.append(len(platform.asked)),
        lambda: (asked.append(len(platform.asked)), state.write_text(running)),
    ]
    result = micro("store", "watch")
    assert asked == [1, 1]
    assert result.out == "written  k5  v\n"
    assert result.err.splitlines()[0].startswith("waiting for the server at")


# --- logs -------------------------------------------------------------------------------------------------------------


def line(number: int, second: int | None = None) -> dict[str, str]:
    stamp = f"2026-01-31T08:00:{number if second is None else second:02}.000000Z"
    return {"timestamp": stamp, "level": "info", "message": f"line {number}", "instance": "helloworld-1"}


def logged(result: Result) -> list[int]:
    return [int(json.loads(one)["message"].removeprefix("line ")) for one in result.out.splitlines()]


@pytest.mark.usefixtures("meanwhile")
def test_a_log_is_followed_through_an_outage_each_line_once(micro: Shell, platform: Broken) -> None:
    log = [line(number) for number in range(6)]
    platform.connections = [[*log[2:4], AWAY], [AWAY], [*log[:5], AWAY], [*log, ENOUGH]]
    result = micro("logs", "helloworld", "-f", "-n", "2", "-o", "json")
    assert logged(result) == [2, 3, 4, 5]
    assert [one["lines"] for one in platform.asked] == [2, 10_000, 10_000, 10_000]
    told = [f"waiting for the server at {platform.address} …", BACK]
    assert result.err.splitlines()[:4] == [*told, *told]
    assert result.code == 2


@pytest.mark.usefixtures("meanwhile")
def test_lines_of_the_same_moment_are_told_apart(micro: Shell, platform: Broken) -> None:
    log = [line(number, second=7) for number in (1, 5, 2, 3, 2, 4)]
    # The first two are before what was asked for, the last one comes after the outage.
    platform.connections = [[*log[2:5], AWAY], [line(0), *log, line(8), ENOUGH]]
    assert logged(micro("logs", "helloworld", "-f", "-n", "3", "-o", "json")) == [2, 3, 2, 4, 8]


@pytest.mark.usefixtures("meanwhile")
def test_a_log_of_several_instances_names_them(micro: Shell, platform: Broken) -> None:
    instances = [{"id": f"helloworld-{number}"} for number in (1, 2)]
    platform.running["helloworld", "latest"] = {"name": "helloworld", "instances": instances}
    platform.connections = [[line(1), ENOUGH]]
    result = micro("logs", "helloworld", "-f")
    assert result.out.endswith(" helloworld-1  line 1\n")
    asked = {"name": "helloworld", "version": "latest", "namespace": "micro", "lines": 15, "follow": True}
    assert platform.asked == [asked]


@pytest.mark.usefixtures("meanwhile")
def test_a_log_that_was_silent_is_followed_too(micro: Shell, platform: Broken) -> None:
    platform.connections = [[AWAY], [line(1), line(2), ENOUGH]]
    assert logged(micro("logs", "helloworld", "-f", "-n", "1", "-o", "json")) == [1, 2]


@pytest.mark.usefixtures("meanwhile")
def test_lines_that_are_lost_are_said_to_be(micro: Shell, platform: Broken) -> None:
    platform.connections = [[line(1), AWAY], [line(5), ENOUGH]]
    result = micro("logs", "helloworld", "-f", "-o", "json")
    assert logged(result) == [1, 5]
    assert "more than 10,000 lines came meanwhile: the first of them are left out\n" in result.err


def test_the_log_of_nobody_is_not_waited_for(micro: Shell, platform: Broken) -> None:
    platform.connections = [[Refusal("not_found", "there is no output of nope", 404)]]
    result = micro("logs", "nope", "-f")
    assert (result.code, result.out) == (4, "")
