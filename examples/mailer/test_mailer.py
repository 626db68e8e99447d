"""The mailer service, tested without a server: python -m unittest"""

import logging
from unittest import IsolatedAsyncioTestCase, mock

from micro import client
from micro.testing import platform

import main
from main import OrderChanged
from proto.mailer_pb import ListRequest, Mail


class MailerTest(IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.platform = await self.enterAsyncContext(platform.running(main.app, service="mailer"))
        logging.disable(logging.ERROR)  # what fails here is meant to
        self.addCleanup(logging.disable, logging.NOTSET)

    async def change(self, state: str, email: str = "ann@example.com") -> None:
        await self.platform.publish("orders", OrderChanged("7", state, email, "pen", 2), key="7")

    async def mails(self) -> list[Mail]:
        return list((await main.Handler().list(ListRequest(order="7"), None)).mails)

    async def test_a_mail_about_each_change_in_order(self) -> None:
        await self.change("placed")
        await self.change("cancelled")
        assert [mail.subject for mail in await self.mails()] == ["Your order is placed", "Your order is cancelled"]
        told = await client.call("mailer", "Mailer.List", {"order": "7"})
        assert [mail["to"] for mail in told["mails"]] == ["ann@example.com"] * 2

    async def test_what_was_sent_is_not_sent_again(self) -> None:
        with mock.patch.object(main, "send", wraps=main.send) as send:
            await self.change("placed")
            await self.change("placed")
        assert send.await_count == 1

    async def test_a_mail_server_that_is_away_is_tried_again(self) -> None:
        send = mock.AsyncMock(side_effect=[ConnectionRefusedError("mail server is away"), None])
        with mock.patch.object(main, "send", send):
            await self.change("placed")
        assert (send.await_count, len(await self.mails())) == (2, 1)
        assert await self.platform.dead_letters("orders", "mailer") == []

    async def test_a_broken_address_ends_as_a_dead_letter(self) -> None:
        await self.change("placed", email="ann at home")
        [dead] = await self.platform.dead_letters("orders", "mailer")
        assert (dead.attempts, dead.reason) == (3, "ValueError: 'ann at home' is no address")
        await self.change("placed")  # what comes after it is handled
        assert len(await self.mails()) == 1

    async def test_what_it_does_not_know_of_an_order_does_not_matter(self) -> None:
        order = {"order": "7", "state": "placed", "email": "ann@example.com", "item": "pen", "gift": True}
        await self.platform.publish("orders", order, key="7")
        assert (await self.mails())[0].text == "1 x pen, order 7: placed."
