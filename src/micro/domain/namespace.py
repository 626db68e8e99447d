"""Namespaces: the tenants of a deployment, and how much each may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from micro.domain import errors


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one namespace; 0 means none.

    Attributes:
        services: each version counted.
        instances: of all services.
        requests: a second, at the HTTP gateway.
        upload: bytes of one archive; the runtime takes 64 MiB at most, whatever the quota.
    """

    services: int = 200
    instances: int = 500
    requests: int = 0
    upload: int = 64 * 2**20

    def checked(self) -> Quota:
        """Raises INVALID_ARGUMENT that names what is below 0 or too large to be meant."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < 2**31 and not (field.name == "upload" and 0 <= value < 2**63):
                raise errors.invalid_argument(f"quota {field.name}={value} is out of range: use 0 for no limit")
        return self


@dataclass(frozen=True, slots=True)
class Namespace:
    """One tenant; `created` is RFC 3339."""

    name: str
    quota: Quota = Quota()
    created: str = ""
