"""An upstream that is an application of the platform's own: it talks over WebSockets."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "unit/rpc")]

from echo_service import EchoHandler  # noqa: E402 - found by the lines above

from micro.framework.service import Service  # noqa: E402

app = Service("echo", EchoHandler())
