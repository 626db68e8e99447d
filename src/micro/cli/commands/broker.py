"""`micro broker`: messages for whoever listens at the moment, at most once."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Mapping
from typing import Any

from micro.cli import arguments, failures, following, messages, records, topics
from micro.cli.actions import Action
from micro.cli.session import Session
from micro.domain import topic


def _publish_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", metavar="TOPIC", help="names with dots between, as orders.created")
    parser.add_argument(
        "body", metavar="BODY", nargs="?", help="text; @FILE for what is in a file, - or a pipe for standard input"
    )
    parser.add_argument("--header", metavar="KEY=VALUE", action="append", default=[], help="attach a pair; repeatable")


def _publish(args: argparse.Namespace, session: Session) -> int:
    body = messages.given(args.body, "BODY", session)
    message = {"header": arguments.pairs(args.header, "--header"), "body": messages.encoded(body)}
    session.platform.broker("Publish", {"topic": topic.topic(args.topic), "message": message})
    return failures.OK


def _subscribe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern", metavar="PATTERN", help='a topic; "*" stands for one part, ">" at the end for one or more'
    )
    parser.add_argument(
        "-q", "--queue", metavar="NAME", default="", help="share: each message goes to one of those who name it"
    )
    parser.add_argument("-l", "--limit", metavar="N", type=number, default=0, help="end after so many [never]")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: one object a line")


def number(text: str) -> int:
    """A number on the command line, 0 or more."""
    try:
        return topics.count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _subscribe(args: argparse.Namespace, session: Session) -> int:
    request = {"topic": topic.pattern(args.pattern), "queue": topic.group(args.queue) if args.queue else ""}
    seen, reached = 0, False
    again = f"subscribed to {args.pattern} again; what was published meanwhile is missing"
    for answer in following.follow(lambda: session.platform.broker_stream("Subscribe", [request]), session, again):
        if not reached:
            session.err.line(session.err.styled(f"subscribed to {args.pattern}; Ctrl-C ends", "dim"))
        reached = True
        if dropped := int(answer.get("dropped", 0)):
            session.err.line(f"{dropped:,} messages were dropped: they came faster than they were read")
        for message in answer.get("messages", []):
            _show(message, args, session)
            seen += 1
            if seen == args.limit:
                return failures.OK
    return failures.OK


def _show(message: Mapping[str, Any], args: argparse.Namespace, session: Session) -> None:
    body = base64.b64decode(message.get("body", ""))
    name = str(message.get("topic", ""))
    if args.output == "json":
        session.out.json_line({"topic": name, "header": message.get("header", {})} | messages.carried(body, "body"))
        return
    said = "".join(f" {key}={value}" for key, value in sorted(message.get("header", {}).items()))
    head = session.out.styled(f"{name}{records.printable(said, line=True)}", "dim")
    session.out.line(f"{head}  {messages.line(body)}")


ACTIONS = (
    Action(
        "publish",
        "send a message to those who are subscribed now",
        _publish,
        _publish_arguments,
        note="Nothing is kept: where nobody is subscribed, nobody gets it. For what must arrive: micro events publish.",
    ),
    Action("subscribe", "print messages as they come", _subscribe, _subscribe_arguments),
)
