"""`micro health`: whether every core service is ready."""

from __future__ import annotations

import argparse
import contextlib
from typing import NamedTuple

from micro.cli import failures
from micro.cli.platform import Platform
from micro.cli.session import Session
from micro.domain.errors import Error, Kind
from micro.domain.record import Durability

_CORE = ("registry", "auth", "network", "runtime", "store", "config", "broker", "events")
_KEEPING = ("registry", "store", "events")
_OF_NAMESPACES = ("store", "config")
_DATA_PLANES = ("mesh", "api", "proxy")
_READY, _NOT_READY, _DOWN = "ready", "not ready", "down"
_PAUSE = 0.2
_APART = "; a batch is published one by one, not all or nothing: NATS is older than 2.12.1"
_DAMAGED = "a database is damaged"


class Check(NamedTuple):
    """What is known of one core service."""

    name: str
    status: str
    detail: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", metavar="SECONDS", type=_seconds, default=0.0, help="wait until all are ready")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json is for programs")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"takes seconds, not {text!r}")
    return seconds


def run(args: argparse.Namespace, session: Session) -> int:
    """Print a line per core service; 0 only when all are ready."""
    deadline = session.monotonic() + args.wait
    while True:
        failure: failures.UnreachableError | None = None
        checks: list[Check] = []
        try:
            checks = checked(session)
        except failures.UnreachableError as error:
            failure = error
        if checks and all(check.status == _READY for check in checks):
            break
        if session.monotonic() >= deadline:
            if failure:
                raise failure
            break
        session.sleep(_PAUSE)
    checks = [_durable(session.platform, check) for check in checks]
    checks = [_named(session, check) if check.detail == _DAMAGED else check for check in checks]
    if args.output == "json":
        session.out.json([check._asdict() for check in checks])
    else:
        session.out.table(("NAME", "STATUS", "DETAIL"), checks, status=1)
    return failures.OK if all(check.status == _READY for check in checks) else failures.FAILED


def checked(session: Session) -> list[Check]:
    """Ask every core service; raises UnreachableError when nobody listens at all."""
    # Asked first: what a server writes down while these are asked is of use to the next attempt only.
    trusted = session.environment.trusted
    platform = session.platform
    found = {name: _asked(platform, name) for name in _CORE}
    registry = found["registry"]
    nats = Check(
        "nats", registry.status, "" if registry.status == _READY else "the registry, which needs it, is not ready"
    )
    return [nats, *found.values(), *_data_planes(platform, found["network"], trusted)]


def _asked(platform: Platform, name: str) -> Check:
    try:
        status = platform.check(name)
    except failures.UnreachableError as error:
        if error.message.startswith(("no server at", "no secure connection to")):
            raise
        return Check(name, _DOWN, error.message)
    except Error as error:
        return Check(name, _DOWN, error.message)
    if status != "SERVING":
        return Check(name, _NOT_READY, status.lower().replace("_", " "))
    damaged = name in _OF_NAMESPACES and platform.damaged(name)
    return Check(name, _NOT_READY, _DAMAGED) if damaged else Check(name, _READY)


def _named(session: Session, check: Check) -> Check:
    """With the names of the databases that are damaged, of those that may be seen. The others are served."""
    platform, every = session.platform, {session.namespace}
    with contextlib.suppress(Error):
        every |= {str(one["name"]) for one in platform.auth("Namespaces/List", {}).get("namespaces", [])}
    names = [name for name in sorted(every) if platform.is_damaged(check.name, name)]
    which = f"the database of {', '.join(names)}" if names else "a database of another namespace"
    return check._replace(detail=f"{which} is damaged; see: {session.micro} logs {check.name}")


def _durable(platform: Platform, check: Check) -> Check:
    """With what an acknowledged change outlives, for those that keep any and say so."""
    if check.name not in _KEEPING or check.status != _READY:
        return check
    told = platform.metadata(check.name)
    name = told.get("durability", "").upper()
    kept = Durability.__members__.get(name)
    apart = _APART if told.get("batches") == "apart" else ""
    return check._replace(detail=f"durability {name.lower()}: {kept.value}{apart}") if kept else check


def _data_planes(platform: Platform, network: Check, trusted: bool) -> list[Check]:
    if not trusted:
        # It listens before it is ready, and nobody is logged in to a server that has not said where it is.
        return [
            Check(name, _NOT_READY, "the server of this home is not up, or still starting") for name in _DATA_PLANES
        ]
    try:
        proxies = {str(one.get("id", "")): one for one in platform.proxies()}
    except Error as error:
        if error.kind in (Kind.UNAUTHENTICATED, Kind.PERMISSION_DENIED):
            return [Check("proxy", _READY, "it answers; mesh and api are shown to admins of namespace micro")]
        return [Check(name, _NOT_READY, f"network, which feeds it, is {network.status}") for name in _DATA_PLANES]
    return [_data_plane(name, proxies.get(name)) for name in _DATA_PLANES]


def _data_plane(name: str, proxy: dict[str, object] | None) -> Check:
    if proxy is None:
        return Check(name, _DOWN, "not connected to network")
    if proxy.get("error"):
        return Check(name, _NOT_READY, f"refused its routes: {proxy['error']}")
    return Check(name, _READY)
