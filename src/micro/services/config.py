"""Config: settings and secrets of each namespace, read and changed by dotted path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

from micro.domain import config as rules
from micro.domain import errors, names
from micro.domain.config import Document, Leaf, Path, Tree
from micro.ports import announcements as topics
from micro.ports import store
from micro.ports.announcements import Announcements, Silent
from micro.ports.identity import no_namespace
from micro.ports.sealing import Sealing
from micro.ports.store import Now, Store
from micro.rpc.gen.micro.config.v1 import config_pb as pb
from micro.rpc.gen.micro.config.v1.config_connect import Config
from micro.services import _caller as caller
from micro.services._config_documents import Decide, Documents, Edit

PAGE, LONGEST_PAGE = 50, 1000

_TYPES = {"set": "value.set", "delete": "value.deleted", "rollback": "value.rolled_back"}


class ConfigService(Config):
    """The handler of `micro.config.v1.Config`.

    Args:
        state: where documents are kept; started by this service.
        sealing: for secrets. Without a usable key everything but secrets is served.
        exists: whether there is such a namespace.
        clock: milliseconds since 1970.
        announcements: who hears of changes, though not of values.
    """

    def __init__(
        self,
        state: Store,
        sealing: Sealing,
        *,
        exists: Callable[[str], bool] = lambda namespace: True,
        clock: Now = store.now,
        announcements: Announcements | None = None,
    ) -> None:
        self._state = state
        self._documents = Documents(state, sealing, clock)
        self._exists = exists
        self._announcements = announcements or Silent()

    async def start(self, stack: AsyncExitStack) -> None:
        """Open the state, and say in the log when its secrets cannot be opened."""
        await self._state.start(stack)
        await self._documents.check_keys()

    def healthy(self) -> bool:
        """Whether the state can be reached."""
        return self._state.healthy()

    def damaged(self) -> Sequence[str]:
        """Namespaces whose settings are known to be damaged."""
        return self._state.damaged()

    async def get(self, request: pb.GetRequest, ctx: Any) -> pb.GetResponse:
        namespace, path = self._about(ctx, request.namespace, request.path)
        clear = _clear(ctx, namespace, request.options)
        document = await self._documents.read(namespace)
        found = rules.find(document.tree, path)
        if found is None:
            raise _missing(namespace, path)
        data = await self._rendered(namespace, path, found, clear)
        return pb.GetResponse(value=pb.Value(data=data), revision=document.revision)

    async def set(self, request: pb.SetRequest, ctx: Any) -> pb.SetResponse:
        namespace, path = self._about(ctx, request.namespace, request.path)
        if request.value is None or not request.value.data:
            raise errors.invalid_argument("the value is missing: give it as JSON in value.data")
        given = rules.parse(request.value.data, path, secret=request.options is not None and request.options.secret)
        if not path and isinstance(given, Leaf):
            raise errors.invalid_argument("without a path the value has to be an object, which is merged into the rest")

        async def decide(document: Document) -> Edit:
            tree = rules.merged(dict(document.tree), rules.at_path(path, given))
            assert isinstance(tree, dict)
            kept = rules.find(tree, path)
            assert kept is not None
            return Edit(tree, rules.render(rules.common(kept, given)))

        wanted = request.if_revision if request.has_field("if_revision") else None
        revision = await self._change(ctx, namespace, "set", path, decide, if_revision=wanted)
        return pb.SetResponse(revision=revision)

    async def delete(self, request: pb.DeleteRequest, ctx: Any) -> pb.DeleteResponse:
        namespace, path = self._about(ctx, request.namespace, request.path)
        if not path:
            raise errors.invalid_argument("the path is missing: say what to delete")

        async def decide(document: Document) -> Edit:
            if rules.find(document.tree, path) is None:
                raise _missing(namespace, path)
            return Edit(rules.replaced(document.tree, path, None))

        revision = await self._change(ctx, namespace, "delete", path, decide)
        return pb.DeleteResponse(revision=revision)

    async def list(self, request: pb.ListRequest, ctx: Any) -> pb.ListResponse:
        namespace, path = self._about(ctx, request.namespace, request.path)
        document = await self._documents.read(namespace)
        found = rules.find(document.tree, path)
        if found is None:
            raise _missing(namespace, path)
        leaves = rules.flat(_whole(path, found))
        entries = [
            pb.Entry(path=at, value=pb.Value(data=rules.render(leaf)), secret=leaf.secret)
            for at, leaf in leaves.items()
        ]
        return pb.ListResponse(entries=entries, revision=document.revision)

    async def history(self, request: pb.HistoryRequest, ctx: Any) -> pb.HistoryResponse:
        namespace, path = self._about(ctx, request.namespace, request.path)
        for name, number in (("limit", request.limit), ("before", request.before)):
            if number < 0:
                raise errors.invalid_argument(f"{name} {number} is below 0")
        limit = min(request.limit or PAGE, LONGEST_PAGE)
        found: list[pb.Revision] = []
        async with aclosing(self._documents.history(namespace, before=request.before)) as changes:
            async for change in changes:
                if rules.related(rules.path(change.path), path):
                    found.append(
                        pb.Revision(
                            revision=change.revision,
                            time=change.time,
                            account=change.account,
                            action=change.action,
                            path=change.path,
                            value=pb.Value(data=change.value),
                        )
                    )
                if len(found) == limit:
                    break
        return pb.HistoryResponse(revisions=found)

    async def rollback(self, request: pb.RollbackRequest, ctx: Any) -> pb.RollbackResponse:
        namespace, path = self._about(ctx, request.namespace, request.path)
        if request.revision <= 0:
            raise errors.invalid_argument("the revision is missing: see micro config history")

        async def decide(document: Document) -> Edit:
            before = await self._documents.at_revision(namespace, document, request.revision)
            wanted = rules.find(before, path)
            if wanted is None and rules.find(document.tree, path) is None:
                raise _missing(namespace, path)
            return Edit(rules.replaced(document.tree, path, wanted), "" if wanted is None else rules.render(wanted))

        revision = await self._change(ctx, namespace, "rollback", path, decide)
        return pb.RollbackResponse(revision=revision)

    async def watch(self, request: pb.WatchRequest, ctx: Any) -> AsyncIterator[pb.WatchResponse]:
        namespace, path = self._about(ctx, request.namespace, request.path)
        clear = _clear(ctx, namespace, request.options)
        told: tuple[str, int] | None = None
        async with aclosing(self._documents.follow(namespace)) as documents:
            async for document in documents:
                found = rules.find(document.tree, path)
                data = "" if found is None else await self._rendered(namespace, path, found, clear)
                # Who watches everything follows the revision too.
                state = data, 0 if path else document.revision
                if state != told:
                    told = state
                    yield pb.WatchResponse(value=pb.Value(data=data), revision=document.revision)

    async def rotate(self, request: pb.RotateRequest, ctx: Any) -> pb.RotateResponse:
        caller.account(ctx)
        return pb.RotateResponse(namespaces=await self._documents.rotate())

    async def purge(self, request: pb.PurgeRequest, ctx: Any) -> pb.PurgeResponse:
        if not request.namespace:
            raise errors.invalid_argument("the namespace is missing: say whose config to remove")
        await self._documents.purge(caller.namespace(ctx, request.namespace))
        return pb.PurgeResponse()

    async def _change(
        self, ctx: Any, namespace: str, action: str, path: Path, decide: Decide, *, if_revision: int | None = None
    ) -> int:
        """Change a document, and announce that; returns the new revision. Raises what `Documents.change` raises."""
        at, secret = rules.written(path), False

        async def decided(document: Document) -> Edit:
            nonlocal secret
            edit = await decide(document)
            touched = (rules.find(document.tree, path), rules.find(edit.tree, path))
            secret = any(tree is not None and rules.has_secrets(tree) for tree in touched)
            return edit

        revision = await self._documents.change(
            namespace, str(ctx.account), action, at, decided, if_revision=if_revision
        )
        told = {"path": at, "secret": str(secret).lower(), "revision": str(revision), "by": str(ctx.account)}
        self._announcements.tell(namespace, topics.CONFIG, _TYPES[action], told)
        return revision

    def _about(self, ctx: Any, asked: str, path: str) -> tuple[str, Path]:
        """Namespace and path of a request. Raises PERMISSION_DENIED, NOT_FOUND and INVALID_ARGUMENT."""
        namespace = caller.namespace(ctx, asked)
        if not self._exists(namespace):
            raise no_namespace(namespace)
        return namespace, rules.path(path)

    async def _rendered(self, namespace: str, path: Path, found: Tree, clear: bool) -> str:
        return rules.render(found, await self._documents.opener(namespace, found) if clear else None, path)


def _clear(ctx: Any, namespace: str, options: pb.Options | None) -> bool:
    """Whether secrets are to be told. Raises PERMISSION_DENIED when they are asked for by somebody else."""
    if options is None or not options.secret:
        return False
    if not rules.may_see_secrets(ctx.account, namespace):
        raise errors.permission_denied(
            f"secrets of namespace {names.namespace(namespace)} are for its services and its admins: {ctx.account} is "
            "neither"
        )
    return True


def _whole(path: Path, found: Tree) -> dict[str, Tree]:
    """The document with nothing but what was found at a path."""
    whole = rules.at_path(path, found)
    assert isinstance(whole, dict)
    return whole


def _missing(namespace: str, path: Path) -> errors.Error:
    return errors.not_found(f"{rules.written(path)!r} is not set in namespace {namespace}: see micro config list")
