"""The page of settings, the help of `micro server` and the code say the same."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from micro.cli import arguments
from micro.cli.commands import server
from micro.server import profiles

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "settings.md").read_text()
NOTHING = ("off", "none", "its own", "the system's", "that of the registry")
ONCE = {"reset_admin", "adopt_store"}
"""Of one start: no variable says so."""


def rows(heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> str:
    return cell.strip("`")


def flags() -> dict[str, argparse.Action]:
    parser = arguments.Parser("server", "")
    server.add_arguments(parser)
    return {action.dest: action for action in parser._actions}


def test_every_setting_of_the_server_is_told_with_its_flag_and_variable() -> None:
    named = {code(variable) or code(flag): code(flag) for flag, variable, _, _ in rows("The server")}
    known = {f"MICRO_{name.upper()}" for name in profiles.PROFILES["local"]}
    own = {"MICRO_HOME", "MICRO_PROFILE", "MICRO_CONFIG_SECRET_KEY"}
    assert set(named) == known | own | {f"--{name.replace('_', '-')}" for name in ONCE}
    told = {flag.removeprefix("--").replace("-", "_") for flag in named.values() if flag}
    assert told == set(flags())
    for variable, flag in named.items():
        if flag and variable.startswith("MICRO_"):
            assert variable == f"MICRO_{flag.removeprefix('--').replace('-', '_').upper()}"


def test_the_defaults_are_those_of_the_code() -> None:
    local = profiles.PROFILES["local"]
    for _, variable, default, _ in rows("The server"):
        name = code(variable).removeprefix("MICRO_").lower()
        if name in local and name != "gateway_workers":
            real = f"{local[name]:g}" if isinstance(local[name], float) else str(local[name] or "")
            assert real == ("" if default in NOTHING else code(default)), name


def test_help_names_all_of_them() -> None:
    parser = arguments.Parser("server", "")
    server.add_arguments(parser)
    for name, action in flags().items():
        assert (f"(MICRO_{name.upper()})" in (action.help or "")) == (name not in ONCE), name
    said = parser.epilog or ""
    listed = set(re.findall(r"MICRO_[A-Z_]+", said))
    without = {f"MICRO_{name.upper()}" for name in profiles.PROFILES["local"] if name not in flags()}
    assert listed == without | {"MICRO_HOME", "MICRO_CONFIG_SECRET_KEY"}


def test_no_variable_is_in_the_code_that_is_not_on_the_page() -> None:
    files = [file for file in (ROOT / "src/micro").rglob("*.py") if "gen" not in file.parts]
    found = {name for file in files for name in re.findall(r"\bMICRO_[A-Z]+(?:_[A-Z]+)*\b", file.read_text())}
    page = set(re.findall(r"\bMICRO_[A-Z]+(?:_[A-Z]+)*\b", PAGE))
    assert found <= page
    assert page <= found | {f"MICRO_{name.upper()}" for name in (*profiles.PROFILES["local"], "profile")}
