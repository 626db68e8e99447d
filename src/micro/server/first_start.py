"""What a server does once its services answer: have the first admin made, and keep its session for the command line."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from micro.domain import backoff, errors
from micro.domain.address import split
from micro.ports.sessions import Sessions, Stored, StoredSession
from micro.server.settings import Settings

LOCAL = "local"
"""The environment of the same home."""

_PATH = "/micro.auth.v1.Setup/Begin"
_ATTEMPT = 10.0
"""Seconds for one attempt."""


@dataclass(frozen=True, slots=True)
class FirstAdmin:
    """The admin that was just made; its secret is told this once.

    Attributes:
        session: whether the command line of the same home is logged in as it.
    """

    id: str
    secret: str = field(repr=False)
    session: bool


async def begin(settings: Settings) -> FirstAdmin | None:
    """Have the first admin made, or given a new secret where the settings say so; None when there is nothing to tell.

    Raises:
        Error: UNAVAILABLE when auth does not answer, FAILED_PRECONDITION when the session cannot be stored.
    """
    told = await _asked(settings, backoff.exponential(first=0.02, cap=0.5))
    if not told.get("secret"):
        return None
    session = told.get("session")
    if session and not settings.no_local_login:
        with Sessions(settings.home).locked() as stored:
            stored[LOCAL] = Stored(session=_stored(session))
    return FirstAdmin(told["id"], told["secret"], session=bool(session) and not settings.no_local_login)


async def _asked(settings: Settings, delays: Iterator[float]) -> dict[str, Any]:
    failure = "it does not answer"
    try:
        async with asyncio.timeout(settings.ready_timeout):
            while True:
                try:
                    status, told = await asyncio.to_thread(_ask, settings)
                except (OSError, ValueError) as error:
                    failure = str(error) or type(error).__name__
                else:
                    if status == 200:
                        return told
                    failure = str(told.get("message", status))
                    if status != 503:
                        raise errors.unavailable(f"auth does not make the first admin: {failure}")
                await asyncio.sleep(next(delays))
    except TimeoutError:
        raise errors.unavailable(f"auth does not make the first admin: {failure}") from None


def _ask(settings: Settings) -> tuple[int, dict[str, Any]]:
    # One call in the life of a process: not worth the time that a client for gRPC takes to import.
    import http.client

    host, port = split(settings.auth_address)
    connection = http.client.HTTPConnection(host, port, timeout=_ATTEMPT)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {settings.server_secret}"}
        connection.request("POST", _PATH, json.dumps({"reset": settings.reset_admin}), headers)
        response = connection.getresponse()
        told = json.loads(response.read())
        return response.status, told if isinstance(told, dict) else {}
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP: {error!r}") from error
    finally:
        connection.close()


def _stored(session: dict[str, Any]) -> StoredSession:
    account = session["account"]
    return StoredSession(
        id=account["id"],
        name=account.get("name", ""),
        namespace=account["namespace"],
        access_token=session["accessToken"],
        service_token=session["serviceToken"],
        refresh_token=session["refreshToken"],
        expires=dt.datetime.fromisoformat(session["expires"]).timestamp(),
    )
