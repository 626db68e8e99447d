"""The program: find the command, run it, turn what went wrong into a line and an exit code.

Commands are loaded when they are asked for, so that none pays for the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from micro.cli.catalog import COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from micro.cli.actions import Action
    from micro.cli.arguments import Parser
    from micro.cli.session import Session

_GLOBALS = {"-e": "env", "-env": "env", "--env": "env", "-namespace": "namespace", "--namespace": "namespace"}


def run(
    argv: Sequence[str],
    stdin: TextIO,
    stdout: TextIO,
    stderr: TextIO,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run one command and return its exit code; `micro --help` lists the codes.

    Args:
        argv: the words after `micro`.
        stdin: read by commands that take input.
        stdout: receives results.
        stderr: receives errors, one line each, and progress.
        environ: environment variables; None means the process's.
    """
    from micro.domain.errors import Error

    for stream in (stdout, stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter must not fail the command
    try:
        code = _dispatch(list(argv), stdin, stdout, stderr, os.environ if environ is None else environ)
        stdout.flush()
    except BrokenPipeError:
        from micro.cli import output

        output.hush(stdout)
        return 0
    except KeyboardInterrupt:
        return 130
    except Error as error:
        from micro.cli import failures

        stderr.write(f"micro: {error}\n")
        return failures.exit_code(error)
    return code


def _dispatch(words: list[str], stdin: TextIO, stdout: TextIO, stderr: TextIO, environ: Mapping[str, str]) -> int:
    chosen, rest = _globals(words)
    if not rest or rest[0] in ("--help", "-h", "-help", "help"):
        if rest[1:] and rest[0] == "help":
            return _dispatch([*rest[1:], "--help"], stdin, stdout, stderr, environ)
        from micro.cli import help as texts

        stdout.write(texts.overview())
        return 0
    if rest[0] in ("--version", "-v", "-version"):
        rest = ["version"]
    from micro.cli.session import Session

    session = Session(stdin, stdout, stderr, environ, **chosen)
    name, *arguments = rest
    if name == "__complete":
        from micro.cli import completion

        return completion.run(arguments, session)
    if name in COMMANDS:
        return _command(name, arguments, session)
    if name.startswith("-"):
        raise _unknown_flag(name)
    from micro.cli import dynamic

    return dynamic.run(name, arguments, session)


def _globals(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Take the global flags off the front."""
    chosen: dict[str, str] = {}
    names = {"env": "environment", "namespace": "namespace"}
    while words and words[0].partition("=")[0] in _GLOBALS:
        flag, mark, text = words[0].partition("=")
        if not mark and len(words) < 2:
            from micro.cli import failures

            raise failures.UsageError(f"{flag} needs a name: type {flag} NAME")
        chosen[names[_GLOBALS[flag]]] = text if mark else words[1]
        words = words[1:] if mark else words[2:]
    return chosen, words


def _unknown_flag(flag: str) -> Exception:
    from micro.cli import failures

    near = failures.closest(flag.partition("=")[0], [*_GLOBALS, "--help", "--version"])
    return failures.UsageError(f"unknown flag {flag}: " + (f"did you mean {near}?" if near else "see: micro --help"))


def parser(name: str, words: Sequence[str] = ()) -> Parser:
    """The parser of a static command; of one that has actions, the parser of the action that the words name."""
    from micro.cli import arguments

    if known := actions_of(name):
        from micro.cli import actions

        return actions.parser(name, known, words)
    made = arguments.Parser(name, COMMANDS[name][1])
    _module(name).add_arguments(made)
    if name == "server":
        made.add_help_flag()
    else:
        made.add_globals()
    return made


def actions_of(name: str) -> Sequence[Action]:
    """The actions of a static command; none for most."""
    found: Sequence[Action] = getattr(_module(name), "ACTIONS", ())
    return found


def _module(name: str) -> Any:
    import importlib

    return importlib.import_module(f"micro.cli.commands.{name}")


def _command(name: str, words: list[str], session: Session) -> int:
    from micro.cli import arguments

    try:
        if known := actions_of(name):
            from micro.cli import actions

            chosen, words = _globals(words)
            session.choose(**chosen)
            return actions.run(name, known, words, session)
        args = parser(name).parse(words)
    except arguments.HelpWantedError as wanted:
        session.out.stream.write(str(wanted))
        return 0
    session.choose(getattr(args, "global_env", None) or "", getattr(args, "global_namespace", None) or "")
    code: int = _module(name).run(args, session)
    return code
