"""The NATS server as a child: let in only with the password, which is in a file of its owner's alone."""

import asyncio
import json
import socket
import stat
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from micro.backends.nats import process
from micro.backends.nats._connection import Connection, NatsAddress
from micro.domain import errors
from micro.ports.free_address import free_address
from micro.testing.nats import NatsChild, nats_child


def test_the_secret_is_in_files_of_mode_0600_and_nowhere_else(tmp_path: Path) -> None:
    server = process.prepare(tmp_path / "nats", "127.0.0.1:4222")
    assert stat.S_IMODE((tmp_path / "nats").stat().st_mode) == 0o700
    for file in (server.config, server.credentials):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert server.address.password in file.read_text()
    shown = " ".join([*server.argv, server.address.url, repr(server)])
    assert len(server.address.password) >= 32
    assert server.address.password not in shown


def test_the_password_stays_while_the_port_may_change(tmp_path: Path) -> None:
    first = process.prepare(tmp_path, "127.0.0.1:4222")
    second = process.prepare(tmp_path, "127.0.0.1:4223")
    assert first.address.password == second.address.password
    assert process.load_credentials(second.credentials) == second.address
    assert second.address.url == "nats://127.0.0.1:4223"
    assert process.prepare(tmp_path / "other", "127.0.0.1:1").address.password != first.address.password


def test_damaged_credentials_are_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{")
    with pytest.raises(errors.Error, match="delete it") as caught:
        process.prepare(tmp_path, "127.0.0.1:4222")
    assert caught.value.kind is errors.Kind.FAILED_PRECONDITION


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.Error, match="make it writable") as caught:
        process.prepare(tmp_path / "file" / "nats", "127.0.0.1:4222")
    assert caught.value.kind is errors.Kind.FAILED_PRECONDITION


def test_the_program_is_the_one_of_this_environment() -> None:
    assert process.find_program().name == "nats-server"


async def test_only_who_has_the_password_is_let_in(tmp_path: Path) -> None:
    """In a folder whose name needs quoting, too."""
    with nats_child(tmp_path / 'my "näts" $HOME') as child:
        await process.ready(child.address)
        for intruder in (
            NatsAddress(child.address.url),
            replace(child.address, password="guess"),
            replace(child.address, user="", password=child.address.password),
        ):
            with pytest.raises(errors.Error) as caught:
                await process.ready(intruder, seconds=0.3)
            assert caught.value.kind is errors.Kind.UNAVAILABLE


async def test_the_server_opens_one_port_on_the_loopback_only(tmp_path: Path) -> None:
    with nats_child(tmp_path) as child:
        await process.ready(child.address)
        config = child.server.config.read_text()
        assert "http" not in config
        async with AsyncExitStack() as stack:
            connection = Connection(child.address)
            await connection.start(stack)
            assert connection.client.max_payload == process.MAX_PAYLOAD
        host, port = child.address.url.removeprefix("nats://").split(":")
        assert host == "127.0.0.1"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.2", int(port))) != 0


async def test_the_server_says_that_it_syncs_what_it_acknowledges(tmp_path: Path) -> None:
    """By default it would every two minutes."""
    child, monitor = NatsChild(tmp_path), free_address()
    assert "\n  sync_interval: always\n" in child.server.config.read_text()
    child.server = replace(child.server, argv=(*child.server.argv, "--http_port", monitor.rpartition(":")[2]))
    try:
        await child.start()
        with urllib.request.urlopen(f"http://{monitor}/varz", timeout=10) as answer:
            told = json.load(answer)
    finally:
        child.kill()
    assert told["jetstream"]["config"]["sync_always"] is True


async def test_a_server_that_is_not_there_is_told_so_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(errors.Error, match="not ready") as caught:
        await process.ready(NatsAddress(f"nats://127.0.0.1:{port}"), seconds=0.2)
    assert caught.value.kind is errors.Kind.UNAVAILABLE


async def test_something_that_is_no_nats_is_told_so_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(errors.Error) as caught:
            await process.ready(NatsAddress(f"nats://127.0.0.1:{port}"), seconds=0.3)
    assert caught.value.kind is errors.Kind.UNAVAILABLE


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"INFO {}\r\n-ERR 'Authorization Violation'\r\n", "Authorization Violation"),
        (b"INFO {}\r\nPING\r\nHMSG _INBOX.x 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", "JetStream does not answer"),
        (b'INFO {}\r\nMSG _INBOX.x 1 42\r\n{"error": {"description": "no leader yet"}}\r\n', "no leader yet"),
        (b"INFO {}\r\nMSG _INBOX.x 1 4\r\nnone\r\n", "not ready"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed the connection"),
    ],
)
async def test_what_keeps_it_from_being_ready_is_told(said: bytes, told: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(errors.Error, match=told) as caught:
            await process.ready(NatsAddress(f"nats://127.0.0.1:{port}"), seconds=0.3)
    assert caught.value.kind is errors.Kind.UNAVAILABLE
