"""The guestbook service. Its contract is proto/guestbook.proto; what it keeps is described in README.md."""

import secrets
import time

from micro import Service, errors, store

from proto.guestbook_connect import Guestbook
from proto.guestbook_pb import (
    Entry,
    FindRequest,
    GetRequest,
    GetResponse,
    ListRequest,
    ListResponse,
    RemoveRequest,
    RemoveResponse,
    SignRequest,
)

ENTRY = "entry/"  # entry/ID: the entry
EMAIL = "email/"  # email/ADDRESS: the id of its entry
READS = "reads/"  # reads/ID: how often it was read


class Handler(Guestbook):
    """Answers the calls: one method for each in the contract. It keeps nothing itself, so any number may run."""

    async def sign(self, request: SignRequest, ctx) -> Entry:
        entry = Entry(id=new_id(), name=request.name, email=request.email.strip().lower(), text=request.text)
        if not entry.name or "@" not in entry.email:
            raise errors.invalid_argument("name and email are needed")
        if len(entry.text) > 1000:
            raise errors.invalid_argument(f"text has {len(entry.text)} characters: 1,000 are allowed")
        try:
            async with store.batch() as batch:
                batch.write(ENTRY + entry.id, entry)
                batch.write(EMAIL + entry.email, entry.id, if_version=0)
        except errors.Error as error:
            if error.kind is errors.Kind.ALREADY_EXISTS:
                raise errors.already_exists(f"{entry.email} has signed before") from None
            raise
        return entry

    async def get(self, request: GetRequest, ctx) -> GetResponse:
        entry = (await self.record(request.id)).value
        reads = await store.update(READS + request.id, lambda count: count + 1, 0, as_type=int)
        return GetResponse(entry=entry, reads=reads)

    async def list(self, request: ListRequest, ctx) -> ListResponse:
        limit = min(request.limit or 20, 100)
        page = await store.page(prefix=ENTRY, limit=limit, cursor=request.cursor, reverse=True, as_type=Entry)
        return ListResponse(entries=[record.value for record in page.records], cursor=page.cursor)

    async def find(self, request: FindRequest, ctx) -> Entry:
        found = await store.get(EMAIL + request.email.strip().lower(), as_type=str)
        if found is None:
            raise errors.not_found(f"{request.email} has not signed")
        return (await self.record(found)).value

    async def remove(self, request: RemoveRequest, ctx) -> RemoveResponse:
        found = await self.record(request.id)
        async with store.batch() as batch:
            # Of two that remove it at the same time one succeeds, so the address of a later entry stays.
            batch.delete(ENTRY + request.id, if_version=found.version)
            batch.delete(EMAIL + found.value.email)
            batch.delete(READS + request.id)
        return RemoveResponse()

    async def record(self, entry_id: str) -> store.Record[Entry]:
        try:
            return await store.read(ENTRY + entry_id, as_type=Entry)
        except errors.Error as error:
            if error.kind is errors.Kind.NOT_FOUND:
                raise errors.not_found(f"there is no entry {entry_id!r}") from None
            raise


def new_id() -> str:
    """An id that is greater than those of milliseconds before, so that entries are in the order of their time."""
    return f"{time.time_ns() // 1_000_000:013}-{secrets.token_hex(4)}"


app = Service("guestbook", Handler())

if __name__ == "__main__":
    app.run()
