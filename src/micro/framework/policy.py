"""What a service knows of who may call: followed from auth, swapped whole, and kept while auth is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import MappingProxyType

from micro.domain import backoff, errors, names, rule, token
from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.domain.errors import Error
from micro.domain.namespace import Namespace, Quota
from micro.domain.rule import Decision, Resource, Rule, Rules
from micro.domain.token import Claims, Revocations
from micro.ports import background
from micro.ports.tokens import PublicKey, Verifier
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb

_log = logging.getLogger(__name__)

SILENCE = 15.0
"""Seconds without a word, of which there is one every five, until the watch counts as lost."""

_Action = pb.PolicyWatchResponse.Action
_REMEMBERED = token.ACCESS_SECONDS + 2 * token.SKEW_SECONDS
"""Seconds that a revocation is told: until all tokens have ended that it is about."""

_PRUNE = 60.0
"""Seconds between looks for revocations that nothing is left of to refuse."""


@dataclass(slots=True)
class _State:
    """What was told since a RESET."""

    issuer: str = ""
    public: bool = False
    keys: tuple[PublicKey, ...] = ()
    rules: dict[str, Rule] = field(default_factory=dict)
    revoked: dict[str, float] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)

    def apply(self, change: pb.PolicyWatchResponse) -> None:
        """Take in what is no RESET, SYNCED or ALIVE."""
        if change.action == _Action.KEYS:
            self.keys = tuple(PublicKey(key.kid, key.x, key.y, key.created) for key in change.keys)
        elif change.action == _Action.RULE and change.rule is not None:
            self.rules[change.rule.id] = _rule(change.rule)
        elif change.action == _Action.RULE_DELETED and change.rule is not None:
            self.rules.pop(change.rule.id, None)
        elif change.action == _Action.REVOKED and change.revocation is not None:
            told = change.revocation
            self.revoked[told.session] = max(told.before, self.revoked.get(told.session, 0.0))
        elif change.action == _Action.NAMESPACE and change.namespace is not None:
            self.namespaces[change.namespace.name] = _namespace(change.namespace)
        elif change.action == _Action.NAMESPACE_DELETED and change.namespace is not None:
            self.namespaces.pop(change.namespace.name, None)

    def prune(self, now: float) -> None:
        """Forget revocations of tokens that have all ended."""
        ended = now - _REMEMBERED
        self.revoked = {session: before for session, before in self.revoked.items() if before > ended}


class Policy:
    """What holds now: keys, revocations, and the rules of one namespace, or all namespaces.

    Args:
        verifier: reads tokens; given the keys as they change.
        namespace: whose rules are told.
        clock: seconds since 1970.
    """

    def __init__(
        self, verifier: Verifier, namespace: str = names.DEFAULT_NAMESPACE, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._verifier = verifier
        self._namespace = namespace
        self._clock = clock
        self._draft: _State | None = None
        self._state: _State | None = None
        self._rules = Rules([])
        self._revocations = Revocations()
        self._pruned = 0.0
        self._heard = 0.0
        self._missed = 0.0
        self._listeners: list[Callable[[], None]] = []

    @property
    def synced(self) -> bool:
        """Whether all has been told once."""
        return self._state is not None

    @property
    def public(self) -> bool:
        """Whether callers without an account are let through where no rule says anything else."""
        return self._state is not None and self._state.public

    @property
    def rules(self) -> Rules:
        """What is decided by; another object whenever they may be others."""
        return self._rules

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """By name; told to the platform's own services only."""
        return MappingProxyType(self._state.namespaces if self._state is not None else {})

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change, before anything else is decided."""
        self._listeners.append(listener)

    def verify(self, text: str, now: float, audience: Audience) -> Claims:
        """What a token says. Raises UNAUTHENTICATED for one that does not hold or is not for `audience`, UNAVAILABLE
        before all was told."""
        self._known()
        claims = self._verifier.verify(text, now, audience)
        if self._revocations.cover(claims):
            raise _revoked()
        return claims

    def hold(self, claims: Claims, kid: str) -> None:
        """Raise UNAUTHENTICATED when a token that held once, said this, and was signed with that key, was taken back
        since: it was revoked, or the key is none any more. That it has ended by itself does not count."""
        if self._revocations.cover(claims) or claims.expires + 2 * token.SKEW_SECONDS < self._missed:
            raise _revoked()
        self._verifier.recognize(kid)

    def key_of(self, text: str) -> str:
        """Id of the key that signed a token, which was verified before."""
        return self._verifier.key_of(text)

    def decide(self, account: Account | None, resource: Resource) -> Decision:
        """Whether the caller may. Raises UNAVAILABLE before all was told."""
        self._known()
        return self._rules.decide(account, resource)

    def _known(self) -> None:
        if self._state is None:
            raise errors.unavailable("who may call is not known here yet: try again")

    def apply(self, change: pb.PolicyWatchResponse) -> None:
        """Take in what the watch tells. What comes between RESET and SYNCED holds from SYNCED on, at once.

        Raises FAILED_PRECONDITION for a change before any RESET, which only another kind of server would tell.
        """
        if change.action == _Action.RESET:
            self._draft = _State(change.issuer, change.public)
        elif change.action == _Action.SYNCED and self._draft is not None:
            self._adopt(self._draft)
            self._draft = None
        elif change.action == _Action.ALIVE:
            pass
        elif self._draft is not None:
            self._draft.apply(change)
        elif self._state is not None:
            self._update(self._state, change)
        else:
            raise errors.failed_precondition(f"the policy began with {change.action.name}, not with RESET")
        if self._draft is None:
            self._heard = self._clock()

    def _adopt(self, state: _State) -> None:
        self._verifier.replace(state.keys, state.issuer)
        self._rules = Rules([*state.rules.values(), rule.built_in(self._namespace, public=state.public)])
        self._revocations = Revocations(state.revoked)
        if self._state is not None and (now := self._clock()) - self._heard > _REMEMBERED:
            self._missed = now  # what was revoked meanwhile is not told any more
        self._state = state
        self._tell()

    def _update(self, state: _State, change: pb.PolicyWatchResponse) -> None:
        state.apply(change)
        if change.action == _Action.KEYS:
            self._verifier.replace(state.keys, state.issuer)
        elif change.action == _Action.RULE and change.rule is not None:
            self._rules = self._rules.with_rule(state.rules[change.rule.id])
        elif change.action == _Action.RULE_DELETED and change.rule is not None:
            self._rules = self._rules.without(change.rule.id)
        elif change.action == _Action.REVOKED:
            if (now := self._clock()) - self._pruned > _PRUNE:
                self._pruned = now
                state.prune(now)
            self._revocations = Revocations(state.revoked)
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


class PolicyFollower:
    """Keeps a policy up to date.

    Args:
        policy: what is kept.
        watch: begins to listen to auth, for as long as it lasts.
        silence: seconds without a word until it counts as lost.
        delays: how long to wait after each failure; begins anew after a success.
    """

    def __init__(
        self,
        policy: Policy,
        watch: Callable[[], AsyncIterator[pb.PolicyWatchResponse]],
        *,
        silence: float = SILENCE,
        delays: Callable[[], Iterator[float]] = lambda: backoff.exponential(first=0.1, cap=0.5),
    ) -> None:
        self.policy = policy
        self._watch = watch
        self._silence = silence
        self._delays = delays
        self._waits = delays()
        self._synced = asyncio.Event()
        self._lost = False

    async def start(self, stack: AsyncExitStack) -> None:
        """Begin; the stack ends it."""
        background.spawn(stack, self._follow(), "policy")

    async def synced(self) -> None:
        """Return once all has been told."""
        await self._synced.wait()

    async def _follow(self) -> None:
        while True:
            try:
                await self._listen()
                why = "auth has ended it"
            except TimeoutError:
                why = f"nothing was heard for {self._silence:.0f} s"
            except Error as error:
                why = str(error)
            self._fail(why)
            await asyncio.sleep(next(self._waits))

    async def _listen(self) -> None:
        loop, changes = asyncio.get_running_loop(), self._watch()
        try:
            async with asyncio.timeout(self._silence) as patience:
                async for change in changes:
                    patience.reschedule(loop.time() + self._silence)
                    self.policy.apply(change)
                    if change.action == _Action.SYNCED:
                        self._succeed()
        finally:
            close = getattr(changes, "aclose", None)
            if close is not None:
                await close()

    def _fail(self, why: str) -> None:
        if not self._lost:
            if self.policy.synced:
                _log.warning("who may call is not heard of any more: %s: what is known holds, trying again", why)
            else:
                _log.info("waiting to hear who may call: %s", why)
        self._lost = True

    def _succeed(self) -> None:
        self._waits = self._delays()
        if self._lost:
            _log.info("who may call is heard of again")
        self._lost = False
        self._synced.set()


def _revoked() -> Error:
    return errors.unauthenticated("the token was revoked: log in again")


def _rule(told: pb.Rule) -> Rule:
    # Whatever does not say that it lets callers through does not.
    access = rule.Access.GRANTED if told.access == pb.Access.GRANTED else rule.Access.DENIED
    about = told.resource or pb.Resource()
    resource = Resource(about.type, about.name, about.endpoint)
    return Rule(told.id, told.namespace, told.scope, resource, access, told.priority)


def _namespace(told: pb.Namespace) -> Namespace:
    quota = told.quota or pb.Quota()
    limits = Quota(quota.services, quota.instances, quota.requests, quota.upload, quota.topics, quota.events)
    return Namespace(told.name, limits, created=told.created)
