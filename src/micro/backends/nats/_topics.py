"""How topics are kept in NATS: their streams' names, subjects and configuration, and events as messages.

A topic's stream has the subject `micro.events.NAMESPACE.TOPIC`, each of the two as one token; what is too long for a
file's name is cut and ends with a hash. The real names are in the stream's metadata. What an event is besides its
payload is JSON in one header: names and values may be any text.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from micro.backends.nats._record import to_token
from micro.backends.nats._streams import FORMAT, FORMAT_NAME, ID_NAME, Info
from micro.domain import errors
from micro.domain.event import DEDUP_SECONDS, Event, New, Retention, TopicState

SUBJECTS = "micro.events"
HEADER = "Micro-Event"
MESSAGE_ID = "Nats-Msg-Id"

_TOKEN_CHARACTERS = 160
_HEADER_CHARACTERS = 24 << 10
"""Of what is said about an event, in a header, which NATS lets have 64 KiB; more lies in front of the payload."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_NAMESPACE, _TOPIC, _BYTES = "micro.namespace", "micro.topic", "micro.bytes"


def token(name: str) -> str:
    """A name as one token of a subject, and a part of a file's name: two names have never the same."""
    whole = to_token(name)
    if len(whole) <= _TOKEN_CHARACTERS:
        return whole
    # "=H" is nothing that `to_token` writes.
    return f"{whole[:96]}=H{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def stream_of(namespace: str, topic: str) -> str:
    """The name of a topic's stream; a namespace has no underscores, so that the first one ends it."""
    return f"EVENTS_{token(namespace).replace('_', '=5F')}_{token(topic)}"


def subject_of(namespace: str, topic: str) -> str:
    return f"{SUBJECTS}.{token(namespace)}.{token(topic)}"


def all_of(namespace: str) -> str:
    return f"{SUBJECTS}.{token(namespace)}.*"


def config(namespace: str, topic: str, retention: Retention, replicas: int, *, atomic: bool) -> dict[str, Any]:
    """Of a topic's stream. NATS remembers message ids no longer than it keeps messages; of the limit in bytes it knows
    nothing (see `_trim`)."""
    window = min(DEDUP_SECONDS, retention.age or DEDUP_SECONDS)
    return {
        "name": stream_of(namespace, topic),
        "subjects": [subject_of(namespace, topic)],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": replicas,
        "max_age": round(retention.age * 1e9),
        "max_bytes": -1,
        "max_msgs": retention.count or -1,
        "duplicate_window": round(window * 1e9),
        "allow_direct": True,
        "allow_atomic": atomic,
        "metadata": {
            FORMAT_NAME: str(FORMAT),
            ID_NAME: secrets.token_hex(6),
            _NAMESPACE: namespace,
            _TOPIC: topic,
            _BYTES: str(retention.bytes),
        },
    }


def state_of(info: Info) -> TopicState:
    """What a stream's information says about a topic.

    Raises FAILED_PRECONDITION for a stream that does not say all that it should: none that a release has made.
    """
    settings, state = info["config"], info["state"]
    last = int(state["last_seq"])
    metadata = settings["metadata"]
    if not metadata.get(_BYTES, "").isdecimal():
        raise errors.failed_precondition(
            f"stream {settings['name']} is of an early state of micro and does not say how many bytes it may keep: "
            f"remove it with all its events, micro events delete {metadata[_TOPIC]} --force"
        )
    return TopicState(
        name=metadata[_TOPIC],
        retention=Retention(
            age=settings["max_age"] / 1e9, bytes=int(metadata[_BYTES]), count=max(settings["max_msgs"], 0)
        ),
        bytes=int(state["bytes"]),
        count=int(state["messages"]),
        first=int(state["first_seq"]) if state["messages"] else last + 1,
        last=last,
        created=milliseconds(info["created"]),
    )


def is_topic(info: Info) -> bool:
    return _TOPIC in info["config"].get("metadata", {})


def milliseconds(text: str) -> int:
    """Since 1970, of "2026-01-01T00:00:00.123456789Z"."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND


def rfc3339(time: int) -> str:
    """The inverse, for a time that has a year of four digits; others become the nearest."""
    try:
        return (_EPOCH + max(time, 0) * _MILLISECOND).isoformat()
    except OverflowError:
        return "9999-12-31T23:59:59+00:00"


def encode(event: New, mark: str) -> tuple[dict[str, str], bytes]:
    """An event as headers and data of a message.

    Args:
        mark: of this try to append it, by which it is known again should NATS's answer be lost.
    """
    said: dict[str, Any] = {"v": FORMAT, "id": event.id}
    if event.timestamp:
        said["t"] = event.timestamp
    if event.key:
        said["k"] = event.key
    if event.dedup_id:
        said["n"] = mark
    message_id = f"d.{to_token(event.dedup_id)}" if event.dedup_id else mark
    data = event.payload
    if event.metadata:
        text = _json(dict(event.metadata))
        if len(text) * 4 > _HEADER_CHARACTERS and len(text.encode()) > _HEADER_CHARACTERS:
            front = text.encode()
            said["p"] = len(front)
            data = front + data
        else:
            said["m"] = event.metadata if isinstance(event.metadata, dict) else dict(event.metadata)
    return {HEADER: _json(said), MESSAGE_ID: message_id}, data


def decode(headers: Mapping[str, str] | None, data: bytes, offset: int, time: int) -> Event:
    """The inverse of `encode`; what somebody else has published there is an event with nothing said about it.

    Raises DATA_LOSS for what is in no form that we know.
    """
    text = (headers or {}).get(HEADER)
    if text is None:
        return Event(f"nats-{offset}", offset, time, data, {})
    try:
        said = json.loads(text)
        if said["v"] != FORMAT:
            raise errors.data_loss(f"the event at {offset} is in format {said['v']}, this release reads {FORMAT}")
        metadata, front = said.get("m", {}), said.get("p", 0)
        if front:
            metadata, data = json.loads(data[:front]), data[front:]
        return Event(said["id"], offset, said.get("t") or time, data, metadata, said.get("k", ""))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise errors.data_loss(f"the event at {offset} cannot be read: {type(error).__name__}: {error}") from error


def identity(headers: Mapping[str, str]) -> tuple[str, str]:
    """Id and mark of a message that holds an event; empty when it says nothing about them."""
    try:
        said = json.loads(headers.get(HEADER, "{}"))
        return str(said.get("id", "")), str(said.get("n", ""))
    except (ValueError, AttributeError):
        return "", ""


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _json(value: object) -> str:
    return _ENCODER.encode(value)
