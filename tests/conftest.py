"""How property tests run: the same cases each time, however slow the machine; MICRO_SOAK=1 tries other ones. And what
tests start can be interrupted, however they were started themselves."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "micro", deadline=None, derandomize=not os.environ.get("MICRO_SOAK"), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("micro")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell's script
    signal.signal(signal.SIGINT, signal.default_int_handler)
