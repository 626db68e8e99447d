"""The server's keys: from a variable, or a file of our own outside of the data folder."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
from pathlib import Path

from micro.domain import errors
from micro.domain.errors import Error
from micro.ports import private_file

KEY_BYTES = 32
VARIABLE = "MICRO_CONFIG_SECRET_KEY"

_MOST = 4096
"""Keys of a file. None is ever let go of by itself: who takes up the newest at the next start only is sealed with an
older one until then."""


class Keyring:
    """Keys, the newest first: those of the variable, then those of the file, which are there to open what they sealed.

    Any number of processes may use one file: it is read again when it has changed.

    Args:
        given: the variable's text: keys in base64, the newest first, with blanks or commas between. Empty for none.
        file: one key a line, the newest first; made when the first key is needed and none is given.
        known: a file beside the data, with the ids of the keys that the data was last used with; None for none.
    """

    def __init__(self, given: str, file: Path, known: Path | None = None) -> None:
        self._given = given
        self._file = file
        self._known = known
        self._keys: dict[str, bytes] = {}
        self._read_at: tuple[int, ...] | None = None

    def present(self) -> bool:
        """Whether there is a key. Raises FAILED_PRECONDITION for one that cannot be used."""
        return bool(self._read())

    def newest(self) -> tuple[str, bytes]:
        """Id and key to wrap with. Raises FAILED_PRECONDITION without one."""
        for found in self._read().items():
            return found
        raise errors.failed_precondition(
            f"the server has no key for secrets: set {VARIABLE}, or put {self._file} back in its place"
        )

    def get(self, id_: str) -> bytes:
        """The key of that id. Raises FAILED_PRECONDITION when it is not among ours."""
        found = self._read().get(id_)
        if found is None:
            raise errors.failed_precondition(
                f"these secrets are sealed with key {id_}, which the server does not have: give it to the server "
                f"again, in {VARIABLE} or in {self._file}"
            )
        return found

    def begin(self) -> None:
        """Make the first key, in the file, where there is none at all.

        Raises FAILED_PRECONDITION, and makes nothing, when the data was used with keys of which none is there: a new
        one would hide that the old one is lost.
        """
        known = self._known.read_text().split() if self._known is not None and self._known.exists() else []
        if known and not self._read().keys() & set(known):
            raise errors.failed_precondition(
                f"the data in {self._known.parent if self._known else ''} is sealed with key {known[0]}, which is not "
                f"there: put {self._file} back from your backup, or set {VARIABLE} to it"
            )
        if not self._read():
            self._write([secrets.token_bytes(KEY_BYTES)], first=True)
        if self._known is not None and known != list(self._read()):
            private_file.write(self._known, "".join(f"{id_}\n" for id_ in self._read()))

    def renew(self) -> None:
        """Make a new key, in the file before those that are there, unless the variable gives them: then the first of it
        is the newest already. Raises FAILED_PRECONDITION, also when there are too many."""
        if self._given.strip():
            return
        kept = list(_parsed(self._lines(), str(self._file)).values())
        if len(kept) >= _MOST:
            raise errors.failed_precondition(
                f"{self._file} holds {len(kept):,} keys: restart the server, rotate, and then remove the last lines"
            )
        self._write([secrets.token_bytes(KEY_BYTES), *kept], first=not kept)

    def _write(self, keys: list[bytes], *, first: bool) -> None:
        """Replace the file; as the first, only where there is none: somebody else may have made it just now."""
        draft = self._file.with_name(f"{self._file.name}.{secrets.token_hex(8)}") if first else self._file
        try:
            try:
                private_file.write(draft, "".join(f"{base64.b64encode(key).decode()}\n" for key in keys))
                if first:
                    with contextlib.suppress(FileExistsError):
                        self._file.hardlink_to(draft)
                    private_file.sync_folder(self._file.parent)
            finally:
                if first:
                    draft.unlink(missing_ok=True)
        except OSError as error:
            raise errors.failed_precondition(f"cannot write {self._file}: {error.strerror}") from None

    def _read(self) -> dict[str, bytes]:
        found = self._stamp()
        if self._read_at != found:
            given = _parsed(self._given.replace(",", " ").split(), VARIABLE)
            try:
                kept = _parsed(self._lines(), str(self._file))
            except Error:
                if not given:
                    raise
                kept = {}
            self._keys = {**given, **{id_: key for id_, key in kept.items() if id_ not in given}}
            self._read_at = found
        return self._keys

    def _stamp(self) -> tuple[int, ...]:
        """What tells one state of the file from another."""
        try:
            found = self._file.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    def _lines(self) -> list[str]:
        try:
            if self._file.stat().st_mode & 0o077:
                raise errors.failed_precondition(f"{self._file} can be read by others: chmod 600 {self._file}")
            return self._file.read_text("ascii").split()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise errors.failed_precondition(f"cannot read {self._file}: {error.strerror}") from None
        except ValueError:
            raise _unusable(str(self._file)) from None


def _parsed(texts: list[str], source: str) -> dict[str, bytes]:
    found = {}
    for text in texts:
        try:
            key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:
            raise _unusable(source) from None
        if len(key) != KEY_BYTES:
            raise _unusable(source)
        found[_id(key)] = key
    return found


def _unusable(source: str) -> Error:
    return errors.failed_precondition(
        f"{source} holds something that is no key: make one with: openssl rand -base64 {KEY_BYTES}"
    )


def _id(key: bytes) -> str:
    """Names a key and tells nothing of it."""
    return hmac.new(key, b"micro.config.key", hashlib.sha256).hexdigest()[:16]
