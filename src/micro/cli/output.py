"""How results look: aligned tables, colour on terminals only, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

_COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1", "cyan": "36"}
_OF_STATUS = {
    "ready": "green",
    "running": "green",
    "pending": "yellow",
    "building": "yellow",
    "starting": "yellow",
    "stopping": "yellow",
    "not ready": "yellow",
    "stopped": "dim",
    "error": "red",
    "down": "red",
}


class Console:
    """One stream for people or programs.

    Args:
        stream: where to write.
        environ: NO_COLOR (https://no-color.org) and TERM=dumb switch colour off.
    """

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self.stream = stream
        self.terminal = stream.isatty()
        self._columns = environ.get("COLUMNS", "")
        self.colour = self.terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def line(self, text: str = "") -> None:
        """Write one line; it is out when this returns."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def note(self, text: str) -> None:
        """Write a line that helps who sits before a terminal; nothing anywhere else."""
        if self.terminal:
            self.line(self.styled(text, "dim"))

    def cut(self, text: str) -> str:
        """The text as far as it fits on one line of the terminal; whole anywhere else."""
        if not self.terminal:
            return text
        width = int(self._columns) if self._columns.isdecimal() else 0
        with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
            width = width or os.get_terminal_size(self.stream.fileno()).columns
        width = max(width or 80, 20)
        return text if len(text) <= width else text[: width - 1] + "…"

    def styled(self, text: str, style: str) -> str:
        """The text in a colour, where colour is wanted."""
        return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m" if self.colour and style and text else text

    def status(self, text: str) -> str:
        """A state in the colour that tells good from bad."""
        return self.styled(text, _OF_STATUS.get(text, ""))

    def json(self, value: Any) -> None:
        """Write a value as JSON, indented."""
        self.line(json.dumps(value, indent=2, ensure_ascii=False))

    def json_line(self, value: Any) -> None:
        """Write a value as JSON on one line."""
        self.line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], status: int = -1) -> None:
        """Write rows below a header, columns aligned; the column `status` in the colour of its state."""
        for index, row in enumerate(aligned([header, *rows])):
            if index == 0:
                self.line(self.styled(row, "dim"))
                continue
            word = rows[index - 1][status] if status >= 0 else ""
            if word and self.colour:
                start = offset([header, *rows], status)
                row = row[:start] + self.status(word) + row[start + len(word) :]
            self.line(row)


class Progress:
    """One calm line that says what goes on, on a terminal; nothing anywhere else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = False

    def show(self, text: str) -> None:
        if self._console.terminal:
            self._console.stream.write(f"\r\x1b[2K{self._console.styled(text, 'dim')}")
            self._console.stream.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            self._console.stream.write("\r\x1b[2K")
            self._console.stream.flush()
            self._shown = False


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def offset(rows: Sequence[Sequence[str]], column: int) -> int:
    """Where a column of `aligned(rows)` starts."""
    return sum(width + 2 for width in _widths(rows)[:column])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the columns aligned to the left, two blanks apart, no blanks at the end."""
    widths = _widths(rows)
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(" ") for row in rows]


def indented(body: bytes) -> str:
    """An answer's JSON with two blanks a level; as it came when it is not JSON."""
    try:
        return json.dumps(json.loads(body or b"{}"), indent=2, ensure_ascii=False)
    except ValueError:
        return body.decode("utf-8", "replace")


def one_line(body: bytes) -> str:
    """An answer's JSON on one line; as it came when it is not JSON."""
    try:
        return json.dumps(json.loads(body or b"{}"), ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        return body.decode("utf-8", "replace")


def hush(stream: TextIO) -> None:
    """Let what is still to be written to a stream vanish: its reader has gone."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
