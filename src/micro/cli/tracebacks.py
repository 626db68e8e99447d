"""Where in a service's own code a failure lies, read out of the output that it left. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

_PLACE = re.compile(r'File "([^"\n]+)", line (\d+)')
_LAST = re.compile(r"^\s*((?:[A-Za-z_][\w.]*)(?:Error|Exception|Exit|Warning|Interrupt|Group)\b.*)$", re.MULTILINE)


def place(output: str, files: Collection[str]) -> str:
    """The innermost place in the service's own files with what went wrong there: "main.py:3: NameError: …".

    Args:
        output: what the service wrote, a traceback somewhere in it.
        files: the service's files, relative to its folder.

    Returns:
        The place; empty when the output speaks of none of the files.
    """
    found = ""
    for match in _PLACE.finditer(output):
        own = _own(match[1], files)
        if own:
            found = f"{own}:{match[2]}"
    said = _LAST.findall(output)
    return f"{found}: {said[-1]}" if found and said else found


def localised(output: str, files: Collection[str]) -> str:
    """The output with the service's own files named as in its folder, not where the server unpacked them."""
    return _PLACE.sub(lambda match: f'File "{_own(match[1], files) or match[1]}", line {match[2]}', output)


def _own(path: str, files: Collection[str]) -> str:
    if "/site-packages/" in path or path.startswith("<"):
        return ""
    parts = path.strip("/").split("/")
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        if tail in files:
            return tail
    return ""
