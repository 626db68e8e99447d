"""Environments: separate deployments, each reached at the address of its proxy, chosen by name.

They live in `$MICRO_HOME/config.json` (default `~/.micro`). `local` is built in: the server of the same home.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from micro.cli import failures
from micro.cli.transport import Address
from micro.domain import errors

LOCAL = "local"
DEFAULT_ADDRESS = Address("127.0.0.1", 8081)
DEFAULT_API_ADDRESS = "127.0.0.1:8080"


class Environment(NamedTuple):
    """One environment: its name, the address of its proxy, and the address of its HTTP gateway where it is known."""

    name: str
    address: Address
    api_address: str = ""
    description: str = ""


def home(environ: Mapping[str, str]) -> Path:
    """The folder of all state: MICRO_HOME, else ~/.micro."""
    given = environ.get("MICRO_HOME", "")
    return Path(given).expanduser() if given else Path(environ.get("HOME") or Path.home()) / ".micro"


def address(text: str) -> Address:
    """Parse HOST:PORT, or http(s)://HOST[:PORT]; a bare HOST is reached with TLS at port 443.

    Raises:
        UsageError: it is none of these.
    """
    scheme, mark, rest = text.strip().rstrip("/").rpartition("://")
    host, colon, port_text = rest.rpartition(":")
    if not colon or (rest.startswith("[") and rest.endswith("]")):
        host, port_text = rest, "80" if scheme == "http" else "443"
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    known = scheme in ("http", "https", "grpc", "") and bool(mark) == bool(scheme)
    legal = bool(host) and not set(host) & set("/?#@[] \t\r\n") and (":" not in host or f"[{host}]" in rest)
    if not (known and legal and port_text.isdecimal() and 0 < int(port_text) < 65536):
        raise failures.UsageError(f"{text!r} is not an address: give HOST:PORT, for example proxy.example.com:443")
    port = int(port_text)
    return Address(host, port, scheme == "https" or (not scheme and port == 443))


class Environments:
    """The environments of one home.

    Every change is read, made and written under a lock and put in place at once, so concurrent commands lose nothing.

    Args:
        folder: of the home; made by the first change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "config.json"

    def names(self) -> list[str]:
        return [LOCAL, *sorted(name for name in self._added() if name != LOCAL)]

    def current(self) -> str:
        name = self._read().get("env")
        return name if isinstance(name, str) and name else LOCAL

    def get(self, name: str) -> Environment:
        """Return one environment.

        Raises:
            UsageError: no environment has the name.
        """
        if name == LOCAL:
            return self._local()
        added = self._added()
        if name not in added:
            near = failures.closest(name, self.names())
            hint = f"did you mean {near}?" if near else "list them with: micro env"
            raise failures.UsageError(f"environment {name!r} does not exist: {hint}")
        return Environment(name, address(added[name]))

    def choose(self, name: str) -> None:
        """Make an environment the current one; raises UsageError for an unknown name."""
        self.get(name)
        with self._changing() as content:
            content["env"] = name

    def add(self, name: str, where: str) -> None:
        """Add an environment; raises UsageError for a bad address, and where the name is taken by another address."""
        if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("-"):
            raise failures.UsageError(
                f"{name!r} is not a name for an environment: use letters, digits, hyphens and dots"
            )
        if name == LOCAL:
            raise failures.UsageError("environment 'local' is built in: choose another name")
        address(where)
        with self._changing() as content:
            added = _added(content)
            if added.get(name, where) != where:
                raise failures.UsageError(f"environment {name!r} is at {added[name]}: first type micro env del {name}")
            content["envs"] = added | {name: where}

    def remove(self, name: str) -> None:
        """Remove an environment; raises UsageError for one that is unknown, built in, or current."""
        if name == LOCAL:
            raise failures.UsageError("environment 'local' is built in and cannot be removed")
        self.get(name)
        with self._changing() as content:
            if content.get("env") == name:
                raise failures.UsageError(f"environment {name!r} is the current one: first type micro env set local")
            content["envs"] = {other: where for other, where in _added(content).items() if other != name}

    def _added(self) -> dict[str, str]:
        return _added(self._read())

    def _local(self) -> Environment:
        with contextlib.suppress(OSError, ValueError, errors.Error):
            state = json.loads((self._folder / "server" / "state.json").read_text("utf-8"))
            return Environment(
                LOCAL, address(state["proxy_address"]), str(state.get("api_address", "")), "the server of this home"
            )
        return Environment(LOCAL, DEFAULT_ADDRESS, DEFAULT_API_ADDRESS, "the server of this home")

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise errors.failed_precondition(f"cannot read {self._path}: {error.strerror}") from None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise errors.failed_precondition(f"{self._path} is not valid JSON: mend it, or remove it to start anew")
        return content

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        import fcntl

        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._folder / "config.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.failed_precondition(f"cannot write to {self._folder}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self._read()
            yield content
            self._write(content)
        finally:
            os.close(lock)

    def _write(self, content: dict[str, Any]) -> None:
        draft = self._folder / f"config.json.{os.getpid()}"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2, sort_keys=True)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise errors.failed_precondition(f"cannot write {self._path}: {error.strerror}") from None


def _added(content: Mapping[str, Any]) -> dict[str, str]:
    envs = content.get("envs")
    return {str(name): str(where) for name, where in envs.items()} if isinstance(envs, dict) else {}
