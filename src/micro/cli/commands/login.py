"""`micro login`: a session in an environment."""

from __future__ import annotations

import argparse

from micro.cli import asking, failures
from micro.cli.session import Session
from micro.domain import names
from micro.domain.errors import Error, Kind

_FIRST = "admin"  # the account that a deployment begins with

_PASSWORD = "the password is missing: pipe it in with --password-stdin"  # noqa: S105 - a message


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-u", "--username", "--email", metavar="NAME", default="", help="name or id of the account [is asked for]"
    )
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("--password", metavar="TEXT", default="", help="better not: it stays in the shell's history")
    parser.epilog = (
        "The password is asked for and not shown. Without --namespace, the account is looked for in the namespace\n"
        "that is current in the environment."
    )


def run(args: argparse.Namespace, session: Session) -> int:
    """Open a session; the one before ends."""
    environment = session.environment
    identity = session.identity
    before = identity.stored.session
    own = before.namespace if before else ""
    namespace = names.namespace(session.chosen_namespace or own or identity.namespace)
    known = before.name if before and before.namespace == namespace else ""
    missing = "the account is missing: give it with --username NAME"
    name = args.username or asking.line("Username", session, missing, known)
    if not environment.address.secure and not environment.address.loopback:
        session.err.line(f"warning: {environment.address.plain} is reached without TLS: others can read the password")
    if args.password:
        password = asking.shown(args.password, "--password", "--password-stdin", session)
    elif args.password_stdin:
        password = asking.piped(session, "--password-stdin")
    else:
        password = asking.secret("Password", session, _PASSWORD)
    try:
        opened = identity.login(name, password, namespace)
    except Error as error:
        if error.kind is not Kind.UNAUTHENTICATED:
            raise
        hint = f"; that was namespace {namespace}, for another: --namespace NAME"
        if (name, namespace) == (_FIRST, names.DEFAULT_NAMESPACE):
            hint += "; if the secret is lost: micro server --reset-admin"
        raise Error(error.kind, error.message + hint) from None
    session.out.line(f"logged in as {opened.name} in namespace {opened.namespace} of {environment.name}")
    if session.environ.get("MICRO_NAMESPACE", "") not in ("", opened.namespace):
        session.err.line(f"note: MICRO_NAMESPACE={session.environ['MICRO_NAMESPACE']} comes first in this shell")
    return failures.OK
