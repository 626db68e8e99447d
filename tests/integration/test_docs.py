"""What the documents show is what happens: their transcripts are typed, and the output compared."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import worlds

ROOT = Path(__file__).resolve().parents[2]


def transcript(text: str) -> list[tuple[str, list[str]]]:
    """(command, output lines) of all console blocks, in order. A here-document belongs to its command."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        ends_at = ""
        for line in block.splitlines():
            if ends_at:
                found[-1] = (f"{found[-1][0]}\n{line}", [])
                ends_at = "" if line == ends_at else ends_at
            elif line.startswith("$ "):
                found.append((line[2:], []))
                here = re.search(r"<<'(\w+)'", line)
                ends_at = here.group(1) if here else ""
            else:
                found[-1][1].append(line)
    return found


def matches(shown: list[str], real: str) -> bool:
    """Whether the real output is the one shown; "..." stands for anything within a line, for any lines on its own."""
    parts = [r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"[ ]*\n" for line in shown]
    return re.fullmatch("".join(parts), real if real.endswith("\n") or not real else real + "\n") is not None


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md", "docs/config.md"])
def test_the_transcripts_of_a_page(page: str, tmp_path: Path) -> None:
    with worlds.world(tmp_path) as world:
        world.start()
        follow(page, world, tmp_path)


def follow(page: str, world: worlds.World, cwd: Path) -> None:
    """Type the commands of a page in a world that runs, from a folder on, and compare what they say."""
    steps = transcript((ROOT / page).read_text())
    assert len(steps) >= 4
    env = {**world.env, "PATH": f"{worlds.BIN}:{world.env['PATH']}"}
    for command, shown in steps:
        if command.startswith("cd "):
            cwd = cwd / command[3:]
            continue
        typed = command.replace("127.0.0.1:8080", world.api).replace("127.0.0.1:8081", world.proxy)
        done = subprocess.run(
            ["bash", "-c", typed],
            cwd=cwd,
            env=env,
            text=True,
            timeout=60,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        real = done.stdout.replace(world.api, "127.0.0.1:8080").replace(world.proxy, "127.0.0.1:8081")
        # A port of another length moves the table's columns.
        shown, real = ([re.sub(r" {2,}", "  ", line) for line in shown], re.sub(r" {2,}", "  ", real))
        assert matches(shown, real), f"{page}: $ {command}\nshown:\n" + "\n".join(shown) + f"\nreal:\n{real}"


def test_every_path_and_command_that_the_pages_name_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages:
        for task in re.findall(r"(?:`|^    )make ([a-z]+)\b", page.read_text(), re.MULTILINE):
            assert task in targets, f"{page.name} names make {task}"
