"""`micro gen [DIR]`: Python from contracts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from micro.cli import failures
from micro.cli.session import Session
from micro.domain.errors import Error

_LINES = 10
"""Of what is wrong with the contracts."""

_NAMED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", default=".", help="of the service [.]; its proto/ is compiled"
    )


def run(args: argparse.Namespace, session: Session) -> int:
    from micro.rpc import codegen

    folder = Path(args.folder).expanduser()
    if not folder.is_dir():
        raise failures.UsageError(f"no folder {args.folder!r}")
    root = folder / "proto" if (folder / "proto").is_dir() else folder
    contracts = sorted(path for path in root.rglob("*.proto") if not {".venv", "node_modules"} & set(path.parts))
    if not contracts:
        raise failures.UsageError(f"no .proto files in {root}: write one, or start with: micro new NAME")
    if services := _services(root, contracts):
        # Contracts of one service may import each other; those of others have the same names for other things.
        raise failures.UsageError(
            f"{args.folder} has {_some(services)} in it: make the code of one, "
            f"micro gen {Path(args.folder, services[0])}"
        )
    try:
        codegen.generate(root, root, contracts)
    except Error as error:
        first, *rest = str(error).splitlines()
        session.err.line(f"micro: {first}")
        for line in rest[: _LINES - 1]:
            session.err.line(line)
        if len(rest) >= _LINES:
            session.err.line(f"… and {len(rest) - _LINES + 1} more lines like these")
        return failures.FAILED
    for contract in contracts:
        stem = contract.relative_to(root).with_suffix("").as_posix()
        made = [name for name in (f"{stem}_pb.py", f"{stem}_connect.py") if (root / name).is_file()]
        session.out.line(f"{contract}: {', '.join(made)}")
    return failures.OK


def _services(root: Path, contracts: Sequence[Path]) -> list[str]:
    """The folders below the root that have a proto/ of their own."""
    found = {path.relative_to(root).parts for path in contracts}
    return sorted({"/".join(parts[: parts.index("proto")]) for parts in found if "proto" in parts[1:-1]})


def _some(services: Sequence[str]) -> str:
    """What is there, in a few words."""
    if len(services) == 1:
        return f"the service {services[0]}"
    more = f" and {len(services) - _NAMED} more" if len(services) > _NAMED else ""
    return f"the services {', '.join(services[:_NAMED])}{more}"
