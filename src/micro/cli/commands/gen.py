"""`micro gen [DIR]`: Python from contracts."""

from __future__ import annotations

import argparse
from pathlib import Path

from micro.cli import failures
from micro.cli.session import Session
from micro.domain.errors import Error


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
    try:
        codegen.generate(root, root, contracts)
    except Error as error:
        session.err.line(f"micro: {error}")
        return failures.FAILED
    for contract in contracts:
        stem = contract.relative_to(root).with_suffix("").as_posix()
        made = [name for name in (f"{stem}_pb.py", f"{stem}_connect.py") if (root / name).is_file()]
        session.out.line(f"{contract}: {', '.join(made)}")
    return failures.OK
