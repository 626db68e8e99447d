"""Secrets among the records of a database: sealed with a data key that is kept there, wrapped by the server's key."""

from __future__ import annotations

import base64
from typing import Any

from micro.backends.stored._records import Records, Transaction
from micro.ports.sealing import DataKey, Sealing

TABLE = "sealing"
_KEY = "key"


class Sealed:
    """Seals and opens texts of one database.

    Args:
        owner: what the data key is bound to: it opens nothing of another owner's.
    """

    def __init__(self, records: Records, sealing: Sealing, owner: str) -> None:
        self._records = records
        self._sealing = sealing
        self._owner = owner
        self._key: DataKey | None = None

    async def start(self) -> None:
        """Take up the data key, or make it, and wrap it by the server's newest key.

        Raises FAILED_PRECONDITION when the server has no key for it: nothing is made anew then."""
        self._key = await self._records.transact(self._take_up)

    def seal(self, path: str, text: str) -> str:
        """Seal a text for a path of the database."""
        return self._sealing.seal(self._owner, self._data_key, path, text)

    def open(self, path: str, sealed: str) -> str:
        """What was sealed. Raises DATA_LOSS when it was changed, or sealed for another path."""
        return self._sealing.open(self._owner, self._data_key, path, sealed)

    @property
    def _data_key(self) -> DataKey:
        assert self._key is not None, "it was not started"
        return self._key

    async def _take_up(self, transaction: Transaction) -> DataKey:
        kept = await transaction.read(TABLE, _KEY)
        if kept is None:
            made = self._sealing.create(self._owner)
            transaction.create(TABLE, _KEY, _encoded(made))
            return made
        key = DataKey(kept["id"], kept["wrapped_by"], base64.b64decode(kept["wrapped"]))
        newest = self._sealing.rewrap(self._owner, key)
        if newest.wrapped_by == key.wrapped_by:
            return key
        transaction.write(TABLE, _KEY, _encoded(newest))
        return newest


def _encoded(key: DataKey) -> dict[str, Any]:
    return {"id": key.id, "wrapped_by": key.wrapped_by, "wrapped": base64.b64encode(key.wrapped).decode()}
