"""What help looks like, kept as golden files, and what it costs to start.

MICRO_GOLDEN=write makes the files anew; their diff is what is reviewed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_platform import FakePlatform
from shell import Shell

from micro.cli import app, failures
from micro.cli.catalog import COMMANDS, SECTIONS

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"


def agree(name: str, text: str) -> None:
    """Compare with the golden file of that name."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("MICRO_GOLDEN") == "write":
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_the_overview(lonely: Shell) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        result = lonely(*words)
        assert (result.code, result.err) == (0, "")
        agree("help", result.out)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_without_a_server(lonely: Shell, command: str) -> None:
    result = lonely(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"usage: micro {command}")
    agree(f"help-{command}", result.out)
    assert lonely("help", command).out == result.out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("service", ["users", "--help"]),
        ("service-helloworld", ["helloworld"]),
        ("endpoint", ["users", "save", "--help"]),
        ("endpoint-call", ["helloworld", "call", "--help"]),
        ("endpoint-bidi", ["helloworld", "ping_pong", "--help"]),
        ("health", ["health"]),
        ("env", ["env"]),
        ("services-json", ["services", "-o", "json"]),
    ],
)
def test_what_people_read(micro: Shell, platform: FakePlatform, name: str, words: list[str]) -> None:
    result = micro(*words)
    assert (result.code, result.err) == (0, "")
    agree(name, result.out.replace(platform.address, "127.0.0.1:8081".ljust(len(platform.address))))
    assert not any(call.path.endswith(("/Call", "/Save", "/PingPong")) for call in platform.calls)


def test_every_command_is_there_and_in_a_section() -> None:
    for name, (section, summary) in COMMANDS.items():
        assert section in SECTIONS
        assert summary
        if name != "server":
            assert app.parser(name).prog == f"micro {name}"


def test_the_server_talks_to_no_environment(lonely: Shell) -> None:
    text = lonely("server", "--help").out
    assert text.startswith("usage: micro server")
    assert "--help" in text
    assert "--env" not in text
    assert "--namespace" not in text


def test_help_lists_the_exit_codes(lonely: Shell) -> None:
    listed = lonely("--help").out.partition("Exit codes:\n")[2].splitlines()
    assert [int(line.split()[0]) for line in listed[: len(failures.CODES)]] == [0, 1, 2, 4, 5, 127, 130]


def modules_of(*words: str) -> set[str]:
    code = (
        "import sys\nfrom micro.cli import app\n"
        "app.run(sys.argv[1:], sys.stdin, sys.stdout, sys.stderr)\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_loads_next_to_nothing() -> None:
    loaded = modules_of("--help")
    assert "micro.cli.help" in loaded
    assert not loaded & {
        "argparse",
        "json",
        "socket",
        "dataclasses",
        "inspect",
        "http.client",
        "asyncio",
        "protobuf",
        "connectrpc",
    }


def test_listing_services_loads_no_rpc_library(tmp_path: Path) -> None:
    loaded = modules_of("services")
    assert "micro.cli.transport" in loaded
    assert not loaded & {
        "http.client",
        "ssl",
        "asyncio",
        "email",
        "dataclasses",
        "protobuf",
        "connectrpc",
        "grpc",
        "tarfile",
    }


@pytest.mark.parametrize("imported", ["micro.cli.app", "micro.cli.catalog", "micro.domain.errors", "micro.cli.session"])
def test_ctrl_c_while_a_command_is_imported_ends_it_without_a_word(imported: str) -> None:
    code = """
import sys

class Pressed:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Pressed())
from micro.__main__ import main

main()
"""
    done = subprocess.run([sys.executable, "-c", code, imported], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_version(lonely: Shell) -> None:
    assert lonely("version").out == lonely("--version").out == "micro 0.1.0\n"
    assert lonely("version", "-o", "json").out == '{\n  "version": "0.1.0"\n}\n'
