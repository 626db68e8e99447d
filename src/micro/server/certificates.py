"""The listeners' certificate: read, checked, handed to the gateways, and again whenever its files change."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from micro.backends.envoy import secrets
from micro.domain import errors
from micro.domain.errors import Error
from micro.ports import private_file

if TYPE_CHECKING:
    from micro.server.own_client import OwnClient

SETTLED = 2.0
"""Seconds of quiet after which files that do not go together are meant to be so: whoever writes two of them writes one
first. Also how often they are looked at where no event tells."""

_LARGEST = 1 << 20
_LINKS = 64


class Pem(NamedTuple):
    """What the files hold; `clients` is empty where clients need no certificate."""

    chain: bytes
    key: bytes
    clients: bytes = b""


class Certificates:
    """The files of one server's TLS.

    Args:
        cert, key, clients: as the operator names them; `clients` may be None.
        served: where the gateways read them; in a private folder.
        shown: where the certificate in use is written, for the command line of the same home.
        own: what that command line shows, where clients need a certificate.
    """

    def __init__(
        self,
        cert: Path,
        key: Path,
        clients: Path | None,
        served: secrets.Files,
        shown: Path,
        own: OwnClient | None = None,
    ) -> None:
        self._paths = {"--tls-cert": cert, "--tls-key": key}
        if clients is not None:
            self._paths["--tls-client-ca"] = clients
        self._served = served
        self._shown = shown
        self._own = own
        self._current: Pem | None = None
        self._told = ""

    def load(self) -> None:
        """Hand over what the files hold. Raises INVALID_ARGUMENT, in one line that names the file, when that is no
        certificate, has ended, or its key is another's; what was handed over before stays."""
        self._use(self._read())

    async def follow(self, tell: Callable[[str], None]) -> None:
        """Hand over anew whatever the files become, written in place, renamed, or behind links that change. What does
        not hold is told once and changes nothing. Never returns."""
        from watchfiles import awatch

        while True:
            folders = self._folders()
            try:
                async for changes in awatch(
                    *folders,
                    recursive=False,
                    watch_filter=None,
                    step=50,
                    rust_timeout=int(SETTLED * 1000),
                    yield_on_timeout=True,
                ):
                    self._look(tell, settled=not changes)
                    if self._folders() != folders:
                        break
            except OSError:  # a folder is gone, and may come back
                self._look(tell, settled=True)
                await asyncio.sleep(SETTLED)

    def _look(self, tell: Callable[[str], None], *, settled: bool) -> None:
        try:
            if self._own is not None:
                self._own.renew()
            found = self._read()
            if found != self._current:
                self._use(found)
                tell(f"the certificate was read again; it ends on {_end(found)}")
            self._told = ""
        except (Error, OSError) as error:
            said = error.message if isinstance(error, Error) else f"{error.filename}: {error.strerror}"
            if settled and said != self._told:
                self._told = said
                tell(f"{said}; the certificate in use stays")

    def _read(self) -> Pem:
        return Pem(*(_content(flag, path) for flag, path in self._paths.items()))

    def _use(self, found: Pem) -> None:
        _check(found, {flag: str(path) for flag, path in self._paths.items()})
        clients = found.clients
        if self._own is not None:
            self._own.renew()
            clients += b"\n" + self._own.authority
        secrets.write(self._served, *(part.decode() for part in (found.chain, found.key, clients)))
        private_file.write(self._shown, found.chain, durable=False)
        self._current = found

    def _folders(self) -> set[Path]:
        """Every folder in which a change may give one of the paths another content: links are followed step by step."""
        found: set[Path] = set()
        seen: set[Path] = set()
        left = list(self._paths.values())
        while left and len(seen) < _LINKS:
            step = left.pop()
            if step in seen:
                continue
            seen.add(step)
            found.add(step.parent)
            for part in (step, *step.parents):
                if part.is_symlink():
                    found.add(part.parent)
                    target = part.parent / part.readlink() / step.relative_to(part)
                    left.append(Path(os.path.normpath(target)))
        return {folder for folder in found if folder.is_dir()}


def _content(flag: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise errors.invalid_argument(f"{flag} {path} cannot be read: {error.strerror or error}") from None
    if len(content) > _LARGEST or not content.isascii():
        raise errors.invalid_argument(f"{flag} {path} is not in PEM: it should begin with -----BEGIN")
    return content


def _check(found: Pem, shown: dict[str, str]) -> None:
    """Whether a gateway would take it: a mistake is told here, in one line."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    cert, key = f"--tls-cert {shown['--tls-cert']}", f"--tls-key {shown['--tls-key']}"
    first = _certificates(found.chain, cert)[0]
    try:
        private = load_pem_private_key(found.key, None)
    except TypeError:
        raise errors.invalid_argument(f"{key} has a passphrase: give a key without one") from None
    except Exception:  # noqa: BLE001 - whatever the library makes of it
        raise errors.invalid_argument(f"{key} is not a private key in PEM") from None
    usable = (isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048) or (
        isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in ("secp256r1", "secp384r1")
    )
    if not usable:
        raise errors.invalid_argument(f"{key} is of a kind that is not offered: use RSA from 2048 bits, or EC P-256")
    if private.public_key() != first.public_key():
        raise errors.invalid_argument(f"{key} does not fit {cert}: give the key that the certificate was made for")
    if first.not_valid_after_utc <= dt.datetime.now(dt.UTC):
        raise errors.invalid_argument(f"{cert} has ended on {first.not_valid_after_utc:%Y-%m-%d}: renew it")
    if "--tls-client-ca" in shown:
        _certificates(found.clients, f"--tls-client-ca {shown['--tls-client-ca']}")


def _certificates(content: bytes, shown: str):  # type: ignore[no-untyped-def]  # the library is imported when needed
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(content)
    except ValueError:
        raise errors.invalid_argument(f"{shown} is not a certificate in PEM") from None


def _end(found: Pem) -> str:
    return f"{_certificates(found.chain, '')[0].not_valid_after_utc:%Y-%m-%d}"
