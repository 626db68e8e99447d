"""Sessions as records: opened, turned, dropped, and cleared away when they have ended."""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

from micro.backends.stored import _layout as layout
from micro.backends.stored._layout import ACCOUNTS, ENDS, NAMESPACES, PLACES, SERVED, SESSIONS, TOKENS
from micro.backends.stored._records import BATCH, Records, Transaction
from micro.domain import token
from micro.domain.record import Query
from micro.ports import identity
from micro.ports.identity import SERVED_KEPT, SESSIONS_LISTED, Session

_CLEARED = 20
"""Sessions that have ended which one login clears away: more than it adds."""

_FORGOTTEN = 8
"""Tokens that have served which one turn forgets at most: more than it adds."""


class Sessions:
    """Sessions of a database. Those are live whose lineage is their account's."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def open(self, transaction: Transaction, session: Session) -> None:
        """Add it. Raises NOT_FOUND without its account, ALREADY_EXISTS for an id or a token that is in use."""
        home, account = await self._account(transaction, session.namespace, session.account)
        if account is None:
            raise identity.no_account(session.namespace, session.account)
        place = layout.place(home, account["lineage"], session.id)
        taken = await transaction.read_all((PLACES, session.id), (TOKENS, session.current.hex()))
        if any(each is not None for each in taken):
            raise identity.session_exists(session.id)
        transaction.write(SESSIONS, place, layout.from_session(session))
        transaction.write(PLACES, session.id, place)
        transaction.write(TOKENS, session.current.hex(), {"place": place})
        transaction.write(ENDS, layout.ends(session.expires, session.id), place)

    async def rotate(
        self, transaction: Transaction, used: bytes, fresh: bytes, now: float, expires: float
    ) -> Session | None:
        """As `IdentityStore.rotate`."""
        known, taken = await transaction.read_all((TOKENS, used.hex()), (TOKENS, fresh.hex()))
        kept = None if known is None else await self._live(transaction, known["place"])
        if known is None or kept is None or kept["expires"] <= now:
            return None
        if "served" in known:
            if known["served"] <= now - token.REFRESH_SECONDS:
                return None
            if kept["current"] != fresh.hex() or now >= known["served"] + token.REPEAT_SECONDS:
                raise identity.RefreshTokenReusedError(layout.to_session(kept))
            return self._turn(transaction, known["place"], kept, {"refreshed": now, "expires": expires})
        if taken is not None or fresh == used:
            raise identity.session_exists(kept["id"])
        place, id_ = known["place"], kept["id"]
        spent = 1 + kept["spent"] - await self._forget(transaction, id_, kept["spent"], now)
        transaction.write(TOKENS, fresh.hex(), {"place": place})
        transaction.write(TOKENS, used.hex(), {"place": place, "served": now})
        transaction.write(SERVED, layout.served(id_, now, used), 0)
        turned = {"current": fresh.hex(), "refreshed": now, "expires": expires, "spent": spent}
        return self._turn(transaction, place, kept, turned)

    @staticmethod
    def _turn(transaction: Transaction, place: str, kept: dict[str, Any], changed: dict[str, Any]) -> Session:
        """Write a session that goes on."""
        turned = {**kept, **changed}
        transaction.write(SESSIONS, place, turned)
        transaction.remove(ENDS, layout.ends(kept["expires"], kept["id"]))
        transaction.write(ENDS, layout.ends(turned["expires"], kept["id"]), place)
        return layout.to_session(turned)

    async def find(self, namespace: str, account: str) -> list[Session]:
        """The newest first, of an account or of all of a namespace."""
        home = await self._records.read(NAMESPACES, namespace)
        if home is None:
            return []
        if account:
            lineages = [await self._lineage(home["home"], account)]
            prefix = f"{home['home']}/{lineages[0]}/"
        else:
            lineages, prefix = [], f"{home['home']}/"
        found: dict[str, list[Session]] = {}
        async for record in self._records.scan(SESSIONS, Query(prefix=prefix)):
            lineage = record.key.split("/")[1]
            found.setdefault(lineage, []).append(layout.to_session(self._records.decoded(SESSIONS, record)))
        if not account:
            lineages = await asyncio.gather(*(self._lineage(home["home"], of[0].account) for of in found.values()))
        live = [session for lineage in lineages for session in found.get(lineage, ())]
        return heapq.nsmallest(SESSIONS_LISTED, live, key=lambda session: (-session.created, session.id))

    async def end(self, transaction: Transaction, namespace: str, session: str, account: str) -> bool:
        """Drop one, if it is live, of that namespace, and of that account where one is given; whether it was."""
        place = await transaction.read(PLACES, session)
        kept = None if place is None else await self._live(transaction, place)
        if place is None or kept is None or kept["namespace"] != namespace or account not in ("", kept["account"]):
            return False
        self._drop(transaction, place, kept)
        return True

    async def any_below(self, prefix: str) -> bool:
        """Whether there are sessions whose keys begin so."""
        return bool(
            [each async for each in self._records.scan(SESSIONS, Query(prefix=prefix, limit=1, keys_only=True))]
        )

    async def clear(self, now: float) -> None:
        """Remove some that have ended, and the tokens that they had."""
        query = Query(until=layout.ended_by(now), limit=_CLEARED)
        ended = [(record.key, self._records.decoded(ENDS, record)) async for record in self._records.scan(ENDS, query)]
        await asyncio.gather(*(self._clear(key, place, now) for key, place in ended))

    async def clear_below(self, prefix: str) -> None:
        """Remove all whose keys begin so: nobody reaches them."""
        query = Query(prefix=prefix, limit=BATCH)
        while found := [record async for record in self._records.scan(SESSIONS, query)]:
            for record in found:
                id_ = self._records.decoded(SESSIONS, record)["id"]
                await self._remove(record.key)
                await self._remove_served(id_)
                await self._records.remove([(ENDS, layout.ends(0.0, id_))])

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _clear(self, key: str, place: str, now: float) -> None:
        """What ENDS has come to: the session if it has ended, then what it has left, and last what led there."""
        kept = await self._records.read(SESSIONS, place)
        if kept is not None and kept["expires"] > now:
            return
        await self._remove(place, ended_by=now)
        id_ = key.partition("/")[2]
        await self._remove_served(id_)
        await self._records.remove((ENDS, each) for each in {key, layout.ends(0.0, id_)})

    async def _remove(self, place: str, ended_by: float | None = None) -> None:
        async def work(transaction: Transaction) -> None:
            kept = await transaction.read(SESSIONS, place)
            if kept is not None and (ended_by is None or kept["expires"] <= ended_by):
                self._drop(transaction, place, kept)

        await self._records.transact(work)

    async def _remove_served(self, session: str) -> None:
        query = Query(prefix=f"{session}/", limit=BATCH // 2, keys_only=True)
        while found := [record.key async for record in self._records.scan(SERVED, query)]:
            tokens = [(TOKENS, key.rpartition("/")[2]) for key in found]
            await self._records.remove(tokens)
            await self._records.remove((SERVED, key) for key in found)

    @staticmethod
    def _drop(transaction: Transaction, place: str, kept: dict[str, Any]) -> None:
        """The session and its token at once; those that have served when sessions are cleared away next."""
        transaction.remove(SESSIONS, place)
        transaction.remove(PLACES, kept["id"])
        transaction.remove(TOKENS, kept["current"])
        transaction.remove(ENDS, layout.ends(kept["expires"], kept["id"]))
        if kept["spent"]:
            transaction.write(ENDS, layout.ends(0.0, kept["id"]), place)

    async def _forget(self, transaction: Transaction, session: str, spent: int, now: float) -> int:
        """Forget the oldest of a session's tokens that have served, if they are too old or too many; how many."""
        if not spent:
            return 0
        old = layout.served(session, now - token.REFRESH_SECONDS, b"").rpartition("/")[0]
        query = Query(prefix=f"{session}/", limit=_FORGOTTEN, keys_only=True)
        oldest = [record.key async for record in self._records.scan(SERVED, query)]
        beyond = max(0, spent + 1 - SERVED_KEPT)
        gone = [key for index, key in enumerate(oldest) if index < beyond or key.rpartition("/")[0] <= old]
        for key in gone:
            transaction.remove(SERVED, key)
            transaction.remove(TOKENS, key.rpartition("/")[2])
        return len(gone)

    async def _live(self, transaction: Transaction, place: str) -> dict[str, Any] | None:
        """The session there, if its account still has its lineage."""
        kept: dict[str, Any] | None = await transaction.read(SESSIONS, place)
        if kept is None:
            return None
        home, account = await self._account(transaction, kept["namespace"], kept["account"])
        live = account is not None and place == layout.place(home, account["lineage"], kept["id"])
        return kept if live else None

    @staticmethod
    async def _account(transaction: Transaction, namespace: str, account: str) -> tuple[str, Any | None]:
        """The namespace's home and the account; "" and None without."""
        found = await transaction.read(NAMESPACES, namespace)
        if found is None:
            return "", None
        return found["home"], await transaction.read(ACCOUNTS, f"{found['home']}/{account}")

    async def _lineage(self, home: str, account: str) -> str:
        found = await self._records.read(ACCOUNTS, f"{home}/{account}")
        return "" if found is None else str(found["lineage"])
