"""The first start: an admin with a random secret, since no default one exists anywhere. A later one may replace it."""

from __future__ import annotations

import logging
from typing import Any

from micro.domain import names
from micro.domain.account import ADMIN, Account, Type
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Setup
from micro.services import _auth_caller as caller
from micro.services import _auth_core as core
from micro.services import _auth_secrets as secrets
from micro.services._auth_changes import Changes, Moments
from micro.services.auth_accounts import Accountant
from micro.services.auth_sessions import Sessions

log = logging.getLogger("micro.auth")

FIRST = "admin"
"""Id of the first admin."""


class SetupHandler(Setup):
    """The handler of `micro.auth.v1.Setup`.

    Args:
        local_login: whether the first admin gets a session for the command line of this host.
    """

    def __init__(
        self, accountant: Accountant, sessions: Sessions, changes: Changes, moments: Moments, *, local_login: bool
    ) -> None:
        self._accountant = accountant
        self._sessions = sessions
        self._changes = changes
        self._moments = moments
        self._local_login = local_login

    async def begin(self, request: pb.BeginRequest, ctx: Any) -> pb.BeginResponse:
        return await self._changes.run("setup", lambda: self._begin(caller.address(ctx), reset=request.reset))

    async def _begin(self, address: str, *, reset: bool) -> pb.BeginResponse:
        account = Account(FIRST, names.DEFAULT_NAMESPACE, FIRST, Type.USER, frozenset({ADMIN}))
        secret = secrets.made()
        actor = core.account(core.SERVER)
        made = await self._accountant.create_first(account, secret, actor, address)
        if made is not None:
            log.info("the first admin, %s, was made", account)
        elif reset:
            made = await self._accountant.reset(account, secret, actor, address)
            log.warning("%s was given a new secret", account)
        else:
            return pb.BeginResponse(id=FIRST)
        account, hashed = made
        session = await self._sessions.open(account, hashed, address) if self._local_login else None
        return pb.BeginResponse(id=FIRST, secret=secret.text, session=session)
