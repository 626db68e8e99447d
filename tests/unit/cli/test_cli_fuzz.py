"""Whatever is typed, the answer is an exit code of the list and at most a line that says why: never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_platform import FakePlatform
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import Shell

from micro.cli import failures

_VOCABULARY = [
    "helloworld",
    "users",
    "call",
    "stream",
    "services",
    "status",
    "logs",
    "kill",
    "env",
    "health",
    "version",
    "completion",
    "help",
    "list",
    "set",
    "add",
    "del",
    "get",
    "Helloworld.Call",
    "Users.Save",
    "save",
    "accounts",
    "count",
    "ping_pong",
    "--name",
    "--age=5",
    "--active",
    "--tags=a,b",
    "-o",
    "json",
    "raw",
    "table",
    "-n",
    "3",
    "-f",
    "--follow",
    "--data",
    "--data=-",
    "--data={}",
    "{}",
    "[]",
    "--help",
    "-h",
    "--env",
    "local",
    "-e",
    "--env=x",
    "--namespace",
    "--metadata",
    "a=b",
    "--request_timeout",
    "5s",
    "--address",
    "127.0.0.1:1",
    "--",
    "-",
    "--user_address_city=x",
    "--wait",
    "0",
    "@",
    "@/nowhere",
    "__complete",
]
_WORDS = st.one_of(
    st.sampled_from(_VOCABULARY),
    st.text(max_size=12),
)
_NEVER = {"server", "run", "update", "new", "gen"}  # they touch more than a fake server


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    home: Path = tmp_path_factory.mktemp("home")
    with FakePlatform() as platform:
        yield Shell(home, platform.address)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(words=st.lists(_WORDS, max_size=6), stdin=st.one_of(st.just("{}\n"), st.text(max_size=20)))
def test_there_is_always_a_decent_answer(shell: Shell, words: list[str], stdin: str) -> None:
    if _NEVER & set(words):
        return
    result = shell(*words, stdin=stdin)
    assert result.code in {code for code, _ in failures.CODES}
    if result.code and words[:1] != ["health"]:
        assert result.err.startswith("micro: ")
    assert "Traceback" not in result.err
