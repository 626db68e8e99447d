"""Locks and leaders: one at a time does something, and what it does it to can tell it from those before."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

from micro.domain import errors
from micro.domain.errors import Error, Kind
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.gen.micro.store.v1.store_connect import Leader, Lock
from micro.rpc.method import method
from micro.services import _caller as caller
from micro.services._store_leases import Key, Leases, Place, key_of, milliseconds, new_holder

WAIT_SECONDS = 60.0
"""How long who sets no deadline waits for a lock."""

RETRY_MILLISECONDS = 250
"""When a lease that could not be prolonged is tried again."""

_CANDIDATE_CHARACTERS = 1024


class LockHandler(Lock):
    """The handler of `micro.store.v1.Lock`."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    @method(timeout=WAIT_SECONDS)
    async def acquire(self, request: pb.AcquireRequest, ctx: Any) -> pb.AcquireResponse:
        key, length = self._key(request.database, request.name, ctx), milliseconds(request.lease)
        holder = new_holder()
        # Who comes later does not pass those that wait.
        token = await self._leases.take(key, holder, length) if self._leases.lines.empty(key) else None
        if token is None and not request.wait:
            raise errors.aborted(f"lock {request.name[:80]!r} is held: try again, or wait for it")
        if token is None:
            token = await self._wait(key, holder, length)
        return pb.AcquireResponse(holder=holder, token=token)

    async def _wait(self, key: Key, holder: str, length: int) -> int:
        with self._leases.lines.join(key) as place:
            while True:
                if not place.first:
                    await place.change()
                    continue
                held = await self._leases.find(key)
                if held is not None:
                    await place.change(held.expires)
                elif (token := await self._leases.take(key, holder, length)) is not None:
                    return token

    async def renew(self, request: pb.RenewRequest, ctx: Any) -> pb.RenewResponse:
        key, length = self._key(request.database, request.name, ctx), milliseconds(request.lease)
        await self._leases.prolong(key, request.holder, length)
        return pb.RenewResponse()

    async def release(self, request: pb.ReleaseRequest, ctx: Any) -> pb.ReleaseResponse:
        await self._leases.release(self._key(request.database, request.name, ctx), request.holder)
        return pb.ReleaseResponse()

    def _key(self, database: str, name: str, ctx: Any) -> Key:
        return key_of(self._leases.databases.of(ctx, database), "lock", name)


class LeaderHandler(Leader):
    """The handler of `micro.store.v1.Leader`."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def campaign(self, request: pb.CampaignRequest, ctx: Any) -> AsyncIterator[pb.CampaignResponse]:
        key = key_of(self._leases.databases.of(ctx, request.database), "leader", request.name)
        length = milliseconds(request.lease)
        candidate = request.candidate or f"{caller.account(ctx)}#{secrets.randbelow(10**9)}"
        if len(candidate) > _CANDIDATE_CHARACTERS:
            raise errors.invalid_argument(f"candidate is too long: {_CANDIDATE_CHARACTERS} characters are the most")
        holder, told = new_holder(), pb.CampaignResponse()
        with self._leases.lines.join(key) as place:
            try:
                while True:
                    found = await self._leases.find(key)
                    state = pb.CampaignResponse()
                    if found is not None:
                        leads = found.held_by(holder)
                        state = pb.CampaignResponse(leads=leads, leader=found.leader, token=found.token)
                    if state != told:
                        told = state
                        yield state
                    if found is None and place.first:
                        await self._leases.take(key, holder, length, candidate)
                    elif found is not None and state.leads:
                        await self._stay(key, holder, length, found.expires, place)
                    else:
                        await place.change(found.expires if found else None)
            finally:
                # It is nobody's concern here whether that succeeds: the stream has ended.
                self._leases.give_up(key, holder)

    async def _stay(self, key: Key, holder: str, length: int, expires: int, place: Place) -> None:
        """Wait until a third of the lease is over, and prolong it. Raises UNAVAILABLE once it has ended meanwhile."""
        due = expires - length * 2 // 3
        if self._leases.clock() < due:
            await place.change(due)
            return
        try:
            await self._leases.prolong(key, holder, length)
        except Error as error:
            if error.kind is Kind.ABORTED:  # it is another's, or nobody's: that is told next
                return
            if self._leases.clock() >= expires:
                raise
            await place.change(self._leases.clock() + RETRY_MILLISECONDS)
