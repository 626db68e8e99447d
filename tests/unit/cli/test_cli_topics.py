"""Places, times and sizes as people type them; events, topics and payloads as they are shown. Pure."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from micro.cli import failures, messages, topics

NOW = 1_767_225_600.0  # 2026-01-01T00:00Z


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        ("new", {"new": True}),
        ("all", {"all": True}),
        ("0", {"offset": "0"}),
        ("42", {"offset": "42"}),
        ("9223372036854775807", {"offset": "9223372036854775807"}),
        ("10m", {"time": "2025-12-31T23:50:00.000Z"}),
        ("2d", {"time": "2025-12-30T00:00:00.000Z"}),
        ("999999999w", {"time": "1970-01-01T00:00:00.000Z"}),
        ("2026-01-01T00:00Z", {"time": "2026-01-01T00:00:00.000Z"}),
        ("2026-01-01T02:00:00.1234+02:00", {"time": "2026-01-01T00:00:00.123Z"}),
    ],
)
def test_places_are_words_offsets_and_times(typed: str, place: dict[str, Any]) -> None:
    assert topics.start(typed, NOW) == place


@pytest.mark.parametrize(
    "typed", ["", "-1", "10x", "newest", "9223372036854775808", "٤٢", "2026-13-01T00:00Z", "10 m", "1e3", "noon"]
)
def test_what_is_no_place_is_said_to_be_none(typed: str) -> None:
    with pytest.raises(failures.UsageError, match="--to takes new, all, an offset such as 42"):
        topics.start(typed, NOW, "--to")


def test_times_without_a_zone_are_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        assert topics.time("2026-01-01T03:00") == "2026-01-01T00:00:00.000Z"
        assert topics.moment("2026-01-01T00:00:00Z") == "2026-01-01 03:00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retention_is_typed_and_shown_alike() -> None:
    assert [topics.age(text) for text in ("7d", "90m", "0", "4w")] == [604800.0, 5400.0, 0.0, 2419200.0]
    assert [topics.size(text) for text in ("512M", "1G", "1GiB", "0", "12")] == [1 << 29, 1 << 30, 1 << 30, 0, 12]
    shown = [{"age": seconds} for seconds in (604800.0, 5400.0, 0.0, 2419200.0, 1.5)]
    assert [topics.kept_for(one) for one in shown] == ["7d", "90m", "ever", "28d", "1.5s"]
    assert topics.up_to({"bytes": 1 << 30, "count": 1}) == "1G, 1 event"
    assert topics.up_to({"bytes": 0, "count": 0}) == "the quota"
    assert [topics.shown_size(one) for one in (0, 999, 1536, 300 << 20)] == ["0", "999", "1.5k", "300M"]
    for parse in (topics.age, topics.size, topics.count):
        with pytest.raises(ValueError, match="takes a"):
            parse("much")


@pytest.mark.parametrize(
    ("data", "shown", "line"),
    [
        (b'{"a": [1]}', {"payload": {"a": [1]}, "encoding": "json"}, '{"a": [1]}'),
        (b"12345678901234567890", {"payload": 12345678901234567890, "encoding": "json"}, "12345678901234567890"),
        (b"hello\n\x07", {"payload": "hello\n\x07", "encoding": "text"}, "hello\\n\\x07"),
        (b"NaN", {"payload": "NaN", "encoding": "text"}, "NaN"),
        (b"", {"payload": "", "encoding": "text"}, ""),
        (b"[" * 100_000, {"payload": "[" * 100_000, "encoding": "text"}, "[" * 100_000),
        (b"\xff\x00", {"payload": "/wA=", "encoding": "base64"}, "(2 bytes: 0xff00)"),
    ],
)
def test_a_payload_is_shown_as_what_it_is(data: bytes, shown: dict[str, Any], line: str) -> None:
    assert messages.carried(data, "payload") == shown
    assert messages.line(data) == line


def test_an_event_is_a_line() -> None:
    event = {"offset": "7", "timestamp": "2026-01-01T00:00:00Z", "id": "e7", "attempt": 1, "metadata": {"type": "x\n"}}
    event["payload"] = base64.b64encode(b"hi").decode()
    when = topics.moment("2026-01-01T00:00:00Z")
    assert topics.event_line(event) == f"7  {when}  -  hi"
    assert topics.event_line(event | {"attempt": 2, "key": "a\tb"}) == f"7  {when}  a\\tb  (try 2)  hi"
    assert topics.event_line(event, verbose=True) == f"7  {when}  -  e7  {{type=x\\n}}  hi"
