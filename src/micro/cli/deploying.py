"""Taking a folder live: check, pack, upload, start, and say what to type next. `run` and `update` share it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from micro.cli import failures, pack, plan, schema, tracebacks, view
from micro.cli.output import Progress
from micro.cli.session import Session
from micro.domain.errors import Error, Kind


def folder(source: str) -> Path:
    """The folder that SOURCE names, checked.

    Raises:
        UsageError: it is not there, is not a folder, or holds no main.py.
    """
    path = Path(source).expanduser()
    if not path.exists():
        remote = "://" in source or source.startswith(("github.com/", "gitlab.com/", "bitbucket.org/"))
        hint = (
            "clone it first, then run the folder" if remote else "give the folder of a service, or make one: micro new"
        )
        raise failures.UsageError(f"no folder {source!r}: {hint}")
    if not path.is_dir():
        raise failures.UsageError(f"{source!r} is a file: give the folder of the service, micro run {path.parent}")
    if not (path / "main.py").is_file():
        raise failures.UsageError(f"no main.py in {source!r}: a service starts there; make one with: micro new NAME")
    return path.resolve()


def create(workload: plan.Workload, archive: pack.Archive, session: Session) -> tuple[dict[str, Any], bool]:
    """Create a service, or update it when it runs already; returns it and whether it was there.

    Raises:
        StartError: it did not start.
    """
    progress = session.progress
    try:
        upload_id = _uploaded(workload, archive, session, progress)
        request = workload.request(upload_id)
        progress.show(f"starting {workload.reference}…")
        try:
            return session.platform.create(request), False
        except Error as error:
            if error.kind is not Kind.ALREADY_EXISTS:
                raise
        progress.show(f"updating {workload.reference}…")
        return session.platform.update(request), True
    except Error as error:
        raise _explained(error, workload, archive) from None
    finally:
        progress.clear()


def update(workload: plan.Workload, archive: pack.Archive, session: Session) -> dict[str, Any]:
    """Replace a running service's code; raises StartError when the new code does not start."""
    progress = session.progress
    try:
        upload_id = _uploaded(workload, archive, session, progress)
        progress.show(f"updating {workload.reference}…")
        return session.platform.update(workload.request(upload_id))
    except Error as error:
        raise _explained(error, workload, archive) from None
    finally:
        progress.clear()


class StartError(Error):
    """The code did not build or start.

    Attributes:
        place: "main.py:3: NameError: …"; empty where the output does not tell.
        output: the reason with the last lines of output.
    """

    def __init__(self, subject: str, place: str, output: str) -> None:
        head, _, rest = output.strip().partition("\n")
        shown = [f"{subject} did not start: {place or head}"]
        if place and head not in place:
            shown.append(textwrap.indent(head, "  "))
        if rest.strip():
            shown.append(textwrap.indent(rest, "  "))
        super().__init__(Kind.FAILED_PRECONDITION, "\n".join(shown))
        self.place = place
        self.output = output


def _explained(error: Error, workload: plan.Workload, archive: pack.Archive) -> Error:
    if error.kind is not Kind.FAILED_PRECONDITION:
        return error
    return StartError(str(workload.reference), tracebacks.place(error.message, set(archive.files)), error.message)


def _uploaded(workload: plan.Workload, archive: pack.Archive, session: Session, progress: Progress) -> str:
    progress.show(f"uploading {workload.reference}…")
    return session.platform.upload(workload.reference.name, archive.data)


def report(service: dict[str, Any], reference: plan.Reference, word: str, session: Session) -> None:
    """Say that it runs, where it answers, how to call it and how to see its logs."""
    out = session.out
    url = view.url(reference.name, session.environment.api_address)
    out.line(f"{out.styled('✔', 'green') + ' ' if out.colour else ''}{reference} {word}")
    rows = [("url", url)] if url else []
    words, flag, body = _example(reference.name, session)
    if words:
        rows.append(("call", " ".join(part for part in ("micro", reference.name, words, flag) if part)))
        if url:
            rows.append(("", f"curl {url}/{words.replace(' ', '/')} -d '{body}'"))
    else:
        rows.append(("call", f"micro {reference.name} --help"))
    rows.append(("logs", f"micro logs {reference}{' -f' if out.terminal else ''}"))
    out.line()
    for label, text in rows:
        out.line(f"  {out.styled(label.ljust(4), 'dim')}  {text}")


def _example(name: str, session: Session) -> tuple[str, str, str]:
    try:
        return plan.example(name, schema.endpoints(session.platform.get_service(name)))
    except Error:
        return "", "", ""  # it runs; how to call it is a courtesy


def watch(
    workload: plan.Workload, path: Path, archive: pack.Archive, changes: Iterable[object], session: Session
) -> None:
    """Update the service each time its files changed; a failure is shown once and the old code goes on serving."""
    shown = ""
    for _ in changes:
        try:
            fresh = pack.pack(path)
            if fresh.data == archive.data:
                continue
            archive = fresh
            update(workload, fresh, session)
        except Error as error:
            text = str(error)
            if text != shown:
                session.err.line(session.err.styled("✘ ", "red") * session.err.colour + text)
                session.err.line(f"the old code of {workload.reference} keeps serving")
            shown = text
        else:
            shown = ""
            session.out.line(f"{session.out.styled('✔ ', 'green') * session.out.colour}{workload.reference} updated")
