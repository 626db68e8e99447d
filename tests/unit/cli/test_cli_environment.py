"""Environments: chosen, added, removed, and never damaged."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fake_platform import FakePlatform
from hypothesis import given
from hypothesis import strategies as st
from shell import Shell

from micro.cli import environment, failures
from micro.cli.transport import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8081", Address("127.0.0.1", 8081)),
        ("proxy.example.com", Address("proxy.example.com", 443, True)),
        ("proxy.example.com:443", Address("proxy.example.com", 443, True)),
        ("https://proxy.example.com/", Address("proxy.example.com", 443, True)),
        ("http://proxy.example.com", Address("proxy.example.com", 80)),
        ("http://proxy.example.com:443", Address("proxy.example.com", 443)),
        ("[::1]:8081", Address("::1", 8081)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert environment.address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":80", "a:b", "a:0", "a:70000", "ftp://a", "a b:1", "::1:80", "://a:1", "a:1/x", "a:²"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(failures.UsageError, match="is not an address"):
        environment.address(text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with contextlib.suppress(failures.UsageError):
        assert 0 < environment.address(text).port < 65536


def test_the_local_environment_is_the_server_of_the_same_home(tmp_path: Path) -> None:
    environments = environment.Environments(tmp_path)
    assert str(environments.get("local").address) == "127.0.0.1:8081"
    (tmp_path / "server").mkdir()
    state = {"pid": 7, "proxy_address": "127.0.0.1:9001", "api_address": "127.0.0.1:9000"}
    (tmp_path / "server" / "state.json").write_text(json.dumps(state))
    found = environments.get("local")
    assert (str(found.address), found.api_address) == ("127.0.0.1:9001", "127.0.0.1:9000")


@pytest.mark.parametrize(
    ("said", "tried"),
    [
        ("127.0.0.1:7", "127.0.0.1:7"),
        ("0.0.0.0:7", "127.0.0.1:7"),
        ("[::1]:7", "[::1]:7"),
        ("https://micro.example.com:443", "127.0.0.1:8081"),
        ("micro.example.com:443", "127.0.0.1:8081"),
        ("nonsense", "127.0.0.1:8081"),
    ],
)
def test_before_its_server_has_started_the_home_is_where_the_variables_say(
    tmp_path: Path, said: str, tried: str
) -> None:
    found = environment.Environments(tmp_path, {"MICRO_PROXY_ADDRESS": said}).get("local")
    assert (found.address.plain, found.address.secure, found.trusted) == (tried, False, False)


def test_health_names_the_address_that_was_tried(tmp_path: Path) -> None:
    nowhere = Shell(tmp_path)
    nowhere.environ["MICRO_PROXY_ADDRESS"] = "127.0.0.1:1"
    done = nowhere("health")
    assert (done.code, done.out) == (4, "")
    assert done.err == (
        f"micro: no server at 127.0.0.1:1 (none of home {tmp_path} is running): start one with: micro server\n"
    )
    nowhere.environ |= {"MICRO_HOME": str(tmp_path / ".micro"), "HOME": str(tmp_path)}
    assert "(none of home ~/.micro is running)" in nowhere("status").err


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("[::]", "localhost"), ("[::1]", "[::1]")])
def test_a_server_on_every_address_is_shown_where_this_machine_reaches_it(lonely: Shell, host: str, shown: str) -> None:
    state = {"pid": 1, "proxy_address": f"{host}:9001", "api_address": f"{host}:9000"}
    (lonely.home / "server" / "state.json").write_text(json.dumps(state))
    found = environment.Environments(lonely.home).get("local")
    assert (found.address.plain, found.api_address) == (f"{shown}:9001", f"{shown}:9000")
    assert f"{shown}:9001" in lonely("env").out


def test_an_environment_that_was_added_can_be_moved(lonely: Shell) -> None:
    lonely("env", "add", "prod", "127.0.0.1:1", "--description=Ours")
    assert lonely("env", "set-address", "prod", "127.0.0.1:2").out == (
        "prod is at 127.0.0.1:2; to use it: micro env set prod\n"
    )
    assert lonely("env", "add", "prod", "127.0.0.1:2").code == 0


def test_environments_are_added_chosen_and_removed_with_a_line_that_says_so(lonely: Shell) -> None:
    for words, line in (
        (["add", "prod", "p.example.com"], "prod added, at https://p.example.com:443; to use it: micro env set prod"),
        (["add", "other", "127.0.0.1:2"], "other added, at 127.0.0.1:2; to use it: micro env set other"),
        (["delete", "other"], "other removed"),
        (["set", "prod"], "prod is the current environment, at https://p.example.com:443"),
    ):
        result = lonely("env", *words)
        assert (result.code, result.out, result.err) == (0, f"{line}\n", "")
    assert lonely("env", "get").out == "prod\n"
    listed = lonely("env").out.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        ["local", "127.0.0.1:1"],
        ["dev", "not"],
        ["platform", "not"],
        ["*", "prod"],
    ]
    current = [one["name"] for one in json.loads(lonely("env", "list", "-o", "json").out) if one["current"]]
    assert current == ["prod"]
    assert lonely("env", "set", "local").code == 0
    assert lonely("env", "del", "prod").code == 0
    assert lonely("env").out.count("\n") == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["set", "nope"], "environment 'nope' does not exist: list them with: micro env"),
        (["set", "prodd"], "environment 'prodd' does not exist: did you mean prod?"),
        (["del", "nope"], "environment 'nope' does not exist: list them with: micro env"),
        (["del", "local"], "environment 'local' is built in and cannot be removed"),
        (["del", "prod"], "environment 'prod' is the current one: first type micro env set local"),
        (["add", "local", "a:1"], "environment 'local' is built in: choose another name"),
        (
            ["add", "prod", "other:1"],
            "environment 'prod' is at https://a:1: to move it, type micro env set-address prod other:1",
        ),
        (
            ["set-address", "nope", "a:1"],
            "environment 'nope' has no address to change: type micro env add nope HOST:PORT",
        ),
        (["set-address", "prod", "none"], "environment 'prod' was added: to remove it, micro env delete prod"),
        (["add", "-x", "a:1", "b:1"], "unknown flag -x: see: micro env add --help"),
        (["add", "a b", "a:1"], "'a b' is not a name for an environment: use letters, digits, hyphens and dots"),
        (["add", "x", "nowhere:x"], "'nowhere:x' is not an address: give HOST:PORT, for example proxy.example.com:443"),
        (["add", "x"], "missing ADDRESS; see: micro env add --help"),
        (["rm", "x"], "unrecognized subcommand for micro env: rm; see: micro env --help"),
    ],
)
def test_mistakes_change_nothing(lonely: Shell, words: list[str], message: str) -> None:
    lonely("env", "add", "prod", "a:1")
    lonely("env", "set", "prod")
    before = (lonely.home / "config.json").read_text()
    result = lonely("env", *words)
    assert (result.code, result.out, result.err) == (2, "", f"micro: {message}\n")
    assert (lonely.home / "config.json").read_text() == before


def test_a_variable_that_comes_before_the_choice_is_named(lonely: Shell) -> None:
    lonely("env", "add", "prod", "127.0.0.1:2")
    lonely.environ["MICRO_ENV"] = "local"
    assert lonely("env", "set", "prod").out == (
        "prod is the current environment, at 127.0.0.1:2; MICRO_ENV=local comes before it in this shell\n"
    )
    assert lonely("env", "get").out == "local\n"


@pytest.mark.parametrize("place", ["before", "after", "variable"])
def test_an_environment_can_be_chosen_for_one_run(lonely: Shell, platform: FakePlatform, place: str) -> None:
    lonely("env", "add", "there", platform.address)
    assert lonely("services").code == 4
    if place == "variable":
        lonely.environ["MICRO_ENV"] = "there"
        assert lonely("services").code == 0
        return
    for flag in (["--env", "there"], ["--env=there"], ["-env=there"], ["-env", "there"], ["-e", "there"], ["-e=there"]):
        words = [*flag, "services"] if place == "before" else ["services", *flag]
        if words == ["services", "-e=there"]:
            continue  # one letter with `=` is not a spelling after a command
        assert lonely(*words).code == 0, words
    assert lonely("env", "get").out == "local\n"


@pytest.mark.parametrize("flag", ["--env=there", "-env=there", "-e=there"])
def test_a_services_command_takes_the_environment_too(lonely: Shell, platform: FakePlatform, flag: str) -> None:
    lonely("env", "add", "there", platform.address)
    assert lonely("helloworld", "call", "--name=Ann", flag).code == 0
    assert lonely("helloworld", flag).out.startswith("helloworld latest\n")
    assert lonely("helloworld", "call", "--name=Ann").code == 4
    result = lonely("--env=there", "helloworld", "call", "--env", "nope")
    assert (result.code, result.err.count("environment 'nope' does not exist")) == (2, 1)


def test_an_unknown_environment_is_named(lonely: Shell) -> None:
    result = lonely("--env", "nope", "services")
    assert (result.code, result.err) == (2, "micro: environment 'nope' does not exist: list them with: micro env\n")


def test_the_config_is_for_its_owner_alone(lonely: Shell) -> None:
    lonely("env", "add", "prod", "a:1")
    assert stat.S_IMODE((lonely.home / "config.json").stat().st_mode) == 0o600


def test_a_damaged_config_is_named_and_left_alone(lonely: Shell) -> None:
    lonely.home.mkdir(exist_ok=True)
    (lonely.home / "config.json").write_text("{")
    result = lonely("env", "add", "prod", "a:1")
    assert (result.code, result.err) == (
        1,
        f"micro: {lonely.home}/config.json is not valid JSON: mend it, or remove it to start anew\n",
    )
    assert (lonely.home / "config.json").read_text() == "{"


def test_other_settings_in_the_config_survive(lonely: Shell) -> None:
    lonely.home.mkdir(exist_ok=True)
    (lonely.home / "config.json").write_text('{"git": {"baseurl": "x"}}')
    lonely("env", "add", "prod", "a:1")
    added = {"prod": {"address": "a:1"}}
    assert json.loads((lonely.home / "config.json").read_text()) == {"git": {"baseurl": "x"}, "envs": added}


def test_concurrent_commands_lose_nothing(tmp_path: Path) -> None:
    """Eight processes add two environments each, all at once."""
    add = (
        "import sys, pathlib; from micro.cli.environment import Environments;"
        "e = Environments(pathlib.Path(sys.argv[1])); sys.stdin.read();"
        "[e.add(f'{sys.argv[2]}-{n}', 'a:1') for n in range(2)]"
    )
    command = [sys.executable, "-c", add, str(tmp_path)]
    running = [subprocess.Popen([*command, f"env{number}"], stdin=subprocess.PIPE) for number in range(8)]
    for one in running:
        assert one.stdin
        one.stdin.close()
    assert [one.wait(60) for one in running] == [0] * 8
    added = json.loads((tmp_path / "config.json").read_text())["envs"]
    assert set(added) == {f"env{number}-{n}" for number in range(8) for n in range(2)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "config.lock"]
