"""The logins that a home's command line holds, one an environment: `$MICRO_HOME/sessions.json`.

Read by every command, written by few: by `micro login` and its kin, by whichever command finds that its access token
ends, and by `micro server` at its first start. Only the owner can read the file, and nobody ever sees half of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from micro.domain import errors


class StoredSession(NamedTuple):
    """One login.

    Attributes:
        id, name, namespace: of the account.
        access_token: goes into the header `authorization: Bearer …` of calls of the platform's own services.
        refresh_token: exchanged for the next tokens; serves once.
        expires: when both access tokens end, seconds since 1970.
        service_token: goes into that header of calls of users' services; empty where an earlier version has logged in.
    """

    id: str
    name: str
    namespace: str
    access_token: str
    refresh_token: str
    expires: float
    service_token: str = ""

    def __repr__(self) -> str:
        """Without the tokens: this may end in a log."""
        return f"StoredSession({self.namespace}/{self.id})"


class Stored(NamedTuple):
    """What is kept of one environment: the namespace that its user chose, empty for the account's, and the login."""

    namespace: str = ""
    session: StoredSession | None = None


class Sessions:
    """The sessions of one home."""

    def __init__(self, home: Path) -> None:
        self.path = home / "sessions.json"
        self._lock = home / "sessions.lock"

    def read(self, environment: str) -> Stored:
        """What is known of the environment, without waiting for anybody. Raises FAILED_PRECONDITION when the file
        cannot be read."""
        return self._load().get(environment, Stored())

    @contextlib.contextmanager
    def locked(self) -> Iterator[dict[str, Stored]]:
        """All environments, to look at and change while nobody else does; what was changed is stored at the end.

        Waits for whoever has the lock. Exchange a refresh token inside, after looking whether somebody else just has:
        it serves once. Nothing is stored when the block raises.

        Raises:
            Error: FAILED_PRECONDITION when the files cannot be read or written.
        """
        with _explained(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Beside the file, which is another one after each change.
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with _explained(self._lock):
                fcntl.flock(lock, fcntl.LOCK_EX)
            before = self._load()
            stored = dict(before)
            yield stored
            if stored != before:
                self._dump(stored)
        finally:
            os.close(lock)

    def _load(self) -> dict[str, Stored]:
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error
        try:
            return {str(name): _stored(values) for name, values in json.loads(text).items()}
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise self._damaged("it is not what was written there") from error

    def _dump(self, stored: dict[str, Stored]) -> None:
        from micro.ports import private_file  # most commands only read

        values = {
            name: {"namespace": one.namespace, "session": one.session and one.session._asdict()}
            for name, one in sorted(stored.items())
            if one != Stored()
        }
        with _explained(self.path):
            private_file.write(self.path, json.dumps(values, indent=1) + "\n")

    def _damaged(self, cause: object) -> errors.Error:
        return errors.failed_precondition(
            f"{self.path} cannot be read ({cause}): remove it, then log in again with `micro login`"
        )


def _stored(values: dict[str, Any]) -> Stored:
    session = values.get("session")
    return Stored(str(values.get("namespace", "")), None if session is None else _session(session))


def _session(values: dict[str, Any]) -> StoredSession:
    texts = {name: values[name] for name in ("id", "name", "namespace", "access_token", "refresh_token")}
    texts["service_token"] = values.get("service_token", "")
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("a session")
    return StoredSession(**texts, expires=float(values["expires"]))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.failed_precondition(f"{error.filename or path}: {error.strerror or error}") from error
