"""Calls to other services: `from micro import client`, then `await client.call("helloworld", "Helloworld.Call", {…})`.

Works at once, in a service as well as in a script that has `MICRO_*` set. One pool of connections a process. Calls are
made as the account that `MICRO_AUTH_ID` and `MICRO_AUTH_SECRET` name, a service's own inside the platform; without them
as nobody. `client.as_caller(ctx)` makes them for the account that called the service: calls of users' services only,
not of the platform's own.
"""

from __future__ import annotations

from micro.rpc.client import Client, Pool, address
from micro.rpc.credentials import Environment

__all__ = ["Client", "address", "as_caller", "call", "close", "default", "identity", "of", "pool", "stream"]

pool = Pool()
identity = Environment(Client(pool=pool))
default = Client(pool=pool, identity=identity)

as_caller = default.as_caller
call = default.call
stream = default.stream
of = default.of
close = default.close
