"""Workloads in the runtime's store."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.memory.store import MemoryStore
from micro.backends.stored.workloads import ACCOUNTS, DATABASE, WORKLOADS, RuntimeRecords, StoredWorkloads
from micro.domain.errors import Error, Kind
from micro.domain.record import Put, Query
from micro.domain.workload import Workload

ONE, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


def sealing(*keys: str) -> AesGcmSealing:
    return AesGcmSealing(Keyring(" ".join(keys), Path(os.devnull)))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def records(store: MemoryStore) -> AsyncGenerator[RuntimeRecords]:
    async with AsyncExitStack() as stack:
        made = RuntimeRecords(store, sealing(ONE))
        await made.start(stack)
        yield made


async def test_workloads_are_kept_in_order_of_their_keys(records: RuntimeRecords) -> None:
    store = StoredWorkloads(records)
    assert await store.list() == []
    b = Workload("micro", "b", "latest", "./b", {"A": "1"}, 2, {"m": "n"}, 3, 4, "oh", "now", "micro/ann")
    a = Workload("micro", "a", "latest")
    for workload in (b, a, b):
        await store.put(workload)
    assert await StoredWorkloads(records).list() == [a, b]
    await store.delete(b.key)
    await store.delete(b.key)
    assert await store.list() == [a]


async def test_names_that_read_alike_do_not_collide(records: RuntimeRecords) -> None:
    store = StoredWorkloads(records)
    alike = [Workload("a-b", "c", "v"), Workload("a", "b-c", "v"), Workload("a", "b", "c-v")]
    for workload in alike:
        await store.put(workload)
    assert await store.list() == sorted(alike, key=lambda workload: workload.key)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(text=st.text(), pairs=st.dictionaries(st.text(), st.text()))
async def test_every_workload_survives(records: RuntimeRecords, text: str, pairs: dict[str, str]) -> None:
    workload = Workload("micro", "a", "latest", text, pairs, 1, pairs, 1, 1, text, text)
    await StoredWorkloads(records).put(workload)
    assert await StoredWorkloads(records).list() == [workload]


async def test_the_environment_is_sealed(records: RuntimeRecords, store: MemoryStore) -> None:
    await StoredWorkloads(records).put(Workload("micro", "a", "latest", "./a", {"TOKEN": "not for everybody"}))
    [kept] = (await store.scan(DATABASE, WORKLOADS, Query())).records
    assert b"./a" in kept.value
    assert b"TOKEN" not in kept.value
    assert b"everybody" not in kept.value


async def test_what_is_damaged_or_was_moved_is_left_alone(
    records: RuntimeRecords, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    kept = StoredWorkloads(records)
    await kept.put(Workload("micro", "a", "latest", env={"A": "1"}))
    [good] = (await store.scan(DATABASE, WORKLOADS, Query())).records
    swapped = good.value.replace(b'"name":"a"', b'"name":"b"')
    for key, value in (("micro/b/latest", swapped), ("micro/c/latest", b"{"), ("micro/d/latest", b"[]")):
        await store.commit(DATABASE, [Put(WORKLOADS, key, value)])
    assert [workload.name for workload in await kept.list()] == ["a"]
    for key in ("micro/b/latest", "micro/c/latest", "micro/d/latest"):
        assert f"{key} of workloads cannot be read and is left alone" in caplog.text
        assert await store.read(DATABASE, WORKLOADS, key) is not None


async def test_a_purge_leaves_nothing_of_a_namespace(records: RuntimeRecords, store: MemoryStore) -> None:
    kept = StoredWorkloads(records)
    for namespace in ("shop", "shop-2"):
        await kept.put(Workload(namespace, "a", "latest"))
        await records.write(ACCOUNTS, (namespace, "a", "latest"), {"id": "a@latest"}, "secret")
    await store.commit(DATABASE, [Put(WORKLOADS, "shop/damaged/latest", b"{")])
    await kept.purge("shop")
    for table in (WORKLOADS, ACCOUNTS):
        assert await records.keys(table) == [("shop-2", "a", "latest")]


async def test_without_its_key_the_server_does_not_begin_anew(records: RuntimeRecords, store: MemoryStore) -> None:
    await StoredWorkloads(records).put(Workload("micro", "a", "latest", env={"A": "1"}))
    for keys in ((OTHER,), ()):
        with pytest.raises(Error) as caught:
            await RuntimeRecords(store, sealing(*keys)).open()
        assert caught.value.kind is Kind.FAILED_PRECONDITION
        assert "\n" not in caught.value.message


async def test_a_new_key_takes_over_at_the_next_start(records: RuntimeRecords, store: MemoryStore) -> None:
    await StoredWorkloads(records).put(Workload("micro", "a", "latest", env={"A": "1"}))
    for keys in ((OTHER, ONE), (OTHER,)):
        after = RuntimeRecords(store, sealing(*keys))
        await after.open()
        assert [workload.env for workload in await StoredWorkloads(after).list()] == [{"A": "1"}]
