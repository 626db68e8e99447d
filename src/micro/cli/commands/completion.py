"""`micro completion bash|zsh|fish`: the script that makes Tab work."""

from __future__ import annotations

import argparse
from importlib import resources

from micro.cli import failures
from micro.cli.session import Session

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
    parser.epilog = (
        'bash   eval "$(micro completion bash)"           in ~/.bashrc\n'
        'zsh    eval "$(micro completion zsh)"            in ~/.zshrc, after compinit\n'
        "fish   micro completion fish | source            in ~/.config/fish/config.fish"
    )


def run(args: argparse.Namespace, session: Session) -> int:
    script = resources.files("micro.cli").joinpath("templates", f"completion.{args.shell}").read_text("utf-8")
    session.out.stream.write(script)
    return failures.OK
