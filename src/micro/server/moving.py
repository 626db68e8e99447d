"""From one store to another: what a home keeps moves along when MICRO_STORE names another one.

A store holds an id that only its home knows. So one that is empty, that belongs to somebody else, or that the home has
left behind is never taken for the one that holds everything. A move writes into the new store alone. It is over with
one batch, which gives the new store its id; one that was interrupted begins anew, with the new store cleared.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

from micro.domain import errors
from micro.domain.dump import Digest
from micro.domain.record import Delete, Put
from micro.ports import store as port
from micro.ports.store import Kept, Store
from micro.server import catalog, storage
from micro.server.settings import Layout, Settings
from micro.server.storage import Used

OWNERS = ("store", "config", "auth", "runtime")
"""Whose stores they are, see `catalog.store`."""

PLATFORM = "platform"
"""Database, in the runtime's store, of what the server itself keeps there."""

TABLE, ID, MOVING = "store", "id", "moving"
"""The store's id; or, until a move there is over, the id of the one that it is from."""

PROGRESS_SECONDS = 5.0

Note = Callable[[str], None]


async def settle(settings: Settings, layout: Layout, note: Note) -> None:
    """Return when the store that the settings name holds all that this home keeps; nothing uses it meanwhile. Memory
    holds nothing, and nothing is moved there.

    Raises:
        Error: FAILED_PRECONDITION for a store that holds something else, or nothing where it held something before;
            DATA_LOSS, UNAVAILABLE and so on as the stores do.
    """
    if settings.store == "memory":
        for code in layout.namespaces("memory").glob("*/services"):  # of what nobody remembers
            shutil.rmtree(code, ignore_errors=True)
        return
    await asyncio.to_thread(catalog.check, settings, layout)
    async with AsyncExitStack() as stack:
        await _Settling(settings, layout, note, stack).run()


class _Settling:
    def __init__(self, settings: Settings, layout: Layout, note: Note, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._layout = layout
        self._note = note
        self._stack = stack
        self._here = catalog.place(settings)
        self._moment = port.now()  # records end as of one time in both stores, so that they can be compared
        self._stores: dict[str, Store] = {}
        self._told_at = asyncio.get_running_loop().time()

    async def run(self) -> None:
        used = storage.read(self._layout) or self._inferred()
        state = await self._store("runtime")
        found, moving = await self._mark(state, ID), await self._mark(state, MOVING)
        if used is not None and found and found in (used.id, used.following):
            if used != (now := Used(found, self._here, foreign_code=used.foreign_code)):
                storage.write(self._layout, now)
        elif moving and (used is None or moving != used.id):
            raise errors.failed_precondition(
                f"{self._here} holds a part of what was being moved there from another store: name an empty database"
            )
        elif used is None and (not found or self._here == catalog.SQLITE):
            await self._begin(found)
        elif used is not None and used.place == self._here and not found and await self._is_ours(used):
            await self._begin(used.id)
        elif used is not None and not found and used.place != self._here and (moving or not await self._holds_any()):
            await self._move(used)
        else:
            await self._adopt(used, found)

    def _inferred(self) -> Used | None:
        """What a home has used that remembers nothing yet: the files that it has, where another store is named."""
        if self._here == catalog.SQLITE:
            return None
        if any(path for owner in OWNERS for path in self._layout.records(owner).glob("*.db")):
            return Used(secrets.token_hex(16), catalog.SQLITE, begun=False)
        return None

    async def _store(self, owner: str) -> Store:
        if owner not in self._stores:
            made = catalog.store(self._settings, self._layout, owner, clock=lambda: self._moment)
            await made.start(self._stack)
            self._stores[owner] = made
        return self._stores[owner]

    async def _mark(self, state: Store, key: str) -> str:
        found = await state.read(PLATFORM, TABLE, key)
        return "" if found is None else found.value.decode()

    async def _begin(self, id_: str, *, foreign_code: bool = False) -> None:
        """Use this store from now on, under the id that it has, if it has one."""
        used = Used(id_ or secrets.token_hex(16), self._here, begun=False, foreign_code=foreign_code)
        storage.write(self._layout, used)
        state = await self._store("runtime")
        if await self._mark(state, ID) != used.id:
            await state.commit(PLATFORM, [Put(TABLE, ID, used.id.encode(), if_version=0)])
        storage.write(self._layout, replace(used, begun=True))

    async def _is_ours(self, used: Used) -> bool:
        """Whether a store in the same place that has no id is this home's: the first start was interrupted, or what was
        restored there had no id with it."""
        return not used.begun or await self._holds_any()

    async def _holds_any(self) -> bool:
        for owner in OWNERS:
            if set(await (await self._store(owner)).databases()) - {PLATFORM}:
                return True
        return False

    async def _adopt(self, used: Used | None, found: str) -> None:
        if not self._settings.adopt_store:
            raise await self._refused(used)
        instead = f", instead of {used.place}" if used is not None and used.place != self._here else ""
        self._note(f"what is in {self._here} is used as it is{instead}")
        await self._begin(found, foreign_code=any(self._layout.namespaces(self._settings.store).glob("*/services/*")))

    async def _refused(self, used: Used | None) -> errors.Error:
        adopt = "`micro server --adopt-store`"
        if used is not None and used.place == self._here and not await self._holds_any():
            return errors.failed_precondition(
                f"{self._here} is empty, and this home has kept everything there: restore it from a backup, or begin "
                f"anew with {adopt}"
            )
        whose = f"this home uses {used.place}" if used else "this home has never used it"
        if used is not None and used.place == self._here:
            return errors.failed_precondition(
                f"{self._here} does not hold what this home has kept there, but the data of another platform, or of an "
                f"earlier time: put back what it held, or use what is there with {adopt}"
            )
        ways = f"name an empty database in MICRO_STORE to begin or move there, or use what is there with {adopt}"
        if self._here == catalog.SQLITE:
            ways = f"move all *.db* files of {self._folders()} away to move there, or use what they hold with {adopt}"
        if used is not None:
            ways = f"go on with that one, {ways}"
        return errors.failed_precondition(f"{self._here} holds the data of a platform already, and {whose}: {ways}")

    def _folders(self) -> str:
        *some, last = (str(self._layout.records(owner)) for owner in OWNERS)
        return f"{', '.join(some)} and {last}"

    async def _move(self, used: Used) -> None:
        source, state = self._source(used), await self._store("runtime")
        fresh = Used(secrets.token_hex(16), self._here, foreign_code=used.foreign_code)
        async with self._opened(source, "runtime") as old:
            if used.begun and await self._mark(old, ID) != used.id:
                raise errors.failed_precondition(
                    f"{used.place}, from which all should be moved to {self._here}, does not hold it any more: restore "
                    "it from a backup, or choose the store that does"
                )
        self._note(f"moving everything from {used.place} to {self._here}")
        storage.write(self._layout, replace(used, following=fresh.id))
        await state.commit(PLATFORM, [Put(TABLE, MOVING, used.id.encode())])
        for owner in OWNERS:
            await self._move_owner(source, owner)
        await state.commit(PLATFORM, [Put(TABLE, ID, fresh.id.encode()), Delete(TABLE, MOVING)])
        storage.write(self._layout, fresh)
        self._note(f"everything is in {self._here} now; {used.place} is as it was, and is not used any more")

    def _source(self, used: Used) -> Settings:
        """Settings that open the store that was used before, as the last start has left them."""
        if used.place == catalog.SQLITE:
            return replace(self._settings, store="sqlite")
        if url := storage.url(self._layout, catalog.sealing(self._layout)):
            last = replace(self._settings, store=url)
            if catalog.place(last) == used.place:
                return last
        raise errors.failed_precondition(
            f"what this home keeps is in {used.place}, and how to get there is not known any more: start it once with "
            "the old MICRO_STORE, and then with the new one; where a backup belongs there, restore it first"
        )

    @asynccontextmanager
    async def _opened(self, source: Settings, owner: str) -> AsyncGenerator[Store]:
        async with AsyncExitStack() as stack:
            made = catalog.store(source, self._layout, owner, clock=lambda: self._moment)
            await made.start(stack)
            yield made

    async def _move_owner(self, source: Settings, owner: str) -> None:
        target = await self._store(owner)
        for left in await target.databases():
            if left != PLATFORM:  # an interrupted move has left it
                await target.drop(left)
        async with self._opened(source, owner) as old:
            databases = [name for name in await old.databases() if name != PLATFORM]
            records = 0
            for name in databases:
                records += await self._copy(old, target, owner, name)
        if databases:
            self._note(f"  {owner}: {records:,} records in {len(databases):,} databases")

    async def _copy(self, old: Store, target: Store, owner: str, database: str) -> int:
        """Copy a database, and compare what has arrived with what was sent."""
        sent, arrived = Digest(), Digest()
        count = 0

        async def records() -> AsyncIterator[Kept]:
            nonlocal count
            async for kept in old.dump(database):
                sent.add(kept.table, kept.record)
                count += 1
                self._progress(owner, database, count)
                yield kept

        async with aclosing(records()) as given:  # type: ignore[type-var]
            loaded = await target.load(database, given, above=await old.revision(database))
        async for kept in target.dump(database):
            arrived.add(kept.table, kept.record)
        if (loaded, arrived.told()) != (count, sent.told()):
            raise errors.data_loss(
                f"database {database} of {owner} has not arrived in {self._here} as it was: nothing was changed in the "
                "old store; start again, which begins the move anew, or go on with the old MICRO_STORE"
            )
        return count

    def _progress(self, owner: str, database: str, count: int) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            self._note(f"  {owner}: {count:,} records of database {database} so far")
