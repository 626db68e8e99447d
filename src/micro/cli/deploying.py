"""Taking a folder live: check, pack, upload, start, and say what to type next. `run` and `update` share it."""

from __future__ import annotations

import contextlib
import re
import textwrap
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from micro.cli import failures, pack, plan, schema, tracebacks, view
from micro.cli.output import Progress
from micro.cli.session import Session
from micro.domain import names
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


def create(workload: plan.Workload, archive: pack.Archive, session: Session) -> bool:
    """Create a service, or update it when it runs already; returns whether it was there.

    Raises:
        StartError: it did not start.
    """
    progress = session.progress
    try:
        upload_id = _uploaded(workload, archive, session, progress)
        request = workload.request(upload_id)
        doing = (
            f"the server goes on starting {workload.reference}; see: {session.micro} status {workload.reference.name}"
        )
        with _interruptible(session, progress, doing), _Following(workload.reference, session):
            try:
                session.platform.create(request)
            except Error as error:
                if error.kind is not Kind.ALREADY_EXISTS:
                    raise
                session.platform.update(request)
                return True
            return False
    except Error as error:
        raise _explained(error, workload, archive, session) from None
    finally:
        progress.clear()


def update(workload: plan.Workload, archive: pack.Archive, session: Session) -> None:
    """Replace a running service's code; raises StartError when the new code does not start."""
    progress = session.progress
    try:
        upload_id = _uploaded(workload, archive, session, progress)
        doing = (
            f"the server goes on updating {workload.reference}; see: {session.micro} status {workload.reference.name}"
        )
        with _interruptible(session, progress, doing), _Following(workload.reference, session):
            session.platform.update(workload.request(upload_id))
    except Error as error:
        raise _explained(error, workload, archive, session) from None
    finally:
        progress.clear()


@contextlib.contextmanager
def _interruptible(session: Session, progress: Progress, told: str) -> Iterator[None]:
    """Say what Ctrl-C leaves behind when it comes within a `with`."""
    try:
        yield
    except KeyboardInterrupt:
        progress.clear()
        session.err.line(told)
        raise


class _Following:
    """Shows on a terminal what the runtime is doing with a service, for as long as a `with` lasts."""

    def __init__(self, reference: plan.Reference, session: Session) -> None:
        self._reference = reference
        self._session = session
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="micro-progress", daemon=True)

    def __enter__(self) -> None:
        if self._session.err.terminal:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _follow(self) -> None:
        progress = self._session.progress
        progress.show(f"starting {self._reference}…")
        while not self._over.wait(0.3):
            try:
                services = self._session.platform.read(self._reference.name, self._reference.version)
            except Error:
                return  # the call that waits will say what is wrong
            state = view.status(str(services[0].get("status", ""))) if services else ""
            if state in ("pending", "building", "starting"):
                progress.show(f"{state} {self._reference}…")


_PLACED = re.compile(r" \([^()]*, line \d+\)$")


class StartError(Error):
    """The code did not build or start; says so in several lines, the place first.

    Attributes:
        place: "main.py:3: NameError: …"; empty where the output does not tell.
        output: the reason with the last lines of output.
    """

    def __init__(self, subject: str, place: str, output: str, *, old_serves: bool) -> None:
        head, _, rest = output.strip().partition("\n")
        reason = head.partition(" did not start: ")[2] or head
        said = place.partition(": ")[2]
        if place and not said:
            said = _PLACED.sub("", reason)
            place = f"{place}: {said}"
        shown = [f"{subject} did not start: {place or reason}"]
        if place and (not said or said not in reason):
            shown.append(f"  {reason}")
        if rest.strip():
            shown.append(textwrap.indent(rest, "  "))
        if old_serves:
            shown.append(f"the old code of {subject} keeps serving")
        super().__init__(Kind.FAILED_PRECONDITION, "\n".join(shown))
        self.place = place
        self.output = output


def _explained(error: Error, workload: plan.Workload, archive: pack.Archive, session: Session) -> Error:
    if error.kind is not Kind.FAILED_PRECONDITION:
        return error
    files = set(archive.files)
    output = tracebacks.localised(error.message, files)
    serving = _serves(workload.reference, session)
    return StartError(str(workload.reference), tracebacks.place(output, files), output, old_serves=serving)


def _serves(reference: plan.Reference, session: Session) -> bool:
    try:
        services = session.platform.read(reference.name, reference.version)
    except Error:
        return False
    return any(view.record(one, "")["instances"] for one in services)


def stale(source: Path) -> list[Path]:
    """Contracts that were changed after their code was made."""
    found = []
    for contract in sorted((source / "proto").rglob("*.proto")):
        code = contract.with_name(f"{contract.stem}_pb.py")
        # A checkout writes both at about the same time, in any order.
        if code.is_file() and code.stat().st_mtime + 5 < contract.stat().st_mtime:
            found.append(contract.relative_to(source))
    return found


def _uploaded(workload: plan.Workload, archive: pack.Archive, session: Session, progress: Progress) -> str:
    for contract in stale(Path(workload.source)):
        session.err.line(f"note: {contract} is newer than the code made from it; to take it in: micro gen")
    progress.show(f"uploading {workload.reference}…")
    with _interruptible(session, progress, f"{workload.reference} was not uploaded: nothing has changed"):
        return session.platform.upload(workload.reference.name, archive.data)


def report(reference: plan.Reference, word: str, session: Session) -> None:
    """Say that it runs, where it answers, how to call it and how to see its logs."""
    out = session.out
    out.line(f"{out.styled('✓', 'green') + ' ' if out.colour else ''}{reference} {word}")
    services = session.platform.registered(reference.name)
    known = schema.contract(services) if services else []
    url = view.url(reference.name, session.environment.api_address) if known or not services else ""
    rows = [("url", url)] if url else []
    first = plan.example(reference.name, known)
    if services and not known:
        rows.append(("does", f"{session.micro} services {reference.name}"))
    else:
        rows.append(("call", f"{session.micro} {first.command}"))
        if known and url:
            header = (
                "" if session.namespace == names.DEFAULT_NAMESPACE else f" -H 'micro-namespace: {session.namespace}'"
            )
            if session.environment.accounts:
                header += f' -H "authorization: Bearer $({session.micro} user token)"'
            header += _certified(session)
            rows.append(("", f"curl {url}/{first.path}{header} -d '{first.body}'"))
    rows.append(("logs", f"{session.micro} logs {reference}{' -f' if out.terminal else ''}"))
    out.line()
    for label, text in rows:
        out.line(f"  {out.styled(label.ljust(4), 'dim')}  {text}")


def _certified(session: Session) -> str:
    """What curl is told where the gateway asks for a certificate."""
    import shlex

    tls = session.environment.tls
    shown = {"--cert": tls.cert, "--key": tls.key if tls.key != tls.cert else ""}
    return "".join(f" {flag} {shlex.quote(path)}" for flag, path in shown.items() if path)


def watch(
    workload: plan.Workload,
    path: Path,
    archive: pack.Archive,
    changes: Iterable[object],
    session: Session,
    shown: str = "",
) -> None:
    """Update the service each time its files changed; a failure is shown once and the old code goes on serving.

    What was saved while the server is away is taken in as soon as it answers again.

    Args:
        workload: what runs.
        path: the folder.
        archive: what was uploaded last.
        changes: yields each time that something was saved, and something empty now and then when nothing was.
        session: gives the way and the streams.
        shown: the failure that the user has seen last.
    """
    taken, waiting, ours = archive.data, False, session.environment.trusted
    for saved in changes:
        if not (_answers(workload.reference, session, ours=ours) if waiting else saved):
            continue
        back, waiting = waiting, False
        try:
            fresh = pack.pack(path)
            if fresh.data == taken:
                continue
            taken = fresh.data
            update(workload, fresh, session)
        except Error as error:
            waiting = _away(error, session)
            text = f"{error}; this goes on when it answers again" if waiting else str(error)
            # Whether it has taken in what was sent last, nobody can say.
            taken = b"" if waiting else taken
            if text != shown:
                session.err.line(session.err.styled("✘ ", "red") * session.err.colour + text)
            shown = text
        else:
            shown = ""
            said = f"{workload.reference} updated{': the server is back' if back else ''}"
            session.out.line(f"{session.out.styled('✓ ', 'green') * session.out.colour}{said}")


def _away(error: Error, session: Session) -> bool:
    """Whether an update failed for want of the server, or of one that has come far enough to know who asks."""
    if error.kind in (Kind.UNAUTHENTICATED, Kind.PERMISSION_DENIED):
        return not session.environment.trusted
    return failures.passes(error)


def _answers(reference: plan.Reference, session: Session, *, ours: bool) -> bool:
    """Whether the server can be asked again; where it was this home's, no other will do."""
    if ours and not session.environment.trusted:
        return False
    try:
        session.platform.read(reference.name, reference.version)
    except Error as error:
        return not _away(error, session)
    return True
