"""What Tab offers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Shell

from micro.cli.catalog import COMMANDS


def offered(shell: Shell, *words: str) -> list[str]:
    result = shell("__complete", "--", *words)
    assert (result.code, result.err) == (0, "")
    return result.out.splitlines()


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["ser"], ["server", "services"]),
        (["hel"], ["helloworld"]),
        (["helloworld", ""], ["call", "ping_pong", "stream"]),
        (["users", "accounts", ""], ["count", "list"]),
        (["helloworld", "call", "--na"], ["--name=", "--namespace"]),
        (["users", "save", "--act"], ["--active"]),
        (["users", "save", "--user_address_"], ["--user_address_city=", "--user_address_zip_code="]),
        (["call", "us"], ["users"]),
        (["call", "helloworld", "Helloworld.P"], ["Helloworld.PingPong"]),
        (["env", "s"], ["set"]),
        (["env", "set", ""], ["local"]),
        (["--env", ""], ["local"]),
        (["--env", "local", "stat"], ["status"]),
        (["logs", "reg"], ["registry"]),
        (["logs", "--fo"], ["--follow"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["nope", ""], []),
        (["helloworld", "nope", "--"], []),
    ],
)
def test_the_next_word(micro: Shell, words: list[str], candidates: list[str]) -> None:
    assert offered(micro, *words) == candidates


def test_without_a_server_the_commands_are_offered_and_nothing_is_said(lonely: Shell) -> None:
    assert offered(lonely, "") == sorted(COMMANDS)
    assert offered(lonely, "helloworld", "") == []
    assert offered(lonely, "--env", "nope", "call", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_accepts_its_script(lonely: Shell, tmp_path: Path, shell: str) -> None:
    result = lonely("completion", shell)
    assert result.code == 0
    assert "micro __complete -- " in result.out
    if program := shutil.which(shell):
        (tmp_path / "script").write_text(result.out)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("micro helloworld ", ["call", "ping_pong", "stream"]),
        ("micro users save --user_n", ["--user_name="]),
        ("micro zzz", []),
    ],
)
def test_bash_completes(lonely: Shell, tmp_path: Path, micro: Shell, line: str, replies: list[str]) -> None:
    """The script in a real bash, with the real command behind it."""
    (tmp_path / "script").write_text(lonely("completion", "bash").out)
    words = line.split(" ")
    array = " ".join(f"'{word}'" for word in words)
    program = (
        f"compopt() {{ :; }}; . {tmp_path}/script; COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({array});"
        f"COMP_CWORD={len(words) - 1}; _micro; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    import sys

    environ = micro.environ | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", program], env=environ, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.split() == replies, done.stderr
