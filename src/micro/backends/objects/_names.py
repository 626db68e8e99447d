"""What objects are called. Pure.

`index/<namespace>/<key>` says what a key's blob is; it is replaced at once. `data/<namespace>/<key>/=<id>` holds its
bytes, written once. Keys are written in hexadecimal, so that the storage's order is that of their bytes; one that does
not fit a name ends with a digest.
"""

from __future__ import annotations

import hashlib
import secrets

_WHOLE = 352
"""Bytes of a key that its name holds. Twice as many characters, with all that is around them, fit the 1,024 of S3."""

_STEP = 200
"""Characters in one step of a name: some storages keep steps as folders."""

_TAIL = "~"
"""What a digest begins with: greater than all characters of a key's own."""

_ID = "="

PREFIX_CHARACTERS = 100
"""What may stand in front of it all."""


def index(namespace: str, key: str) -> str:
    """The object that says what a key's blob is."""
    return f"{indexes(namespace)}/{_key(key)}"


def indexes(namespace: str = "") -> str:
    """What the names of all of them begin with."""
    return f"index/{namespace}" if namespace else "index"


def data(namespace: str, key: str) -> str:
    """An object for the bytes of a key's blob, which there is none of yet."""
    return f"{bodies(namespace)}/{_key(key)}/{_ID}{secrets.token_hex(16)}"


def bodies(namespace: str = "") -> str:
    """What the names of all objects with bytes begin with."""
    return f"data/{namespace}" if namespace else "data"


def index_of(body: str) -> str:
    """The index that says whether an object's bytes are a blob."""
    return "index/" + body.removeprefix("data/").rpartition("/")[0]


def key(name: str) -> str | None:
    """The key of an index's name; None for one that the name does not hold whole."""
    _, _, *steps = name.split("/")
    return None if steps[-1].startswith(_TAIL) else bytes.fromhex("".join(steps)).decode()


def head(name: str) -> str:
    """What the names of several keys share that they do not hold whole; those follow each other."""
    return name.partition(f"/{_TAIL}")[0]


def before(namespace: str, prefix: str, after: str) -> str:
    """A name after which all indexes come whose keys begin with `prefix` and come after `after`; empty for all."""
    if after and after >= prefix:
        return head(index(namespace, after))
    if not prefix:
        return ""
    first = _steps(prefix.encode()[:_WHOLE])
    # Nothing is called what lies between this and the prefix itself.
    return f"{indexes(namespace)}/{first[:-1]}{chr(ord(first[-1]) - 1)}{_TAIL}"


def _key(key: str) -> str:
    raw = key.encode()
    name = _steps(raw[:_WHOLE])
    return name if len(raw) <= _WHOLE else f"{name}/{_TAIL}{hashlib.sha256(raw).hexdigest()}"


def _steps(raw: bytes) -> str:
    text = raw.hex()
    return "/".join(text[start : start + _STEP] for start in range(0, len(text), _STEP))
