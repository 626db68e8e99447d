"""argparse as the commands use it: errors are raised, help is handed back, the global flags fit in anywhere."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from micro.cli import failures

WIDTH = 100


class HelpWantedError(Exception):
    """Carries the text of a command's help."""


def _long(action: argparse.Action) -> list[str]:
    """The long names of a flag, the one that help shows first."""
    return [name for name in action.option_strings if name.startswith("--")]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """One spelling a flag: the short one and the first long one; the others work and are not shown."""
        if not action.option_strings:
            return super()._format_action_invocation(action)
        short = [name for name in action.option_strings if len(name) == 2][:1]
        long = _long(action)[:1]
        value = "" if action.nargs == 0 else f" {self._format_args(action, action.dest.upper())}"
        return ("" if short else "    ") + ", ".join(short + long) + value


class Parser(argparse.ArgumentParser):
    """The parser of one command.

    Args:
        command: its name.
        summary: what it does, as help says it.
    """

    def __init__(self, command: str, summary: str) -> None:
        description = summary[:1].upper() + summary[1:] + "."
        super().__init__(
            prog=f"micro {command}",
            description=description,
            formatter_class=_Formatter,
            allow_abbrev=False,
            add_help=False,
        )
        self._positionals.title = "arguments"
        self._optionals.title = "flags"

    def add_globals(self) -> None:
        """Add the flags that every command takes, under the names that the command left free."""
        group = self.add_argument_group("global flags")
        free = [name for name in ("-e", "--env", "-env") if name not in self._option_string_actions]
        group.add_argument(*free, dest="global_env", metavar="NAME", help="the environment to talk to")
        if "--namespace" not in self._option_string_actions:
            group.add_argument(
                "--namespace", "-namespace", dest="global_namespace", metavar="NAME", help="the namespace to work in"
            )
        self.add_help_flag(group)

    def add_help_flag(self, group: argparse._ArgumentGroup | None = None) -> None:
        """Add --help alone, for a command that talks to no environment."""
        (group or self).add_argument("-h", "--help", action="help", help="show this and end")

    def options(self) -> list[str]:
        """The long names of the flags, for completion."""
        return sorted(name for name in self._option_string_actions if name.startswith("--"))

    def positionals(self) -> list[str]:
        """The arguments without a flag, as usage shows them."""
        return [self._get_formatter()._format_args(one, "") for one in self._positionals._group_actions]

    def valued(self, flag: str) -> argparse.Action | None:
        """A flag that takes a value; None for others."""
        action = self._option_string_actions.get(flag)
        return action if action is not None and action.nargs != 0 else None

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command's words.

        Raises:
            UsageError: they do not fit; names the closest known flag.
            HelpWantedError: help was asked for.
        """
        # Made now: parsing intermixed hides the arguments for a while, and --help is found in it.
        self.usage = " ".join([self.prog, *self.positionals(), "[--flags]"])
        args, unknown = self.parse_known_args(list(words))
        if unknown and any(one.nargs in ("*", "?") for one in self._positionals._group_actions):
            # argparse takes a list of words, or the lack of one that may be left out, for ended at the first flag.
            args, unknown = self.parse_known_intermixed_args(list(words))
        if not unknown:
            return args
        flag = unknown[0].partition("=")[0]
        if flag.startswith("-") and flag.strip("-"):
            near = self._shown(failures.closest(flag, self.options()))
            hint = f"did you mean {near}?" if near else f"see: {self.prog} --help"
            raise failures.UsageError(f"unknown flag {flag}: {hint}")
        raise failures.UsageError(f"unexpected {unknown[0]!r}: see: {self.prog} --help")

    def _shown(self, flag: str) -> str:
        """A flag as help spells it; empty for none."""
        return _long(self._option_string_actions[flag])[0] if flag else ""

    def error(self, message: str) -> NoReturn:
        message = message.replace("the following arguments are required:", "missing").removeprefix("argument ")
        message = re.sub(r"^(?:-\w/)?(--[\w-]+)\S*:", r"\1:", message)
        message = re.sub(r"(\S+): invalid choice: (.*) \(choose from (.*)\)", r"\1 takes one of \3, not \2", message)
        message = re.sub(r"^(\S+): (takes|expected)", r"\1 \2", message).replace(
            "expected one argument", "needs a value"
        )
        raise failures.UsageError(f"{message}; see: {self.prog} --help")

    def print_help(self, file: object = None) -> NoReturn:
        raise HelpWantedError(self.format_help())


def pairs(given: Sequence[str], flag: str) -> dict[str, str]:
    """KEY=VALUE pairs as a mapping.

    Raises:
        UsageError: one of them has no `=`; names the flag.
    """
    found: dict[str, str] = {}
    for pair in given:
        key, mark, text = pair.partition("=")
        if not mark or not key:
            raise failures.UsageError(f"{flag} takes KEY=VALUE, not {pair!r}")
        found[key] = text
    return found
