"""`micro status --watch`: what runs, shown again as it changes."""

from __future__ import annotations

import base64
import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_platform import FakePlatform, Refusal
from shell import Result, Screen, Shell

from micro.cli import app, news

READY = {"type": "service.ready", "time": "2026-01-31T08:00:00.000Z", "service": "helloworld", "instance": "h-1"}


def event(**said: str) -> dict[str, Any]:
    payload = base64.b64encode(json.dumps(said).encode()).decode()
    return {"offset": "1", "key": said.get("service", ""), "timestamp": said.get("time", ""), "payload": payload}


class Telling(FakePlatform):
    """A server that tells what the test puts into `feed`; None is the end of events for now."""

    def __init__(self) -> None:
        super().__init__()
        self.feed: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.broken = False

    def stream(self, path: str, requests: Iterator[dict[str, Any]]) -> Iterator[Any]:
        if not path.endswith("/Consume"):
            yield from super().stream(path, requests)
            return
        if self.broken:
            raise Refusal("unavailable", "no healthy upstream", 503)
        first = next(requests)
        assert (first["topic"], first["from"]) == ("micro.runtime", {"new": True})
        yield {"next": "1"}
        while (told := self.feed.get()) is not None:
            yield {"events": [told]}
        raise Refusal("unavailable", "it is stopping", 503)


class Watched(Screen):
    """A screen before which somebody sits: does the next thing when what he waits for is there, and leaves then."""

    def __init__(self, *steps: tuple[str, Callable[[], object]], terminal: bool = False) -> None:
        super().__init__(terminal=terminal)
        self._steps = list(steps)
        self._from = 0

    def write(self, text: str) -> int:
        written = super().write(text)
        wanted, act = self._steps[0]
        if wanted in self.getvalue()[self._from :]:
            self._from = len(self.getvalue())
            del self._steps[0]
            act()
        return written


def leave() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def platform() -> Iterator[Telling]:
    with Telling() as running:
        running.running["helloworld", "latest"] = running._run({"name": "helloworld", "version": "latest"}, {})
        yield running
        running.feed.put(None)


def watch(micro: Shell, screen: Watched, *words: str) -> Result:
    err = Screen()
    micro.environ["NO_COLOR"] = "1"
    code = app.run(["status", "--watch", *words], Screen(), screen, err, micro.environ)
    return Result(code, screen.getvalue(), err.getvalue())


def test_each_change_is_shown_as_soon_as_it_is_told(micro: Shell, platform: Telling) -> None:
    service = platform.running["helloworld", "latest"]

    def crash() -> None:
        service["status"] = "STATUS_ERROR"
        platform.feed.put(event(**READY | {"type": "service.crashed", "reason": "no such colour"}))

    def recover() -> None:
        service["status"] = "STATUS_RUNNING"
        platform.feed.put(event(**READY))

    result = watch(micro, Watched(("  running", crash), ("  error", recover), ("  running", leave)))
    assert result.code == 130
    tables = result.out.split("\n\n")
    assert [table.splitlines()[1].split()[2] for table in tables] == ["running", "error", "running"]


def test_on_a_terminal_what_happened_last_is_below(micro: Shell, platform: Telling) -> None:
    def crash() -> None:
        platform.feed.put(event(**READY | {"type": "service.crashed", "reason": "no such colour"}))

    result = watch(micro, Watched(("  running", crash), ("service.crashed", leave), terminal=True))
    assert result.out.count("\x1b[2J") >= 2
    last = result.out.rpartition("\x1b[H")[2].splitlines()
    assert last[-1].endswith('helloworld  service.crashed  instance=h-1  reason="no such colour"')


def test_json_is_a_line_each_and_one_service_may_go(micro: Shell, platform: Telling) -> None:
    def kill() -> None:
        platform.running.clear()
        platform.feed.put(event(**READY | {"type": "service.killed"}))

    result = watch(micro, Watched(('"running"', kill), ("[]\n", leave)), "helloworld", "-o", "json")
    first, second = map(json.loads, result.out.splitlines())
    assert (first[0]["name"], second) == ("helloworld", [])


def test_while_nobody_tells_it_is_looked_again_and_again(micro: Shell, platform: Telling) -> None:
    platform.broken = True
    service = platform.running["helloworld", "latest"]
    fail = ("  running", lambda: service.update(status="STATUS_ERROR"))
    result = watch(micro, Watched(fail, ("  error", lambda: None), ("Ctrl-C ends", leave), terminal=True))
    assert "events cannot be reached: looking every 2 s; Ctrl-C ends" in result.out


def test_what_is_not_there_is_an_error_at_once(micro: Shell, lonely: Shell, platform: Telling) -> None:
    assert micro("status", "-w", "nope").code == 4
    assert lonely("status", "-w").code == 4


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (READY | {"version": "latest"}, "service.ready  instance=h-1"),
        (READY | {"version": "v2"}, "service.ready  instance=h-1  version=v2"),
        ({"type": "value.set", "path": "a.b", "secret": "true"}, "value.set  path=a.b  secret=true"),
        ({"type": "service.crashed", "reason": "a\nb \x1b[2J"}, 'service.crashed  reason="a\\nb \\u001b[2J"'),
        ({"order": 1}, ""),
        ([1], ""),
    ],
)
def test_news_are_words(payload: object, words: str) -> None:
    assert news.words(json.dumps(payload).encode(), "helloworld") == words


def test_what_is_no_json_is_no_news(tmp_path: Path) -> None:
    assert news.words(b"\xff\x00") == ""
