"""`micro blob`: files in the platform's store, of any size, by key."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from micro.cli import failures, records
from micro.cli.actions import Action, add_output, add_text_output, word
from micro.cli.output import aligned
from micro.cli.platform import PIECE
from micro.cli.session import Session
from micro.domain.errors import Error, Kind

_PATIENCE = 600.0
"""Seconds that the server may take to put a large blob on its disk."""

_SHOWN = 0.1
"""Seconds between two changes of what is shown of a transfer."""


class _Meter:
    """Bytes that went by, shown on a terminal."""

    def __init__(self, session: Session, verb: str, size: int = 0) -> None:
        self._session = session
        self._verb = verb
        self._size = size
        self._done = 0
        self._shown = 0.0

    def add(self, count: int) -> None:
        self._done += count
        now = self._session.monotonic()
        if now - self._shown >= _SHOWN:
            self._shown = now
            share = f" of {human(self._size)}, {100 * self._done // self._size}%" if self._size else ""
            self._session.progress.show(f"{self._verb} {human(self._done)}{share}")

    def end(self) -> None:
        if self._shown and self._session.err.terminal:
            self._session.err.stream.write("\r\x1b[2K")
            self._session.err.stream.flush()


def human(size: int) -> str:
    """A size as people say it: "3.1 MB"."""
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"


def _write_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="of the blob, such as photos/ann.png")
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="what to keep [standard input]")
    parser.add_argument("--type", metavar="TYPE", default="", help="what it is [told by the name of file or key]")
    parser.add_argument(
        "--metadata", metavar="KEY=VALUE", action="append", default=[], help="attach a pair; repeatable"
    )
    parser.add_argument("--public", action="store_true", help="let everybody read it at /blob/NAMESPACE/KEY")
    parser.add_argument("--checksum", metavar="SHA256", default="", help="that the bytes must have")
    add_text_output(parser)


def _write(args: argparse.Namespace, session: Session) -> int:
    from micro.rpc.gen.micro.store.v1 import store_pb as pb

    options = pb.BlobOptions(
        namespace=session.namespace,
        content_type=args.type or _guessed(args.key if args.file == "-" else args.file),
        metadata=dict(_pair(text) for text in args.metadata),
        public=args.public,
        checksum=args.checksum,
    )
    head = pb.BlobStoreWriteRequest(key=args.key, options=options)

    def messages(first: bytes, file: BinaryIO, meter: _Meter) -> Iterator[bytes]:
        yield head.to_binary()
        piece = first
        while piece:
            meter.add(len(piece))
            yield pb.BlobStoreWriteRequest(data=piece).to_binary()
            piece = file.read(PIECE)

    with _source(args.file, session) as (file, size):
        first = file.read(PIECE)
        if not first and args.file == "-":
            hint = "to keep an empty blob, name an empty file"
            raise failures.UsageError(f"FILE is empty: nothing came on standard input; {hint}")
        meter = _Meter(session, "sent", size)
        try:
            answers = list(session.platform.blob_stream("Write", messages(first, file, meter), _PATIENCE))
        finally:
            meter.end()
    blob = _told(pb.BlobStoreWriteResponse.from_binary(answers[-1]).blob or pb.Blob())
    if args.output == "json":
        session.out.json(blob)
        return failures.OK
    session.err.line(f"{_line(blob['key'])} written, {human(blob['size'])}")
    return failures.OK


@contextlib.contextmanager
def _source(name: str, session: Session) -> Iterator[tuple[BinaryIO, int]]:
    """What to send and its size, 0 where that is not known. Raises UsageError."""
    if name == "-":
        if session.stdin.isatty():
            raise failures.UsageError("nothing to keep: give a FILE, or pipe something in")
        yield session.stdin.buffer, 0
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise failures.UsageError(f"cannot read {name}: {error.strerror}") from None
    with file:
        yield file, os.fstat(file.fileno()).st_size


def _guessed(name: str) -> str:
    import mimetypes

    kind, encoding = mimetypes.guess_type(name, strict=False)
    return "application/gzip" if encoding == "gzip" else kind if kind and not encoding else ""


def _pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise failures.UsageError(f"--metadata takes KEY=VALUE, not {text!r}")
    return name, value


def _read_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="of the blob")
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="where to put it [standard output]")
    parser.add_argument("--offset", metavar="N", type=_number, default=0, help="first byte [0]")
    parser.add_argument("--length", metavar="N", type=_number, default=0, help="how many bytes [all]")


def _read(args: argparse.Namespace, session: Session) -> int:
    if args.file == "-" and session.out.terminal:
        raise failures.UsageError(f"a terminal is no place for it: micro blob read {args.key} FILE, or pipe it on")
    from micro.rpc.gen.micro.store.v1 import store_pb as pb

    request = pb.BlobStoreReadRequest(key=args.key, namespace=session.namespace, offset=args.offset, length=args.length)
    whole = not (args.offset or args.length)
    answers = map(
        pb.BlobStoreReadResponse.from_binary,
        session.platform.blob_stream("Read", [request.to_binary()], _PATIENCE),
    )
    head = next(answers).blob or pb.Blob()
    meter = _Meter(session, "received", head.size if whole else 0)
    digest = hashlib.sha256()
    try:
        with _target(args.file, session) as file:
            for answer in answers:
                digest.update(answer.data)
                file.write(answer.data)
                meter.add(len(answer.data))
            if whole and digest.hexdigest() != head.checksum:
                raise Error(Kind.DATA_LOSS, f"{args.key} arrived damaged: read it again")
    finally:
        meter.end()
    if args.file != "-":
        session.err.line(f"{args.key} is in {args.file}")
    return failures.OK


@contextlib.contextmanager
def _target(name: str, session: Session) -> Iterator[BinaryIO]:
    """Where to write; a file takes its name when all of it is there. Raises UsageError."""
    if name == "-":
        session.out.stream.flush()
        yield session.out.stream.buffer
        session.out.stream.buffer.flush()
        return
    path = Path(name)
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name[:100]}-", dir=path.parent)
    except OSError as error:
        raise failures.UsageError(f"cannot write {name}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        Path(draft).chmod(0o666 & ~mask)
        Path(draft).replace(path)
    except OSError as error:
        raise failures.UsageError(f"cannot write {name}: {error.strerror}") from None
    finally:
        Path(draft).unlink(missing_ok=True)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"takes a number, 0 or more, not {text!r}")
    return int(text)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="PREFIX", nargs="?", default="", help="what keys begin with [all keys]")
    parser.add_argument("-p", "--prefix", metavar="PREFIX", default="", help="the same, as a flag")
    parser.add_argument("-l", "--limit", metavar="N", type=_number, default=0, help="how many at most [all]")
    parser.add_argument("-v", "--verbose", action="store_true", help="show key, size, type and who may read it")
    add_output(parser)


def _list(args: argparse.Namespace, session: Session) -> int:
    pages = _pages(args, session)
    if args.output == "json":
        session.out.json(list(pages))
        return failures.OK
    first = next(pages, None)
    found = itertools.chain([first], pages) if first else ()
    if not first:
        prefix = args.key or args.prefix
        such = f" whose key begins with {prefix!r}" if prefix else ""
        session.err.line(f"namespace {session.namespace} has no blobs{such}")
    elif args.verbose:
        rows = [
            (_line(one["key"]), human(one["size"]), _line(one["content_type"]), _access(one["public"])) for one in found
        ]
        session.out.table(("KEY", "SIZE", "TYPE", "ACCESS"), rows)
    else:
        for one in found:
            session.out.line(_line(one["key"]) if session.out.terminal else one["key"])
    return failures.OK


def _pages(args: argparse.Namespace, session: Session) -> Iterator[dict[str, Any]]:
    if args.key and args.prefix:
        raise failures.UsageError(f"two prefixes, {args.key!r} and {args.prefix!r}: give one")
    left, after, prefix = args.limit, "", args.key or args.prefix
    while True:
        request = {"namespace": session.namespace, "prefix": prefix, "after": after, "limit": min(left, 1000)}
        page = session.platform.store("BlobStore/List", request)
        found = page.get("blobs", [])
        yield from map(_record, found)
        left, after = left - len(found), page.get("cursor", "")
        if not after or (args.limit and left <= 0):
            return


def _stat(args: argparse.Namespace, session: Session) -> int:
    answer = session.platform.store("BlobStore/Stat", {"key": args.key, "namespace": session.namespace})
    blob = _record(answer["blob"])
    if args.output == "json":
        session.out.json(blob)
        return failures.OK
    rows = {
        "key": blob["key"],
        "size": f"{human(blob['size'])}" + (f", {blob['size']:,} bytes" if blob["size"] >= 1000 else ""),
        "type": blob["content_type"],
        "access": _access(blob["public"]),
        "modified": dt.datetime.fromisoformat(blob["modified"]).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "sha256": blob["checksum"],
    } | {f"metadata {name}": value for name, value in sorted(blob["metadata"].items())}
    for row in aligned([(_line(name), _line(value)) for name, value in rows.items()]):
        session.out.line(row)
    return failures.OK


def _line(text: str) -> str:
    return records.printable(text, line=True)


def _access(public: bool) -> str:
    return "public" if public else "private"


def _stat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="of the blob")
    add_text_output(parser)


def _delete(args: argparse.Namespace, session: Session) -> int:
    answer = session.platform.store("BlobStore/Delete", {"key": args.key, "namespace": session.namespace})
    if not answer.get("deleted"):
        session.err.line(f"there was no blob {args.key!r}")
    return failures.OK


def _record(blob: Mapping[str, Any]) -> dict[str, Any]:
    """A blob as `-o json` promises it."""
    return {
        "key": blob.get("key", ""),
        "size": int(blob.get("size", 0)),
        "checksum": blob.get("checksum", ""),
        "content_type": blob.get("contentType", ""),
        "public": bool(blob.get("public", False)),
        "modified": _time(int(blob.get("modified", 0))),
        "metadata": dict(blob.get("metadata", {})),
    }


def _time(milliseconds: int) -> str:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec="milliseconds")


def _told(blob: Any) -> dict[str, Any]:
    """The same of the message."""
    return {
        "key": blob.key,
        "size": blob.size,
        "checksum": blob.checksum,
        "content_type": blob.content_type,
        "public": blob.public,
        "modified": _time(blob.modified),
        "metadata": dict(blob.metadata),
    }


def _keys(session: Session) -> list[str]:
    found = session.platform.store("BlobStore/List", {"namespace": session.namespace, "limit": 100}, 1.0)
    return [one.get("key", "") for one in found.get("blobs", [])]


ACTIONS = (
    Action("write", "keep a file, or what is piped in", _write, _write_arguments),
    Action("read", "get a blob as a file, or pipe it on", _read, _read_arguments, _keys),
    Action("list", "list the blobs", _list, _list_arguments),
    Action("stat", "show what is known of a blob", _stat, _stat_arguments, _keys),
    Action("delete", "remove a blob", _delete, word("KEY", "of the blob; one that is absent is no error"), _keys),
)
