"""Calls to other services: `from micro import client`, then `await client.call("helloworld", "Helloworld.Call", {…})`.

Works at once, in a service as well as in a script that has `MICRO_*` set. One pool of connections a process.
"""

from __future__ import annotations

from micro.rpc.client import Client, address

__all__ = ["Client", "address", "call", "close", "of", "pool", "stream"]

_client = Client()

call = _client.call
stream = _client.stream
of = _client.of
close = _client.close
pool = _client.pool
