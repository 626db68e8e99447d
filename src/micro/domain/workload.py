"""What the runtime keeps running, and what it decides: states, restarts, and how a failure is told."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from micro.domain import errors
from micro.domain.account import Account

Key = tuple[str, str, str]
"""Namespace, name and version."""

RESERVED_PREFIX = "MICRO_"
LOG_LEVEL = "MICRO_LOG_LEVEL"
"""The variable of the platform's that users set, too: from which level on a service logs."""

LOG_LEVELS = ("debug", "info", "warning", "error")
TOLD_LINES = 20
"""How many last lines of output an error carries."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)')
_ENVOY = re.compile(r"^(\[\w+\] )?\[(\./)?source/")
_FILTER = re.compile(
    r"^(\[[^\]]*\]\s*)*(critical )?(error `)?(Failed to initialize ASGI app$|Failed to create filter config\b)"
)
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Warning)(?:: .*)?$")
_FOREIGN = re.compile(r'^\s+File "(<frozen |[^"]*/(site-packages|lib/python3\.\d+|src/micro/(framework|rpc))/)')
_SAID = "micro: "
"""Begins a line that says all there is to say."""
_LIVED_ON = re.compile(r"^(internal error, id [0-9a-f]+$|.* failed at event \d+, try \d+: )")
"""Begins what is logged of an exception that a call or an event was answered with; the process went on."""
_CHAINED = re.compile(r"^(During handling of the above exception|The above exception was the direct cause)\b")
_HEADER = re.compile(r"^\s*(\+ Exception Group )?Traceback \(most recent call last\):")
_TRACEBACK = re.compile(r"^(Traceback \(most recent call last\):|\s+File \"[^\"]+\", line \d+)")


class State(StrEnum):
    """Of a workload or of one of its instances; see `micro.runtime.v1.Status` for the meaning of each."""

    PENDING = "pending"
    BUILDING = "building"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"


_STEPS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.BUILDING, State.STARTING, State.STOPPING, State.ERROR}),
    State.BUILDING: frozenset({State.STARTING, State.STOPPING, State.ERROR}),
    State.STARTING: frozenset({State.RUNNING, State.STOPPING, State.ERROR}),
    State.RUNNING: frozenset({State.STARTING, State.STOPPING, State.ERROR}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
    State.ERROR: frozenset({State.STARTING, State.STOPPING}),
}


def step(old: State, new: State) -> State:
    """Return `new` when an instance may go there from `old`; staying is always allowed.

    Raises:
        ValueError: a bug in whoever moves it.
    """
    if new is not old and new not in _STEPS[old]:
        raise ValueError(f"an instance does not go from {old} to {new}")
    return new


MOST_INSTANCES = 64
"""Of one service and version."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to run; this is what is kept on disk.

    Attributes:
        source: what the user typed; informative.
        env: the user's environment variables.
        instances: how many processes; at least 1.
        generation: counts the code that was unpacked for this key; what runs is the code of this one. 0: none yet.
        revision: counts all changes, those of settings too; processes of another revision are not wanted.
        error: why there is no code that runs; empty when there is.
        updated: when it last changed, RFC 3339.
        owner: who created it, NAMESPACE/ID of the account; empty when that was before there were accounts.
        owner_since: when that account was made, RFC 3339: a later one of the same id owns nothing of it. Empty where it
            was not kept yet, and for accounts whose id nobody can have again.
    """

    namespace: str
    name: str
    version: str
    source: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    instances: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    revision: int = 0
    error: str = ""
    updated: str = ""
    owner: str = ""
    owner_since: str = ""

    def owned_by(self, account: Account) -> bool:
        """Whether that account created it."""
        return self.owner == str(account) and self.owner_since in ("", account.created)

    @property
    def key(self) -> Key:
        return (self.namespace, self.name, self.version)

    def __str__(self) -> str:
        return self.name if self.version == "latest" else f"{self.name}@{self.version}"


def overall(phase: State | None, instances: Iterable[State]) -> State:
    """State of a workload: that of the operation it is in, if any, else the best of its instances'."""
    if phase is not None:
        return phase
    present = set(instances)
    for state in (State.RUNNING, State.STARTING, State.BUILDING, State.ERROR, State.STOPPING):
        if state in present:
            return state
    return State.ERROR


@dataclass(frozen=True, slots=True)
class Restarts:
    """When a process that ended by itself is started again.

    A service that was ready comes back at once the first time; after that the wait doubles from `first` seconds up to
    `cap`, until one has been ready for `forgiven` seconds.

    Attributes:
        count: how often it was started again in all.
        streak: failures since it was last healthy for long.
        delay: seconds to wait before the next start.
    """

    count: int = 0
    streak: int = 0
    delay: float = 0.0
    first: float = 0.2
    cap: float = 30.0
    forgiven: float = 60.0

    def failed(self, ready_for: float | None) -> Restarts:
        """After one more end; `ready_for` is how long it had been ready in seconds, None if it never was."""
        streak = 1 if ready_for is not None and ready_for >= self.forgiven else self.streak + 1
        doublings = streak - 1 if ready_for is None else streak - 2
        delay = min(self.first * 2 ** min(doublings, 32), self.cap) if doublings >= 0 else 0.0
        return Restarts(self.count + 1, streak, delay, self.first, self.cap, self.forgiven)


def log_level(name: str, level: str) -> str:
    """Return the level when it is one of a log's; `name` is what says so, for the INVALID_ARGUMENT that is raised."""
    if level not in LOG_LEVELS:
        raise errors.invalid_argument(f"{name}={level!r}: use one of {', '.join(LOG_LEVELS)}")
    return level


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Check a user's environment variables.

    Raises:
        Error: INVALID_ARGUMENT that names the variable.
    """
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise errors.invalid_argument(f"{name!r} is not a name for an environment variable")
        if name == LOG_LEVEL:
            log_level(LOG_LEVEL, value)
        elif name.startswith(RESERVED_PREFIX):
            raise errors.invalid_argument(f"{name} cannot be set: of those that begin with MICRO_, {LOG_LEVEL} can")
        if "\0" in value:
            raise errors.invalid_argument(f"the value of {name} holds a null byte")
    return dict(env)


def exit_reason(exit_status: int, tail: Sequence[str], folder: str = "", *, served: bool = False) -> str:
    """Why a process ended, in one line: the exception it died of, with file and line, else its exit status.

    An exception that nobody catches ends a process with status 1. One that was answered is never the reason.

    Args:
        exit_status: as a shell tells it.
        tail: last lines of output.
        folder: where the service's code lies; frames in there are preferred, and told relative to it.
        served: whether it had been ready. From then on exceptions are caught and logged, so that only one with which
            the output ends counts.
    """
    kept = _without_envoy(outlived(tail, served=served))
    if exit_status == 1 and (not served or _ends_with_traceback(kept)) and (died := exception(kept, folder)):
        return died
    if exit_status > 128:
        try:
            return f"exit status {exit_status} ({signal.Signals(exit_status - 128).name})"
        except ValueError:
            return f"exit status {exit_status}"
    last = next((line.strip() for line in reversed(story(kept) or kept) if line.strip()), "")
    if last.startswith(_SAID):
        return last.removeprefix(_SAID)
    if last:  # output, not a reason, unless it is an exception
        return f"exit status {exit_status}{': ' if _RAISED.match(last) else ', its last line: '}{last}"
    silent = not any(line.strip() for line in tail)
    return f"exit status {exit_status}" + (", without any output" if silent else "")


def exception(tail: Sequence[str], folder: str = "") -> str:
    """The last exception in one line, with file and line; empty when there is none."""
    end = _last_exception(tail)
    if end is None:
        return ""
    told_as = tail[end].strip()
    frames = [match for line in _block(tail, end) if (match := _FRAME.match(line))]
    if not frames:
        return told_as
    inside = folder.rstrip("/") + "/"
    own = [frame for frame in frames if folder and frame["file"].startswith(inside)]
    frame = (own or frames)[-1]
    return f"{told_as} ({frame['file'].removeprefix(inside) if folder else frame['file']}, line {frame['line']})"


def story(tail: Sequence[str]) -> tuple[str, ...]:
    """The lines that a user needs of a process's last output: without the exceptions that it outlived, without what
    the server around the service's code said, and without the frames of others' code that lead to an exception."""
    kept = _without_envoy(outlived(tail))
    end = _last_exception(kept)
    if end is not None and not _more(kept, end):
        kept = kept[: end + 1]
    return tuple(_own_frames(kept))


def outlived(tail: Sequence[str], *, served: bool = False) -> tuple[str, ...]:
    """The lines without the exceptions that calls and events were answered with.

    Args:
        served: whether the process had been ready: then a traceback whose begin is not among the lines was one too.
    """
    kept: list[str] = []
    index = _traceback_end(tail, 0) if served and tail and tail[0][:1].isspace() and _cut(tail) else 0
    while index < len(tail):
        if _LIVED_ON.match(tail[index]) and _is_header(tail, index + 1):
            index = _traceback_end(tail, index + 1)
        else:
            kept.append(tail[index])
            index += 1
    return tuple(kept)


def _cut(tail: Sequence[str]) -> bool:
    """Whether the lines begin inside of a traceback."""
    indented = itertools.takewhile(lambda line: line[:1].isspace() or not line, tail)
    return any(_FRAME.match(line) for line in indented) and not _is_header(tail, 0)


def _is_header(lines: Sequence[str], index: int) -> bool:
    return index < len(lines) and _HEADER.match(lines[index]) is not None


def _traceback_end(lines: Sequence[str], start: int) -> int:
    """Index behind a traceback that begins, or goes on, at `start`, and behind those that are chained to it."""
    index = start + _is_header(lines, start)
    while index < len(lines) and (lines[index][:1].isspace() or not lines[index]):
        index += 1
    group = "Exception Group" in lines[start]  # its lines are all indented
    index = min(index + (not group), len(lines))
    chained = _behind_blank(lines, index)
    if chained < len(lines) and _CHAINED.match(lines[chained]):
        following = _behind_blank(lines, chained + 1)
        return _traceback_end(lines, following) if following < len(lines) else following
    return index


def _behind_blank(lines: Sequence[str], index: int) -> int:
    while index < len(lines) and not lines[index].strip():
        index += 1
    return index


def _ends_with_traceback(lines: Sequence[str]) -> bool:
    end = _last_exception(lines)
    return end is not None and any(_is_header(lines, index) for index in range(end)) and not _more(lines, end)


def _more(lines: Sequence[str], end: int) -> bool:
    """Whether there is something behind an exception that does not only repeat it."""
    return any(line.strip() and not _RAISED.match(line) for line in lines[end + 1 :])


def _without_envoy(lines: Sequence[str]) -> list[str]:
    kept: list[str] = []
    envoy = False
    for line in lines:
        # What Envoy says of its own configuration may go on in an indented line: the name of a file.
        continued = envoy and line[:1].isspace()
        envoy = continued or _FILTER.match(line) is not None
        if not envoy and not _ENVOY.match(line):
            kept.append(line)
    return kept


def _own_frames(lines: Sequence[str]) -> list[str]:
    """The lines without the frames of libraries and of the framework, in tracebacks that have others."""
    kept: list[str] = []
    for indented, group in itertools.groupby(lines, lambda line: line[:1].isspace()):
        block = list(group)
        if indented and any(_FRAME.match(line) and not _FOREIGN.match(line) for line in block):
            foreign = False
            for line in block:
                if _FRAME.match(line):
                    foreign = _FOREIGN.match(line) is not None
                if not foreign:
                    kept.append(line)
        else:
            kept += block
    return kept


def _last_exception(tail: Sequence[str]) -> int | None:
    """Index of the line that names the last exception: the one after a traceback, else one that looks like it."""
    start = max((i for i, line in enumerate(tail) if _TRACEBACK.match(line)), default=None)
    if start is not None:
        after = (i for i, line in enumerate(tail) if i > start and line.strip() and not line[0].isspace())
        if (end := next(after, None)) is not None:
            return end
    return max((i for i, line in enumerate(tail) if _RAISED.match(line)), default=None)


def _block(tail: Sequence[str], end: int) -> Sequence[str]:
    """The indented lines of the traceback before the line that names the exception."""
    first = end
    while first > 0 and (tail[first - 1][:1].isspace() or not tail[first - 1].strip()):
        first -= 1
    return tail[first:end]


def told(subject: str, reason: str, tail: Sequence[str]) -> str:
    """A failure as users read it: the reason in the first line, then the last lines of output that do not repeat it."""
    lines = [line for line in story(tail) if line.strip()]
    if lines and lines[-1].strip().removeprefix(_SAID) in reason:
        lines.pop()
    lines = lines[-TOLD_LINES:]
    return "\n".join([f"{subject}: {reason}", *lines])
