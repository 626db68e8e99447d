"""Names of services, namespaces and versions: what they may look like, and what they turn into."""

from __future__ import annotations

import re

from micro.domain import errors

DEFAULT_NAMESPACE = "micro"
"""The namespace of the platform's own services, and of everything that names no other."""

DEFAULT_VERSION = "latest"

CORE_SERVICES = (
    "registry",
    "config",
    "store",
    "auth",
    "broker",
    "events",
    "runtime",
    "network",
    "mesh",
    "api",
    "proxy",
    "nats",
)
"""Names that belong to the platform; every namespace can call them, none can take them."""

_SERVICE = re.compile(r"[a-z](?:[a-z0-9]|[-.](?=[a-z0-9])){0,62}")
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9])){0,62}")
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]){0,62}")


def service(name: str) -> str:
    """Return the name when it is one for a service.

    Up to 63 lower-case letters, digits, and single hyphens or dots between them, starting with a letter: what fits a
    host name, a URL path, a NATS subject and a folder alike.

    Raises:
        Error: INVALID_ARGUMENT that says what is allowed.
    """
    if not _SERVICE.fullmatch(name):
        raise errors.invalid_argument(
            f"{name!r} is not a service name: use up to 63 lower-case letters, digits, hyphens and dots, a letter first"
        )
    return name


PATHS = ("blob",)
"""What paths on the HTTP gateway begin with that are the platform's, though no service is called so."""


def platforms(name: str) -> bool:
    """Whether the name of a service is one of the platform's own, or begins with one and a dot: "auth", "auth.keys"."""
    return name.partition(".")[0] in (*CORE_SERVICES, *PATHS)


def nested(one: str, other: str) -> bool:
    """Whether one of two services' names is below the other: "books" and "books.call", whose paths lie below
    /books too."""
    return one.startswith(f"{other}.") or other.startswith(f"{one}.")


def namespace(name: str) -> str:
    """Return the name when it is one for a namespace, or the default for an empty one.

    Raises:
        Error: INVALID_ARGUMENT that says what is allowed.
    """
    if not name:
        return DEFAULT_NAMESPACE
    if not _NAMESPACE.fullmatch(name):
        raise errors.invalid_argument(
            f"{name!r} is not a namespace: use up to 63 lower-case letters, digits and hyphens"
        )
    return name


def version(name: str) -> str:
    """Return the name when it is one for a version, or the default for an empty one.

    Raises:
        Error: INVALID_ARGUMENT that says what is allowed.
    """
    if not name:
        return DEFAULT_VERSION
    if not _VERSION.fullmatch(name):
        raise errors.invalid_argument(
            f"{name!r} is not a version: use up to 63 letters, digits, dots, hyphens and underscores"
        )
    return name


def camel(name: str) -> str:
    """Turn a name with hyphens, underscores or dots into a type's: "my-greeter" becomes "MyGreeter"."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[-_.]+", name) if part)


def snake(name: str) -> str:
    """Turn a method's name into a function's: "GetService" becomes "get_service"."""
    partly = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", partly).replace("-", "_").lower()


def json_name(name: str) -> str:
    """What a field of a contract is called in JSON where the contract says nothing else: "zip_code" is "zipCode"."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def folded(name: str) -> str:
    """What two spellings of one name share: "GetService", "get-service" and "get_service" all fold to "getservice"."""
    return name.replace("-", "").replace("_", "").lower()
