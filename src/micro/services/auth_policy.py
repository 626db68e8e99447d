"""What every service has to know to decide by itself who may call it, and how it is told of each change at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from micro.domain import rule
from micro.domain.namespace import Namespace
from micro.domain.rule import Rule
from micro.domain.token import Revocations
from micro.ports.clock import Clock, MonotonicClock
from micro.ports.identity import IdentityStore, Revoked
from micro.ports.tokens import PublicKey
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Policy
from micro.services import _auth_core as core
from micro.services import _auth_messages as messages

ALIVE_SECONDS = 5.0
"""How long a watcher hears nothing at most."""

_Action = pb.PolicyWatchResponse.Action

_ALL = ""
_CORE = "*"
"""Whom a change is told besides a namespace's own services, whose audience is its name."""


class Feed:
    """All of the policy in memory, as it is stored, with its last changes.

    A watcher keeps its place among the changes and nothing else, so it costs no memory, however slow it is; one that
    falls further behind than is remembered is told everything anew.

    Args:
        public: whether callers without an account are let through where no rule says anything else.
        history: how many changes are remembered.
    """

    def __init__(self, *, public: bool, history: int = 4096) -> None:
        self.public = public
        self.issuer = ""
        self.keys: list[PublicKey] = []
        self._rules: dict[str, dict[str, Rule]] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._revoked: dict[str, Revoked] = {}
        self._steps: deque[tuple[str, pb.PolicyWatchResponse]] = deque(maxlen=history)
        self._count = 0
        self._changed = asyncio.Event()

    async def load(self, store: IdentityStore, now: float) -> None:
        """Take in what is stored, before anybody watches."""
        self.issuer = await store.issuer()
        for namespace in await store.namespaces():
            self._namespaces[namespace.name] = namespace
            self._rules[namespace.name] = {found.id: found for found in await store.rules(namespace.name)}
        self._revoked = {revoked.session: revoked for revoked in await store.revocations(now)}

    # --- what holds ---------------------------------------------------------------------------------------------------

    def has_namespace(self, name: str) -> bool:
        return name in self._namespaces

    def rules(self, namespace: str) -> list[Rule]:
        """In the order in which they are looked at, the built-in one last."""
        return [
            *rule.ordered(self._rules.get(namespace, {}).values()),
            rule.built_in(namespace, public=self.public),
        ]

    def rule(self, namespace: str, id: str) -> Rule | None:  # noqa: A002 - what it is
        """The one of that id; not the built-in one."""
        return self._rules.get(namespace, {}).get(id)

    def rule_count(self, namespace: str) -> int:
        """How many there are, the built-in one not counted."""
        return len(self._rules.get(namespace, {}))

    def revocations(self) -> Revocations:
        return Revocations({session: revoked.before for session, revoked in self._revoked.items()})

    # --- what changes -------------------------------------------------------------------------------------------------

    def set_keys(self, keys: list[PublicKey]) -> None:
        self.keys = keys
        self._tell(_ALL, _keys(keys))

    def put_rule(self, changed: Rule) -> None:
        self._rules.setdefault(changed.namespace, {})[changed.id] = changed
        self._tell(changed.namespace, _rule(changed))

    def drop_rule(self, namespace: str, id: str) -> None:  # noqa: A002 - what it is
        self._rules.get(namespace, {}).pop(id, None)
        gone = pb.Rule(id=id, namespace=namespace)
        self._tell(namespace, pb.PolicyWatchResponse(action=_Action.RULE_DELETED, rule=gone))

    def put_namespace(self, changed: Namespace) -> None:
        self._namespaces[changed.name] = changed
        self._tell(_CORE, _namespace(changed))

    def drop_namespace(self, name: str) -> None:
        self._namespaces.pop(name, None)
        for id in list(self._rules.pop(name, {})):  # noqa: A001
            self.drop_rule(name, id)
        gone = pb.Namespace(name=name)
        self._tell(_CORE, pb.PolicyWatchResponse(action=_Action.NAMESPACE_DELETED, namespace=gone))

    def revoke(self, revoked: Iterable[Revoked], now: float) -> None:
        """These are refused from now on; what has ended by itself is forgotten."""
        self._revoked = {session: known for session, known in self._revoked.items() if known.until > now}
        for each in revoked:
            self._revoked[each.session] = each
            self._tell(_ALL, _revocation(each))

    # --- being told ---------------------------------------------------------------------------------------------------

    async def watch(self, namespace: str, *, platform: bool, clock: Clock) -> AsyncGenerator[pb.PolicyWatchResponse]:
        """RESET, what holds, SYNCED, then every change, for ever; ALIVE when there was none for a while.

        Args:
            namespace: whose rules are told.
            platform: tell of all namespaces instead.
        """
        audience = {_ALL, _CORE if platform else namespace}
        place: int | None = None
        while True:
            changed = self._changed
            steps = None if place is None else self._since(place)
            place = self._count
            if steps is None:
                for response in self.state(namespace, platform=platform):
                    yield response
                continue
            for about, response in steps:
                if about in audience:
                    yield response
            await clock.wait(changed, ALIVE_SECONDS)
            if not changed.is_set():
                yield pb.PolicyWatchResponse(action=_Action.ALIVE)

    def _since(self, place: int) -> list[tuple[str, pb.PolicyWatchResponse]] | None:
        """The changes after that many; None when they are not all remembered."""
        new = self._count - place
        if new > len(self._steps):
            return None
        return [self._steps[index] for index in range(len(self._steps) - new, len(self._steps))]

    def state(self, namespace: str, *, platform: bool) -> Iterator[pb.PolicyWatchResponse]:
        """What holds now: it is collected before the first of it is told."""
        about: list[Any] = list(self._namespaces.values() if platform else self._rules.get(namespace, {}).values())
        message: Callable[[Any], pb.PolicyWatchResponse] = _namespace if platform else _rule
        keys, revoked = self.keys, list(self._revoked.values())

        def told() -> Iterator[pb.PolicyWatchResponse]:
            yield pb.PolicyWatchResponse(action=_Action.RESET, issuer=self.issuer, public=self.public)
            yield _keys(keys)
            yield from map(_revocation, revoked)
            yield from map(message, about)
            yield pb.PolicyWatchResponse(action=_Action.SYNCED)

        return told()

    def _tell(self, audience: str, response: pb.PolicyWatchResponse) -> None:
        self._steps.append((audience, response))
        self._count += 1
        self._changed.set()
        self._changed = asyncio.Event()


class PolicyHandler(Policy):
    """The handler of `micro.auth.v1.Policy`. A watch whose login was revoked is ended by the guard, as any stream."""

    def __init__(self, feed: Feed, clock: Clock | None = None) -> None:
        self._feed = feed
        self._clock = clock or MonotonicClock()

    async def watch(self, request: pb.PolicyWatchRequest, ctx: Any) -> AsyncIterator[pb.PolicyWatchResponse]:
        platform = core.is_core(ctx.account)
        async with aclosing(self._feed.watch(ctx.within(), platform=platform, clock=self._clock)) as told:
            async for response in told:
                yield response


def _keys(keys: list[PublicKey]) -> pb.PolicyWatchResponse:
    return pb.PolicyWatchResponse(action=_Action.KEYS, keys=[messages.to_key(key) for key in keys])


def _rule(told: Rule) -> pb.PolicyWatchResponse:
    return pb.PolicyWatchResponse(action=_Action.RULE, rule=messages.to_rule(told))


def _namespace(told: Namespace) -> pb.PolicyWatchResponse:
    return pb.PolicyWatchResponse(action=_Action.NAMESPACE, namespace=messages.to_namespace(told))


def _revocation(told: Revoked) -> pb.PolicyWatchResponse:
    """Everybody is told, so it says nothing about whose it is: only those who saw a token know what it is about."""
    return pb.PolicyWatchResponse(
        action=_Action.REVOKED, revocation=pb.Revocation(session=told.session, before=told.before)
    )
