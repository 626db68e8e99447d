"""Commands that are several: `micro auth list accounts`. Each action has a parser, help and completion of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

from micro.cli import failures
from micro.cli.arguments import HelpWantedError, Parser
from micro.cli.catalog import COMMANDS
from micro.cli.session import Session

_HELP = ("-h", "--help", "-help", "help")


def _nothing(_: argparse.ArgumentParser) -> None:
    """For an action without arguments."""


class Action(NamedTuple):
    """One action of a command.

    Attributes:
        words: that name it: "list accounts"; empty for what the command does without any.
        summary: what it does, as help says it.
        run: performs it and returns the exit code.
        arguments: adds its arguments to a parser.
        offers: what completion offers as its first argument.
        note: what its help ends with.
        also: other words for the same, which help does not list.
    """

    words: str
    summary: str
    run: Callable[[argparse.Namespace, Session], int]
    arguments: Callable[[argparse.ArgumentParser], None] = _nothing
    offers: Callable[[Session], list[str]] | None = None
    note: str = ""
    also: str = ""


def run(command: str, known: Sequence[Action], words: Sequence[str], session: Session) -> int:
    """Run the action that the words name.

    Raises:
        UsageError: they name none; says which was probably meant.
        HelpWantedError: help was asked for.
    """
    found = find(known, words)
    if (words and words[0] in _HELP) or (not words and found is None):
        raise HelpWantedError(_overview(command, known))
    if found is None or (not found.words and words and not words[0].startswith("-")):
        raise _unknown(command, known, words)
    args = _parser(command, found).parse(words[len(found.words.split()) :])
    session.choose(args.global_env or "", args.global_namespace or "")
    return found.run(args, session)


def parser(command: str, known: Sequence[Action], words: Sequence[str]) -> Parser:
    """The parser of the action that the words name, for completion; of the command itself where they name none."""
    found = find(known, words)
    return _parser(command, found or Action("", COMMANDS[command][1], lambda *_: 0))


def offered(known: Sequence[Action], words: Sequence[str], session: Session) -> list[str]:
    """What may come after the words: further words of actions, or an action's first argument."""
    spelled = [action.words.split() for action in known]
    typed = [_folded(word) for word in words]
    further = [
        one[len(typed)] for one in spelled if len(one) > len(typed) and [*map(_folded, one)][: len(typed)] == typed
    ]
    found = find(known, words)
    if found and found.offers and found.words and len(found.words.split()) == len(words):
        further += found.offers(session)
    return list(dict.fromkeys(further))


def find(known: Sequence[Action], words: Sequence[str]) -> Action | None:
    """The action that the words begin with, the longest that fits; singular and plural are the same."""
    typed = [_folded(word) for word in words]
    fitting = [one for one in known if any(_begins(typed, words) for words in (one.words, one.also or one.words))]
    return max(fitting, key=lambda one: len(one.words.split()), default=None)


def _begins(typed: Sequence[str], words: str) -> bool:
    spelled = [_folded(word) for word in words.split()]
    return list(typed[: len(spelled)]) == spelled


def _folded(word: str) -> str:
    return word.lower().replace("_", "-").removesuffix("s")


def _parser(command: str, action: Action) -> Parser:
    made = Parser(f"{command} {action.words}".strip(), action.summary)
    action.arguments(made)
    made.add_globals()
    if action.note:
        made.epilog = action.note
    return made


def _unknown(command: str, known: Sequence[Action], words: Sequence[str]) -> failures.UsageError:
    typed = list(words[: next((n for n, word in enumerate(words) if word.startswith("-")), len(words))])
    if not typed:
        flag = words[0].partition("=")[0]
        return failures.UsageError(f"{flag} comes before the action: type micro {command} ACTION {flag}")
    begun = [one.words for one in known if typed and one.words and _folded(one.words.split()[0]) == _folded(typed[0])]
    if begun and len(typed) == 1:
        return failures.UsageError(f"type one of: {', '.join(f'micro {command} {words}' for words in begun)}")
    near = failures.closest(" ".join(typed[:2]), [one.words for one in known if one.words])
    near = near or failures.closest(typed[0], [one.words for one in known if one.words])
    hint = f"did you mean: micro {command} {near}" if near else f"see: micro {command} --help"
    shown = " ".join(typed[: 2 if begun else 1])
    return failures.UsageError(f"unrecognized subcommand for micro {command}: {shown}; {hint}")


def _overview(command: str, known: Sequence[Action]) -> str:
    summary = COMMANDS[command][1]
    named = [one.run for one in known if one.words]
    rows = [
        (f"micro {command} {_usage(command, one)}".rstrip(), one.summary)
        for one in known
        if one.words or one.run not in named
    ]
    width = max(len(left) for left, _ in rows)
    made = Parser(command, summary)
    made.add_globals()
    made.usage = f"micro {command} [ACTION] [ARGUMENTS] [--flags]"
    lines = made.format_help().rstrip().splitlines()
    cut = lines.index("global flags:")
    listed = ["actions:", *(f"  {left:<{width}}  {right}" for left, right in rows), ""]
    more = ["", f"The flags of an action: micro {command} {next(one.words for one in known if one.words)} --help"]
    return "\n".join([*lines[:cut], *listed, *lines[cut:], *more]) + "\n"


def _usage(command: str, action: Action) -> str:
    return " ".join([*action.words.split(), *_parser(command, action).positionals()])


def add_output(parser: argparse.ArgumentParser, usual: str = "table") -> None:
    """The flag of what shows something; `usual` says what people get."""
    parser.add_argument("-o", "--output", choices=(usual, "json"), default=usual, help="json is for programs")


def add_text_output(parser: argparse.ArgumentParser) -> None:
    """The flag of what shows people no table."""
    add_output(parser, "text")


def word(name: str, help_text: str, **rest: object) -> Callable[[argparse.ArgumentParser], None]:
    """Adds one argument that is called `name` and stored under its lower-case form."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(name.lower(), metavar=name, help=help_text, **rest)  # type: ignore[arg-type]

    return add
