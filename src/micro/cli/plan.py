"""What `run`, `update` and `kill` mean to do, decided before anything is touched. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from micro.cli import failures, flags, scalars, schema
from micro.cli.catalog import TAKEN
from micro.domain import names
from micro.domain.service import Endpoint, StreamKind, Value


@dataclass(frozen=True, slots=True)
class Reference:
    """A running service by name and version, as in "helloworld@v2"."""

    name: str
    version: str = names.DEFAULT_VERSION

    def __str__(self) -> str:
        return self.name if self.version == names.DEFAULT_VERSION else f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Workload:
    """A service that is to run.

    Attributes:
        reference: its name and version.
        namespace: where it belongs.
        source: the folder it comes from.
        env: its environment variables.
        instances: how many; 0 leaves it to the runtime.
        metadata: free pairs.
        wait: whether to wait until it is routed or has failed.
    """

    reference: Reference
    namespace: str
    source: str
    env: Mapping[str, str] = field(default_factory=dict)
    instances: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    wait: bool = True

    def request(self, upload_id: str) -> dict[str, Any]:
        """The JSON of a CreateRequest or an UpdateRequest, which are alike."""
        service: dict[str, Any] = {
            "name": self.reference.name,
            "version": self.reference.version,
            "namespace": self.namespace,
            "source": self.source,
        }
        if self.metadata:
            service["metadata"] = dict(self.metadata)
        request = {
            "service": service,
            "uploadId": upload_id,
            "env": dict(self.env),
            "instances": self.instances,
            "wait": self.wait,
        }
        return {name: value for name, value in request.items() if value}


def reference(text: str, version: str = "") -> Reference:
    """Parse NAME or NAME@VERSION; `version` is what a flag says.

    Raises:
        Error: INVALID_ARGUMENT for a name or version that cannot be one, or two versions that differ.
    """
    name, mark, own = text.partition("@")
    if mark and version and own != version:
        raise failures.UsageError(f"{text!r} and --version={version} differ: give the version once")
    return Reference(names.service(name), names.version(own or version))


def name_of_folder(folder: str) -> str:
    """The service name that a folder's name is made into: "My_Service" becomes "my-service".

    Raises:
        UsageError: nothing of it can be part of a name.
    """
    made = re.sub(r"[^a-z0-9.]+", "-", folder.lower())
    made = re.sub(r"[-.]*\.[-.]*", ".", re.sub(r"^[^a-z]+", "", made)).strip("-.")[:63].rstrip("-.")
    if not made:
        raise failures.UsageError(f"no service name can be made of folder {folder!r}: give one with --name")
    return names.service(made)


def own_name(name: str) -> str:
    """A name for a user's service; raises UsageError for one that belongs to the platform."""
    if name in names.CORE_SERVICES:
        raise failures.UsageError(f"{name!r} is a core service of the platform: give another name with --name")
    return names.service(name)


class Example(NamedTuple):
    """A first call of a service: what follows `micro`, the path below its URL, and the JSON of the request."""

    command: str
    path: str
    body: str


def example(service: str, known: Sequence[Endpoint]) -> Example:
    """What to type to call a service first, or to see what it offers where that is not known.

    A service that is named like a command is no command itself: `micro call` calls it.
    """
    unary = [one for one in known if one.kind is StreamKind.UNARY]
    taken = service in TAKEN
    if not known:
        return Example(f"services {service}" if taken else f"{service} --help", "", "")
    chosen = next((one for one in unary if one.name.endswith(".Call")), (unary or known)[0])
    flag, body = _first_field(chosen)
    words = schema.words(service, chosen.name)
    command = f"{service} {words} {flag}".rstrip()
    if taken:
        way = "call" if chosen.kind is StreamKind.UNARY else "stream"
        command = f"{way} {service} {chosen.name} {shlex.quote(body)}"
    return Example(command, words.replace(" ", "/"), body)


def _first_field(endpoint: Endpoint) -> tuple[str, str]:
    """The first field of a request that is easily set, as a flag and as JSON."""
    for path, wanted in schema.leaves(endpoint.request):
        text = _sample(path[-1], wanted)
        flag = flags.spelling(endpoint.request, path)
        if text and flag and len(path) == 1:
            value = scalars.convert(wanted, text, lambda _: b"")
            return f"--{flag}={text}", json.dumps({path[0]: value})
    return "", "{}"


def _sample(name: str, wanted: Value) -> str:
    scalar = scalars.kind(wanted)
    if scalar == "string":
        return "Ann" if "name" in name else "hello"
    return (
        "3"
        if "int" in scalar or "fixed" in scalar
        else {"double": "1.5", "float": "1.5", "bool": "true"}.get(scalar, "")
    )
