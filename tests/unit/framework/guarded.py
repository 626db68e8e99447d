"""What guards are asked about in tests: calls of made-up endpoints, at a time that stands still."""

from __future__ import annotations

from typing import Any

from micro.rpc.context import Context


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Endpoint:
    """The method at a path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = ".".join(path.split("/")[-2:]).rpartition("v1.")[2]


def admitted(guard: Any, path: str, headers: dict[str, str]) -> tuple[Context, dict[bytes, bytes]]:
    """The context of a call that a guard lets in, and its headers. Raises what the guard raises.

    `headers` may have underscores for hyphens in their names.
    """
    pairs = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    ctx = Context(Endpoint(path), {"headers": list(pairs.items())}, None)  # type: ignore[arg-type]
    guard.admit(ctx, pairs)
    return ctx, pairs
