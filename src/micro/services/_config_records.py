"""How config keeps a namespace in its store: the document, its changes, its data keys, each a record of JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from micro.domain import config, errors
from micro.domain.config import Change, Document, Flat, Leaf
from micro.domain.errors import Error
from micro.domain.record import Record
from micro.ports.sealing import DataKey

DOCUMENT, HISTORY, KEYS = "document", "history", "keys"
"""The tables. That of the document has one record, of the same name."""


def history_key(revision: int) -> str:
    """The key of a change: they sort by revision."""
    return f"{revision:016d}"


def document_value(document: Document, leaves: Flat) -> bytes:
    """A document as it is kept; `leaves` are those of its tree."""
    return _dumped(
        {
            "format": 1,
            "revision": document.revision,
            "oldest": document.oldest,
            "remembered": document.remembered,
            "key": document.key,
            "leaves": {at: _from_leaf(leaf) for at, leaf in leaves.items()},
        }
    )


def document(namespace: str, value: bytes) -> Document:
    """What `document_value` wrote. Raises DATA_LOSS for anything else."""
    try:
        found = json.loads(value)
        return Document(
            revision=int(found["revision"]),
            tree=config.grown({at: _to_leaf(kept) for at, kept in found["leaves"].items()}),
            oldest=int(found["oldest"]),
            remembered=int(found["remembered"]),
            key=str(found["key"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, Error):
        raise _damaged(namespace, "document") from None


def change_value(change: Change) -> bytes:
    """A change as it is kept."""
    before = {at: None if leaf is None else _from_leaf(leaf) for at, leaf in change.before.items()}
    return _dumped(
        {
            "revision": change.revision,
            "time": change.time,
            "account": change.account,
            "action": change.action,
            "path": change.path,
            "value": change.value,
            "before": before,
        }
    )


def change(namespace: str, record: Record) -> Change:
    """What `change_value` wrote. Raises DATA_LOSS for anything else."""
    try:
        found = json.loads(record.value)
        before = {at: None if kept is None else _to_leaf(kept) for at, kept in found.pop("before").items()}
        return Change(**found, before=before)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _damaged(namespace, f"change {record.key.lstrip('0')}") from None


def key_value(key: DataKey) -> bytes:
    """A data key as it is kept."""
    return _dumped({"wrapped_by": key.wrapped_by, "wrapped": base64.b64encode(key.wrapped).decode()})


def key(namespace: str, record: Record) -> DataKey:
    """What `key_value` wrote. Raises DATA_LOSS for anything else."""
    try:
        found = json.loads(record.value)
        return DataKey(record.key, str(found["wrapped_by"]), base64.b64decode(found["wrapped"], validate=True))
    except (ValueError, LookupError, TypeError):
        raise _damaged(namespace, "key") from None


def _from_leaf(leaf: Leaf) -> list[str]:
    return [leaf.text, leaf.key] if leaf.secret else [leaf.text]


def _to_leaf(kept: list[str]) -> Leaf:
    text, *key = kept
    return Leaf(text, True, key[0]) if key else Leaf(text)


def _dumped(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _damaged(namespace: str, what: str) -> Error:
    return errors.data_loss(
        f"the config of namespace {namespace} is damaged, its {what} cannot be read: restore a backup"
    )
