"""What a running gateway notices, and what its callers do not, while instances and control planes come and go."""

from __future__ import annotations

import asyncio
import http.client

import grpc
from gateway_world import Counted, registration, world

from micro.backends.envoy.bootstrap import Limits
from micro.domain.service import StreamKind


class Load:
    """Requests one after the other on a few connections, counted by what came back."""

    connections = 3

    def __init__(self, port: int, path: str) -> None:
        self.port, self.path = port, path
        self.answers: dict[str, int] = {}
        self.failures: list[str] = []
        self._stop = False

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(asyncio.to_thread(self._run)) for _ in range(self.connections)]
        await self.more(20)
        return self

    async def __aexit__(self, *_):
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        """Wait until so many more requests have been answered."""
        goal = self.total + count
        async with asyncio.timeout(20):
            while self.total < goal:
                await asyncio.sleep(0.005)

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self._stop:
            try:
                connection.request("GET", self.path)
                response = connection.getresponse()
                body = response.read().decode()
                if response.status == 200:
                    who = body.split('"instance": "')[1].split('"')[0]
                    self.answers[who] = self.answers.get(who, 0) + 1
                else:
                    self.failures.append(f"{response.status} {body}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
        connection.close()


async def test_instances_come_and_go_under_load_and_no_request_fails(tmp_path):
    async with world(tmp_path, "api") as made:
        one, two, three = await asyncio.gather(*(made.instance(name) for name in ("one", "two", "three")))
        known = {name: registration("hello", address) for name, address in (("1", one), ("2", two), ("3", three))}
        await made.routed([known["1"]])
        async with Load(made.ports["api"], "/hello/call?sleep=0.002") as load:
            assert set(load.answers) == {"one"}
            await made.routed([known["1"], known["2"], known["3"]])
            await load.more(60)
            assert set(load.answers) == {"one", "two", "three"}
            for _ in range(3):
                await made.routed([known["2"]])
                await load.more(20)
                await made.routed([known["1"], known["3"]])
                await load.more(20)
            await made.routed([known["3"]])
            before = dict(load.answers)
            await load.more(20)
            assert load.answers["three"] > before["three"]
            assert load.answers["one"] - before["one"] <= load.connections, "at most what was in flight"
        assert load.failures == []


async def test_a_retiring_instance_drains_while_its_callers_move(tmp_path):
    """Out of the routes first, drained next, ended last: the order in which an update replaces an instance."""
    async with world(tmp_path, "api") as made:
        one, two = await asyncio.gather(made.instance("one"), made.instance("two"))
        await made.routed([registration("hello", one)])
        async with Load(made.ports["api"], "/hello/call?sleep=0.05") as load:
            await made.routed([registration("hello", two)])
            await made.admins["one"].drain()
            assert await made.admins["one"].wait_idle(10)
            made.processes["one"].kill()
            await load.more(30)
        assert load.failures == []
        assert load.answers["two"] >= 30


async def test_a_dead_instance_that_is_still_listed_costs_nobody_an_answer(tmp_path):
    async with world(tmp_path, "api") as made:
        one = await made.instance("one")
        await made.routed([registration("hello", one), registration("hello", "127.0.0.1:1")])
        async with Load(made.ports["api"], "/hello/call") as load:
            await load.more(200)
        assert load.failures == []


async def test_a_killed_instance_fails_only_what_it_had_begun(tmp_path):
    async with world(tmp_path, "api") as made:
        one, two = await asyncio.gather(made.instance("one"), made.instance("two"))
        await made.routed([registration("hello", one), registration("hello", two)])
        async with Load(made.ports["api"], "/hello/call?sleep=0.01") as load:
            made.processes["one"].kill()
            before = load.answers["two"]
            await load.more(200)
            assert load.answers["two"] > before
        assert len(load.failures) <= load.connections, "one request a connection can have been inside"
        for failure in load.failures:
            assert failure.startswith('503 {"code":"unavailable"')


async def test_calls_of_an_instance_that_hangs_end_and_it_is_left_out(tmp_path):
    async with world(tmp_path, "proxy") as made:
        one, two = await asyncio.gather(made.instance("one"), made.instance("two"))
        await made.routed([registration("hello", address, timeout=0.0) for address in (one, two)])
        assert {(await made.call("proxy", "/hello.Hello/Call"))["instance"] for _ in range(4)} == {"one", "two"}
        made.processes["one"].freeze()
        calls = [made.call("proxy", "/hello.Hello/Call", timeout=120) for _ in range(8)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        lost = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert 2 <= len(lost) <= 6, answers
        assert {error.code() for error in lost} == {grpc.StatusCode.UNAVAILABLE}
        assert {(await made.call("proxy", "/hello.Hello/Call"))["instance"] for _ in range(4)} == {"two"}


async def test_the_control_plane_dies_and_returns_and_traffic_never_notices(tmp_path):
    async with world(tmp_path, "api") as made:
        one = await made.instance("one")
        others = [registration(f"other{number}", one) for number in range(5)]
        await made.routed([registration("hello", one), *others])
        async with Load(made.ports["api"], "/hello/call") as load:
            await made.server.stop(None)
            await load.more(50)
            # A new process: it knows nothing, and must not say so.
            made.plane = Counted("9.9.9", made.front)
            await made.control()
            await until(lambda: made.plane.proxies())
            await load.more(50)
            assert made.plane.pushed == [], "before the registry was read there is nothing to tell"
            await made.routed([registration("hello", one), *others])
            await load.more(50)
            resources = [name for _, _, names, removed in made.plane.pushed for name in (*names, *removed)]
            assert resources == [], "what the proxy has already is not sent again"
            await made.routed([registration("hello", one), registration("more", one), *others])
            assert (await made.get("api", "/more/call"))[0] == 200
        assert load.failures == []


async def test_clusters_that_an_upgrade_changes_are_replaced_under_load(tmp_path):
    async with world(tmp_path, "api") as made:
        one = await made.instance("one")
        await made.routed([registration("hello", one), registration("other", one)])
        async with Load(made.ports["api"], "/hello/call") as load:
            made.plane.pushed.clear()
            assert await made.plane.sync(made.plane.alter(3), 10)
            await load.more(50)
        assert load.failures == []
        both = ("micro|hello", "micro|other")
        assert made.plane.pushed == [("api", "Cluster", both, ()), ("api", "ClusterLoadAssignment", both, ())]
        _, dump = await made.admins["api"]._ask("GET", "/config_dump?resource=dynamic_warming_clusters")
        assert b"micro|" not in dump, "a cluster that waits for its instances would be one that lacks them"
        _, dump = await made.admins["api"]._ask("GET", "/config_dump?resource=dynamic_active_clusters")
        assert dump.count(b'"connect_timeout": "3s"') == 2


async def test_a_gateway_that_starts_late_waits_for_its_routes_instead_of_denying_them(tmp_path):
    async with world(tmp_path) as made:
        one = await made.instance("one")
        await made.routed([registration("hello", one)])
        await made.gateway("api")
        assert (await made.get("api", "/hello/call"))[0] == 200


async def test_among_a_thousand_services_one_more_touches_only_its_own_resources(tmp_path):
    async with world(tmp_path, "api") as made:
        one = await made.instance("one")
        content = [registration(f"s{number}", one) for number in range(1000)]
        await made.routed(content)
        made.plane.pushed.clear()

        await made.routed([*content, registration("new", one)])
        assert made.plane.pushed == [
            ("api", "Cluster", ("micro|new",), ()),
            ("api", "ClusterLoadAssignment", ("micro|new",), ()),
            ("api", "RouteConfiguration", ("api",), ()),
        ]
        assert (await made.get("api", "/new/call"))[0] == 200

        made.plane.pushed.clear()
        await made.routed([*content, registration("new", one), registration("s7", "127.0.0.1:1")])
        assert made.plane.pushed == [("api", "ClusterLoadAssignment", ("micro|s7",), ())]

        made.plane.pushed.clear()
        await made.routed(content[1:])
        await until(lambda: len(made.plane.pushed) >= 3)
        kinds = [(kind, names, removed) for _, kind, names, removed in made.plane.pushed]
        assert ("RouteConfiguration", ("api",), ()) in kinds
        assert kinds[-1][0] == "Cluster", "routes first, then what they led to"
        assert set(kinds[-1][2]) == {"micro|new", "micro|s0"}
        assert (await made.get("api", "/s0/call"))[0] == 404
        assert (await made.get("api", "/s1/call"))[0] == 200


async def test_a_burst_of_changes_is_sent_in_few_pieces(tmp_path):
    async with world(tmp_path, "api") as made:
        one = await made.instance("one")
        content = []
        for number in range(300):
            content.append(registration(f"s{number}", one))
            made.publish(content)
            await asyncio.sleep(0)
        await made.plane.sync(made.revision, 20)
        routes = [push for push in made.plane.pushed if push[1] == "RouteConfiguration"]
        assert len(routes) < 150
        assert (await made.get("api", "/s299/call"))[0] == 200


async def test_the_largest_service_that_can_be_registered_does_not_harm_the_others(tmp_path):
    """Its pattern is the longest there can be: 64 streams with names as long as they may get."""
    async with world(tmp_path, "api", "proxy") as made:
        one = await made.instance("one")
        for count in (64, 1000):
            names = [f"Stream{number}" + "Ab" * 58 for number in range(count)]
            large = registration("l" * 63, one, rpc="a" * 200 + ".Large", streams=[(n, StreamKind.BIDI) for n in names])
            await made.routed([registration("hello", one), large])
            assert [state.error for state in made.plane.proxies()] == ["", ""]
            assert (await made.get("api", f"/{'l' * 63}/{names[-1]}?sleep=0.1"))[0] == 200
            assert (await made.get("api", "/hello/call"))[0] == 200


async def test_limits_hold_and_are_told_in_the_platforms_words(tmp_path):
    limits = Limits(header_wait=0.5, connections=2)
    async with world(tmp_path) as made:
        await made.gateway("api", limits=limits)
        reader, writer = await asyncio.open_connection("127.0.0.1", made.ports["api"])
        writer.write(b"GET / HTTP/1.1\r\nhost: slow\r\n")
        async with asyncio.timeout(10):
            told = await reader.read()
        assert told.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"deadline_exceeded"' in told
        writer.close()
        held = [await asyncio.open_connection("127.0.0.1", made.ports["api"]) for _ in range(2)]
        for _, one in held:
            one.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        for reader, _ in held:
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        reader, third = await asyncio.open_connection("127.0.0.1", made.ports["api"])
        async with asyncio.timeout(10):
            assert await reader.read() == b"", "one too many is closed at once"
        for _, one in (*held, (None, third)):
            one.close()


async def test_what_a_proxy_refuses_is_told_and_mended_by_the_next_table(tmp_path):
    async with world(tmp_path, "api") as made:
        one = await made.instance("one")
        before = made.revision
        await made.routed([registration("hello", one)])
        good = made.revision
        made.plane.break_next()
        made.publish([registration("hello", one), registration("bad", one)])
        await until(lambda: made.plane.proxies()[0].error)
        assert before < made.plane.proxies()[0].revision == good, "it has not accepted what it refused"
        assert (await made.get("api", "/hello/call"))[0] == 200
        await made.routed([registration("hello", one), registration("better", one)])
        assert made.plane.proxies()[0].error == ""
        assert (await made.get("api", "/better/call"))[0] == 200


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
