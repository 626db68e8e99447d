"""How a process writes its log: the one place where Python's logging is set up."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TextIO


class _Json(logging.Formatter):
    """One JSON object a line, traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        return json.dumps({"level": record.levelname.lower(), "message": message}, ensure_ascii=False)


def configure(stream: TextIO | None = None, *, json_lines: bool | None = None, level: str | None = None) -> None:
    """Send the root logger's records to a stream; does nothing when a handler is there already.

    Args:
        stream: stderr by default.
        json_lines: one object `{"level", "message"}` a line; by default when MICRO_LOG_FORMAT is "json". Otherwise
            "LEVEL message".
        level: by default MICRO_LOG_LEVEL, or "info".
    """
    root = logging.getLogger()
    if root.handlers:
        return
    if json_lines is None:
        json_lines = os.environ.get("MICRO_LOG_FORMAT") == "json"
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if json_lines else logging.Formatter("%(levelname)s %(message)s"))
    name = (level or os.environ.get("MICRO_LOG_LEVEL") or "info").upper()
    root.setLevel(logging.getLevelNamesMapping().get(name, logging.INFO))
    root.addHandler(handler)
