"""The guestbook service, tested without a server: python -m unittest"""

import asyncio
from unittest import IsolatedAsyncioTestCase

from micro import errors, store
from micro.testing import platform

from main import Handler
from proto.guestbook_pb import Entry, FindRequest, GetRequest, ListRequest, RemoveRequest, SignRequest


class GuestbookTest(IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        await self.enterAsyncContext(platform.running())

    async def sign(self, name: str) -> Entry:
        return await Handler().sign(SignRequest(name=name, email=f"{name}@example.com", text="hello"), None)

    async def test_who_signs_is_found_by_id_and_by_address(self) -> None:
        entry = await self.sign("Ann")
        assert entry.email == "ann@example.com"
        assert (await Handler().get(GetRequest(id=entry.id), None)).entry == entry
        assert await Handler().find(FindRequest(email="ANN@example.com"), None) == entry

    async def test_an_address_signs_once(self) -> None:
        await self.sign("Ann")
        with self.assertRaisesRegex(errors.Error, "ann@example.com has signed before"):
            await self.sign("ann")
        assert len((await Handler().list(ListRequest(), None)).entries) == 1
        assert [key async for key in store.keys(prefix="email/")] == ["email/ann@example.com"]

    async def test_of_many_at_once_one_signs(self) -> None:
        answers = await asyncio.gather(*(self.sign("Ann") for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(answer, Entry) for answer in answers) == 1

    async def test_pages_follow_one_another(self) -> None:
        signed = [(await self.sign(f"guest{number}")).id for number in range(5)]
        seen, cursor = [], ""
        while True:
            page = await Handler().list(ListRequest(limit=2, cursor=cursor), None)
            seen += [entry.id for entry in page.entries]
            cursor = page.cursor
            if not cursor:
                break
        assert seen == sorted(signed, reverse=True)

    async def test_every_read_counts(self) -> None:
        entry = await self.sign("Ann")
        await asyncio.gather(*(Handler().get(GetRequest(id=entry.id), None) for _ in range(9)))
        assert (await Handler().get(GetRequest(id=entry.id), None)).reads == 10

    async def test_who_was_removed_may_sign_again(self) -> None:
        entry = await self.sign("Ann")
        await Handler().remove(RemoveRequest(id=entry.id), None)
        with self.assertRaisesRegex(errors.Error, "there is no entry"):
            await Handler().get(GetRequest(id=entry.id), None)
        assert (await self.sign("Ann")).id != entry.id
