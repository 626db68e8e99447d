"""Rules: made, changed and told; and why one decides."""

from __future__ import annotations

from typing import Any

from micro.domain import access, errors, names, rule
from micro.domain.account import Account, account_id
from micro.domain.rule import Resource, Rule
from micro.ports import identity
from micro.ports.identity import IdentityStore
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Rules
from micro.services import _auth_caller as caller
from micro.services import _auth_core as core
from micro.services import _auth_messages as messages
from micro.services._auth_changes import Changes, Moments
from micro.services.auth_policy import Feed

MOST = 20_000
"""Rules of one namespace: each of its services holds them all."""

_FIXED = "the platform says so, and no rule changes it"


class RulesHandler(Rules):
    """The handler of `micro.auth.v1.Rules`."""

    def __init__(self, store: IdentityStore, feed: Feed, changes: Changes, moments: Moments) -> None:
        self._store = store
        self._feed = feed
        self._changes = changes
        self._moments = moments

    async def create(self, request: pb.RulesCreateRequest, ctx: Any) -> pb.RulesCreateResponse:
        wanted = _requested(request.rule, ctx, self._feed)
        entry = caller.entry(ctx, self._moments.now(), "rule.create", _told(wanted), wanted.namespace)

        async def change() -> None:
            if self._feed.rule_count(wanted.namespace) >= MOST:
                raise errors.resource_exhausted(f"namespace {wanted.namespace} has {MOST} rules, the most: delete some")
            await self._store.create_rule(wanted, entry)
            self._feed.put_rule(wanted)
            self._changes.announce(entry)

        await self._changes.run(_subject(wanted.namespace), change)
        return pb.RulesCreateResponse(rule=messages.to_rule(wanted))

    async def update(self, request: pb.RulesUpdateRequest, ctx: Any) -> pb.RulesUpdateResponse:
        wanted = _requested(request.rule, ctx, self._feed)
        entry = caller.entry(ctx, self._moments.now(), "rule.update", _told(wanted), wanted.namespace)

        async def change() -> None:
            if self._feed.rule(wanted.namespace, wanted.id) == wanted:
                return  # nothing to keep in the audit log either
            await self._store.replace_rule(wanted, entry)
            self._feed.put_rule(wanted)
            self._changes.announce(entry)

        await self._changes.run(_subject(wanted.namespace), change)
        return pb.RulesUpdateResponse(rule=messages.to_rule(wanted))

    async def delete(self, request: pb.RulesDeleteRequest, ctx: Any) -> pb.RulesDeleteResponse:
        namespace, id = caller.administered(ctx, request.namespace, self._feed), request.id  # noqa: A001 - what it is
        if id == rule.BUILT_IN:
            raise errors.failed_precondition(
                "the built-in rule cannot be deleted: create one of a higher priority, which decides before it"
            )
        entry = caller.entry(ctx, self._moments.now(), "rule.delete", id[:200], namespace)

        async def change() -> None:
            await self._store.delete_rule(namespace, id, entry)
            self._feed.drop_rule(namespace, id)
            self._changes.announce(entry)

        await self._changes.run(_subject(namespace), change)
        return pb.RulesDeleteResponse()

    async def list(self, request: pb.RulesListRequest, ctx: Any) -> pb.RulesListResponse:
        namespace = caller.administered(ctx, request.namespace, self._feed)
        return pb.RulesListResponse(rules=[messages.to_rule(found) for found in self._feed.rules(namespace)])

    async def explain(self, request: pb.ExplainRequest, ctx: Any) -> pb.ExplainResponse:
        """`Auth.Explain`."""
        namespace = caller.administered(ctx, request.namespace, self._feed)
        resource = rule.resource(request.resource, exact=True)
        account = await self._account(ctx.account, namespace, request.account) if request.account else None
        more = _unknown(ctx.account, namespace, account)
        if resource.name.lower() in names.CORE_SERVICES:
            found = _explain_core(resource, account, namespace)
            found.reason += more
            return found
        decision = rule.decide(self._feed.rules(namespace), account, resource)
        return pb.ExplainResponse(
            allowed=decision.allowed,
            rule=messages.to_rule(decision.rule) if decision.rule else None,
            reason=_reason(decision.rule, account) + more,
        )

    async def _account(self, asking: Account, namespace: str, called: str) -> Account:
        """The account of a namespace, or of the one that is named before its id. Of one whose accounts are not for who
        asks to see, that it is of that namespace: more does not count elsewhere."""
        own, apart, id = called.rpartition("/")  # noqa: A001 - what it is
        home = names.namespace(own or apart) if apart else namespace
        if not asking.administers(home):
            return Account(account_id(id), home)
        if core.reserved(home, id):
            return core.account(id)
        found = await self._store.account(home, id)
        if found is None:
            raise identity.no_account(home, id)
        return found


def _subject(namespace: str) -> str:
    return f"rules of {namespace}"


def _told(changed: Rule) -> str:
    """A rule as the audit log keeps it: what it says from then on."""
    return f"{changed.id}: {changed}"


def _requested(asked: pb.Rule | None, ctx: Any, feed: Feed) -> Rule:
    if asked is None:
        raise errors.invalid_argument("rule is missing: say what it is about")
    return rule.checked(messages.from_rule(asked, caller.administered(ctx, asked.namespace, feed)))


def _reason(deciding: Rule | None, account: Account | None) -> str:
    who = str(account) if account else "a caller without an account"
    if deciding is None:
        return f"denied: no rule is about {who} there"
    return f"rule {deciding.id!r} says that {deciding}: that is about {who}"


def _unknown(asking: Account, namespace: str, account: Account | None) -> str:
    """What is added where an account may be more than is known of it."""
    of_the_platform = account is not None and account.namespace == names.DEFAULT_NAMESPACE
    if of_the_platform and not asking.administers(names.DEFAULT_NAMESPACE):
        return f"; as an admin of {names.DEFAULT_NAMESPACE} it would count as one of {namespace}"
    return ""


def _explain_core(resource: Resource, account: Account | None, namespace: str) -> pb.ExplainResponse:
    """What the table of the platform's own endpoints decides."""
    service, wanted = resource.name.lower(), resource.endpoint.lower()
    found = {path: endpoint for path in access.NEEDS if (endpoint := _endpoint(path, service))}
    path = next((path for path, endpoint in found.items() if endpoint.lower() == wanted), None)
    if path is None:
        near = [endpoint for endpoint in found.values() if wanted in endpoint.lower().split(".")]
        hint = f": it has {', '.join(near)}" if near else ""
        return pb.ExplainResponse(reason=f"denied: service {service} has no endpoint {resource.endpoint}{hint}")
    try:
        access.check(path, account, namespace)
    except errors.Error as error:
        return pb.ExplainResponse(reason=f"denied: {error}; {_FIXED}")
    return pb.ExplainResponse(
        allowed=True, reason=f"{service} {found[path]} is for {access.NEEDS[path].value}; {_FIXED}"
    )


def _endpoint(path: str, service: str) -> str:
    """ "Stream.Publish" for "/micro.events.v1.Stream/Publish" of events; empty for a path of another service."""
    front = f"/micro.{service}.v1."
    return path.removeprefix(front).replace("/", ".") if path.startswith(front) else ""
