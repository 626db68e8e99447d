"""From a path to a method: pure, and a single look-up for each request.

`/helloworld` is Helloworld.Call, `/helloworld/call` too, and so are `/helloworld/Helloworld/Call` and
`/helloworld.Helloworld/Call`. A method that only one other handler has may be written short too: `/events/publish` for
Stream.Publish. Case, hyphens and underscores make no difference. A dot in a service's name may be
written as a slash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from micro.domain import names

T = TypeVar("T")

Handler = tuple[str, Mapping[str, T]]
"""A handler: full name of its contract's service ("echo.v1.Echo"), and what stands behind each method's name."""


def default(service: str, handlers: Sequence[str]) -> str | None:
    """The handler that short paths mean, of full contract names: the one named like the service, else the only one."""
    wanted = {names.folded(service), names.folded(service.replace(".", "-")), names.folded(service.rpartition(".")[2])}
    for handler in handlers:
        if names.folded(handler.rpartition(".")[2]) in wanted:
            return handler
    return handlers[0] if len(handlers) == 1 else None


class Resolver(Generic[T]):
    """Every spelling that leads to a method, folded, worked out once.

    Args:
        service: name of the service, "foo" or "foo.bar".
        handlers: in order; where two have a method of one spelling, the first is meant.
    """

    def __init__(self, service: str, handlers: Sequence[Handler[T]]) -> None:
        self._paths: dict[str, T] = {}
        meant = default(service, [name for name, _ in handlers])
        prefixes = dict.fromkeys((service, service.replace(".", "/")))
        for name, methods in handlers:
            short = name.rpartition(".")[2]
            for method, target in methods.items():
                self._add(f"{name}/{method}", target)
                for prefix in prefixes:
                    self._add(f"{prefix}/{short}/{method}", target)
                    self._add(f"{prefix}.{short}/{method}", target)
        for name, methods in handlers:
            for method, target in methods.items() if name == meant else ():
                for prefix in prefixes:
                    self._add(f"{prefix}/{method}", target)
                    if names.folded(method) == "call":
                        self._add(prefix, target)
        count = Counter(names.folded(method) for _, methods in handlers for method in methods)
        for _, methods in handlers:
            for method, target in methods.items():
                for prefix in prefixes if count[names.folded(method)] == 1 else ():
                    self._add(f"{prefix}/{method}", target)

    def _add(self, path: str, target: T) -> None:
        self._paths.setdefault(names.folded(path), target)

    def __call__(self, path: str) -> T | None:
        """What stands behind a path; None where nothing does."""
        return self._paths.get(names.folded("/".join(segment for segment in path.split("/") if segment)))
