"""What a server is told, read once: arguments over environment over the profile's defaults."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro.domain import address as addresses
from micro.domain import errors, workload
from micro.domain.errors import Error
from micro.ports.free_address import free_address, free_addresses
from micro.server import profiles

_NATS_FILES = ("nats_credentials", "nats_nkey", "nats_ca", "nats_cert", "nats_key")
_FILES = ("tls_cert", "tls_key", "tls_client_ca", *_NATS_FILES)
_STORES = ("sqlite", "memory")
_BLOBS = ("files", "memory")
_POSTGRES = ("postgres://", "postgresql://")
STORE_ELSEWHERE = "postgresql://"
"""What `dump` has in place of a store's URL, which may hold a password anywhere."""

_USER = re.compile(r"^((?:nats|tls)://)?.*@")
_DOMAIN = re.compile(r"(?=.{1,190}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Settings:
    """A server's settings; travels to the core services as a file that only its owner can read."""

    home: Path
    """Folder of all state."""

    profile: str
    """Name of the set of defaults this was read over."""

    api_address: str
    """HOST:PORT of the HTTP gateway."""

    proxy_address: str
    """HOST:PORT of the gRPC proxy, which is also where the command line goes."""

    registry_state: str
    """Backend of the registry's state: "nats" or "memory"."""

    messaging: str
    """Backend of broker and events: "nats" or "memory"; empty for that of the registry."""

    nats_url: str = dataclasses.field(repr=False)
    """NATS to use: one address or several, separated by commas; may hold a password. Empty for one of our own, run as
    a child."""

    nats_replicas: int
    """How many servers of a NATS cluster keep each message: 1, 3 or 5."""

    nats_credentials: str
    """File with a NATS user's JWT and seed, as nsc writes it."""

    nats_nkey: str
    """File with a NATS user's seed."""

    nats_ca: str
    """File of authorities, PEM, one of which must have signed NATS's certificate; empty for the system's."""

    nats_cert: str
    """File of the certificate, PEM, that is shown to a NATS that asks for one."""

    nats_key: str
    """File of its private key, PEM."""

    cors_origins: tuple[str, ...]
    """Origins that browsers may call the gateway from; none by default."""

    access_log: bool
    """Whether the gateways log each request. Off by default."""

    gateway_workers: int
    """Worker threads of api and of proxy; default one a core, at most four."""

    ready_timeout: float
    """Seconds that a core service or a user's service may take to become ready."""

    public: bool = False
    """Whether users' services may be called without an account although a listener is not on the loopback address."""

    insecure: bool = False
    """Whether the proxy may listen without TLS where others reach it: something in front of it has to do that."""

    tls_cert: str = ""
    """File of the listeners' certificate, PEM, with what leads to its authority; empty for no TLS."""

    tls_key: str = ""
    """File of its private key, PEM."""

    tls_client_ca: str = ""
    """File of authorities, PEM, one of which must have signed a client's certificate; empty to ask for none."""

    base_domain: str = ""
    """Domain below which each namespace has a host at the HTTP gateway: "example.com" for "shop.example.com"."""

    log_level: str = "info"
    """From which level on the core services log: "debug", "info", "warning" or "error"."""

    no_local_login: bool = False
    """Whether the first start keeps no session for the command line of the same home."""

    reset_admin: bool = False
    """Whether the admin gets a new secret at this start, and its sessions end. No variable says so: it is for once."""

    adopt_store: bool = False
    """Whether this start takes a store as it is that is not the one which the home has used. For once, too."""

    store: str = dataclasses.field(default="sqlite", repr=False)
    """Where the platform keeps records: "sqlite", "memory", or the URL of a PostgreSQL database, which may hold a
    password. A variable alone says so: others see arguments."""

    blobs: str = "files"
    """Where blobs are kept: "files", "memory", or the URL of an S3 bucket."""

    server_secret: str = dataclasses.field(default="", repr=False)
    """What this server's own processes know each other by; random, made at start."""

    nats_address: str = ""
    """HOST:PORT of our own NATS; chosen at start."""

    registry_address: str = ""
    """HOST:PORT of the registry; chosen at start."""

    network_address: str = ""
    """HOST:PORT of the control plane; chosen at start."""

    runtime_address: str = ""
    """HOST:PORT of the runtime; chosen at start."""

    auth_address: str = ""
    """HOST:PORT of auth; chosen at start."""

    store_address: str = ""
    """HOST:PORT of the store; chosen at start."""

    config_address: str = ""
    """HOST:PORT of config; chosen at start."""

    broker_address: str = ""
    """HOST:PORT of the broker; chosen at start."""

    events_address: str = ""
    """HOST:PORT of events; chosen at start."""

    mesh_address: str = ""
    """HOST:PORT that services call each other through; chosen at start."""

    @property
    def open(self) -> bool:
        """Whether users' services may be called without an account where no rule says anything else."""
        return self.public or self.on_loopback

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the listeners."""
        return all(_is_loopback(where) for where in (self.api_address, self.proxy_address))

    @property
    def uses_nats(self) -> bool:
        """Whether anything is kept in NATS or goes over it."""
        return "nats" in (self.registry_state, self.messaging)

    @property
    def nats_place(self) -> str:
        """The URL of NATS without user and password."""
        return ",".join(_USER.sub(r"\1", part.strip()) for part in self.nats_url.split(","))

    def with_ports(self) -> Settings:
        """These settings with what is chosen at start: a free port for each inner address, and the server's secret."""
        nats, registry, network, runtime, auth, store, config, broker, events, mesh = free_addresses(10)
        return dataclasses.replace(
            self,
            server_secret=secrets.token_urlsafe(32),
            auth_address=auth,
            nats_address=nats,
            registry_address=registry,
            network_address=network,
            runtime_address=runtime,
            store_address=store,
            config_address=config,
            broker_address=broker,
            events_address=events,
            mesh_address=mesh,
        )

    def dump(self) -> str:
        """As JSON, for `load`; without the user of NATS and the URL of the store, which only those are told who need
        them."""
        store = STORE_ELSEWHERE if self.store.startswith(_POSTGRES) else self.store
        shown = {"home": str(self.home), "nats_url": self.nats_place, "store": store}
        return json.dumps({**dataclasses.asdict(self), **shown})

    @classmethod
    def load(cls, text: str) -> Settings:
        """The settings that `dump` wrote."""
        values = json.loads(text)
        values["home"] = Path(values["home"])
        values["cors_origins"] = tuple(values["cors_origins"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie below a home."""

    home: Path

    @property
    def root(self) -> Path:
        return self.home / "server"

    @property
    def state(self) -> Path:
        """What the command line reads to find this server."""
        return self.root / "state.json"

    @property
    def settings(self) -> Path:
        return self.root / "settings.json"

    @property
    def format(self) -> Path:
        """The number of this directory's format; see `micro.server.format`."""
        return self.root / "format"

    @property
    def upgrading(self) -> Path:
        """There while an upgrade of the format is under way: its name, and where its backup lies."""
        return self.root / "upgrading.json"

    @property
    def storage(self) -> Path:
        """Which store the home uses; see `micro.server.storage`."""
        return self.root / "storage.json"

    @property
    def store_url(self) -> Path:
        """How to get to the store that the home uses, sealed; see `micro.server.storage`."""
        return self.root / "store-url.json"

    @property
    def backups(self) -> Path:
        """What upgrades of the format have copied before they changed it."""
        return self.root / "backups"

    @property
    def identity(self) -> Path:
        """Where identity lay in format 1."""
        return self.auth / "identity.db"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def certificate(self) -> Path:
        """The certificate that the listeners show, by which the command line of the same home knows them."""
        return self.root / "certificate.pem"

    @property
    def own_client(self) -> Path:
        """Certificate and key that the command line of the same home shows where the listeners ask for one."""
        return self.root / "client.pem"

    @property
    def tls(self) -> Path:
        """What the listeners read of certificate and key; there while the server runs. Not among the sockets, which
        others may clean away."""
        return self.root / "tls"

    @property
    def auth(self) -> Path:
        return self.root / "auth"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def processes(self) -> Path:
        """Records of running processes, so that the next server can end what a killed one left."""
        return self.root / "processes"

    @property
    def nats(self) -> Path:
        return self.root / "nats"

    @property
    def runtime(self) -> Path:
        return self.root / "runtime"

    def namespaces(self, store: str) -> Path:
        """Code, uploads and output of services, a folder a namespace. Apart where the store is memory: what runs then
        is forgotten with it."""
        return self.runtime / ("namespaces-memory" if store == "memory" else "namespaces")

    def records(self, owner: str) -> Path:
        """What a core service keeps in its own store, where that is on this machine: one file a database."""
        return {"auth": self.auth / "state", "runtime": self.runtime / "state"}.get(owner, self.root / owner)

    @property
    def config_key(self) -> Path:
        """The key of the secrets, where no variable gives one. Not among what it protects: a copy of the data folder is
        of no use without it."""
        return self.home / "config.key"

    @property
    def key_ids(self) -> Path:
        """Names of the keys that the data was last used with, so that a lost one is not replaced unseen."""
        return self.root / "key-ids"

    @property
    def blobs(self) -> Path:
        """One folder a namespace, one file a blob, where they are kept as files."""
        return self.records("store") / "blobs"

    @property
    def run(self) -> Path:
        """Unix sockets: below the temporary folder, since a socket's path has at most 107 bytes."""
        digest = hashlib.sha256(str(self.home.resolve()).encode()).hexdigest()[:12]
        base = tempfile.gettempdir()
        return Path(base if len(base) <= 40 else "/tmp") / f"micro-{os.getuid()}-{digest}"  # noqa: S108 - made private

    @property
    def launcher(self) -> Path:
        return self.run / "launcher.sock"

    def admin(self, process_id: str) -> Path:
        """Admin socket of a process."""
        name = process_id if len(process_id) <= 40 else hashlib.sha256(process_id.encode()).hexdigest()[:24]
        return self.run / f"{name}.sock"

    def core_log(self, name: str) -> Path:
        return self.logs / "core" / f"{name}.log"


def home(environ: Mapping[str, str]) -> Path:
    """The folder of all state: $MICRO_HOME, else ~/.micro."""
    return Path(environ.get("MICRO_HOME") or Path.home() / ".micro").expanduser().absolute()


def read(environ: Mapping[str, str], **arguments: Any) -> Settings:
    """Settings from arguments (those that are not None) over `MICRO_*` variables over the profile.

    Raises:
        Error: INVALID_ARGUMENT that names the setting and what it may be.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    profile = given.pop("profile", None) or environ.get("MICRO_PROFILE") or "local"
    if profile not in profiles.PROFILES:
        known = ", ".join(sorted(profiles.PROFILES))
        raise errors.invalid_argument(f"there is no profile {profile!r}: use one of {known}")
    values: dict[str, Any] = dict(profiles.PROFILES[profile])
    for name in values:
        text = environ.get(f"MICRO_{name.upper()}")
        if text is not None:
            values[name] = _parse(name, text, values[name])
    values.update(given)
    for name in ("api_address", "proxy_address"):
        values[name] = address(name, values[name])
    return _checked(Settings(home=home(environ), profile=profile, **values))


def _checked(settings: Settings) -> Settings:
    """The settings when they go together, with whole paths. Raises INVALID_ARGUMENT that says what to change."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise errors.invalid_argument("--tls-cert and --tls-key belong together: give both, or none")
    if settings.tls_client_ca and not settings.tls_cert:
        raise errors.invalid_argument("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")
    if settings.base_domain and not _DOMAIN.fullmatch(settings.base_domain):
        raise errors.invalid_argument(
            f"--base-domain {settings.base_domain!r} is not a domain: use lower-case letters, for example example.com"
        )
    if settings.store not in _STORES and not settings.store.startswith(_POSTGRES):
        # Not quoted: it may be a URL with a password, and a typing error in its beginning.
        raise errors.invalid_argument("MICRO_STORE names no store: use sqlite, memory or postgres://USER@HOST/DATABASE")
    if settings.blobs not in _BLOBS and not settings.blobs.startswith("s3://"):
        raise errors.invalid_argument("MICRO_BLOBS names no storage: use files, memory or s3://BUCKET/PREFIX")
    if settings.messaging not in ("", "nats", "memory"):
        raise errors.invalid_argument(f"MICRO_MESSAGING={settings.messaging!r}: use nats or memory")
    workload.log_level("--log-level", settings.log_level)
    _check_nats(settings)
    if not (_is_loopback(settings.proxy_address) or settings.tls_cert or settings.insecure):
        raise errors.invalid_argument(
            f"--proxy-address {settings.proxy_address} is reached by others, so it needs TLS: give --tls-cert and "
            "--tls-key, or --insecure where something in front of it does that"
        )
    whole: dict[str, Any] = {name: str(Path(path).absolute()) for name in _FILES if (path := getattr(settings, name))}
    return dataclasses.replace(settings, **whole, messaging=settings.messaging or settings.registry_state)


def _check_nats(settings: Settings) -> None:
    """Raises INVALID_ARGUMENT that says which of the variables of NATS do not go together."""
    if settings.nats_replicas not in (1, 3, 5):
        raise errors.invalid_argument(f"MICRO_NATS_REPLICAS={settings.nats_replicas} is none of 1, 3 and 5")
    if not settings.nats_url:
        given = [name for name in _NATS_FILES if getattr(settings, name)]
        given += ["nats_replicas"] if settings.nats_replicas > 1 else []
        if given:
            raise errors.invalid_argument(
                f"MICRO_{given[0].upper()} is for a NATS that runs elsewhere: give its address with MICRO_NATS_URL"
            )
    if bool(settings.nats_cert) != bool(settings.nats_key):
        raise errors.invalid_argument("MICRO_NATS_CERT and MICRO_NATS_KEY belong together: give both, or none")
    ways = [bool(settings.nats_credentials), bool(settings.nats_nkey), settings.nats_url != settings.nats_place]
    if sum(ways) > 1:
        raise errors.invalid_argument(
            "NATS is told one user only: give a user in MICRO_NATS_URL, or MICRO_NATS_CREDENTIALS, or MICRO_NATS_NKEY"
        )


def _is_loopback(where: str) -> bool:
    return addresses.is_loopback(addresses.split(where)[0])


def _parse(name: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return type(default)(text) if isinstance(default, int | float) else text
    except (KeyError, ValueError):
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise errors.invalid_argument(f"MICRO_{name.upper()}={text!r} is not {kind}") from None


def address(name: str, text: str) -> str:
    """A listen address as HOST:PORT; ":8080" means 127.0.0.1:8080.

    Raises:
        Error: INVALID_ARGUMENT that names the setting.
    """
    try:
        host, port = addresses.split(text)
    except Error:
        flag = name.replace("_", "-")
        raise errors.invalid_argument(f"--{flag} {text!r} is not HOST:PORT, for example 127.0.0.1:8080") from None
    host = host or "127.0.0.1"
    return addresses.join(host, port) if port else free_address(host)
