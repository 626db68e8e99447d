"""The command line against a fake server: a terminal in a box."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from micro.cli import app


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, text: str = "", terminal: bool = False) -> None:
        super().__init__(text)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Shell:
    """Runs commands in a home of their own, the server's address in its environment."""

    def __init__(self, home: Path, address: str = "") -> None:
        self.environ = {"MICRO_HOME": str(home), "PATH": ""}
        self.home = home
        if address:
            (home / "server").mkdir(parents=True, exist_ok=True)
            (home / "server" / "state.json").write_text(
                f'{{"pid": 1, "proxy_address": "{address}", "api_address": "127.0.0.1:18080"}}'
            )

    def __call__(self, *words: str, stdin: str = "", terminal: bool = False) -> Result:
        out, err = Screen(terminal=terminal), Screen(terminal=terminal)
        code = app.run(list(words), Screen(stdin), out, err, self.environ)
        return Result(code, out.getvalue(), err.getvalue())
