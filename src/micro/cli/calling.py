"""Performing a call and printing what comes back; `micro call`, `micro stream` and the dynamic commands share it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from micro.cli import checking, environment, failures, output, schema
from micro.cli.session import Session
from micro.cli.transport import Transport
from micro.domain import names
from micro.domain.errors import Error, Kind
from micro.domain.service import Endpoint, StreamKind


class Options(NamedTuple):
    """How to call: headers, deadline in seconds, "json" or "raw", and an address other than the server's."""

    metadata: dict[str, str]
    timeout: float | None
    output: str
    address: str


def perform(
    service: str,
    endpoint: Endpoint,
    body: bytes,
    options: Options,
    session: Session,
    messages: Iterable[bytes] | None = None,
) -> int:
    """Call an endpoint and print the answer, or each message of a stream as it arrives.

    Args:
        service: its name.
        endpoint: what to call.
        body: the request as JSON.
        options: how to call.
        session: gives the way and the streams.
        messages: what to send in place of `body` to an endpoint that takes a stream.
    """
    transport = _transport(options, session)
    if endpoint.kind is StreamKind.UNARY:
        wait = options.timeout or endpoint.timeout
        answer = transport.unary(
            service,
            endpoint.path,
            body,
            timeout=options.timeout,
            patience=wait + 2 if wait else None,
            metadata=options.metadata,
        )
        show(answer, options.output, session)
        return failures.OK
    answers = transport.stream(
        service, endpoint.path, messages or [body], timeout=options.timeout, metadata=options.metadata
    )
    for answer in answers:
        show(answer, options.output, session, stream=True)
    return failures.OK


def show(answer: bytes, style: str, session: Session, *, stream: bool = False) -> None:
    """Print one answer: indented for people, one a line where a program reads a stream, or as it came."""
    if style == "raw":
        session.out.line(answer.decode("utf-8", "replace"))
    elif stream and not session.out.terminal:
        session.out.line(output.one_line(answer))
    else:
        session.out.line(output.indented(answer))


def resolve(service: str, typed: str, options: Options, session: Session, *, stream: bool = False) -> Endpoint:
    """The endpoint that `micro call SERVICE ENDPOINT` means, or `micro stream` with `stream`.

    With --address the registry is not asked, and one that is not for this account to read is passed over: then the
    endpoint is "Service.Method" or "/package.Service/Method".

    Raises:
        NoServiceError, NoEndpointError, UnreachableError: as the name says.
    """
    if options.address:
        return unseen(service, typed, stream=stream)
    try:
        known = schema.endpoints(session.platform.get_service(service))
    except Error as error:
        if hidden(error):
            return unseen(service, typed, stream=stream)
        raise
    by_path = next((one for one in known if one.path.strip("/") == typed.strip("/")), None)
    command = f"micro {'stream' if stream else 'call'} {service}"
    return by_path or schema.find(service, known, typed.split(), command)


def hidden(error: Error) -> bool:
    """Whether a registry has said that it is not for this account to read: its services may be to call all the same."""
    return error.kind in (Kind.PERMISSION_DENIED, Kind.UNAUTHENTICATED)


def unseen(service: str, typed: str, *, stream: bool = False) -> Endpoint:
    """An endpoint of which nothing is known but what was typed; one that answers with a stream where that is wanted.

    Raises:
        UsageError: it is none.
    """
    names.service(service)
    if not re.fullmatch(r"[\w./-]+", typed, re.ASCII):
        raise failures.UsageError(f"{typed!r} is not an endpoint: give Service.Method or /package.Service/Method")
    owner, _, method = typed.rpartition(".")
    path = typed if typed.startswith("/") else f"/{service}/{owner or names.camel(service)}/{method}"
    return schema.endpoint({"name": typed, "path": path, "kind": StreamKind.SERVER if stream else StreamKind.UNARY})


def data(text: str, session: Session, shown: str = "--data") -> dict[str, Any]:
    """The request as it was typed: JSON, "@FILE", or "-" for standard input; `shown` is what errors call it.

    Raises:
        UsageError: unreadable, or not a JSON object.
    """
    if text == "-":
        text, shown = session.stdin.read(), "standard input"
    elif text.startswith("@"):
        shown = text[1:]
        try:
            text = Path(shown).expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise failures.UsageError(f"cannot read {shown}: {reason}") from None
    else:
        return json_object(text, shown, """; in a shell: '{"name": "value"}'""")
    return json_object(text, shown)


def json_object(text: str, shown: str, hint: str = "") -> dict[str, Any]:
    """Parse a JSON object; raises UsageError that says where it is wrong, with a hint."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, character {error.colno}" if error.lineno > 1 else f"character {error.colno}"
        raise failures.UsageError(f"{shown} is not JSON: {error.msg} at {where}{hint}") from None
    except ValueError as error:
        raise failures.UsageError(f"{shown} is not JSON: {error}{hint}") from None
    except RecursionError:
        raise failures.UsageError(f"{shown} is nested too deeply") from None
    if not isinstance(found, dict):
        raise failures.UsageError(f'{shown} is not a JSON object: write {{"name": "value"}}')
    return found


def typed_messages(endpoint: Endpoint, session: Session) -> Iterator[bytes] | None:
    """The messages on standard input, one JSON object a line, for an endpoint that takes a stream; else None."""
    if endpoint.kind not in (StreamKind.CLIENT, StreamKind.BIDI):
        return None
    if session.stdin.isatty():
        session.err.line(session.err.styled("one JSON message a line; Ctrl-D ends", "dim"))
    return _lines(endpoint, session)


def _lines(endpoint: Endpoint, session: Session) -> Iterator[bytes]:
    for number, line in enumerate(iter(session.stdin.readline, ""), 1):
        if line.strip():
            shown = f"line {number} of standard input"
            message = json_object(line, shown)
            try:
                checking.check(endpoint.request, message)
            except failures.UsageError as error:
                raise failures.UsageError(f"{shown}: {error.message}") from None
            yield json.dumps(message).encode("utf-8")


def _transport(options: Options, session: Session) -> Transport:
    if not options.address:
        return session.transport()
    # A service listens in plain text. The token goes only to the machine that it is for.
    where = environment.address(options.address, secure=False)
    known = session.environment.address
    own = where.host == known.host or (where.loopback and known.loopback)
    return Transport(where, session.namespace, identity=session.identity_to_show if own else None, direct=True)
