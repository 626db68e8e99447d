"""Profiles are data: the defaults that a server's settings are read over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_LOCAL: dict[str, Any] = {
    "api_address": "127.0.0.1:8080",
    "proxy_address": "127.0.0.1:8081",
    "registry_state": "nats",
    "messaging": "",
    "nats_url": "",
    "nats_replicas": 1,
    "nats_credentials": "",
    "nats_nkey": "",
    "nats_ca": "",
    "nats_cert": "",
    "nats_key": "",
    "store": "sqlite",
    "blobs": "files",
    "cors_origins": (),
    "access_log": False,
    "log_level": "info",
    "gateway_workers": min(4, os.cpu_count() or 1),
    "ready_timeout": 30.0,
    "public": False,
    "insecure": False,
    "tls_cert": "",
    "tls_key": "",
    "tls_client_ca": "",
    "base_domain": "",
    "no_local_login": False,
}

PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "local": _LOCAL,
        # Nothing on disk but the services' code: for tests of services, where the next start begins from nothing.
        "test": {**_LOCAL, "registry_state": "memory", "store": "memory", "blobs": "memory"},
    }
)
"""By name. `local` keeps its state on this machine; `test` forgets it."""
