"""`make run`: a server, a service on it, and one call through each of the three doors. Ctrl-C ends all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MICRO = str(BIN / "micro")
DIM, BOLD, PLAIN = (
    ("\x1b[2m", "\x1b[1m", "\x1b[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("",) * 3
)


def show(command: str, output: str) -> None:
    print(f"\n{DIM}${PLAIN} {BOLD}{command}{PLAIN}\n{output.rstrip()}", flush=True)


def micro(*words: str) -> str:
    done = subprocess.run([MICRO, *words], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"micro {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def over_http(url: str) -> str:
    request = urllib.request.Request(url, b'{"name": "Ann"}', {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read().decode())


def over_grpc(address: str) -> str:
    import grpc

    sys.path.insert(0, str(ROOT / "examples/helloworld"))
    from proto.helloworld_pb import Request, Response

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/helloworld.Helloworld/Call", Request.to_binary, Response.from_binary)
        return str(call(Request(name="Ann"), timeout=10).to_json())


def state_file() -> Path:
    return Path(os.environ.get("MICRO_HOME") or Path.home() / ".micro") / "server/state.json"


def is_ours(pid: int) -> bool:
    """Whether the server of this home is the one that we started."""
    try:
        return bool(json.loads(state_file().read_text())["pid"] == pid)
    except (OSError, ValueError):
        return False


def doors() -> None:
    state = json.loads(state_file().read_text())
    api, proxy = state["api_address"], state["proxy_address"]
    show("micro run examples/helloworld", micro("run", "examples/helloworld"))
    show(
        f"curl http://{api}/helloworld/call -H 'content-type: application/json' -d '{{\"name\": \"Ann\"}}'",
        over_http(f"http://{api}/helloworld/call"),
    )
    show(f'grpc {proxy} helloworld.Helloworld/Call \'{{"name": "Ann"}}\'', over_grpc(proxy))
    show("micro helloworld --name=Ann", micro("helloworld", "--name=Ann"))
    print(f"\n  open  http://{api}/helloworld/call?name=you", flush=True)
    print(f"  type  {BOLD}source .venv/bin/activate && micro --help{PLAIN}   in another terminal", flush=True)
    print("  stop  Ctrl-C", flush=True)


def main() -> int:
    home = os.environ.get("MICRO_HOME") or Path.home() / ".micro"
    print(f"This server keeps its state in {home}, as `micro server` does; for another folder: MICRO_HOME=DIR make run")
    sys.stdout.flush()
    # A session of its own: Ctrl-C reaches us, and we stop the server once, in order.
    server = subprocess.Popen([MICRO, "server", *sys.argv[1:]], start_new_session=True)
    # A shell that starts us in the background has us ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: server.send_signal(signal.SIGTERM))
    try:
        waiting = subprocess.Popen(
            [MICRO, "health", "--wait", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Before its state file is there, the question would go to whatever server listens at the usual place.
        while waiting.poll() is None or not is_ours(server.pid):
            try:
                # A server that cannot start says why by itself.
                return server.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        doors()
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
