"""`micro events`: logs of what happened, for consumers that are there now or come later."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from micro.cli import arguments, asking, consuming, failures, messages, topics
from micro.cli.actions import Action, add_output, add_text_output
from micro.cli.commands.broker import number
from micro.cli.session import Session
from micro.domain import topic
from micro.domain.errors import Error, Kind
from micro.domain.event import Retention

_PAGE = 1000
_PATIENCE = 60.0


# --- arguments --------------------------------------------------------------------------------------------------------


def _of(*arguments_: tuple[str, str]) -> Callable[[argparse.ArgumentParser], None]:
    """Adds arguments of one word each, by name and help."""

    def add(parser: argparse.ArgumentParser) -> None:
        for name, text in arguments_:
            parser.add_argument(name.lower(), metavar=name, help=text)

    return add


_topic = _of(("TOPIC", "names with dots between, as orders"))
_group = _of(("TOPIC", "that the group consumes"), ("GROUP", "its name"))


def _from(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument(
        "--from",
        dest="start",
        metavar="PLACE",
        default="",
        help=f"new, all, an offset, how long ago (10m), or a time (2026-01-31T08:00Z) [{otherwise}]",
    )


def _shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="show id and metadata too")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: one object a line")


def _typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _started(text: str, session: Session, flag: str = "--from") -> dict[str, Any]:
    return topics.start(text, session.now(), flag)


def _named(args: argparse.Namespace) -> dict[str, str]:
    """The topic that was typed, and the group where there is one."""
    named = {"topic": topic.topic(args.topic)}
    return named | {"group": topic.group(args.group)} if getattr(args, "group", "") else named


# --- events -----------------------------------------------------------------------------------------------------------


def _publish_arguments(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument(
        "payload",
        metavar="PAYLOAD",
        nargs="?",
        help="text; @FILE for what is in a file, - or a pipe for standard input",
    )
    parser.add_argument("-k", "--key", metavar="KEY", default="", help="what it is about: one key, one order")
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="attach a pair; repeatable"
    )
    parser.add_argument("--dedup-id", metavar="ID", default="", help="publish once: the same one in two minutes is not")
    parser.add_argument("--timestamp", metavar="TIME", default="", help="when it happened, 2026-01-31T08:00Z [now]")
    add_text_output(parser)


def _publish(args: argparse.Namespace, session: Session) -> int:
    request: dict[str, Any] = _named(args) | {
        "payload": messages.encoded(messages.given(args.payload, "PAYLOAD", session))
    }
    request |= {"metadata": arguments.pairs(args.metadata, "--metadata"), "key": args.key, "dedupId": args.dedup_id}
    if args.timestamp:
        try:
            request["timestamp"] = topics.time(args.timestamp)
        except ValueError:
            what = "a time such as 2026-01-31T08:00Z"
            raise failures.UsageError(f"--timestamp takes {what}, not {args.timestamp!r}") from None
    answer = session.platform.events("Stream/Publish", request, _PATIENCE)
    duplicate, offset = bool(answer.get("duplicate")), int(answer.get("offset", 0))
    if args.output == "json":
        session.out.json({"id": answer.get("id", ""), "offset": offset, "duplicate": duplicate})
    else:
        session.out.line(f"event {offset} of {args.topic}{', published before' if duplicate else ''}")
    return failures.OK


def _consume_arguments(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument(
        "-g", "--group", metavar="NAME", default="", help="share with those who name it, and go on where it was"
    )
    _from(parser, "new")
    parser.add_argument("-l", "--limit", metavar="N", type=number, default=0, help="end after so many [never]")
    _shape(parser)


def _consume(args: argparse.Namespace, session: Session) -> int:
    named = _named(args)
    start = _started(args.start, session) if args.start else None
    waited = not topic.platforms(args.topic) and consuming.awaited(args.topic, lambda: _known(session), session)
    if waited and start in (None, {"new": True}):
        start = {"all": True}  # what came with the topic is new
    consumer = consuming.Consumer(
        named["topic"], named.get("group", ""), start, args.limit, lambda event: _show(event, args, session), session
    )
    return consumer.run()


def _show(event: Mapping[str, Any], args: argparse.Namespace, session: Session) -> None:
    if args.output == "json":
        session.out.json_line(topics.event_record(event))
    else:
        session.out.line(topics.event_line(event, verbose=args.verbose))


def _read_arguments(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    _from(parser, "all")
    parser.add_argument(
        "-l", "--limit", metavar="N", type=number, default=100, help="how many at most, 0 for all [100]"
    )
    _shape(parser)


def _read(args: argparse.Namespace, session: Session) -> int:
    named = _named(args)
    start, left = _started(args.start or "all", session), args.limit
    # What is published while it reads is for the next time, or it might never end.
    last = int(session.platform.events("Topics/Info", named).get("topic", {}).get("last", 0))
    while True:
        limit = min(left, _PAGE) if args.limit else _PAGE
        page = session.platform.events("Events/Read", named | {"from": start, "limit": limit}, _PATIENCE)
        found = [event for event in page.get("events", []) if int(event.get("offset", 0)) <= last]
        for event in found:
            _show(event, args, session)
        after, left = int(page.get("next", 0)), left - len(found)
        if not found or after > last:
            return failures.OK
        if args.limit and left <= 0:
            more = f"{last - after + 1:,} more: {session.micro} events read {args.topic} --from {after}"
            session.err.line(session.err.styled(more, "dim"))
            return failures.OK
        start = {"offset": str(after)}


# --- topics -----------------------------------------------------------------------------------------------------------


def _topics_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", metavar="TOPIC", nargs="?", default="", help="only this one, with its groups [all]")
    add_output(parser)


def _topics(args: argparse.Namespace, session: Session) -> int:
    if args.topic:
        return _info(args, session)
    found = session.platform.events("Topics/List", {}).get("topics", [])
    if args.output == "json":
        session.out.json([topics.topic_record(one) for one in found])
    elif found:
        session.out.table(topics.TOPIC_COLUMNS, [topics.topic_row(one) for one in found])
    else:
        hint = f"make one: {session.micro} events publish orders hello"
        session.err.line(f"namespace {session.namespace} has no topics yet; {hint}")
    return failures.OK


def _info(args: argparse.Namespace, session: Session) -> int:
    answer = session.platform.events("Topics/Info", _named(args))
    one, groups = answer.get("topic", {}), answer.get("groups", [])
    if args.output == "json":
        session.out.json(topics.topic_record(one) | {"groups": [topics.group_record(group) for group in groups]})
        return failures.OK
    session.out.table(topics.TOPIC_COLUMNS, [topics.topic_row(one)])
    if groups:
        session.out.line()
        session.out.table(topics.GROUP_COLUMNS, [topics.group_row(group) for group in groups])
    return failures.OK


def _retain_arguments(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    parser.add_argument("--age", metavar="TIME", type=_typed(topics.age), help="remove what is older: 12h, 7d, 4w")
    parser.add_argument("--bytes", metavar="SIZE", type=_typed(topics.size), help="remove the oldest above: 512M, 1G")
    parser.add_argument("--count", metavar="N", type=number, help="remove the oldest above so many events")
    parser.add_argument("--create", action="store_true", help="make the topic where there is none")


def _retain(args: argparse.Namespace, session: Session) -> int:
    given = {name: getattr(args, name) for name in ("age", "bytes", "count") if getattr(args, name) is not None}
    if not given:
        raise failures.UsageError("say how long events are kept: --age 7d, --bytes 1G or --count 1000; 0 for no limit")
    named, default = _named(args), Retention()
    kept: dict[str, Any] = {"age": default.age, "bytes": default.bytes, "count": default.count}
    try:
        kept = topics.retention(session.platform.events("Topics/Info", named).get("topic", {}))
    except Error as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        if not args.create:
            near = failures.closest(args.topic, _known(session))
            hint = f"did you mean {near}?" if near else "make it with --create"
            raise Error(error.kind, f"there is no topic {args.topic}: {hint}") from None
    answer = session.platform.events("Topics/Configure", named | {"retention": kept | given}, _PATIENCE)
    now = topics.retention(answer.get("topic", {}))
    session.out.line(f"{args.topic} keeps events for {topics.kept_for(now)}, up to {topics.up_to(now)}")
    return failures.OK


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    _force(parser)


def _force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="do it without asking")


def _delete(args: argparse.Namespace, session: Session) -> int:
    named = _named(args)
    if not args.force:
        session.platform.events("Topics/Info", named)
        _agreed(
            f"This removes {args.topic} with all its events, groups and dead letters, for good.", "deleted", session
        )
    if session.platform.events("Topics/Delete", named, _PATIENCE).get("deleted"):
        session.out.line(f"topic {args.topic} deleted")
    else:
        session.err.line(f"there was no topic {args.topic!r}")
    return failures.OK


def _agreed(what: str, done: str, session: Session) -> None:
    """Have something agreed to that cannot be undone. Raises UsageError when it is not."""
    if not session.stdin.isatty():
        raise failures.UsageError(f"nothing was {done}: where nobody can be asked, add --force")
    session.err.line(what)
    if asking.line('"yes", to go on', session, f"nothing was {done}") != "yes":
        raise failures.UsageError(f"nothing was {done}")


# --- groups and dead letters ------------------------------------------------------------------------------------------


def _groups_arguments(parser: argparse.ArgumentParser) -> None:
    _topic(parser)
    add_output(parser)


def _groups(args: argparse.Namespace, session: Session) -> int:
    found = session.platform.events("Groups/List", _named(args)).get("groups", [])
    if args.output == "json":
        session.out.json([topics.group_record(one) for one in found])
    elif found:
        session.out.table(topics.GROUP_COLUMNS, [topics.group_row(one) for one in found])
    else:
        session.err.line(f"topic {args.topic} has no groups yet")
    return failures.OK


def _reset_arguments(parser: argparse.ArgumentParser) -> None:
    _group(parser)
    parser.add_argument(
        "--to",
        metavar="PLACE",
        required=True,
        help="new, all, an offset, how long ago (10m), or a time (2026-01-31T08:00Z)",
    )


def _reset(args: argparse.Namespace, session: Session) -> int:
    request = _named(args) | {"to": _started(args.to, session, "--to")}
    group = topics.group_record(session.platform.events("Groups/Reset", request, _PATIENCE).get("group", {}))
    session.out.line(f"group {args.group} goes on at {group['next']}; {_events(group['lag'])} to handle")
    return failures.OK


def _forget_arguments(parser: argparse.ArgumentParser) -> None:
    _group(parser)
    _force(parser)


def _forget(args: argparse.Namespace, session: Session) -> int:
    if not args.force:
        what = f"This removes group {args.group} of {args.topic}: its progress and its dead letters."
        _agreed(what, "removed", session)
    if session.platform.events("Groups/Delete", _named(args), _PATIENCE).get("deleted"):
        session.out.line(f"group {args.group} of {args.topic} removed")
    else:
        session.err.line(f"there was no group {args.group!r} of {args.topic}")
    return failures.OK


def _dead_letters_arguments(parser: argparse.ArgumentParser) -> None:
    _group(parser)
    parser.add_argument("-l", "--limit", metavar="N", type=number, default=0, help="how many at most [all]")
    add_output(parser)


def _dead_letters(args: argparse.Namespace, session: Session) -> int:
    found = _dead(args, session)
    if args.output == "json":
        session.out.json([topics.dead_record(one) for one in found])
    elif found:
        session.out.table(topics.DEAD_COLUMNS, [topics.dead_row(one) for one in found])
    else:
        session.err.line(f"group {args.group} of {args.topic} has no dead letters")
    return failures.OK


def _dead(args: argparse.Namespace, session: Session) -> list[dict[str, Any]]:
    """All dead letters of a group, up to the limit."""
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        limit = min(args.limit - len(found), _PAGE) if args.limit else _PAGE
        page = session.platform.events("DeadLetters/List", _named(args) | {"after": after, "limit": limit}, _PATIENCE)
        found += page.get("deadLetters", [])
        after = int(page.get("next", 0))
        if not after or (args.limit and len(found) >= args.limit):
            return found


def _chosen_arguments(parser: argparse.ArgumentParser) -> None:
    _group(parser)
    parser.add_argument("offsets", metavar="OFFSET", nargs="*", type=number, help="which [all]")


def _chosen(args: argparse.Namespace) -> dict[str, Any]:
    return _named(args) | {"offsets": [str(one) for one in args.offsets]}


def _redrive(args: argparse.Namespace, session: Session) -> int:
    count = int(session.platform.events("DeadLetters/Redrive", _chosen(args), _PATIENCE).get("count", 0))
    return _told(count, args.offsets, f"{_events(count)} will be delivered to {args.group} again", session)


def _drop_arguments(parser: argparse.ArgumentParser) -> None:
    _chosen_arguments(parser)
    _force(parser)


def _drop(args: argparse.Namespace, session: Session) -> int:
    if not args.force:
        which = f"dead letters {', '.join(map(str, args.offsets))}" if args.offsets else "all dead letters"
        _agreed(f"This removes {which} of group {args.group} of {args.topic}.", "removed", session)
    count = int(session.platform.events("DeadLetters/Drop", _chosen(args), _PATIENCE).get("count", 0))
    return _told(count, args.offsets, f"{count:,} dead letter{'s' if count != 1 else ''} removed", session)


def _told(count: int, asked: Sequence[int], text: str, session: Session) -> int:
    """Say what became of dead letters, and that some of those that were named are none."""
    session.out.line(text)
    if missing := len(set(asked)) - count if asked else 0:
        which = "are no dead letters" if missing > 1 else "is no dead letter"
        session.err.line(f"{missing:,} of the offsets {which} of the group")
    return failures.OK


def _events(count: int) -> str:
    return f"{count:,} event{'s' if count != 1 else ''}"


# --- completion -------------------------------------------------------------------------------------------------------


def _known(session: Session) -> list[str]:
    return [str(one.get("name", "")) for one in session.platform.events("Topics/List", {}, 0.5).get("topics", [])]


def _hinted(run: Callable[[argparse.Namespace, Session], int]) -> Callable[[argparse.Namespace, Session], int]:
    """The same, and where there is no such topic, it names the one that was probably meant."""

    def hinted(args: argparse.Namespace, session: Session) -> int:
        try:
            return run(args, session)
        except Error as error:
            if error.kind is Kind.NOT_FOUND and error.message.startswith(f"there is no topic {args.topic}:"):
                with contextlib.suppress(Error):
                    near = failures.closest(args.topic, _known(session))
                    error.message = f"there is no topic {args.topic}: did you mean {near}?" if near else error.message
            raise

    return hinted


ACTIONS = (
    Action(
        "publish",
        "append an event to a topic; it is kept when this returns",
        _publish,
        _publish_arguments,
        _known,
        """For example: micro events publish orders '{"id": 7}' --key 7""",
    ),
    Action(
        "consume",
        "print events as they come",
        _consume,
        _consume_arguments,
        _known,
        "With a group, what was printed counts as handled, and --from says where a new group begins. Without one,\n"
        "every event is printed and nothing is remembered. A topic that is not there yet is waited for.",
    ),
    Action("read", "print events of a topic without consuming them", _hinted(_read), _read_arguments, _known),
    Action("topics", "list topics, or show one with its groups", _hinted(_topics), _topics_arguments, _known),
    Action(
        "groups", "list the groups of a topic, and how far each has come", _hinted(_groups), _groups_arguments, _known
    ),
    Action("reset", "let a group go on from another place", _hinted(_reset), _reset_arguments, _known),
    Action("forget", "remove a group", _hinted(_forget), _forget_arguments, _known),
    Action(
        "dead-letters", "list what a group could not handle", _hinted(_dead_letters), _dead_letters_arguments, _known
    ),
    Action("redrive", "deliver dead letters to their group again", _hinted(_redrive), _chosen_arguments, _known),
    Action("drop", "remove dead letters", _hinted(_drop), _drop_arguments, _known),
    Action(
        "retain",
        "say how long a topic keeps its events; 0 is no limit",
        _retain,
        _retain_arguments,
        _known,
        "What is not named stays as it is.",
    ),
    Action("delete", "remove a topic with all that belongs to it", _delete, _delete_arguments, _known),
)
