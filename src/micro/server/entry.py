"""Where the process of a core service begins: as `process`, with the collector of garbage off while all is imported,
a fifth of a start. `Service` has it on again once it has started."""

from __future__ import annotations

import gc

gc.disable()

from micro.server.process import app  # noqa: E402 - what the line above is for

__all__ = ["app"]
