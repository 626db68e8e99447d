"""What may be registered: the checks of the registry on a service that announces itself."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import replace

from micro.domain import errors, names
from micro.domain.account import Account
from micro.domain.address import split
from micro.domain.route import LONGEST_TIMEOUT
from micro.domain.service import Registration
from micro.ports.accounts import account_id
from micro.rpc import convert
from micro.rpc.gen.micro.registry.v1 import registry_pb as pb
from micro.services import _auth_core as core

SHORTEST_LEASE = 1.0
LONGEST_LEASE = 3600.0

DESCRIPTOR_BYTES = 4 * 1024 * 1024
"""Most that the file descriptors may take: what the state can keep in one message, with room for the rest."""

INSTANCES = 5000
NAMESPACE_DESCRIPTOR_BYTES = 48 * 1024 * 1024
"""Most that one namespace may have registered: every watcher, and the state's memory, holds all of it."""

PAIRS = 256
PAIR_CHARACTERS = 16 * 1024

PLATFORM_CONTRACTS = "/micro."
"""How the paths of the platform's own contracts begin. Calls are routed by path, so that nobody else may claim one."""

_NODE_ID = re.compile(r"[!-~]{1,128}")
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>[0-9]{1,5})")


def may_register(account: Account, namespace: str, name: str) -> bool:
    """Whether the account may announce instances of a service, and take them back.

    Whoever is registered under a name is sent its calls, with the callers' tokens: a service's account stands for its
    own name only, other accounts need the admin scope. For a process that is started by hand an admin makes a service's
    account: type service, metadata service=NAME. The platform's own names are for its own accounts only, since what is
    registered there is sent the tokens of every namespace.
    """
    if name in names.CORE_SERVICES:
        return core.is_core(account)
    return account.administers(namespace) or (account.namespace == namespace and account.service == name)


def check_may_register(account: Account, namespace: str, name: str) -> None:
    """Raises PERMISSION_DENIED that says who may."""
    if may_register(account, namespace, name):
        return
    if name in names.CORE_SERVICES:
        raise errors.permission_denied(f"service name {name!r} belongs to the platform: choose another")
    raise errors.permission_denied(
        f"{account} may not register {name!r}: that takes the account of the service, or the admin scope of "
        f"namespace {namespace}"
    )


def check_beside(account: Account, registration: Registration, there: Iterable[Registration]) -> None:
    """Whether it may stand beside what is registered. Raises PERMISSION_DENIED that names the other.

    The paths of a name with dots lie below those of its first part, and the longer ones win. So of two such names the
    first registered keeps its place, and only an admin may put another beside it. The account of a service that the
    runtime started is let in: when it was created, its owner was compared. Nor may anybody have an instance of the
    platform's own services for one of theirs.
    """
    name = registration.name
    free = account.administers(registration.namespace) or _of_runtime(account)
    for other in there:
        platforms = other.namespace == names.DEFAULT_NAMESPACE and other.name in names.CORE_SERVICES
        if platforms and name not in names.CORE_SERVICES and _meet(registration.node.address, other.node.address):
            raise errors.permission_denied(
                f"{registration.node.address} is where the platform's own {other.name} listens: use another address"
            )
        if not free and other.namespace == registration.namespace and names.nested(name, other.name):
            raise errors.permission_denied(
                f"{account} may not register {name!r}: its paths and those of {other.name!r}, which is registered, "
                f"lie below each other; only admins of namespace {other.namespace} may have both"
            )


def check_room(registration: Registration, there: Iterable[Registration]) -> None:
    """Whether its namespace may have one more. Raises RESOURCE_EXHAUSTED."""
    beside = [other for other in there if other.namespace == registration.namespace]
    if len(beside) >= INSTANCES:
        raise errors.resource_exhausted(
            f"namespace {registration.namespace} has {len(beside)} instances registered, the most: end some"
        )
    size = len(registration.descriptors) + sum(len(other.descriptors) for other in beside)
    if registration.descriptors and size > NAMESPACE_DESCRIPTOR_BYTES:
        raise errors.resource_exhausted(
            f"{registration.name} would make it {size} bytes of descriptors in namespace {registration.namespace}: "
            f"{NAMESPACE_DESCRIPTOR_BYTES} are the most; end what is not used"
        )


def _of_runtime(account: Account) -> bool:
    version = account.metadata.get("version", "")
    return bool(account.service and version) and account.id == account_id(account.service, version)


def _meet(one: str, other: str) -> bool:
    """Whether two addresses, HOST:PORT, may be one: the ports are the same, and so are the hosts, or both are this
    machine."""
    (host, port), (other_host, other_port) = split(one), split(other)
    if port != other_port:
        return False
    return host.lower() == other_host.lower() or (_this_machine(host) and _this_machine(other_host))


def _this_machine(host: str) -> bool:
    host = host.lower().rstrip(".")
    try:
        found = ipaddress.ip_address(host)
    except ValueError:  # "localhost", and what resolvers take for an address: "127.1", "0x7f.1", "0"
        return host == "localhost" or host[:1].isdigit()
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_loopback or found.is_unspecified


def validated(message: pb.Service, namespace: str) -> Registration:
    """The registration that the message announces, in that namespace.

    Raises:
        Error: INVALID_ARGUMENT that names the field, PERMISSION_DENIED for a name of the platform's own,
            RESOURCE_EXHAUSTED when it is too large.
    """
    name = names.service(message.name)
    if names.platforms(name) and (name not in names.CORE_SERVICES or namespace != names.DEFAULT_NAMESPACE):
        raise errors.permission_denied(f"service name {name!r} belongs to the platform: choose another")
    if len(message.nodes) != 1:
        raise errors.invalid_argument(
            f"service {name!r} comes with {len(message.nodes)} nodes: an instance registers exactly one, itself"
        )
    node = message.nodes[0]
    if not _NODE_ID.fullmatch(node.id):
        raise errors.invalid_argument(
            f"{node.id!r} is not a node id: use up to 128 printable ASCII characters without spaces"
        )
    _check_address(node.address)
    _check_pairs(message.metadata, "service")
    _check_pairs(node.metadata, "node")
    for endpoint in message.endpoints:
        if endpoint.path.lower().startswith(PLATFORM_CONTRACTS) and name not in names.CORE_SERVICES:
            raise errors.permission_denied(
                f"{endpoint.path[:200]!r} is of a contract of the platform's own: use another package than micro"
            )
        # Neither not-a-number nor infinity is between them.
        if not 0 <= endpoint.timeout <= LONGEST_TIMEOUT:
            raise errors.invalid_argument(
                f"timeout of {endpoint.name!r} is {endpoint.timeout:g} s: use 0 to {LONGEST_TIMEOUT:.0f}, 0 for none"
            )
    if len(message.descriptors) > DESCRIPTOR_BYTES:
        raise errors.resource_exhausted(
            f"descriptors of service {name!r} take {len(message.descriptors)} bytes: {DESCRIPTOR_BYTES} are the most"
        )
    version = names.version(message.version)
    return replace(convert.from_service(message), namespace=namespace, version=version)


def lease_seconds(asked: float, default: float) -> float:
    """The length of a lease: what was asked for, within bounds, or the default for 0. Raises INVALID_ARGUMENT."""
    if asked == 0:
        return default
    if not SHORTEST_LEASE <= asked <= LONGEST_LEASE:
        raise errors.invalid_argument(
            f"ttl is {asked:g} s: use {SHORTEST_LEASE:g} to {LONGEST_LEASE:g}, or 0 for {default:g}"
        )
    return asked


def _check_address(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise errors.invalid_argument(f"{address!r} is not an address: use HOST:PORT")


def _check_pairs(pairs: dict[str, str], owner: str) -> None:
    if len(pairs) > PAIRS or sum(len(key) + len(value) for key, value in pairs.items()) > PAIR_CHARACTERS:
        raise errors.invalid_argument(
            f"metadata of the {owner} is too large: {PAIRS} pairs and {PAIR_CHARACTERS} characters are the most"
        )
