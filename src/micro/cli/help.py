"""Help that needs no parser: the overview, a service's endpoints, an endpoint's flags. Pure."""

from __future__ import annotations

from micro._version import __version__
from micro.cli import failures
from micro.cli.catalog import COMMANDS, SECTIONS

TYPE_CHECKING = False  # not typing's, so that the overview waits for no import that it does not need
if TYPE_CHECKING:
    from micro.domain.service import Endpoint

_GLOBALS = (
    ("-e, --env NAME", "the environment to talk to (MICRO_ENV)"),
    ("--namespace NAME", "the namespace to work in (MICRO_NAMESPACE)"),
    ("-h, --help", "help, also for each command"),
    ("--version", "the version"),
)
_OPTIONS = (
    ("-d, --data JSON|@FILE|-", "the request as JSON; flags go on top of it"),
    ("    --metadata KEY=VALUE", "send a header; repeatable"),
    ("    --request-timeout TIME", "give up after 500ms, 5s, 2m"),
    ("-o, --output json|raw", "raw prints the answer as it came"),
    ("-e, --env NAME", "the environment to talk to"),
    ("    --namespace NAME", "the namespace to work in"),
    ("-h, --help", "show this and end"),
)


def overview() -> str:
    """What `micro` and `micro --help` print."""
    lines = [
        f"micro {__version__}: a cloud operating system for Python developers",
        "",
        "usage: micro [--env NAME] [--namespace NAME] COMMAND [ARGUMENTS]",
    ]
    for section in SECTIONS:
        lines += ["", f"{section}:"]
        lines += [f"  {name:<12}{summary}" for name, (where, summary) in COMMANDS.items() if where == section]
    lines += ["", "Every running service is a command too:"]
    lines += [
        "  micro helloworld --help             its endpoints",
        "  micro helloworld call --name=Ann    call one, with flags from its contract",
    ]
    lines += ["", "Global flags:", *_columns(_GLOBALS)]
    lines += ["", "Exit codes:", *(f"  {code:<5}{meaning}" for code, meaning in failures.CODES)]
    lines += ["", "Start here: micro server, then in another terminal: micro new greeter"]
    return "\n".join(lines) + "\n"


def service(name: str, version: str, known: list[Endpoint]) -> str:
    """What `micro SERVICE --help` prints."""
    from micro.cli import schema

    rows = [(schema.words(name, one.name), _first_sentence(one.description)) for one in known]
    lines = [f"{name} {version}".rstrip(), "", f"usage: micro {name} [ENDPOINT] [--flags]", "", "Endpoints:"]
    lines += _columns(rows) if rows else ["  none"]
    if rows:
        lines += ["", f"The flags of an endpoint: micro {name} {rows[0][0]} --help"]
    return "\n".join(lines) + "\n"


def endpoint(name: str, one: Endpoint) -> str:
    """What `micro SERVICE ENDPOINT --help` prints."""
    from micro.cli import flags, scalars, schema

    lines = [f"usage: micro {name} {schema.words(name, one.name)} [--flags]"]
    if one.description:
        lines += ["", *one.description.strip().splitlines()]
    if one.stream:
        lines += ["", _STREAMS[one.kind.value]]
    rows = [
        (f"--{flag} {scalars.label(field)}", _first_sentence(field.description))
        for flag, field in flags.spellings(one.request)
    ]
    lines += ["", "Flags:", *(_columns(rows) if rows else ["  none"])]
    taken = [path for path, _ in schema.leaves(one.request) if flags.spelling(one.request, path) != "_".join(path)]
    lines += _taken(one, taken) if taken else []
    lines += ["", "Options:", *_columns(_OPTIONS)]
    return "\n".join(lines) + "\n"


def _taken(one: Endpoint, paths: list[tuple[str, ...]]) -> list[str]:
    """How to set the fields whose names are those of options or of other fields."""
    from micro.cli import flags

    lines = [""]
    for path in paths:
        flag = flags.spelling(one.request, path)
        if flag:
            name = "_".join(path)
            lines.append(f"--{name} is the option below; the field {name} is --{flag}.")
        else:
            lines.append(f"The field {'.'.join(path)} has no flag: set it with --data.")
    return lines


_STREAMS = {
    "server_stream": "Answers with a stream: each message is printed as it arrives.",
    "client_stream": "Takes a stream: messages are read from standard input, one JSON a line.",
    "bidi_stream": "Streams both ways: messages are read from standard input, one JSON a line; answers are printed.",
}


def _first_sentence(text: str) -> str:
    flat = " ".join(text.split())
    head, dot, _ = flat.partition(". ")
    return head if dot else flat.removesuffix(".")


def _columns(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    width = min(max((len(left) for left, _ in rows), default=0), 40)
    return [f"  {left:<{width}}  {right}".rstrip() for left, right in rows]
