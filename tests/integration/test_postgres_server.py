"""The whole platform on PostgreSQL: moved there from files, killed, and left without its database for a while."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import worlds
from lock_history import contend
from store_history import Store, load

from micro.ports.free_address import free_address
from micro.testing.postgres import FAST, PostgresServer, postgres_server

SERVICE = worlds.HELLO.replace('"Hello"', 'os.environ["GREETING"]')
ENV_SECRET, CONFIG_SECRET, PASSWORD = "env-sesame", "config-sesame", "correct horse battery staple"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server(**FAST) as server:
        yield server


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A server whose PostgreSQL is not there, which it tells after some seconds."""
    with worlds.world(tmp_path_factory.mktemp("lonely")) as world:
        yield starting(world, f"postgres://micro:{PASSWORD.replace(' ', '-')}@{free_address()}/micro")


def starting(world: worlds.World, store: str) -> subprocess.Popen[str]:
    env = {**world.env, "MICRO_STORE": store}
    world.process = subprocess.Popen(
        [worlds.MICRO, "server"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return world.process


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, lonely: subprocess.Popen[str]
) -> Iterator[worlds.World]:
    """A platform that began with files and was started with PostgreSQL then."""
    with worlds.world(tmp_path_factory.mktemp("platform")) as made:
        made.start()
        fill(made)
        assert made.stop() == 0
        made.extra["MICRO_STORE"] = postgres.url
        made.start()
        yield made


def fill(world: worlds.World) -> None:
    world.cli("run", str(world.service(source=SERVICE)), "-e", "GREETING=Moin", "-e", f"TOKEN={ENV_SECRET}")
    world.cli("auth", "create", "account", "jane", "--scopes", "admin", "--secret-stdin", stdin=PASSWORD)
    world.cli("auth", "create", "rule", "only-jane", "--resource", "service:secret:*", "--scope", "nobody")
    world.cli("store", "write", "orders/1", "kept", "--table", "orders")
    world.cli("config", "set", "db.host", '"example"')
    world.cli("config", "set", "db.password", CONFIG_SECRET, "--secret")
    world.cli("call", "store", "Lock.Acquire", json.dumps({"name": "job", "lease": 3000}))


def everything_is_there(world: worlds.World) -> None:
    """What `fill` has left."""
    assert worlds.eventually(lambda: "Moin Ann" in hello(world)), world.cli("status").stdout
    world.cli("login", "--username", "jane", "--password-stdin", stdin=PASSWORD)
    assert "only-jane" in world.cli("auth", "list", "rules").stdout
    assert world.cli("store", "read", "orders/1", "--table", "orders").stdout == "kept\n"
    assert world.cli("config", "get", "db", "--secret").stdout.count(CONFIG_SECRET) == 1
    taken = world.cli("call", "store", "Lock.Acquire", json.dumps({"name": "job", "wait": 0}), check=False)
    assert taken.returncode != 0, "the lock is held"


def hello(world: worlds.World) -> str:
    return world.cli("helloworld", "--name", "Ann", check=False).stdout


def test_what_a_home_keeps_moves_to_postgresql(world: worlds.World, postgres: PostgresServer) -> None:
    place = f"PostgreSQL at {postgres.url.rpartition('@')[2]}"
    assert f"moving everything from SQLite to {place}" in world.output()
    assert f"everything is in {place} now" in world.output()
    everything_is_there(world)


def test_everything_comes_back_after_a_kill_even_code_that_was_lost(world: worlds.World) -> None:
    world.cli("store", "write", "orders/2", "last", "--table", "orders")
    assert world.process is not None
    world.stop(signal.SIGKILL)
    [code] = world.layout.namespaces("").glob("micro/services/helloworld/latest/1")
    shutil.rmtree(code)
    world.start()
    assert "moving" not in world.output()
    assert world.cli("store", "read", "orders/2", "--table", "orders").stdout == "last\n"
    everything_is_there(world)


async def test_nothing_is_lost_and_services_answer_while_postgresql_is_killed(
    world: worlds.World, postgres: PostgresServer
) -> None:
    token = (await asyncio.to_thread(world.cli, "user", "token", "--platform")).stdout.strip()
    async with (
        worlds.load(world.api, connections=2) as requests,
        load(lambda: Store(world.proxy, lambda: token), clients=4, seed=3) as (history, _),
    ):
        for _ in range(2):
            await history.more(30)
            await asyncio.to_thread(postgres.kill)
            lost = history.lost
            async with asyncio.timeout(60), history.progress:
                await history.progress.wait_for(lambda before=lost: history.lost > before + 4)  # type: ignore[misc]
            await requests.reached(requests.sent + 20)
            await asyncio.to_thread(postgres.start)
            await history.more(30)
    assert not requests.failures
    assert set(requests.answers) == {'{"msg":"Moin Ann"}'}
    assert (await asyncio.to_thread(world.cli, "health", "--wait", "30")).returncode == 0
    await asyncio.to_thread(everything_is_there, world)
    await asyncio.to_thread(world.cli, "kill", "helloworld")
    assert await asyncio.to_thread(hello, world) == ""


async def test_a_lock_has_one_holder_at_a_time_whatever_is_killed(
    world: worlds.World, postgres: PostgresServer
) -> None:
    token = (await asyncio.to_thread(world.cli, "user", "token", "--platform")).stdout.strip()
    async with contend(lambda: Store(world.proxy, lambda: token), lease=0.4) as locks:
        await locks.more(8)
        os.kill(world.processes()["store"], signal.SIGKILL)
        await locks.more(6)
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
        await locks.more(6)


def test_a_store_that_does_not_open_is_told_in_a_line(
    tmp_path: Path, world: worlds.World, postgres: PostgresServer, lonely: subprocess.Popen[str]
) -> None:
    place = postgres.url.rpartition("@")[2]
    with worlds.world(tmp_path / "other") as other:
        for url, told in (
            (f"postgres://micro:{PASSWORD.replace(' ', '-')}@{place}", "refuses user or password"),
            (postgres.url, "holds the data of a platform already, and this home has never used it"),
            (postgres.url.replace("/postgres", "/nowhere"), '"nowhere" does not exist'),
        ):
            check_refused(starting(other, url), told)
    check_refused(lonely, "cannot be reached: connection refused: is it running?")


def check_refused(server: subprocess.Popen[str], told: str) -> None:
    output, _ = server.communicate(timeout=40)
    assert server.returncode == 1
    lines = [line for line in output.splitlines() if line.strip()]
    assert len(lines) == 2, output
    assert told in lines[1]
    assert PASSWORD.replace(" ", "-") not in output


def test_the_password_is_shown_nowhere(world: worlds.World, postgres: PostgresServer) -> None:
    password = urlsplit(postgres.url).password
    assert password
    shown = [world.output(), *(world.cli(*words).stdout for words in (("status",), ("services",), ("health",)))]
    shown += [path.read_text(errors="replace") for path in world.layout.root.rglob("*.log")]
    shown += [path.read_text(errors="replace") for path in (world.layout.storage, world.layout.state)]
    shown += [Path(f"/proc/{pid}/cmdline").read_text() for pid in world.processes().values()]
    files = (path for path in world.layout.root.rglob("*") if path.is_file() and "environments" not in path.parts)
    holding = [path for path in files if password.encode() in path.read_bytes()]
    assert not [text for text in shown if password in text]
    assert not holding
    assert stat.S_IMODE(world.layout.store_url.stat().st_mode) == 0o600
    environs = {name: Path(f"/proc/{pid}/environ").read_text() for name, pid in world.processes().items()}
    told = {name for name, environ in environs.items() if password in environ}
    assert told & set(environs) == {"store", "config", "auth", "runtime"}
