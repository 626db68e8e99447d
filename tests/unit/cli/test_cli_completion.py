"""What Tab offers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_platform import FakePlatform
from shell import Shell

from micro.cli.catalog import COMMANDS
from micro.domain import names


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
        (["env", "s"], ["set", "set-address"]),
        (["env", "set", ""], ["local"]),
        (["--env", ""], ["local"]),
        (["--env", "local", "stat"], ["status"]),
        (["logs", "reg"], ["registry"]),
        (["logs", "--fo"], ["--follow"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["help", "stat"], ["status"]),
        (["services", "-o", ""], ["table", "json"]),
        (["call", "--output", ""], ["json", "raw"]),
        (["status", "--output=j"], ["--output=json"]),
        (["services", "--env", ""], ["local"]),
        (["run", "--env=l"], ["--env=local"]),
        (["--env=l"], ["--env=local"]),
        (["run", "-e", ""], []),
        (["run", "--name", ""], []),
        (["call", "--metadata", ""], []),
        (["logs", "-n", "5", "reg"], ["registry"]),
        (["logs", "--namespace", "acme", "reg"], ["registry"]),
        (["helloworld", "call", "-o", ""], ["json", "raw"]),
        (["helloworld", "call", "--output=r"], ["--output=raw"]),
        (["helloworld", "call", "-e", ""], ["local"]),
        (["helloworld", "--env", "local", "ca"], ["call"]),
        (["users", "save", "--role="], ["--role=admin", "--role=reader"]),
        (["users", "save", "--role", ""], ["admin", "reader"]),
        (["users", "save", "--active="], ["--active=true", "--active=false"]),
        (["users", "save", "--age", ""], []),
        (["users", "save", "--age=1", "--scor"], ["--scores="]),
        (["nope", ""], []),
        (["helloworld", "nope", "--"], []),
    ],
)
def test_the_next_word(micro: Shell, words: list[str], candidates: list[str]) -> None:
    assert offered(micro, *words) == candidates


def test_what_runs_is_offered_with_its_version_once_that_is_asked_for(micro: Shell, platform: FakePlatform) -> None:
    for version in ("latest", "v2"):
        platform.running[("helloworld", version)] = {"name": "helloworld", "version": version}
    assert offered(micro, "kill", "h") == ["helloworld"]
    assert offered(micro, "kill", "--all", "h") == ["helloworld"]
    assert offered(micro, "logs", "helloworld@") == ["helloworld@latest", "helloworld@v2"]


def test_the_logs_of_every_core_service_are_offered(micro: Shell) -> None:
    assert offered(micro, "logs", "") == sorted(names.CORE_SERVICES)
    assert offered(micro, "logs", "au") == ["auth"]


def test_after_an_at_sign_files_are_offered(micro: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "ann.json").write_text("{}")
    (tmp_path / ".hidden").touch()
    assert offered(micro, "helloworld", "call", "--data", "@") == ["@home/", "@requests/"]
    assert offered(micro, "helloworld", "call", "--data=@requests/a") == ["--data=@requests/ann.json"]
    assert offered(micro, "call", "helloworld", "Helloworld.Call", f"@{tmp_path}/re") == [f"@{tmp_path}/requests/"]
    assert offered(micro, "users", "save", "--photo=@requests/") == ["--photo=@requests/ann.json"]
    assert offered(micro, "helloworld", "call", "--data", "@nowhere/") == []


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
        ("micro services --output=j", ["json"]),
        ("micro services --output=", ["table", "json"]),
        ("micro users save --role=a", ["admin"]),
        ("micro helloworld call -d @scr", ["@script"]),
        ("micro helloworld call --data=@scr", ["@script"]),
    ],
)
def test_bash_completes(lonely: Shell, tmp_path: Path, micro: Shell, line: str, replies: list[str]) -> None:
    """The script in a real bash, with the real command behind it."""
    (tmp_path / "script").write_text(lonely("completion", "bash").out)
    words = re.sub("([=@])(.)", r" \1 \2", re.sub("=$", " =", line)).split(" ")  # as bash breaks them
    words = [word for word in words[:-1] if word] + words[-1:]
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
