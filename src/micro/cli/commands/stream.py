"""`micro stream SERVICE ENDPOINT [JSON]`: every message as it arrives."""

from __future__ import annotations

import argparse
import json

from micro.cli import calling, checking
from micro.cli.commands import call
from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    call.add_call_arguments(parser)
    parser.epilog = (
        """For example: micro stream helloworld Helloworld.Stream '{"count": 3}'\n"""
        "Where the endpoint takes a stream and no JSON is given, messages are read from standard input,\n"
        "one JSON object a line. On a pipe each answer is one line of JSON."
    )


def run(args: argparse.Namespace, session: Session) -> int:
    options = call.options_of(args, session)
    body = calling.data(args.body, session, "the request") if args.body else {}
    endpoint = calling.resolve(args.service, args.endpoint, options, session, stream=True)
    messages = None if args.body else calling.typed_messages(endpoint, session)
    checking.check(endpoint.request, body)
    return calling.perform(args.service, endpoint, json.dumps(body).encode("utf-8"), options, session, messages)
