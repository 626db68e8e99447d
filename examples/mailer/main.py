"""The mailer service. Its contract is proto/mailer.proto; README.md says what it consumes."""

import asyncio
import logging
import re
import smtplib
from dataclasses import dataclass
from email.message import EmailMessage

from micro import Service, config, store

from proto.mailer_connect import Mailer
from proto.mailer_pb import ListRequest, ListResponse, Mail

MAIL = "mail/"  # mail/ORDER/STATE: the mail about an order that came to a state

log = logging.getLogger("mailer")


@dataclass
class OrderChanged:
    """What is told of an order; what else is in it does not matter here."""

    order: str
    state: str
    email: str
    item: str
    quantity: int = 1


class Handler(Mailer):
    async def list(self, request: ListRequest, ctx) -> ListResponse:
        mails = [record async for record in store.list(prefix=f"{MAIL}{request.order}/", as_type=Mail)]
        mails.sort(key=lambda record: record.version)
        return ListResponse(mails=[record.value for record in mails])


app = Service("mailer", Handler())


@app.consume("orders", start="all", max_deliver=3, backoff=(0.2, 1.0))
async def on_order(change: OrderChanged) -> None:
    """Send a mail about a change, once as far as can be known."""
    key = f"{MAIL}{change.order}/{change.state}"
    if await store.get(key) is not None:
        return  # it was sent, and whoever sent it could not say so any more
    mail = Mail(
        to=change.email,
        subject=f"Your order is {change.state}",
        text=f"{change.quantity} x {change.item}, order {change.order}: {change.state}.",
    )
    await send(mail)
    await store.write(key, mail)


async def send(mail: Mail) -> None:
    """Hand a mail to the server that setting `mail.server` names, or to the log where there is none.

    Raises:
        ValueError: the address is none.
        OSError: the server is away, or refuses the mail.
    """
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", mail.to):
        raise ValueError(f"{mail.to!r} is no address")
    server = await config.get("mail.server", as_type=str)
    if server is None:
        log.info("to %s: %s", mail.to, mail.subject)
        return
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "orders@example.com", mail.to, mail.subject
    message.set_content(mail.text)
    await asyncio.to_thread(_deliver, server, message)


def _deliver(server: str, message: EmailMessage) -> None:
    host, _, port = server.partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=10) as connection:
        connection.send_message(message)


if __name__ == "__main__":
    app.run()
