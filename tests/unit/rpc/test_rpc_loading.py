"""What is wrong with an author's main.py is told in terms of it, and once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from micro.rpc import asgi_server

FIX = 'end it with app = Service("name", Handler())'


def start(folder: Path, source: str) -> list[str]:
    """What the service's process says of a main.py before it ends."""
    (folder / "main.py").write_text(source)
    command = asgi_server.command("main:app", address="127.0.0.1:0", admin=folder / "a.sock", folder=folder)
    done = subprocess.run(
        command.argv, env={**os.environ, **command.env}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr.replace(f"{folder}/", "").splitlines()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", "main.py defines no app"),
        ("app = 5", "app in main.py is of type int, not an ASGI application"),
        ("class app:\n    pass", "app in main.py is the class app, not an ASGI application"),
        (
            "def app(request):\n    pass",
            "app in main.py is a function of other arguments than scope, receive and send, not an ASGI application",
        ),
    ],
    ids=["nothing", "a number", "a class", "another function"],
)
def test_a_main_without_an_application_is_told_with_the_line_that_it_needs(
    tmp_path: Path, source: str, told: str
) -> None:
    assert start(tmp_path, source) == [f"micro: {told}: {FIX}"]


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    said = start(tmp_path, "x = 1\ndef broken(:\n    pass\n")
    assert said[:2] == ['  File "main.py", line 2', "    def broken(:"]
    assert said[-1] == "SyntaxError: invalid syntax"


def test_a_traceback_has_the_frames_of_the_author_s_code_only(tmp_path: Path) -> None:
    (tmp_path / "rooms.py").write_text("import json\n\ndef read():\n    json.loads('')\n")
    said = start(
        tmp_path,
        "import rooms\n\ntry:\n    rooms.read()\nexcept ValueError as error:\n    raise OSError('no') from error\n",
    )
    files = [line.split('"')[1] for line in said if line.startswith("  File")]
    assert files == ["main.py", "rooms.py", "main.py"]
    assert [line for line in said if line == "OSError: no"] == said[-1:]


def test_a_main_that_exits_is_told(tmp_path: Path) -> None:
    assert start(tmp_path, "import sys\nsys.exit('no luck')\n")[-1] == "SystemExit: no luck"


def test_any_asgi_application_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from micro.rpc import loading

    (tmp_path / "plain_asgi.py").write_text("async def app(scope, receive, send):\n    pass\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert loading.load("plain_asgi:app").__name__ == "app"
