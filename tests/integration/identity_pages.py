"""Pages about identity, typed as they stand: whoever is asked for a secret types the one that was shown before."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import worlds
from test_docs import matches, transcript

ROOT = Path(__file__).resolve().parents[2]


def follow(page: str, world: worlds.World, cwd: Path, secrets: dict[str, str], places: Mapping[str, str]) -> None:
    """Type the commands of a page, and compare what they say.

    Args:
        secrets: by account; grows by those that the commands show.
        places: what stands in the page for what is here.
    """
    steps = transcript((ROOT / page).read_text())
    assert len(steps) >= 4
    env = {**world.env, "PATH": f"{worlds.BIN}:{world.env['PATH']}"}
    for command, shown in steps:
        typed, stdin = command, ""
        for there, here in places.items():
            typed = typed.replace(there, here)
        if asked := re.search(r" login --username (\w+)", command):
            typed, stdin = f"{typed} --password-stdin", f"{secrets[asked[1]]}\n"
        done = subprocess.run(
            ["bash", "-c", typed], cwd=cwd, env=env, input=stdin, text=True, timeout=60, capture_output=True
        )
        said = done.stdout + done.stderr
        if (made := re.match(r"micro auth create account (\w+)", command)) and (
            told := re.search(r"secret +(\S+)", said)
        ):
            secrets[made[1]] = told[1]
        for there, here in places.items():
            said = said.replace(here, there)
        # What is random, or as long as an address here, moves a table's columns.
        shown, said = [re.sub(r" {2,}", "  ", line) for line in shown], re.sub(r" {2,}", "  ", said)
        assert matches(shown, said), f"{page}: $ {command}\nshown:\n" + "\n".join(shown) + f"\nreal:\n{said}"
