"""The format of the data directory: told by a number in it, and brought up to date before anything is started.

An upgrade first copies what it will change, then writes the new beside the old, then the number, and last removes the
old. One that was interrupted goes on where that is safe, and else begins anew.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from micro.backends.files import format_1, migration
from micro.backends.sqlite import identity_file
from micro.domain import errors
from micro.domain.record import Put
from micro.ports import private_file, private_folder
from micro.ports.sealing import Sealing
from micro.ports.store import Store
from micro.server import catalog
from micro.server.settings import Layout, Settings

FORMAT = 2
"""1: identity in a SQLite file of its own, workloads and accounts of services as JSON files. 2: all in stores."""

_MARK = "upgrade"
"""Table, in the databases that an upgrade writes, of how far it has come."""

Note = Callable[[str], None]


async def upgrade(settings: Settings, layout: Layout, note: Note) -> None:
    """Bring the directory to this release's format; a new one is of it from the beginning. Holds the home's lock.

    What is kept in memory alone is not worth an upgrade: then an old directory is left as it is.

    Raises:
        Error: FAILED_PRECONDITION for a directory of a newer release, or a store that holds something else; what
            reading the old and writing the new raises.
    """
    found = _read(layout)
    if found > FORMAT:
        raise errors.failed_precondition(
            f"{layout.root} was written by a newer release of micro (format {found}, {FORMAT} is known): upgrade "
            "micro, or use another MICRO_HOME"
        )
    if found == 1:
        if settings.store == "memory":
            return
        await _Upgrade(settings, layout, note).run()
    if not layout.format.exists():
        private_file.write(layout.format, f"{FORMAT}\n")
    if layout.upgrading.exists():  # all that is left of an upgrade is to remove what it has copied
        _remove_old(layout)


def _read(layout: Layout) -> int:
    """The directory's format: without a number it is 1 where there is something of it, else this release's."""
    try:
        return int(layout.format.read_text("ascii"))
    except FileNotFoundError:
        return 1 if layout.identity.exists() or format_1.folders(layout.runtime) else FORMAT
    except ValueError:
        raise errors.data_loss(
            f"{layout.format} does not hold the number that it should: put back the backup's, or {FORMAT} if this "
            "release has written the directory"
        ) from None


class _Upgrade:
    """From 1 to 2."""

    def __init__(self, settings: Settings, layout: Layout, note: Note) -> None:
        self._settings = settings
        self._layout = layout
        self._note = note

    async def run(self) -> None:
        layout = self._layout
        plan = self._plan()
        backup = layout.backups / plan["backup"]
        if not backup.exists():
            _back_up(layout, backup)
        self._note(f"the data is of format 1 and is brought to {FORMAT}; what changes is copied to {backup}")
        migration.migrate(layout.runtime, layout.logs, layout.runtime / "namespaces")
        sealing = catalog.sealing(layout)
        sealing.begin()
        await self._into("auth", plan["id"], lambda store: self._identity(store, sealing))
        await self._into("runtime", plan["id"], lambda store: self._workloads(store, sealing))
        private_file.write(layout.format, f"{FORMAT}\n")

    def _plan(self) -> dict[str, str]:
        """This upgrade's name and where its backup lies, the same each time until it is done."""
        path = self._layout.upgrading
        if not path.exists():
            made = {"id": secrets.token_hex(8), "backup": f"1-{time.strftime('%Y%m%dT%H%M%S')}"}
            private_file.write(path, json.dumps(made))
        found: dict[str, str] = json.loads(path.read_text())
        return found

    async def _into(self, owner: str, id_: str, work: Callable[[Store], Awaitable[None]]) -> None:
        """Have a core service's store written, once: what an interrupted attempt has left there is dropped first."""
        store = catalog.store(self._settings, self._layout, owner)
        async with AsyncExitStack() as stack:
            await store.start(stack)
            mark = await store.read(owner, _MARK, id_)
            if mark is not None and mark.value == b"done":
                return
            if mark is not None:
                await store.drop(owner)
            elif await store.revision(owner):
                raise self._occupied(owner)
            await store.commit(owner, [Put(_MARK, id_, b"begun")])
            await work(store)
            await store.commit(owner, [Put(_MARK, id_, b"done")])

    def _occupied(self, owner: str) -> errors.Error:
        where, way = f"schema micro_{owner} of MICRO_STORE", "use another database"
        if self._settings.store == "sqlite":
            where = str(self._layout.records(owner))
            way = "move it away"
        return errors.failed_precondition(
            f"{self._layout.root} is of format 1, and {where}, where its content belongs, holds something else: {way}"
        )

    async def _identity(self, store: Store, sealing: Sealing) -> None:
        from micro.backends.stored import identity_import

        if self._layout.identity.exists():
            await identity_import.write(store, sealing, identity_file.read(self._layout.identity))

    async def _workloads(self, store: Store, sealing: Sealing) -> None:
        from micro.backends.stored import accounts
        from micro.backends.stored.workloads import ACCOUNTS, DATABASE, WORKLOADS, RuntimeRecords, StoredWorkloads

        records = RuntimeRecords(store, sealing)
        await records.open()
        kept = StoredWorkloads(records)
        for workload in format_1.workloads(self._layout.runtime, self._left_out):
            await kept.put(workload)
        for key in format_1.unreadable(self._layout.runtime, await kept.keys()):
            # As unreadable as it was: so its code is not taken for something that nobody wants.
            await store.commit(DATABASE, [Put(WORKLOADS, "/".join(key), b"")])
        for key, account in format_1.accounts(self._layout.runtime, self._left_out):
            await records.write(ACCOUNTS, key, *accounts.encoded(account))

    def _left_out(self, what: str) -> None:
        self._note(f"{what}: it is left out, and in the copy")


def _back_up(layout: Layout, backup: Path) -> None:
    """Copy what the upgrade will remove, whole or not at all, for its owner's eyes only."""
    draft = backup.with_name(f"{backup.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    private_folder.make(draft)
    if layout.identity.exists():
        copied = draft / layout.identity.relative_to(layout.root)
        private_folder.make(copied.parent)
        identity_file.copy(layout.identity, copied)
    for folder in format_1.folders(layout.runtime):
        target = draft / folder.relative_to(layout.root)
        private_folder.make(target.parent)
        shutil.copytree(folder, target)
    for each in draft.rglob("*"):
        each.chmod(0o700 if each.is_dir() else 0o600)
    draft.rename(backup)
    private_file.sync_folder(backup.parent)


def _remove_old(layout: Layout) -> None:
    for ending in ("", "-wal", "-shm"):
        Path(f"{layout.identity}{ending}").unlink(missing_ok=True)
    format_1.remove(layout.runtime)
    layout.upgrading.unlink(missing_ok=True)
