"""`python main.py`: the process becomes the server of the service it describes."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from micro.domain import errors
from micro.domain.address import split
from micro.ports.free_address import free_address
from micro.rpc import asgi_server


def run(app: object, main: ModuleType, address: str) -> None:
    """Serve `app`, a global of `main`, at HOST:PORT; does not return. Port 0 means a free one.

    Raises:
        Error: FAILED_PRECONDITION when the server could not import it again, INVALID_ARGUMENT for what is no HOST:PORT.
    """
    file = getattr(main, "__file__", None)
    attribute = next((name for name, value in vars(main).items() if value is app), None)
    if file is None or attribute is None:
        raise errors.failed_precondition("run() needs the service in a global of a file: app = Service(…); app.run()")
    host, port = split(address)
    address = address if port else free_address(host or "127.0.0.1")
    path = Path(file).resolve()
    # One folder for all that are run by hand: this process becomes the server, and could not clean up after itself.
    sockets = Path(tempfile.gettempdir()) / f"micro-{os.getuid()}-by-hand"
    sockets.mkdir(mode=0o700, exist_ok=True)
    admin = sockets / f"{split(address)[1]}.sock"
    command = asgi_server.command(f"{path.stem}:{attribute}", address=address, admin=admin, folder=path.parent)
    print(f"{getattr(app, 'name', 'service')} listens at http://{address}", file=sys.stderr, flush=True)
    env = {**os.environ, **command.env, "MICRO_SERVICE_ADDRESS": address}
    os.execve(command.argv[0], list(command.argv), env)  # noqa: S606 - the server takes this process's place
