"""Environments: separate deployments, each reached at the address of its proxy, chosen by name.

They live in `$MICRO_HOME/config.json` (default `~/.micro`), certificates for them in `$MICRO_HOME/environments`.
`local` is built in: the server of the same home. So are `dev` and `platform`, which have no address until they get one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from micro.cli import failures
from micro.cli.http1 import Tls
from micro.cli.transport import Address
from micro.domain import address as addresses
from micro.domain import errors

LOCAL = "local"
PLACES = {"dev": "a shared server to develop on", "platform": "a shared server for production"}
DEFAULT_ADDRESS = Address("127.0.0.1", 8081)
DEFAULT_API_ADDRESS = "127.0.0.1:8080"

_NAME = re.compile(r"[^\W_][\w.-]{0,62}")


class Environment(NamedTuple):
    """One environment.

    Attributes:
        name: by which it is chosen.
        address: of its proxy; its host is empty while a place that is built in has none.
        api_address: of its HTTP gateway, where that is known.
        tls: how a secure connection is checked.
        trusted: whether what listens there is what it should be, as far as can be known: at the local address there may
            be anybody while no server of this home runs.
        accounts: whether users' services are known to need an account.
    """

    name: str
    address: Address
    api_address: str = ""
    description: str = ""
    tls: Tls = Tls()
    trusted: bool = True
    accounts: bool = False

    @property
    def setup(self) -> str:
        """What is typed, before an address, to set it up; empty for the local one."""
        return "" if self.name == LOCAL else f"micro env {'set-address' if self.name in PLACES else 'add'} {self.name}"


def home(environ: Mapping[str, str]) -> Path:
    """The folder of all state: MICRO_HOME, else ~/.micro."""
    given = environ.get("MICRO_HOME", "")
    return Path(given).expanduser() if given else Path(environ.get("HOME") or Path.home()) / ".micro"


def address(text: str, *, secure: bool | None = None) -> Address:
    """Parse HOST:PORT, or http(s)://HOST[:PORT]; a bare HOST is reached at port 443.

    Args:
        text: as it was typed.
        secure: whether it is reached with TLS where the text does not tell; None means at port 443, and everywhere but
            on this machine.

    Raises:
        UsageError: it is none of these.
    """
    scheme, mark, rest = text.strip().rstrip("/").rpartition("://")
    if ":" not in rest or rest.endswith("]"):
        rest += ":80" if scheme == "http" else ":443"
    host, port = "", 0
    with contextlib.suppress(errors.Error):
        host, port = addresses.split(rest)
    known = scheme in ("http", "https", "grpc", "") and bool(mark) == bool(scheme)
    if not (known and host and port) or set(host) & set("?#"):
        raise failures.UsageError(f"{text!r} is not an address: give HOST:PORT, for example proxy.example.com:443")
    plain = Address(host, port)
    if secure is None:
        secure = port == 443 or not plain.loopback
    return plain._replace(secure={"http": False, "https": True}.get(scheme, secure))


class Environments:
    """The environments of one home.

    Every change is read, made and written under a lock and put in place at once, so concurrent commands lose nothing.

    Args:
        folder: of the home; made by the first change.
        environ: variables that a server of the home is started with, which say where it will be.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environ = environ or {}
        self._path = folder / "config.json"

    def names(self) -> list[str]:
        """Those that have an address, the built-in ones first."""
        return [one.name for one in self.all() if one.address.host]

    def all(self) -> list[Environment]:
        """All of them, the built-in ones first, which may have no address yet."""
        added = self._added()
        nowhere = Address("", 0)
        built_in = [
            self._environment(name, added[name]) if name in added else Environment(name, nowhere, "", description)
            for name, description in PLACES.items()
        ]
        others = [self._environment(name, added[name]) for name in sorted(added) if name not in (LOCAL, *PLACES)]
        return [self._local(), *built_in, *others]

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
        if name in added:
            return self._environment(name, added[name])
        if name in PLACES:
            raise failures.UsageError(
                f"environment {name!r} is not configured: give it an address, micro env set-address {name} HOST:PORT"
            )
        near = failures.closest(name, self.names())
        hint = f"did you mean {near}?" if near else "list them with: micro env"
        raise failures.UsageError(f"environment {name!r} does not exist: {hint}")

    def choose(self, name: str) -> None:
        """Make an environment the current one; raises UsageError for an unknown name."""
        self.get(name)
        with self._changing() as content:
            content["env"] = name

    def add(self, name: str, where: str, *, description: str = "", tls: Tls | None = None) -> Environment:
        """Add an environment, or change what is known of one at the same address.

        Args:
            name: by which it is chosen.
            where: its address.
            description: for the list.
            tls: files that are copied into the home.

        Raises:
            UsageError: a bad name, address or file; the name is taken by another address.
        """
        if not _NAME.fullmatch(name):
            raise failures.UsageError(
                f"{name!r} is not a name for an environment: use letters, digits, hyphens and dots"
            )
        if name in (LOCAL, *PLACES):
            hint = "choose another name" if name == LOCAL else f"type micro env set-address {name} HOST:PORT"
            raise failures.UsageError(f"environment {name!r} is built in: {hint}")
        return self._put(name, where, description, tls, move=False)

    def set_address(self, name: str, where: str, *, tls: Tls | None = None) -> Environment | None:
        """Point an environment at another deployment. Its session ends here when it moves.

        Args:
            name: of a built-in place, or of an environment that was added.
            where: its address; "none" takes away that of a built-in place.
            tls: as in `add`.

        Raises:
            UsageError: there is no such environment; a bad address or file.
        """
        if name not in PLACES and name not in self._added():
            hint = f"type micro env add {name} HOST:PORT" if name != LOCAL else "it is the server of this home"
            raise failures.UsageError(f"environment {name!r} has no address to change: {hint}")
        if where != "none":
            return self._put(name, where, "", tls, move=True)
        if name not in PLACES:
            raise failures.UsageError(f"environment {name!r} was added: to remove it, micro env delete {name}")
        with self._changing() as content:
            if content.get("env") == name:
                raise failures.UsageError(f"environment {name!r} is the current one: first type micro env set local")
            content["envs"] = {other: record for other, record in _added(content).items() if other != name}
        self._forget(name)
        return None

    def remove(self, name: str) -> None:
        """Remove an environment and its session; raises UsageError for one that is unknown, built in, or current."""
        if name in (LOCAL, *PLACES):
            hint = f"; to take its address away: micro env set-address {name} none" if name in PLACES else ""
            raise failures.UsageError(f"environment {name!r} is built in and cannot be removed{hint}")
        self.get(name)
        with self._changing() as content:
            if content.get("env") == name:
                raise failures.UsageError(f"environment {name!r} is the current one: first type micro env set local")
            content["envs"] = {other: record for other, record in _added(content).items() if other != name}
        self._forget(name)

    def settings(self) -> dict[str, str]:
        """What the user keeps for themselves, by key: `micro user config`."""
        found = self._read().get("config")
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def set(self, key: str, value: str) -> None:
        """Keep a setting."""
        with self._changing() as content:
            content["config"] = {**content.get("config", {}), key: value}

    def unset(self, key: str) -> bool:
        """Remove a setting; whether there was one."""
        with self._changing() as content:
            kept = dict(content.get("config", {}))
            found = kept.pop(key, None) is not None
            content["config"] = kept
        return found

    def _put(self, name: str, where: str, description: str, tls: Tls | None, *, move: bool) -> Environment:
        given = {flag: path for flag, path in (tls or Tls())._asdict().items() if path}
        place = address(where, secure=True if given else None)
        if given and not place.secure:
            raise failures.UsageError(
                f"{where!r} is reached without TLS, which --{min(given)} is for: leave out http://"
            )
        contents = _pem_files(tls) if tls and given else {}
        moved = False
        with self._changing() as content:
            added = _added(content)
            before = address(str(added[name]["address"])) if name in added else place
            moved = (before.host, before.port) != (place.host, place.port)
            if moved and not move:
                raise failures.UsageError(
                    f"environment {name!r} is at {before}: to move it, type micro env set-address {name} {where}"
                )
            record: dict[str, Any] = {} if moved else dict(added.get(name, {}))
            record |= {"address": where if address(where) == place else str(place)}
            record |= {"description": description} if description else {}
            record |= {"tls": sorted({*record.get("tls", ()), *contents})} if contents else {}
            if moved:
                self._forget(name)
            self._keep(name, contents)
            content["envs"] = added | {name: record}
        return self.get(name)

    def _keep(self, name: str, contents: Mapping[str, bytes]) -> None:
        from micro.ports import private_file

        folder = self._certificates(name)
        try:
            if contents:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for kind, data in contents.items():
                private_file.write(folder / f"{kind}.pem", data)
        except OSError as error:
            raise errors.failed_precondition(f"cannot write to {folder}: {error.strerror}") from None

    def _forget(self, name: str) -> None:
        """Remove an environment's session and certificates: they are nobody else's, whoever gets the name next."""
        import shutil

        from micro.ports.sessions import Sessions

        with Sessions(self._folder).locked() as stored:
            stored.pop(name, None)
        shutil.rmtree(self._certificates(name), ignore_errors=True)

    def _certificates(self, name: str) -> Path:
        return self._folder / "environments" / name

    def _environment(self, name: str, record: Mapping[str, Any]) -> Environment:
        folder = self._certificates(name)
        kept = record.get("tls", ())
        tls = Tls(**{kind: str(folder / f"{kind}.pem") for kind in ("ca", "cert", "key") if kind in kept})
        described = str(record.get("description", "")) or PLACES.get(name, "")
        return Environment(name, address(str(record.get("address", ""))), "", described, tls)

    def _added(self) -> dict[str, dict[str, Any]]:
        return _added(self._read())

    def _local(self) -> Environment:
        with contextlib.suppress(OSError, ValueError, errors.Error):
            state = json.loads((self._folder / "server" / "state.json").read_text("utf-8"))
            own = str(state.get("tls_client", ""))
            tls = Tls(cert=own, key=own, pinned=str(state.get("tls_cert", "")))
            where = address(addresses.near(state["proxy_address"]), secure=bool(tls.pinned))
            api = str(state.get("api_address", ""))
            api = addresses.near(api) if api else api
            api = f"https://{api}" if api and tls.pinned else api
            accounts, ours = state.get("accounts") is True, _runs(state.get("pid"))
            return Environment(LOCAL, where, api, "the server of this home", tls, trusted=ours, accounts=accounts)
        expected, beside = self._expected("MICRO_PROXY_ADDRESS"), self._expected("MICRO_API_ADDRESS")
        api = beside.plain if beside else DEFAULT_API_ADDRESS
        return Environment(LOCAL, expected or DEFAULT_ADDRESS, api, "the server of this home", trusted=False)

    def _expected(self, variable: str) -> Address | None:
        """Where `micro server` would listen on this machine by a variable; None where it does not say."""
        with contextlib.suppress(errors.Error):
            host, port = addresses.split(addresses.near(self._environ.get(variable, "")))
            if port and addresses.is_loopback(host):
                return Address(host, port)
        return None

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
        from micro.ports import private_file

        try:
            private_file.write(self._path, json.dumps(content, indent=2, sort_keys=True) + "\n")
        except OSError as error:
            raise errors.failed_precondition(f"cannot write {self._path}: {error.strerror}") from None


def _runs(pid: object) -> bool:
    """Whether there is such a process; one that was killed has left its word behind."""
    try:
        os.kill(int(str(pid)), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return True


def _added(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The environments that are written down; one that is only an address is written as that."""
    envs = content.get("envs")
    found = envs.items() if isinstance(envs, dict) else ()
    return {str(name): dict(one) if isinstance(one, dict) else {"address": str(one)} for name, one in found}


def _pem_files(tls: Tls) -> dict[str, bytes]:
    """What the files hold, by kind; raises UsageError for what is not what it should be."""
    if bool(tls.cert) != bool(tls.key):
        raise failures.UsageError("--cert and --key belong together: give both")
    from micro.cli import tls as security

    security.context(tls)
    found = {}
    for kind in ("ca", "cert", "key"):
        if path := getattr(tls, kind):
            found[kind] = Path(path).read_bytes()
    return found
