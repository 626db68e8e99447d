"""What every backend of `micro.ports.registry` must do. Authors of a backend subclass `RegistryContract` in a test
file and give it a fixture `registry` that yields a started, empty backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from micro.domain import errors
from micro.domain.registrations import Synced
from micro.domain.service import Change, Endpoint, Node, Registration, StreamKind, Value
from micro.ports.registry import Registry

DEADLINE_SECONDS = 20.0


def registration(node: str = "greeter-1", name: str = "greeter", namespace: str = "micro") -> Registration:
    """A registration with everything in it that can be there."""
    shape = Value(
        "Request",
        "message",
        "greeter.Request",
        values=(
            Value("name", "string", optional=True, description="Whom to greet."),
            Value("moods", "enum", "greeter.Mood", repeated=True, enum_values=("CALM", "GLAD")),
            Value("notes", "map", key_type="string", values=(Value("", "int64"),)),
            Value("until", "int32", oneof="end", json_name="til"),
        ),
    )
    return Registration(
        namespace=namespace,
        name=name,
        version="v1.2",
        node=Node(node, "127.0.0.1:4040", {"zone": "eu=1", "empty": ""}),
        endpoints=(Endpoint("Greeter.Hello", "/greeter.Greeter/Hello", shape, shape, StreamKind.BIDI, 2.5, "Greets."),),
        metadata={"owner": 'Zoë "Z" ☃'},
        descriptors=bytes(range(256)),
    )


async def until_synced(changes: AsyncGenerator[Change | Synced]) -> list[Change]:
    """The changes up to the Synced."""
    found: list[Change] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for change in changes:
            if isinstance(change, Synced):
                assert change.revision >= max((seen.revision for seen in found), default=0)
                return found
            found.append(change)
    raise AssertionError("the watch ended")


async def changes_until(changes: AsyncGenerator[Change | Synced], revision: int) -> list[Change]:
    """The next changes, up to the one of `revision`. How many there are is the backend's: it may fold them."""
    found = await next_changes(changes, 1)
    while found[-1].revision < revision:
        found += await next_changes(changes, 1)
    assert found[-1].revision == revision
    return found


async def next_changes(changes: AsyncGenerator[Change | Synced], count: int) -> list[Change]:
    """The next `count` changes."""
    found: list[Change] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(found) < count:
            change = await anext(changes)
            assert isinstance(change, Change), "one Synced a watch"
            found.append(change)
    return found


class RegistryContract:
    """Subclass it; see the module."""

    @pytest.fixture
    async def registry(self) -> Registry:
        """A started backend that holds nothing: override it."""
        raise NotImplementedError

    async def test_is_healthy_once_started(self, registry: Registry) -> None:
        assert registry.healthy()

    async def test_gives_back_every_field_of_what_was_put(self, registry: Registry) -> None:
        revision = await registry.put(registration())
        seen, found = await registry.snapshot()
        assert found == [registration()]
        assert seen >= revision > 0

    async def test_holds_nothing_at_first(self, registry: Registry) -> None:
        assert (await registry.snapshot())[1] == []
        async with aclosing(registry.watch()) as changes:
            assert await until_synced(changes) == []

    async def test_sorts_its_snapshot_by_key(self, registry: Registry) -> None:
        entries = [
            registration("b", "greeter.inner"),
            registration("a", "greeter"),
            registration("a", "greeter", "other"),
            registration("B ~*>.=/é", "greeter"),
            registration("a-1", "greeter-x"),
        ]
        for entry in entries:
            await registry.put(entry)
        assert (await registry.snapshot())[1] == sorted(entries, key=lambda entry: entry.key)

    async def test_revisions_only_grow(self, registry: Registry) -> None:
        revisions = [await registry.put(registration(str(number))) for number in range(5)]
        revisions.append(await registry.delete(registration("3").key))
        revisions.append(await registry.put(registration("3")))
        assert revisions == sorted(set(revisions))

    async def test_putting_the_same_again_is_no_change(self, registry: Registry) -> None:
        first = await registry.put(registration())
        assert await registry.put(registration()) == first
        other = replace(registration(), version="v2")
        second = await registry.put(other)
        assert second > first
        async with aclosing(registry.watch(first)) as changes:
            assert await until_synced(changes) == [Change(second, other.key, other)]

    async def test_deleting_what_is_absent_is_no_change(self, registry: Registry) -> None:
        await registry.delete(("micro", "nobody", "x"))
        put = await registry.put(registration())
        gone = await registry.delete(registration().key)
        assert gone > put
        again = await registry.delete(registration().key, expired=True)
        assert again <= gone
        async with aclosing(registry.watch(put)) as changes:
            assert await until_synced(changes) == [Change(gone, registration().key, None)]

    async def test_a_watch_from_zero_leaves_out_what_is_gone(self, registry: Registry) -> None:
        stays = registration("stays")
        await registry.put(registration("goes"))
        revision = await registry.put(stays)
        await registry.delete(registration("goes").key)
        async with aclosing(registry.watch()) as changes:
            assert await until_synced(changes) == [Change(revision, stays.key, stays)]

    async def test_a_watch_goes_on_after_what_was_there(self, registry: Registry) -> None:
        entry = registration()
        async with aclosing(registry.watch()) as changes:
            assert await until_synced(changes) == []
            put = await registry.put(entry)
            gone = await registry.delete(entry.key)
            back = await registry.put(entry)
            seen = await changes_until(changes, back)
        happened = [Change(put, entry.key, entry), Change(gone, entry.key, None), Change(back, entry.key, entry)]
        assert [change for change in happened if change in seen] == seen

    async def test_watchers_learn_whether_a_lease_ended(self, registry: Registry) -> None:
        async with aclosing(registry.watch()) as changes:
            await until_synced(changes)
            revision = 0
            for node, expired in (("ended", True), ("left", False)):
                await registry.put(registration(node))
                revision = await registry.delete(registration(node).key, expired=expired)
            seen = await changes_until(changes, revision)
        assert {change.key[2]: change.expired for change in seen} == {"ended": True, "left": False}
        assert [change.expired for change in seen if change.registration is not None].count(True) == 0

    async def test_a_resumed_watch_sees_the_last_change_of_every_key(self, registry: Registry) -> None:
        start = await registry.put(registration("old"))
        await registry.put(registration("kept"))
        await registry.put(registration("ended"))
        ended = await registry.delete(registration("ended").key, expired=True)
        gone = await registry.delete(registration("old").key)
        async with aclosing(registry.watch(start)) as changes:
            seen = await until_synced(changes)
        last = {change.key[2]: change for change in seen}
        assert set(last) == {"kept", "ended", "old"}
        assert last["kept"].registration == registration("kept")
        assert last["ended"] == Change(ended, registration("ended").key, None, expired=True)
        assert last["old"] == Change(gone, registration("old").key, None)
        assert [change.revision for change in seen] == sorted({change.revision for change in seen})

    async def test_a_watch_resumed_at_the_end_has_nothing_to_tell(self, registry: Registry) -> None:
        revision = await registry.put(registration())
        async with aclosing(registry.watch(revision)) as changes:
            assert await until_synced(changes) == []
            later = await registry.put(registration("later"))
            assert [change.revision for change in await next_changes(changes, 1)] == [later]

    async def test_what_a_watch_was_synced_to_is_where_another_resumes(self, registry: Registry) -> None:
        await registry.put(registration())
        await registry.delete(registration().key)
        async with aclosing(registry.watch()) as changes:
            synced = await anext(changes)
        assert isinstance(synced, Synced)
        back = await registry.put(registration())
        async with aclosing(registry.watch(synced.revision)) as changes:
            assert await until_synced(changes) == [Change(back, registration().key, registration())]

    async def test_a_watch_resumes_from_the_revision_of_a_snapshot(self, registry: Registry) -> None:
        await registry.put(registration())
        revision, _ = await registry.snapshot()
        gone = await registry.delete(registration().key)
        async with aclosing(registry.watch(revision)) as changes:
            assert await until_synced(changes) == [Change(gone, registration().key, None)]

    async def test_a_revision_that_never_was_is_out_of_range(self, registry: Registry) -> None:
        revision = await registry.put(registration())
        with pytest.raises(errors.Error) as caught:
            async with aclosing(registry.watch(revision + 1000)) as changes:
                await until_synced(changes)
        assert caught.value.kind is errors.Kind.OUT_OF_RANGE

    async def test_every_watcher_sees_every_change(self, registry: Registry) -> None:
        async def collect() -> list[Change]:
            async with aclosing(registry.watch()) as changes:
                await until_synced(changes)
                ready.release()
                return await next_changes(changes, 20)

        ready = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as tasks:
            watchers = [tasks.create_task(collect()) for _ in range(5)]
            for _ in watchers:
                await ready.acquire()
            revisions = [await registry.put(registration(str(number))) for number in range(20)]
        for watcher in watchers:
            assert [change.revision for change in watcher.result()] == revisions

    async def test_many_at_once_are_all_kept(self, registry: Registry) -> None:
        entries = [registration(f"n{number:03}") for number in range(100)]
        revisions = await asyncio.gather(*map(registry.put, entries))
        assert len(set(revisions)) == len(entries)
        assert (await registry.snapshot())[1] == entries

    async def test_the_same_put_by_many_at_once_is_one_change(self, registry: Registry) -> None:
        revisions = await asyncio.gather(*(registry.put(registration()) for _ in range(10)))
        assert len(set(revisions)) == 1
