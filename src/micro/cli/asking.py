"""Asking people: what they type is read from a terminal, secrets without showing them."""

from __future__ import annotations

from micro.cli import failures
from micro.cli.session import Session

LONGEST = 4096
"""Characters of a secret that are read."""


def line(label: str, session: Session, otherwise: str, default: str = "") -> str:
    """Ask for a word; nothing typed means the default.

    Raises:
        UsageError: nobody is there to ask, or nothing was typed; says what to type otherwise.
    """
    if not session.stdin.isatty():
        raise failures.UsageError(otherwise)
    session.err.stream.write(f"{label}{f' [{default}]' if default else ''}: ")
    session.err.stream.flush()
    typed = session.stdin.readline(LONGEST).strip() or default
    if not typed:
        raise failures.UsageError(otherwise)
    return typed


def secret(label: str, session: Session, otherwise: str) -> str:
    """Ask for a secret, without echo.

    Raises:
        UsageError: nobody is there to ask, or nothing was typed; says what to type otherwise.
    """
    if not session.stdin.isatty():
        raise failures.UsageError(otherwise)
    import getpass

    try:
        typed = getpass.getpass(f"{label}: ", session.err.stream)
    except EOFError:
        typed = ""
    if not typed:
        raise failures.UsageError(otherwise)
    return typed


def new_secret(label: str, session: Session, otherwise: str) -> str:
    """Ask for a secret twice; raises UsageError also when the two differ."""
    first = secret(label, session, otherwise)
    if secret(f"{label} again", session, otherwise) != first:
        raise failures.UsageError("the two differ: nothing was changed")
    return first


def piped(session: Session, flag: str) -> str:
    """One line of standard input, for flags that end in -stdin; raises UsageError when there is none."""
    typed = session.stdin.readline(LONGEST).rstrip("\r\n")
    if not typed:
        raise failures.UsageError(f"{flag} reads a line from standard input, which has none")
    return typed


def shown(value: str, flag: str, better: str, session: Session) -> str:
    """A secret that was typed as a flag's value: taken, with a warning."""
    session.err.line(f"warning: {flag} stays in the shell's history, and others see it run: use {better}")
    return value
