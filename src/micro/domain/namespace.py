"""Namespaces: the tenants of a deployment, and how much each may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from micro.domain import errors

_BYTES = ("upload", "events")


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one namespace; 0 means none.

    Attributes:
        services: each version counted.
        instances: of all services.
        requests: a second, at the HTTP gateway.
        upload: bytes of one archive; the runtime takes 64 MiB at most, whatever the quota.
        topics: of event streams; those that the platform tells do not count.
        events: bytes that they keep together.
    """

    services: int = 200
    instances: int = 500
    requests: int = 0
    upload: int = 64 * 2**20
    topics: int = 1000
    events: int = 10 * 2**30

    def checked(self) -> Quota:
        """Raises INVALID_ARGUMENT that names what is below 0 or too large to be meant."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < (2**63 if field.name in _BYTES else 2**31):
                raise errors.invalid_argument(f"quota {field.name}={value} is out of range: use 0 for no limit")
        return self


@dataclass(frozen=True, slots=True)
class Namespace:
    """One tenant; `created` is RFC 3339."""

    name: str
    quota: Quota = Quota()
    created: str = ""
