"""What /proc tells about a process, and how a process group is signalled."""

from __future__ import annotations

import os
import signal
from pathlib import Path

_PROC = Path("/proc")


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone or the system has no /proc."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def boot_id() -> str:
    """Identifies the boot that start times count from; empty where it is unknown."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the group that the process leads; nothing happens when it is gone."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:  # macOS says so of a group that holds only zombies
        return


def end_group(pid: int, started: int | None, boot: str) -> int:
    """Kill the group and session of a process that started then; return how many processes that were.

    Its leader may be gone: then its members are those of the session it led, none of them older than it was. A pid
    that meanwhile belongs to a process with another start time belongs to somebody else.
    """
    if started is None or boot != boot_id():
        return 0
    leader = start_time(pid)
    if leader is not None and leader != started:
        return 0
    members = [member for member in _pids() if _is_member(member, pid, started)]
    for member in members:
        try:
            os.kill(member, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return len(members)


def _is_member(member: int, leader: int, started: int) -> bool:
    fields = _stat(member)
    return bool(fields) and fields[0] != "Z" and int(fields[3]) == leader and int(fields[19]) >= started


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()
