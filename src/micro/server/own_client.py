"""What the command line of the same home shows where the listeners ask clients for a certificate; see decision 15.

Its authority is made anew by each server and trusted by that server only. The authority's key is never written, so
nobody can make another certificate of it.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from micro.ports import private_file

LIFE = dt.timedelta(days=7)
"""How long a certificate holds. It is made anew when half of that is over."""

_ALWAYS = dt.datetime(2000, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
"""When the authority holds, which ends with its server: whatever happens to the clock."""


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class OwnClient:
    """The certificate of one server's own command line.

    Args:
        file: where it lies with its key, readable by its owner only.
        now: what time it is.

    Attributes:
        authority: the certificate that it is checked by, PEM.
    """

    def __init__(self, file: Path, now: Callable[[], dt.datetime] = _now) -> None:
        self._file = file
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        # No two have the same name, or the listeners would look for the key of one under the other.
        self._name = _named(f"micro server {secrets.token_hex(16)}")
        self._until: dt.datetime | None = None
        extensions: tuple[x509.ExtensionType, ...] = (
            x509.BasicConstraints(ca=True, path_length=0),
            _usage(signs=True),
        )
        made = self._signed(self._name, self._key.public_key(), _ALWAYS, extensions)
        self.authority = made.public_bytes(serialization.Encoding.PEM)

    def renew(self) -> None:
        """Write a new one where there is none yet, the last one is half over, or the clock was set back. Raises
        OSError."""
        now = self._now()
        if self._until is not None and LIFE / 2 < self._until - now <= LIFE:
            return
        key, until = ec.generate_private_key(ec.SECP256R1()), now + LIFE
        extensions: tuple[x509.ExtensionType, ...] = (
            x509.BasicConstraints(ca=False, path_length=None),
            _usage(signs=False),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
        )
        made = self._signed(_named("micro command line"), key.public_key(), (now - LIFE, until), extensions)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # One file, so that nobody reads the key of another certificate.
        private_file.write(self._file, private + made.public_bytes(serialization.Encoding.PEM), durable=False)
        self._until = until

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        holds: tuple[dt.datetime, dt.datetime],
        extensions: tuple[x509.ExtensionType, ...],
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(holds[0])
            .not_valid_after(holds[1])
        )
        for one in extensions:
            builder = builder.add_extension(one, critical=True)
        return builder.sign(self._key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    """What a key is for: to sign certificates, or connections."""
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
