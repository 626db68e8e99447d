"""How property tests run: the same cases each time, however slow the machine; MICRO_SOAK=1 tries other ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "micro", deadline=None, derandomize=not os.environ.get("MICRO_SOAK"), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("micro")
