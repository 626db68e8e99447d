"""The orders service, tested without a server: python -m unittest"""

from unittest import IsolatedAsyncioTestCase, mock

from micro import errors, events, store
from micro.testing import platform

from main import OUTBOX, TOPIC, Handler, OrderChanged, tell
from proto.orders_pb import CancelRequest, GetRequest, Order, PlaceRequest


async def place() -> Order:
    return await Handler().place(PlaceRequest(email="ann@example.com", item="pen", quantity=2), None)


async def told() -> list[OrderChanged]:
    return [event.value for event in await events.read(TOPIC, as_type=OrderChanged)]


class OrdersTest(IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        await self.enterAsyncContext(platform.running())

    async def test_an_order_is_kept_and_told(self) -> None:
        order = await place()
        assert await Handler().get(GetRequest(id=order.id), None) == order
        assert await told() == [OrderChanged(order.id, "placed", "ann@example.com", "pen", 2)]
        assert [event.key for event in await events.read(TOPIC)] == [order.id]

    async def test_it_is_cancelled_once(self) -> None:
        order = await place()
        await Handler().cancel(CancelRequest(id=order.id), None)
        with self.assertRaisesRegex(errors.Error, "is cancelled"):
            await Handler().cancel(CancelRequest(id=order.id), None)
        assert [change.state for change in await told()] == ["placed", "cancelled"]

    async def test_what_is_no_order_is_refused(self) -> None:
        for request in (PlaceRequest(item="pen"), PlaceRequest(email="a@b.c", item="pen", quantity=-1)):
            with self.assertRaises(errors.Error):
                await Handler().place(request, None)
        with self.assertRaisesRegex(errors.Error, "there is no order 'x'"):
            await Handler().get(GetRequest(id="x"), None)

    async def test_an_order_that_could_not_be_told_is_told_later_and_in_order(self) -> None:
        away = mock.AsyncMock(side_effect=errors.unavailable("events is away"))
        with mock.patch.object(events, "publish", away), self.assertLogs("orders", "WARNING"):
            order = await place()
            await Handler().cancel(CancelRequest(id=order.id), None)
        assert len([key async for key in store.keys(prefix=OUTBOX)]) == 2
        await tell(OUTBOX)
        assert [change.state for change in await told()] == ["placed", "cancelled"]
        assert [key async for key in store.keys(prefix=OUTBOX)] == []

    async def test_who_dies_before_it_is_noted_tells_it_once(self) -> None:
        died = mock.AsyncMock(side_effect=errors.unavailable("the store is away"))
        with mock.patch.object(store, "delete", died), self.assertLogs("orders", "WARNING"):
            await place()
        await tell(OUTBOX)
        assert len(await told()) == 1
