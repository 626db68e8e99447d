"""What files of services are called."""

from __future__ import annotations

import hashlib

from micro.domain.workload import Key


def file_name(key: Key) -> str:
    """A readable name, made unique by a digest: two keys may differ in nothing but where a hyphen stands."""
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]
    return f"{'-'.join(key)[:180]}-{digest}.json"
