"""Settings and secrets, as they are typed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_config import FakeConfig
from shell import Result, Shell


@pytest.fixture
def server() -> Iterator[FakeConfig]:
    with FakeConfig() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, server: FakeConfig) -> Iterator[ConfigShell]:
    return ConfigShell(tmp_path / "home", server.address)


class ConfigShell(Shell):
    """Types `micro config` before the words."""

    def __call__(self, *words: str, stdin: str = "", terminal: bool = False) -> Result:
        return super().__call__("config", *words, stdin=stdin, terminal=terminal)

    def ok(self, *words: str, stdin: str = "") -> str:
        done = self(*words, stdin=stdin)
        assert (done.code, done.err) == (0, "")
        return done.out


def test_a_value_keeps_its_type(config: ConfigShell) -> None:
    for typed, shown, told in [
        ("8080", "8080", "8080"),
        ("eu-1", "eu-1", '"eu-1"'),
        ('"8080"', "8080", '"8080"'),
        ("-1.50", "-1.50", "-1.50"),
        ("9007199254740993", "9007199254740993", "9007199254740993"),
        ("NaN", "NaN", '"NaN"'),
        ("", "", '""'),
        ("<a & b>", "<a & b>", '"<a & b>"'),
        ('{"b": [1, null]}', '{"b":[1,null]}', '{"b":[1,null]}'),
    ]:
        assert config.ok("set", "a", typed) == ""
        assert config.ok("get", "a") == f"{shown}\n"
        assert config.ok("get", "a", "-o", "json") == f"{told}\n"
    config.ok("set", "a", "8080", "--text")
    assert config.ok("get", "a", "-o", "json") == '"8080"\n'


def test_objects_are_merged_listed_and_deleted(config: ConfigShell) -> None:
    config.ok("set", "db", '{"host": "h"}')
    config.ok("set", "db.port", "5432")
    config.ok("set", "db.password", "--secret", stdin="hunter2\n")
    assert config.ok("get", "db") == '{"host":"h","password":"[secret]","port":5432}\n'
    assert config.ok("get", "--all", "--secret") == '{"db":{"host":"h","password":"hunter2","port":5432}}\n'
    assert config.ok("list").splitlines() == [
        "KEY          VALUE",
        "db.host      h",
        "db.password  [secret]",
        "db.port      5432",
    ]
    assert json.loads(config.ok("list", "db.password", "-o", "json")) == [
        {"path": "db.password", "value": "[secret]", "secret": True}
    ]
    config.ok("delete", "db.host")
    config.ok("delete", "db.port")
    assert config.ok("get", "db") == '{"password":"[secret]"}\n'


def test_what_is_missing_is_an_error(config: ConfigShell) -> None:
    for words in (["get", "a"], ["del", "a"], ["rollback", "a", "1"], ["list", "a"]):
        done = config(*words)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("micro: ")
    assert "'a' is not set in namespace micro" in config("get", "a").err
    for words in (
        ["get"],
        ["get", "a", "--all"],
        ["set", "a"],
        ["rollback", "a", "0"],
        ["history", "-l", "x"],
        ["set", "a..b", "1"],
    ):
        assert config(*words).code == 2, words


def test_where_nothing_is_set_that_is_said(config: ConfigShell) -> None:
    assert config("list") == Result(0, "", "nothing is set in namespace micro\n")
    assert config("list", "-o", "json") == Result(0, "[]\n", "")


def test_a_value_comes_from_a_file(config: ConfigShell, tmp_path: Path) -> None:
    file = tmp_path / "value"
    for content, told in (
        (b'{"b": 1}\n', '{"b":1}'),
        (b"line 1\r\nline 2\r\n", '"line 1\\r\\nline 2"'),
        (b"@x", '"@x"'),
    ):
        file.write_bytes(content)
        config.ok("set", "a", f"@{file}")
        assert config.ok("get", "a", "-o", "json") == f"{told}\n"
    config.ok("set", "a", '"@ann"')
    config.ok("set", "b", "-", stdin="@ann")
    assert config.ok("get", "a") == config.ok("get", "b") == "@ann\n"
    config.ok("set", "p", f"@{file}", "--secret")
    assert config.ok("get", "p", "--secret") == "@x\n"
    file.write_bytes(b"\xff")
    for name, said in (
        ("nowhere", "No such file or directory; text that begins with @ is piped in"),
        (file, "not UTF-8"),
    ):
        done = config("set", "a", f"@{name}")
        assert done.code == 2
        assert str(name) in done.err
        assert said in done.err
    assert config.ok("get", "a") == "@ann\n"


def test_numbers_keep_their_digits_wherever_they_are_shown(config: ConfigShell) -> None:
    number, large = "123456789012345678901234567890.10", "1" * 5000
    config.ok("set", "a", f'{{"n": {number}, "in": [1e400, -0.0, {{}}, []], "large": {large}, "t": "ä\\n"}}')
    history = config.ok("history", "-o", "json")
    for shown in (history, config.ok("list", "-o", "json")):
        for each in (number, "1e400", "-0.0", large):
            assert each in shown
    found = json.loads(history.replace(large, "1"))
    assert found[0]["value"] == {"n": float(number), "in": [float("inf"), -0.0, {}, []], "large": 1, "t": "ä\n"}
    assert (
        history.replace(large, "1")
        == json.dumps(found, indent=2, ensure_ascii=False)
        .replace("1.2345678901234568e+29", number)
        .replace("Infinity", "1e400")
        + "\n"
    )


def test_a_value_comes_from_standard_input(config: ConfigShell) -> None:
    config.ok("set", "a", stdin="line 1\nline 2\n")
    assert config.ok("get", "a") == "line 1\nline 2\n"
    config.ok("set", "a", "-", stdin='{"b": 1}')
    assert config.ok("get", "a.b") == "1\n"


def test_a_secret_that_is_typed_out_is_warned_about(config: ConfigShell, server: FakeConfig) -> None:
    done = config("set", "p", "hunter2", "--secret")
    assert done.code == 0
    assert "stays in the shell's history" in done.err
    assert "hunter2" not in done.err
    assert config.ok("get", "p", "-s") == "hunter2\n"
    server.account = dataclasses.replace(server.account, scopes=frozenset())
    refused = config("get", "p", "--secret")
    assert refused.code == 2
    assert "for its services and its admins" in refused.err


def test_history_and_rollback(config: ConfigShell, server: FakeConfig) -> None:
    config.ok("set", "a", "1")
    config.ok("set", "p", "--secret", stdin="hunter2")
    config.ok("set", "a", '"line\\nline"')
    listed = config.ok("history").splitlines()
    assert listed[0].split() == ["REVISION", "TIME", "ACCOUNT", "ACTION", "KEY", "VALUE"]
    assert [line.split()[0] for line in listed[1:]] == ["3", "2", "1"]
    assert listed[1].endswith('set     a    "line\\nline"')
    assert listed[2].endswith("micro/ada  set     p    [secret]")
    assert config.ok("rollback", "a", "1") == "a is as it was at revision 1; this is revision 4\n"
    assert config.ok("get", "a") == "1\n"
    found = json.loads(config.ok("history", "a", "-l", "2", "-o", "json"))
    assert found[0] == {
        "revision": 4,
        "time": "2026-01-01T00:00:00.000+00:00",
        "account": "micro/ada",
        "action": "rollback",
        "path": "a",
        "value": 1,
    }
    assert [one["revision"] for one in found] == [4, 3]
    assert len(config.ok("history", "--limit", "0").splitlines()) == 5


def test_a_watch_prints_each_value(config: ConfigShell) -> None:
    config.ok("set", "a", '"the end"')
    done = config("watch", "a")
    assert (done.code, done.out) == (2, '"the end"\n')
    assert "watching" not in done.err
    assert "watching a; Ctrl-C ends" in config("watch", "a", terminal=True).err


def test_keys_are_rotated(config: ConfigShell) -> None:
    assert config.ok("rotate-key") == "all keys are wrapped with the newest key already\n"


def test_paths_are_completed(config: ConfigShell) -> None:
    config.ok("set", "db.host", "h")
    done = Shell.__call__(config, "__complete", "config", "get", "")
    assert "db.host" in done.out.split()
