"""Where NATS is, and what lets us in: parsed, checked, and read anew for each connection."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from micro.backends.nats import _nkeys
from micro.domain import errors
from micro.domain.record import Durability

PORT = 4222

_SCHEMES = ("nats", "tls")
_NO_URL = (
    "MICRO_NATS_URL names no NATS: use nats://HOST:PORT or tls://HOST:PORT, several with commas between them, and %2C, "
    "%40 and %2F for , @ and / in a password"
)


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where NATS is and how to be let in.

    Attributes:
        url: "nats://HOST:PORT" or "tls://HOST:PORT", or several, separated by commas.
        user: empty where the server asks for nothing, or for a token.
        password: or the token; never printed.
        credentials: file with a user's JWT and seed.
        nkey: file with a user's seed.
        ca: file of the authorities, PEM, that sign the servers' certificates; None for the system's.
        cert: file of our own certificate, PEM, for servers that ask for one.
        key: file of its private key.
        synced: whether it is known that the server syncs to disk before it acknowledges: one of our own does.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    credentials: Path | None = None
    nkey: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    synced: bool = False

    @classmethod
    def parse(cls, url: str) -> NatsAddress:
        """Take user and password out of "nats://USER:PASSWORD@HOST:PORT", so that the rest can be shown.

        Raises:
            Error: INVALID_ARGUMENT, which does not show it, for what is no URL of NATS.
        """
        places: list[str] = []
        users: set[str] = set()
        for one in url.split(","):
            scheme, _, rest = one.strip().rpartition("//")
            userinfo, _, place = rest.rpartition("@")
            places.append(_place(scheme.removesuffix(":") or "nats", place.removesuffix("/")))
            users |= {userinfo} - {""}
        if len({place.partition(":")[0] for place in places}) > 1:
            raise errors.invalid_argument("MICRO_NATS_URL has addresses with nats:// and with tls://: use one of them")
        if len(users) > 1:
            raise errors.invalid_argument("MICRO_NATS_URL has several users: all servers must know the same one")
        user, colon, password = (users.pop() if users else "").partition(":")
        if not colon:
            user, password = "", user
        return cls(",".join(places), unquote(user), unquote(password))

    @property
    def servers(self) -> list[str]:
        """A URL for each server that is named."""
        return self.url.split(",")

    @property
    def tls(self) -> bool:
        """Whether nothing may be sent before the connection is encrypted."""
        return self.url.startswith("tls://") or self.ca is not None or self.cert is not None

    def durability(self, replicas: int) -> Durability:
        """What outlives what, where each message is kept by so many servers."""
        if replicas > 1:
            return Durability.REPLICATED
        return Durability.DISK if self.synced else Durability.SERVER

    def ssl_context(self) -> ssl.SSLContext:
        """How to encrypt, from the files as they are now. Raises OSError."""
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context

    def user_key(self) -> tuple[str, _nkeys.Nkey]:
        """The user's JWT, empty where the server knows the key itself, and the key; from the files as they are now.
        Raises OSError, and ValueError for a file that does not hold them."""
        if self.credentials is not None:
            jwt, seed = _nkeys.credentials(self.credentials.read_text("ascii"))
            return jwt, _nkeys.Nkey(seed)
        if self.nkey is None:
            raise ValueError("there is no key")
        return "", _nkeys.Nkey(_nkeys.seed(self.nkey.read_text("ascii")))

    def check(self) -> None:
        """Whether the files are there, hold what they should, and are nobody else's.

        Raises:
            Error: FAILED_PRECONDITION, in one line, that names the variable and the file.
        """
        for variable, path, secret in self._files():
            _check_file(variable, path, secret=secret)
        try:
            if self.credentials or self.nkey:
                self.user_key()
        except ValueError as error:
            name = f"MICRO_NATS_CREDENTIALS {self.credentials}" if self.credentials else f"MICRO_NATS_NKEY {self.nkey}"
            cause = "is no text" if isinstance(error, UnicodeError) else str(error)
            raise errors.failed_precondition(f"{name} {cause}: give the file that nsc or nk wrote") from None
        try:
            if self.ca or self.cert:
                self.ssl_context()
        except OSError:
            raise errors.failed_precondition(self._bad_pem()) from None

    def _files(self) -> Iterator[tuple[str, Path, bool]]:
        for variable, path, secret in (
            ("MICRO_NATS_CREDENTIALS", self.credentials, True),
            ("MICRO_NATS_NKEY", self.nkey, True),
            ("MICRO_NATS_CA", self.ca, False),
            ("MICRO_NATS_CERT", self.cert, False),
            ("MICRO_NATS_KEY", self.key, True),
        ):
            if path is not None:
                yield variable, path, secret

    def _bad_pem(self) -> str:
        try:
            ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except OSError:
            return f"MICRO_NATS_CA {self.ca} holds no certificate in PEM: give the authority's"
        return (
            f"MICRO_NATS_CERT {self.cert} and MICRO_NATS_KEY {self.key} are no certificate and its key in PEM, without "
            "a passphrase: give those that belong together"
        )


def _place(scheme: str, place: str) -> str:
    """HOST:PORT with its scheme. Raises INVALID_ARGUMENT, which does not show it: it may be a piece of a password."""
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        raise errors.invalid_argument(_NO_URL) from None
    if scheme not in _SCHEMES or not host or parts.netloc != place or any(each.isspace() for each in place):
        raise errors.invalid_argument(_NO_URL)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _check_file(variable: str, path: Path, *, secret: bool) -> None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            file.read(1)
    except OSError as error:
        cause = error.strerror or str(error)
        raise errors.failed_precondition(
            f"{variable} {path} cannot be read: {cause}: give a file that is there and yours"
        ) from None
    if secret and mode & 0o077:
        raise errors.failed_precondition(f"{variable} {path} can be read by others: chmod 600 {path}")
