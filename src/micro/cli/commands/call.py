"""`micro call SERVICE ENDPOINT [JSON]`."""

from __future__ import annotations

import argparse
import json

from micro.cli import calling, checking, failures, flags
from micro.cli.session import Session
from micro.domain.service import StreamKind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_call_arguments(parser)
    parser.epilog = """For example: micro call helloworld Helloworld.Call '{"name": "Ann"}'"""


def add_call_arguments(parser: argparse.ArgumentParser) -> None:
    """What `call` and `stream` share."""
    parser.add_argument("service", metavar="SERVICE", help="name of the service")
    parser.add_argument("endpoint", metavar="ENDPOINT", help="such as Helloworld.Call")
    parser.add_argument(
        "body",
        metavar="JSON",
        nargs="?",
        default="",
        help="the request; @FILE for what is in a file, - for standard input",
    )
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="send a header; repeatable"
    )
    parser.add_argument("--request-timeout", "--request_timeout", metavar="TIME", help="give up after 500ms, 5s, 2m")
    parser.add_argument("--address", metavar="HOST:PORT", help="call this address, without asking the registry")
    parser.add_argument(
        "-o", "--output", choices=("json", "raw"), default="json", help="raw prints the answer as it came"
    )


def run(args: argparse.Namespace, session: Session) -> int:
    options = options_of(args, session)
    body = calling.data(args.body, session, "the request") if args.body else {}
    endpoint = calling.resolve(args.service, args.endpoint, options, session)
    if endpoint.kind is not StreamKind.UNARY:
        raise failures.UsageError(f"{endpoint.name} streams: type micro stream {args.service} {args.endpoint}")
    checking.check(endpoint.request, body)
    return calling.perform(args.service, endpoint, json.dumps(body).encode("utf-8"), options, session)


def options_of(args: argparse.Namespace, session: Session) -> calling.Options:
    """The flags that `call` and `stream` share."""
    return calling.Options(
        metadata=flags.metadata(args.metadata),
        timeout=flags.duration(args.request_timeout) if args.request_timeout else None,
        output=args.output,
        address=args.address or session.environ.get("MICRO_ADDRESS", ""),
    )
