"""Micro: a cloud operating system for Python developers.

What a service needs is one import away (`from micro import Service, errors`) and is loaded when it is first used, so
that the command line, which needs none of it, starts at once.
"""

from __future__ import annotations

from micro._version import __version__

TYPE_CHECKING = False  # not typing's, which takes as long to import as all that a command needs to begin
if TYPE_CHECKING:
    from typing import Any

    from micro.domain import errors as errors
    from micro.framework import blobs as blobs
    from micro.framework import broker as broker
    from micro.framework import client as client
    from micro.framework import config as config
    from micro.framework import events as events
    from micro.framework import store as store
    from micro.framework.service import Service as Service
    from micro.framework.service import method as method
    from micro.rpc.context import Context as Context

_HOMES = {
    "Context": ("micro.rpc.context", "Context"),
    "Service": ("micro.framework.service", "Service"),
    "blobs": ("micro.framework.blobs", None),
    "broker": ("micro.framework.broker", None),
    "client": ("micro.framework.client", None),
    "config": ("micro.framework.config", None),
    "errors": ("micro.domain.errors", None),
    "events": ("micro.framework.events", None),
    "method": ("micro.framework.service", "method"),
    "store": ("micro.framework.store", None),
}

__all__ = [
    "Context", "Service", "__version__", "blobs", "broker", "client", "config", "errors", "events", "method", "store",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'micro' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
