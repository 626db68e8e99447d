"""Records as services and users write and read them, and all that is refused."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from store_world import ANN, BOB, BOOKS, ROOT, StoreWorld, running, turns

from micro.domain.errors import Error, Kind
from micro.domain.record import KEY_BYTES, VALUE_BYTES, Page, Query
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.rpc.wkt import oneof
from micro.services._store_databases import SEARCHES


@pytest.fixture
async def world() -> AsyncIterator[StoreWorld]:
    async with running() as made:
        yield made


def value(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def write(world: StoreWorld, key: str, text: str = "", **options: Any) -> int:
    answer = await world.ok("Store/Write", {"record": {"key": key, "value": value(text)}, "options": options})
    return int(answer["version"])


async def keys(world: StoreWorld, **options: Any) -> list[str]:
    answer = await world.ok("Store/Read", {"key": options.pop("key", ""), "options": options})
    return [record["key"] for record in answer.get("records", [])]


async def test_what_is_written_is_read_with_all_that_it_had(world: StoreWorld) -> None:
    metadata = {"n": 3, "f": 2.5, "list": [1, {"x": None}], "yes": True, "text": "ä"}
    record = {"key": "a", "value": value("hi"), "metadata": metadata, "expiry": 1.5}
    version = (await world.ok("Store/Write", {"record": record}))["version"]
    world.wall.now += 500
    [found] = (await world.ok("Store/Read", {"key": "a"}))["records"]
    assert found == {**record, "expiry": 1.0, "version": version}
    kept = await world.state.read("shop", "micro", "a")
    assert kept is not None
    assert isinstance(kept.metadata["n"], int), "a whole number stays one"
    [told] = (await world.ok("Store/Read", {"key": "a", "options": {"keysOnly": True}}))["records"]
    assert told == {"key": "a", "expiry": 1.0, "version": version}
    world.wall.now += 1000
    assert (await world.error("Store/Read", {"key": "a"}))[:2] == (404, "not_found")


async def test_the_table_is_the_callers_unless_it_is_named(world: StoreWorld) -> None:
    await world.ok("Store/Write", {"record": {"key": "a"}})
    await world.ok("Store/Write", {"record": {"key": "b"}}, BOOKS)
    await world.ok("Store/Write", {"record": {"key": "c"}, "options": {"table": "others"}}, BOOKS)
    assert await world.ok("Store/Tables", {}) == {"tables": ["books", "micro", "others"]}
    assert await keys(world, prefix=True, table="books") == ["b"]
    assert await keys(world, prefix=True) == ["a"]


async def test_a_table_that_there_is_none_of_is_empty(world: StoreWorld) -> None:
    await write(world, "a")
    assert (await world.error("Store/Read", {"key": "a", "options": {"table": "none"}}))[:2] == (404, "not_found")
    assert await keys(world, prefix=True, table="none") == []
    assert await world.ok("Store/Delete", {"key": "a", "options": {"table": "none"}}) == {}
    assert await world.ok("Store/Tables", {}) == {"tables": ["micro"]}


async def test_a_namespace_is_a_database_and_others_are_not_seen(world: StoreWorld) -> None:
    await write(world, "a")
    for path, body in (
        ("Store/Read", {"key": "a", "options": {"database": "shop"}}),
        ("Store/Write", {"record": {"key": "a"}, "options": {"database": "shop"}}),
        ("Store/Delete", {"key": "a", "options": {"database": "shop"}}),
        ("Store/List", {"options": {"database": "shop"}}),
        ("Store/Batch", {"database": "shop", "operations": [{"read": "a"}]}),
        ("Store/Watch", {"database": "shop"}),
        ("Store/Tables", {"database": "shop"}),
        ("Lock/Acquire", {"database": "shop", "name": "x"}),
        ("Leader/Campaign", {"database": "shop", "name": "x"}),
        ("Backup/Dump", {"database": "shop"}),
    ):
        assert (await world.error(path, body, BOB))[:2] == (403, "permission_denied"), path
    assert await world.ok("Store/Databases", {}, BOB) == {}
    assert (
        await world.ok("Store/Databases", {}, ROOT) == await world.ok("Store/Databases", {}) == {"databases": ["shop"]}
    )
    assert (await world.error("Store/Tables", {"database": "nowhere"}, ROOT))[:2] == (404, "not_found")
    assert (await world.error("Store/Read", {"key": "a"}, BOB))[1] == "not_found"


async def test_a_write_may_depend_on_the_version_that_is_there(world: StoreWorld) -> None:
    new = {"record": {"key": "a"}, "ifVersion": 0}
    version = int((await world.ok("Store/Write", new))["version"])
    assert (await world.error("Store/Write", new))[:2] == (409, "already_exists")
    stale = {"record": {"key": "a"}, "ifVersion": version + 1}
    assert (await world.error("Store/Write", stale))[:2] == (409, "aborted")
    later = int((await world.ok("Store/Write", {**new, "ifVersion": version}))["version"])
    assert later > version
    assert (await world.error("Store/Delete", {"key": "a", "ifVersion": version}))[1] == "aborted"
    assert await world.ok("Store/Delete", {"key": "a", "ifVersion": later}) == {"deleted": True}
    assert await world.ok("Store/Delete", {"key": "a"}) == {}
    assert await write(world, "a") > later


async def test_several_are_read_by_prefix_suffix_and_range_a_page_at_a_time(world: StoreWorld) -> None:
    for key in ("b/1", "b/2", "b/3", "c/1", "ä"):
        await write(world, key)
    assert await keys(world, key="b/", prefix=True) == ["b/1", "b/2", "b/3"]
    assert await keys(world, key="1", suffix=True) == ["b/1", "c/1"]
    assert await keys(world, **{"from": "b/2", "until": "c/1"}) == ["b/2", "b/3"]
    assert await keys(world, order="desc") == ["ä", "c/1", "b/3", "b/2", "b/1"]
    assert await keys(world, key="b/", prefix=True, offset=1, limit=1) == ["b/2"]
    first = await world.ok("Store/Read", {"key": "b/", "options": {"prefix": True, "limit": 2}})
    assert first["cursor"] == "b/2"
    more = {"prefix": True, "limit": 2, "cursor": first["cursor"]}
    rest = await world.ok("Store/Read", {"key": "b/", "options": more})
    assert [record["key"] for record in rest["records"]] == ["b/3"]
    assert "cursor" not in rest
    assert rest["revision"] == first["revision"] == "5"


async def test_a_list_goes_on_until_all_are_told(world: StoreWorld) -> None:
    operations = [pb.Operation.from_json(json.dumps({"write": {"key": f"{n:04}"}})) for n in range(1000)]
    for table in ("one", "one", "one"):
        for operation in operations:
            operation.does.value.key += "x"
        await world.store.batch(pb.BatchRequest(table=table, operations=operations), world.ctx())

    async def listed(**options: Any) -> list[list[str]]:
        request = pb.ListRequest(options=pb.ListOptions(table="one", **options))
        return [list(message.keys) async for message in world.store.list(request, world.ctx())]

    everything = await listed()
    assert [len(page) for page in everything] == [1000, 1000, 1000]
    flat = list(itertools.chain.from_iterable(everything))
    assert sorted(flat) == flat
    assert [len(page) for page in await listed(limit=1500)] == [1000, 500]
    assert [len(page) for page in await listed(offset=2900)] == [100]
    assert (await listed(limit=2, order="desc")) == [["0999xxx", "0999xx"]]
    assert await listed(prefix="none") == [[]]


async def test_a_list_is_of_one_key_or_goes_on_after_an_earlier_one(world: StoreWorld) -> None:
    for key in ("a", "a0", "ab", "b"):
        await write(world, key)

    async def listed(**options: Any) -> list[pb.ListResponse]:
        request = pb.ListRequest(options=pb.ListOptions(**options))
        return [message async for message in world.store.list(request, world.ctx())]

    for order, keys in (("asc", ["a", "a0", "ab", "b"]), ("desc", ["b", "ab", "a0", "a"])):
        told: list[str] = []
        cursor = ""
        while cursor or not told:
            (page,) = await listed(limit=1, order=order, cursor=cursor)
            told, cursor = told + list(page.keys), page.cursor
        assert told == keys
    (page,) = await listed(prefix="a", cursor="a", until="ab")
    assert (list(page.keys), page.cursor, page.revision) == (["a0"], "", 4)
    for key, keys in (("a", ["a"]), ("ab", ["ab"]), ("aa", []), ("z", [])):
        (page,) = await listed(key=key, limit=5, order="desc")
        assert (list(page.keys), page.cursor) == (keys, "")
    for more in ({"prefix": "a"}, {"cursor": "a"}, {"offset": 1}, {"until": "x"}):
        with pytest.raises(Error, match="a key is one"):
            await listed(key="a", **more)


async def test_a_batch_does_all_or_nothing(world: StoreWorld) -> None:
    version = await write(world, "there", "old")
    operations = [
        {"read": "there"},
        {"write": {"key": "there", "value": value("new")}, "ifVersion": version},
        {"read": "there"},
        {"write": {"key": "new"}, "ifVersion": 0, "table": "others"},
        {"check": "absent", "ifVersion": 0},
        {"delete": "nothing"},
        {"read": "nothing"},
    ]
    done = await world.ok("Store/Batch", {"operations": operations})
    first, put, second, other, check, delete, nothing = done["results"]
    assert (first["record"]["value"], second["record"]["value"]) == (value("old"), value("new"))
    assert put["version"] == other["version"] == done["revision"] == second["record"]["version"]
    assert check == delete == nothing == {}
    failing = [{"write": {"key": "half"}}, {"check": "there", "ifVersion": version}]
    assert (await world.error("Store/Batch", {"operations": failing}))[1] == "aborted"
    assert (await world.error("Store/Read", {"key": "half"}))[1] == "not_found"
    assert await world.ok("Store/Batch", {"operations": [{"delete": "there"}]}) == {
        "revision": str(int(done["revision"]) + 1),
        "results": [{"deleted": True}],
    }


async def test_a_watch_tells_each_change_of_what_it_is_about_once(world: StoreWorld) -> None:
    begin = await write(world, "a/1", "before")
    stream = world.store.watch(pb.WatchRequest(key="a/", prefix=True), world.ctx())
    assert (await anext(stream)) == pb.WatchResponse(revision=begin)
    await write(world, "b/1", "another key")
    await write(world, "a/1", "another table", table="others")
    await write(world, "a/2", "new")
    told = await anext(stream)
    assert (told.revision, told.changes[0].action, told.changes[0].record.value) == (
        begin + 3,
        pb.Change.Action.WRITTEN,
        b"new",
    )
    await world.ok("Store/Delete", {"key": "a/1"})
    gone = await anext(stream)
    assert (gone.changes[0].action, gone.changes[0].record.key) == (pb.Change.Action.DELETED, "a/1")
    await stream.aclose()
    resumed = world.store.watch(pb.WatchRequest(key="a/2", after=begin), world.ctx())
    assert [(await anext(resumed)).revision, (await anext(resumed)).revision] == [begin, begin + 3]
    await resumed.aclose()
    ahead = world.store.watch(pb.WatchRequest(after=999), world.ctx())
    await anext(ahead)
    with pytest.raises(Error) as caught:
        await anext(ahead)
    assert caught.value.kind is Kind.OUT_OF_RANGE


async def test_a_silent_watch_tells_now_and_then_how_far_it_has_come(world: StoreWorld) -> None:
    stream = world.store.watch(pb.WatchRequest(key="mine"), world.ctx())
    begin = (await anext(stream)).revision
    world.wall.now += 31_000
    await write(world, "other")
    await write(world, "other")
    await write(world, "mine")
    assert await anext(stream) == pb.WatchResponse(revision=begin + 1)
    assert (await anext(stream)).changes[0].record.version == begin + 3
    await stream.aclose()


DEEP = b'{"record":{"key":"deep","metadata":' + b'{"a":' * 1000 + b"1" + b"}" * 1001 + b"}"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("Store/Write", {}, "record is missing"),
        ("Store/Write", {"record": {"key": ""}}, "key is empty"),
        ("Store/Write", {"record": {"key": "k" * (KEY_BYTES + 1)}}, "1,024 are allowed"),
        ("Store/Write", {"record": {"key": "ä" * 513}}, "1,026 bytes"),
        ("Store/Write", {"record": {"key": "a", "value": "*"}}, "cannot read the request"),
        ("Store/Write", {"record": {"key": 7}}, "cannot read the request"),
        ("Store/Write", {"record": "a"}, "cannot read the request"),
        ("Store/Write", {"record": {"key": "a", "expiry": -1}}, "expiry -1 is no time"),
        ("Store/Write", {"record": {"key": "a", "expiry": "NaN"}}, "is no time"),
        ("Store/Write", {"record": {"key": "a", "expiry": "Infinity"}}, "is no time"),
        ("Store/Write", {"record": {"key": "a", "metadata": {"a": "x" * 17000}}}, "16,384 are allowed"),
        ("Store/Write", {"record": {"key": "a"}, "ifVersion": -1}, "if_version -1 is below 0"),
        ("Store/Write", {"record": {"key": "a"}, "options": {"table": ".locks"}}, "the platform's own"),
        ("Store/Write", {"record": {"key": "a"}, "options": {"table": "a/b"}}, "is not a table"),
        ("Store/Write", {"record": {"key": "a"}, "options": {"table": "t" * 200}}, "is not a table"),
        ("Store/Write", DEEP, "cannot read the request"),
        ("Store/Write", b'{"record":{"key":"\\ud800"}}', "cannot read the request"),
        ("Store/Write", b'{"record":{"key":"\xff"}}', "cannot read the request"),
        ("Store/Write", b"[]", "cannot read the request"),
        ("Store/Write", b"nonsense", "cannot read the request"),
        ("Store/Read", {}, "the key is empty"),
        ("Store/Read", {"options": {"table": "things"}}, "the key is empty"),
        ("Store/Read", {"key": "a", "options": {"from": "b"}}, "a key is one record"),
        ("Store/Read", {"key": "a", "options": {"prefix": True, "limit": -1}}, "limit -1 is below 0"),
        ("Store/Read", {"options": {"prefix": True, "offset": -5}}, "offset -5 is below 0"),
        ("Store/Read", {"options": {"prefix": True, "order": "up"}}, "neither asc nor desc"),
        ("Store/Read", {"options": {"prefix": True, "cursor": "k" * 2000}}, "longer than any key"),
        ("Store/Read", {"key": "a", "options": {"table": ".locks"}}, "the platform's own"),
        ("Store/Delete", {}, "key is empty"),
        ("Store/Delete", {"key": "a", "ifVersion": -3}, "below 0"),
        ("Store/List", {"options": {"limit": -1}}, "limit -1 is below 0"),
        ("Store/List", {"options": {"table": ".x"}}, "the platform's own"),
        ("Store/Batch", {}, "the batch is empty"),
        ("Store/Batch", {"operations": [{}]}, "operation 1 is empty"),
        ("Store/Batch", {"operations": [{"read": "a", "ifVersion": 1}]}, "operation 1 reads"),
        ("Store/Batch", {"operations": [{"read": "a"}, {"check": "a"}]}, "operation 2 checks nothing"),
        ("Store/Batch", {"operations": [{"write": {"key": "a"}}, {"delete": "a"}]}, "twice"),
        ("Store/Batch", {"operations": [{"read": "a", "table": ".locks"}]}, "the platform's own"),
        ("Store/Batch", {"operations": [{"read": f"{n}"} for n in range(1001)]}, "1,000 are allowed"),
        ("Store/Watch", {"table": ".locks"}, "the platform's own"),
        ("Store/Watch", {"after": -1}, "after -1 is below 0"),
        ("Store/Watch", {"key": "k" * 2000}, "1,024 are allowed"),
    ],
)
async def test_what_cannot_be_is_refused_in_words_and_changes_nothing(
    world: StoreWorld, path: str, body: Any, words: str
) -> None:
    status, code, message = await world.error(path, body)
    assert (status, code) == (400, "invalid_argument")
    assert words in message
    assert "\n" not in message
    assert await world.state.databases() == []


async def test_a_value_may_be_16_mib_and_no_byte_more(world: StoreWorld) -> None:
    whole = pb.WriteRequest(record=pb.Record(key="a", value=bytes(VALUE_BYTES)))
    await world.store.write(whole, world.ctx())
    whole.record.value += b"x"
    with pytest.raises(Error, match="keep it as a blob") as caught:
        await world.store.write(whole, world.ctx())
    assert caught.value.kind is Kind.INVALID_ARGUMENT


async def test_a_batch_reads_no_more_than_one_answer_holds(world: StoreWorld) -> None:
    large = pb.Record(key="a", value=bytes(VALUE_BYTES))
    await world.store.write(pb.WriteRequest(record=large), world.ctx())
    reads = [pb.Operation(does=oneof("read", "a")), pb.Operation(does=oneof("read", "a"))]
    again = [pb.Operation(does=oneof("write", pb.Record(key="b", value=bytes(VALUE_BYTES)))), *reads]
    for operations in (reads, again):
        with pytest.raises(Error, match="read in several batches") as caught:
            await world.store.batch(pb.BatchRequest(operations=operations), world.ctx())
        assert caught.value.kind is Kind.RESOURCE_EXHAUSTED
    assert await world.state.revision("shop") == 1
    assert len((await world.store.batch(pb.BatchRequest(operations=reads[:1]), world.ctx())).results) == 1


async def test_broken_binary_is_refused_as_well(world: StoreWorld) -> None:
    from micro.testing.app import http

    body = b"\x0a\x04\x0a\x02\xff\xfe"
    headers = {"content-type": "application/grpc", "te": "trailers"}
    world.caller.account = ANN
    answer = await http(
        world.app, "POST", "/micro.store.v1.Store/Write", headers=headers, body=len(body).to_bytes(5, "big") + body
    )
    assert answer.trailers["grpc-status"] == "3"
    assert await world.state.databases() == []


async def test_one_namespace_does_not_take_all_turns_to_search(
    world: StoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[str] = []
    go = asyncio.Event()
    scan = world.state.scan

    async def slow(database: str, table: str, query: Query) -> Page:
        under_way.append(database)
        if database == "shop":
            await go.wait()
        return await scan(database, table, query)

    monkeypatch.setattr(world.state, "scan", slow)
    search = {"key": "x", "options": {"suffix": True}}
    greedy = [asyncio.ensure_future(world.ok("Store/Read", search)) for _ in range(5)]
    await turns()
    assert under_way == ["shop"] * SEARCHES
    await world.ok("Store/Read", search, BOB)
    go.set()
    await asyncio.gather(*greedy)
    assert under_way.count("shop") == 5
