"""`micro new NAME`: a service that runs as it is."""

from __future__ import annotations

import argparse
import shlex
import shutil
from importlib import resources
from pathlib import Path

from micro.cli import failures, scaffold
from micro.cli.catalog import TAKEN
from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the service: lower-case letters, digits, hyphens")
    parser.add_argument("--path", metavar="DIR", default=".", help="folder to make it in [.]")


def run(args: argparse.Namespace, session: Session) -> int:
    new = scaffold.named(args.name)
    parent = Path(args.path).expanduser()
    if not parent.is_dir():
        raise failures.UsageError(f"no folder {args.path!r} to make {new.name!r} in")
    folder = parent / new.name
    if folder.exists():
        raise failures.UsageError(f"{folder} already exists: choose another name, or remove it")
    made = make(new, folder)
    for line in scaffold.tree(str(folder), made):
        session.out.line(line)
    session.out.line()
    session.out.line(session.out.styled("next:", "dim"))
    session.out.line(f"  cd {shlex.quote(str(folder))}")
    session.out.line("  micro run .")
    if new.name in TAKEN:
        call = scaffold.typed(new).call
        session.err.line(f"note: micro {new.name} means something else, so this service is called so: {call}")
    return failures.OK


def make(new: scaffold.Names, folder: Path) -> list[str]:
    """Write the service; on failure nothing is left behind. Returns the files, relative to the folder."""
    from micro.rpc import codegen

    home = resources.files("micro.cli").joinpath("templates")
    templates = {name: home.joinpath(f"{name}.txt").read_text("utf-8") for name in scaffold.TEMPLATES}
    try:
        (folder / "proto").mkdir(parents=True)
        for path, content in scaffold.files(new, templates).items():
            (folder / path).write_text(content, "utf-8")
        codegen.generate(folder / "proto", folder / "proto")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise failures.UsageError(f"cannot write to {folder}: {error.strerror}") from None
        raise
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
