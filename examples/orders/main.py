"""The orders service. Its contract is proto/orders.proto; README.md says what it keeps, and what it tells."""

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass

from micro import Service, errors, events, store

from proto.orders_connect import Orders
from proto.orders_pb import CancelRequest, GetRequest, Order, PlaceRequest

TOPIC = "orders"
ORDER = "order/"  # order/ID: the order
OUTBOX = "outbox/"  # outbox/ID/N: its change number N, which is still to be published
SWEEP_SECONDS = 5.0

log = logging.getLogger("orders")


@dataclass
class OrderChanged:
    """What is told: an order as it was after a change."""

    order: str
    state: str
    email: str
    item: str
    quantity: int


class Handler(Orders):
    """Answers the calls. An order and that it is to be told are stored together, so neither is without the other."""

    async def place(self, request: PlaceRequest, ctx) -> Order:
        if not request.email or not request.item:
            raise errors.invalid_argument("email and item are needed")
        if not 0 <= request.quantity <= 1000:
            raise errors.invalid_argument(f"quantity is {request.quantity}: use 1 to 1,000")
        order = Order(
            id=secrets.token_hex(8),
            email=request.email,
            item=request.item,
            quantity=request.quantity or 1,
            state="placed",
        )
        await keep(order, 0)
        return order

    async def cancel(self, request: CancelRequest, ctx) -> Order:
        found = await record(request.id)
        order = found.value
        if order.state != "placed":
            raise errors.failed_precondition(f"order {order.id} is {order.state}")
        order.state = "cancelled"
        await keep(order, found.version)
        return order

    async def get(self, request: GetRequest, ctx) -> Order:
        return (await record(request.id)).value


async def record(order_id: str) -> store.Record[Order]:
    try:
        return await store.read(ORDER + order_id, as_type=Order)
    except errors.Error as error:
        if error.kind is errors.Kind.NOT_FOUND:
            raise errors.not_found(f"there is no order {order_id!r}") from None
        raise


async def keep(order: Order, version: int) -> None:
    """Store an order in place of a version of it, and tell of it, now or as soon as that is possible."""
    change = OrderChanged(order.id, order.state, order.email, order.item, order.quantity)
    async with store.batch() as batch:
        batch.write(ORDER + order.id, order, if_version=version)
        batch.write(f"{OUTBOX}{order.id}/{version:012}", change)
    try:
        await tell(f"{OUTBOX}{order.id}/")
    except errors.Error as error:
        log.warning("order %s is told later: %s", order.id, error)


async def tell(prefix: str) -> None:
    """Publish what lies in the outbox, the changes of an order in their order.

    Somebody else may do so too, or have done it and died before the record was deleted: the dedup id stands for both.
    """
    async for found in store.list(prefix=prefix, as_type=OrderChanged):
        change = found.value
        await events.publish(TOPIC, change, key=change.order, dedup_id=found.key)
        await store.delete(found.key)


async def sweep() -> None:
    """Tell what could not be told at once."""
    while True:
        try:
            await tell(OUTBOX)
        except errors.Error as error:
            log.warning("orders are told later: %s", error)
        await asyncio.sleep(SWEEP_SECONDS)


app = Service("orders", Handler())


@app.on_start
async def start(stack: AsyncExitStack) -> None:
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    stack.callback(tasks.create_task(sweep()).cancel)


if __name__ == "__main__":
    app.run()
