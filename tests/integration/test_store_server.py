"""The store as services and people reach it, and what becomes of what it has said when it dies.

MICRO_SOAK is how often it is killed under load, and its power cut, and how often the whole server is killed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import worlds
from lock_history import contend
from store_history import LEADER, Store, load

from disks import Disk
from micro.backends.envoy.admin import Admin
from micro.ports.free_address import free_address
from micro.rpc import asgi_server
from micro.rpc.gen.micro.store.v1 import store_pb as pb
from micro.server.settings import Settings

KILLS = int(os.environ.get("MICRO_SOAK", "8"))
CUTS = int(os.environ.get("MICRO_SOAK", "2"))
SERVER_KILLS = int(os.environ.get("MICRO_SOAK", "1"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.World]:
    with worlds.world(tmp_path_factory.mktemp("store")) as made:
        made.start()
        yield made


class Bearer:
    """An admin's token for the platform, made anew before it ends."""

    def __init__(self, world: worlds.World) -> None:
        self._world = world
        self._made = 0.0
        self._token = ""
        self.renew()

    def __call__(self) -> str:
        return self._token

    def renew(self) -> None:
        if not self._token or time.monotonic() - self._made > 300:
            self._token, self._made = self._world.cli("user", "token", "--platform").stdout.strip(), time.monotonic()

    @property
    def header(self) -> str:
        return f"authorization: Bearer {self._token}"


@pytest.fixture(scope="module")
def bearer(world: worlds.World) -> Bearer:
    return Bearer(world)


def curl(world: worlds.World, path: str, body: dict[str, Any], *headers: str) -> tuple[int, dict[str, Any]]:
    """As people type it: no content type, so that it is a form's."""
    more = [word for header in headers for word in ("-H", header)]
    url = f"http://{world.api}{path}"
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", "-X", "POST", url, *more, "-d", json.dumps(body)],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(answer) if answer.startswith("{") else {}


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


# --- the ways to it ---------------------------------------------------------------------------------------------------


async def test_what_curl_writes_with_a_token_grpc_reads(world: worlds.World, bearer: Bearer) -> None:
    status, told = curl(world, "/store/write", {"record": {"key": "a", "value": text("hi")}}, bearer.header)
    assert (status, list(told)) == (200, ["version"])
    status, told = curl(world, "/store/read", {"key": "a"}, bearer.header)
    assert (status, told["records"][0]["value"]) == (200, text("hi"))
    store = Store(world.proxy, bearer)
    found = await store.read("a")
    assert found is not None
    assert found.value == b"hi"
    await store.close()


def test_who_shows_no_token_or_a_wrong_one_and_pages_of_others_are_refused(world: worlds.World, bearer: Bearer) -> None:
    body = {"record": {"key": "no"}}
    assert curl(world, "/store/write", body)[0] == 401
    assert curl(world, "/store/write", body, "authorization: Bearer nonsense")[0] == 401
    assert curl(world, "/store/write", body, "authorization: Basic eDp5")[0] == 401
    for_services = world.cli("user", "token").stdout.strip()
    assert curl(world, "/store/write", body, f"authorization: Bearer {for_services}")[0] == 401
    assert curl(world, "/store/write", body, bearer.header, "origin: http://evil.example")[0] == 403
    assert curl(world, "/runtime/read", {}, bearer.header)[0] == 404
    assert curl(world, "/micro.store.v1.Store/Read", {"key": "a"}, bearer.header)[0] == 404
    assert curl(world, "/store/read", {"key": "no"}, bearer.header)[0] == 404


def test_nothing_is_left_of_a_namespace_that_is_deleted(world: worlds.World, bearer: Bearer) -> None:
    world.cli("namespace", "create", "shop")
    record = {"record": {"key": "a"}, "options": {"database": "shop", "table": "things"}}
    assert curl(world, "/store/write", record, bearer.header)[0] == 200
    refused = world.cli("namespace", "delete", "shop", check=False)
    assert refused.returncode
    assert "1 record table" in refused.stderr
    os.kill(world.processes()["store"], signal.SIGKILL)  # it is tried again until it is done
    world.cli("namespace", "delete", "shop", "--force", stdin="shop\n")
    assert curl(world, "/store/tables", {"database": "shop"}, bearer.header)[0] == 404
    world.cli("namespace", "create", "shop")
    assert curl(world, "/store/tables", {"database": "shop"}, bearer.header) == (200, {})
    assert not list(world.layout.records("store").glob("shop*"))


# --- death ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def solo(world: worlds.World, tmp_path: Path) -> AsyncIterator[Solo]:
    made = Solo(world, tmp_path)
    await made.start()
    try:
        yield made
    finally:
        made.end()


class Solo:
    """A process of the store's own that this test starts and kills: a supervisor would wait longer each time. It has a
    home of its own in `place`, where nothing is yet."""

    def __init__(self, world: worlds.World, place: Path) -> None:
        home = place / "home"
        home.mkdir()
        self._disk = Disk(home, place / "aside")
        settings = Settings.load(world.layout.settings.read_text())
        self.address = free_address()
        self._admin = world.layout.admin("solo")
        file = home / "settings.json"
        file.write_text(dataclasses.replace(settings, home=home).dump())
        command = asgi_server.command("micro.server.process:app", address=self.address, admin=self._admin)
        self._argv = command.argv
        named = {"MICRO_SERVICE_NAME": "store", "MICRO_SETTINGS": str(file), "MICRO_HOME": str(home)}
        self._env = {"PATH": os.environ["PATH"], **command.env, **named}
        self._log = (place / "store.log").open("w")
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, *, unsynced: bool = False) -> None:
        """Run it; `unsynced`: so that its power can be cut."""
        env = self._env
        if unsynced:
            self._disk.begin()
            env = {**env, **self._disk.env, "LD_PRELOAD": f"{env['LD_PRELOAD']}:{self._disk.env['LD_PRELOAD']}"}
        self.process = subprocess.Popen(self._argv, env=env, stdout=self._log, stderr=self._log)
        await Admin(self._admin).wait_ready(60)

    def end(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(10)

    async def pause(self, seconds: float) -> None:
        """Let it stand still, as a machine does that is suspended."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    async def restart(self) -> None:
        self.end()
        await self.start()

    async def cut(self, choose: random.Random | None = None) -> None:
        """The power fails, of what was started so that it can; then it is there again."""
        self.end()
        self._disk.cut(choose)
        await self.start(unsynced=True)


async def test_every_acknowledged_write_outlives_a_store_that_is_paused_and_killed_again_and_again(
    solo: Solo, bearer: Bearer
) -> None:
    async with load(lambda: Store(solo.address, bearer), clients=6) as (history, watcher):
        for kill in range(KILLS):
            await history.more(20 + kill * 7 % 50)
            if kill % 3 == 0:
                await solo.pause(0.05 * (1 + kill % 9))
                await history.more(20)
            await solo.restart()
            await asyncio.to_thread(bearer.renew)
        await history.more(50)
        assert watcher.resumed >= KILLS


async def test_every_acknowledged_write_outlives_power_cuts(solo: Solo, bearer: Bearer) -> None:
    choose = random.Random()
    solo.end()
    await solo.start(unsynced=True)
    async with load(lambda: Store(solo.address, bearer), clients=6, seed=4) as (history, watcher):
        for cut in range(CUTS):
            await history.more(20 + cut * 7 % 50)
            await solo.cut(choose if cut % 2 else None)
            await asyncio.to_thread(bearer.renew)
        await history.more(20)
        assert watcher.resumed >= CUTS


async def test_a_lock_has_one_holder_at_a_time_through_pauses_and_deaths(solo: Solo, bearer: Bearer) -> None:
    lease = 0.4
    async with contend(lambda: Store(solo.address, bearer), lease) as locks:
        await locks.more(10)
        await solo.pause(lease * 1.5)
        await locks.more(6)
        await solo.restart()
        await locks.more(6)


async def test_nothing_is_lost_when_the_store_is_killed_nor_when_the_whole_server_is(
    world: worlds.World, bearer: Bearer
) -> None:
    async with load(lambda: Store(world.proxy, bearer), clients=4, seed=2) as (history, watcher):
        await history.more(40)
        os.kill(world.processes()["store"], signal.SIGKILL)
        await history.more(40)
        for _ in range(SERVER_KILLS):
            world.stop(signal.SIGKILL)
            await asyncio.to_thread(world.start)
            await asyncio.to_thread(bearer.renew)
            await history.more(40)
        assert watcher.resumed > SERVER_KILLS


async def test_the_next_leads_as_soon_as_a_leader_has_gone(world: worlds.World, bearer: Bearer) -> None:
    one, two = Store(world.proxy, bearer), Store(world.proxy, bearer)
    first = one.stream(f"{LEADER}Campaign", pb.CampaignRequest(name="boss", candidate="one"), pb.CampaignResponse)
    told = await first.read()
    assert (told.leads, told.leader) == (True, "one")
    second = two.stream(f"{LEADER}Campaign", pb.CampaignRequest(name="boss", candidate="two"), pb.CampaignResponse)
    heard = await second.read()
    assert (heard.leads, heard.leader, heard.token) == (False, "one", told.token)
    await one.close()
    async with asyncio.timeout(5):  # far less than the lease
        while not (heard := await second.read()).leads:
            pass
    assert heard.token > told.token
    await two.close()
