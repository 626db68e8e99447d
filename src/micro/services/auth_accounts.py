"""Accounts: made, read, changed and removed, by whom may."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from micro.domain import account as rules
from micro.domain import errors
from micro.domain.account import ADMIN, Account, Type
from micro.ports import identity
from micro.ports.identity import Entry, IdentityStore
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Accounts
from micro.services import _auth_caller as caller
from micro.services import _auth_core as core
from micro.services import _auth_messages as messages
from micro.services import _auth_secrets as secrets
from micro.services import auth_sessions
from micro.services._auth_changes import Changes, Moments
from micro.services._auth_secrets import Secret, Secrets
from micro.services.auth_attempts import Proofs
from micro.services.auth_policy import Feed
from micro.services.auth_sessions import Sessions

_PAGE, _LONGEST_PAGE = 100, 1000


def subject(namespace: str) -> str:
    """What a change is about that depends on who else there is in a namespace."""
    return f"namespace {namespace}"


class Accountant:
    """Changes accounts as they are stored. Who may is known by then.

    What makes, removes or demotes accounts of one namespace happens one after the other; a change of one account's
    tokens besides in turn with all others of it.
    """

    def __init__(
        self, store: IdentityStore, hashes: Secrets, sessions: Sessions, changes: Changes, moments: Moments
    ) -> None:
        self._store = store
        self._hashes = hashes
        self._sessions = sessions
        self._changes = changes
        self._moments = moments

    async def create(self, account: Account, secret: Secret, entry: Entry) -> Account:
        """Store a new account, which is valid, and return it as it is now. Raises ALREADY_EXISTS, and NOT_FOUND
        for a namespace that there is none of."""
        account = dataclasses.replace(account, created=messages.rfc3339(self._moments.now()))
        for called in (account.id, account.name or account.id):  # before a hash is worked out for nothing
            if await self._store.secret(account.namespace, called) is not None:
                raise identity.account_exists(account)
        hashed = await self._hashes.hash(secret, entry.actor, entry.address)

        async def change() -> None:
            await self._store.create_account(account, hashed, entry)
            self._changes.announce(entry)

        await self._changes.run(subject(account.namespace), change)
        return account

    async def create_first(
        self, account: Account, secret: Secret, actor: Account, address: str
    ) -> tuple[Account, str] | None:
        """Store the admin that a deployment begins with, and return it with its secret's hash; None when it has begun
        before."""
        now = self._moments.now()
        account = dataclasses.replace(account, created=messages.rfc3339(now))
        hashed = await self._hashes.hash(secret, str(actor), address)
        entry = Entry(now, str(actor), "account.create", str(account), account.namespace, address)

        async def change() -> bool:
            created = await self._store.create_first(account, hashed, entry)
            if created:
                self._changes.announce(entry)
            return created

        created = await self._changes.run(subject(account.namespace), change)
        return (account, hashed) if created else None

    async def reset(self, account: Account, secret: Secret, actor: Account, address: str) -> tuple[Account, str]:
        """Give an account another secret, and at least these scopes, and end its sessions; make it where there is none.

        Returns the account as it is now, and its secret's hash.
        """
        fresh = await self._hashes.hash(secret, str(actor), address)

        async def change() -> Account:
            now = self._moments.now()
            entry = Entry(now, str(actor), "account.reset", str(account), account.namespace, address)
            found = await self._store.secret(*account.key)
            if found is None or found[0].id != account.id:
                made = dataclasses.replace(account, created=messages.rfc3339(now))
                await self._store.create_account(made, fresh, entry)
                self._changes.announce(dataclasses.replace(entry, action="account.create"))
                return made
            changed = dataclasses.replace(found[0], scopes=found[0].scopes | account.scopes)
            await self._replace_secret(changed, found[1], fresh, entry)
            return changed

        return await self._changes.run(subject(account.namespace), change), fresh

    async def _replace_secret(self, account: Account, hashed: str, fresh: str, entry: Entry) -> None:
        """Store an account with another secret than it had; its sessions end."""
        account_tag = auth_sessions.tag(hashed)

        async def replace() -> None:
            newest = await self._sessions.newest(*account.key)
            revoked = self._sessions.ended(account.namespace, account_tag, newest)
            await self._store.replace_account(account, entry, secret=fresh, revoked=revoked)
            self._sessions.tell([revoked])
            self._changes.announce(entry)

        await self._changes.run(auth_sessions.subject(account_tag), replace)

    async def delete(self, namespace: str, id: str, entry: Entry, *, announced: bool = True) -> None:  # noqa: A002 - what it is
        """Remove it; its tokens are refused. Raises NOT_FOUND; FAILED_PRECONDITION for the last admin of "micro".

        Args:
            announced: whether that is announced; not where the namespace goes with it.
        """

        async def change() -> None:
            account, hashed = await self._found(namespace, id)
            await self._keep_an_admin(account)
            account_tag = auth_sessions.tag(hashed)

            async def remove() -> None:
                newest = await self._sessions.newest(namespace, id)
                revoked = self._sessions.ended(namespace, account_tag, newest)
                await self._store.delete_account(namespace, id, revoked, entry)
                self._sessions.tell([revoked])
                if announced:
                    self._changes.announce(entry)

            await self._changes.run(auth_sessions.subject(account_tag), remove)

        await self._changes.run(subject(namespace), change)

    async def set_scopes(self, namespace: str, id: str, scopes: frozenset[str], entry: Entry) -> Account:  # noqa: A002
        """Replace the scopes; tokens with others are refused. Raises as `delete` does."""

        async def change() -> Account:
            account, hashed = await self._found(namespace, id)
            if account.scopes == scopes:
                return account
            changed = dataclasses.replace(account, scopes=scopes)
            if ADMIN not in scopes:
                await self._keep_an_admin(account)
            account_tag = auth_sessions.tag(hashed)

            async def replace() -> None:
                revoked = await self._sessions.revoked(namespace, id, account_tag)
                await self._store.replace_account(changed, entry, revoked=revoked)
                self._sessions.tell([revoked])
                self._changes.announce(entry)

            await self._changes.run(auth_sessions.subject(account_tag), replace)
            return changed

        return await self._changes.run(subject(namespace), change)

    async def set_secret(self, namespace: str, id: str, secret: Secret, entry: Entry, proven: str = "") -> str:  # noqa: A002
        """Replace the secret and end the sessions; returns the new hash.

        Args:
            proven: the hash that the old secret was compared with, where it was.

        Raises:
            Error: NOT_FOUND, and ABORTED when the secret was changed since it was proven.
        """
        fresh = await self._hashes.hash(secret, entry.actor, entry.address)

        async def change() -> None:
            account, hashed = await self._found(namespace, id)
            if proven and hashed != proven:
                raise errors.aborted(f"the secret of {account} was changed by somebody else just now: log in again")
            await self._replace_secret(account, hashed, fresh, entry)

        await self._changes.run(subject(namespace), change)
        return fresh

    async def all(self, namespace: str) -> list[Account]:
        """Every account of a namespace, sorted by id."""
        found: list[Account] = []
        while True:
            page = await self._store.accounts(namespace, after=found[-1].id if found else "", limit=_LONGEST_PAGE)
            found += page
            if len(page) < _LONGEST_PAGE:
                return found

    async def _found(self, namespace: str, id: str) -> tuple[Account, str]:  # noqa: A002
        found = await self._store.secret(namespace, id)
        if found is None or found[0].id != id:
            raise identity.no_account(namespace, id)
        return found

    async def _keep_an_admin(self, leaving: Account) -> None:
        """Raises FAILED_PRECONDITION when nobody could administer the deployment any more."""
        if not leaving.platform:
            return
        others = (other for other in await self.all(leaving.namespace) if other.id != leaving.id)
        if not any(other.platform and other.type is Type.USER for other in others):
            raise errors.failed_precondition(
                f"{leaving} is the last admin of the deployment: give somebody else the admin scope first"
            )


class AccountsHandler(Accounts):
    """The handler of `micro.auth.v1.Accounts`."""

    def __init__(
        self, store: IdentityStore, accountant: Accountant, proofs: Proofs, feed: Feed, moments: Moments
    ) -> None:
        self._store = store
        self._accountant = accountant
        self._proofs = proofs
        self._feed = feed
        self._moments = moments

    async def generate(self, request: pb.GenerateRequest, ctx: Any) -> pb.GenerateResponse:
        """`Auth.Generate`."""
        account = self._requested(request, caller.administered(ctx, request.namespace, self._feed))
        secret = Secret(rules.secret(request.secret)) if request.secret else secrets.made()
        entry = caller.entry(ctx, self._moments.now(), "account.create", str(account), account.namespace)
        account = await self._accountant.create(account, secret, entry)
        return pb.GenerateResponse(account=messages.to_account(account), secret=secret.text)

    async def list(self, request: pb.AccountsListRequest, ctx: Any) -> pb.AccountsListResponse:
        namespace = caller.administered(ctx, request.namespace, self._feed)
        limit = caller.page(request.limit, _PAGE, _LONGEST_PAGE)
        found = await self._store.accounts(namespace, after=request.cursor, limit=limit + 1)
        more = found[limit - 1].id if len(found) > limit else ""
        return pb.AccountsListResponse(accounts=[messages.to_account(each) for each in found[:limit]], next=more)

    async def read(self, request: pb.AccountsReadRequest, ctx: Any) -> pb.AccountsReadResponse:
        namespace, wanted = caller.own_or_administered(ctx, request.namespace, request.id, self._feed)
        account = core.account(wanted) if core.reserved(namespace, wanted) else None
        account = account or await self._store.account(namespace, wanted)
        if account is None:
            raise identity.no_account(namespace, wanted)
        return pb.AccountsReadResponse(account=messages.to_account(account))

    async def delete(self, request: pb.AccountsDeleteRequest, ctx: Any) -> pb.AccountsDeleteResponse:
        namespace = caller.administered(ctx, request.namespace, self._feed)
        target = rules.account_id(request.id)
        if (namespace, target) == ctx.account.key:
            raise errors.failed_precondition(f"{ctx.account} is your own account: have another admin delete it")
        entry = caller.entry(ctx, self._moments.now(), "account.delete", f"{namespace}/{target}", namespace)
        await self._accountant.delete(namespace, target, entry)
        return pb.AccountsDeleteResponse()

    async def change_secret(self, request: pb.ChangeSecretRequest, ctx: Any) -> pb.ChangeSecretResponse:
        namespace, wanted = caller.own_or_administered(ctx, request.namespace, request.id, self._feed)
        secret = Secret(rules.secret(request.new_secret)) if request.new_secret else secrets.made()
        entry = caller.entry(ctx, self._moments.now(), "account.secret", f"{namespace}/{wanted}", namespace)
        proven = ""
        if (namespace, wanted) == ctx.account.key:
            right, _, proven = await self._proofs.check(namespace, wanted, request.old_secret, caller.address(ctx))
            if not right:
                await self._store.record(dataclasses.replace(entry, outcome="refused"))
                raise errors.permission_denied("the old secret is wrong: your own can only be changed with it")
        await self._accountant.set_secret(namespace, wanted, secret, entry, proven)
        return pb.ChangeSecretResponse(secret="" if request.new_secret else secret.text)

    async def update_scopes(self, request: pb.UpdateScopesRequest, ctx: Any) -> pb.UpdateScopesResponse:
        namespace = caller.administered(ctx, request.namespace, self._feed)
        target = rules.account_id(request.id)
        scopes = rules.scopes(request.scopes)
        entry = caller.entry(ctx, self._moments.now(), "account.scopes", f"{namespace}/{target}", namespace)
        account = await self._accountant.set_scopes(namespace, target, scopes, entry)
        return pb.UpdateScopesResponse(account=messages.to_account(account))

    @staticmethod
    def _requested(request: pb.GenerateRequest, namespace: str) -> Account:
        metadata: Mapping[str, str] = request.metadata
        account = Account(
            id=rules.account_id(request.id),
            namespace=namespace,
            name=rules.called(request.name or request.id),
            type=_type(request.type),
            scopes=rules.scopes(request.scopes),
            metadata=rules.metadata(metadata),
        )
        if core.reserved(namespace, account.id) or core.reserved(namespace, account.name):
            raise errors.already_exists(f"{account} is the platform's own account: choose another id and name")
        return account


def _type(text: str) -> Type:
    try:
        return Type(text or Type.USER)
    except ValueError:
        raise errors.invalid_argument(f"{text[:200]!r} is not a type of account: write user or service") from None
