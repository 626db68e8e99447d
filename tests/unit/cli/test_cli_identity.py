"""Logging in, staying logged in, and logging out."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_auth import FakeAuth
from shell import Shell

from micro.cli import environment
from micro.ports.sessions import Sessions, Stored


@pytest.fixture
def auth() -> Iterator[FakeAuth]:
    with FakeAuth() as running:
        yield running


@pytest.fixture
def guarded(tmp_path: Path, auth: FakeAuth) -> Shell:
    """The command line with a server that asks for an account."""
    return Shell(tmp_path / "home", auth.address)


def login(shell: Shell, name: str = "admin", *words: str) -> None:
    result = shell("login", "--username", name, "--password-stdin", *words, stdin=f"{name}-secret\n")
    assert (result.code, result.err) == (0, "")


def kept(shell: Shell, environment: str = "local") -> Stored:
    return Sessions(shell.home).read(environment)


def age(shell: Shell, environment: str = "local") -> None:
    """Let the access token be about to end."""
    with Sessions(shell.home).locked() as stored:
        session = stored[environment].session
        assert session
        stored[environment] = stored[environment]._replace(session=session._replace(expires=time.time() + 5))


def test_from_login_to_logout(guarded: Shell, auth: FakeAuth) -> None:
    refused = guarded("services")
    assert (refused.code, refused.err) == (2, "micro: this needs an account: log in with `micro login`\n")
    result = guarded("login", "--username", "admin", "--password-stdin", stdin="admin-secret\n")
    assert (result.code, result.out) == (0, "logged in as admin in namespace micro of local\n")
    assert guarded("services").code == 0
    assert guarded("helloworld", "call", "--name=Ann").code == 0
    assert auth.last("/Call").headers["authorization"] == f"Bearer {guarded('user', 'token').out.strip()}"
    assert guarded("user").out == "user         admin\nnamespace    micro\nenvironment  local\nscopes       admin\n"
    assert json.loads(guarded("user", "-o", "json").out)["scopes"] == ["admin"]
    assert guarded("logout").out == "logged out of local\n"
    assert not auth.refresh
    for words in (["logout"], ["user"], ["user", "token"]):
        again = guarded(*words)
        assert (again.code, again.out, again.err.count("you are not logged in")) == (2, "", 1)


def test_each_service_is_shown_the_token_that_is_for_it(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded)
    session = kept(guarded).session
    assert session
    for words, path, token in (
        (["helloworld", "call", "--name=Ann"], "/Call", session.service_token),
        (["call", "helloworld", "Helloworld.Call", "{}"], "/Call", session.service_token),
        (["stream", "helloworld", "Helloworld.Stream", "{}"], "/Stream", session.service_token),
        (["helloworld"], "/GetService", session.access_token),
        (["__complete", "--", "helloworld", ""], "/GetService", session.access_token),
        (["logs", "helloworld"], "/Logs", session.access_token),
        (["auth", "list", "accounts"], "Accounts/List", session.access_token),
    ):
        auth.calls.clear()
        guarded(*words)
        assert auth.last(path).headers["authorization"] == f"Bearer {token}", words
    result = guarded("user", "token")
    assert (result.out, result.err) == (f"{session.service_token}\n", "")
    result = guarded("user", "token", "--platform")
    assert (result.out, result.err.startswith("warning: show it to"), result.err.count("\n")) == (
        f"{session.access_token}\n",
        True,
        1,
    )


def test_what_a_service_is_called_at_an_address_does_not_get_it_the_platforms_token(
    guarded: Shell, auth: FakeAuth
) -> None:
    login(guarded)
    session = kept(guarded).session
    assert session
    with FakeAuth() as other:
        guarded("call", "registry", "micro.registry.v1.Registry.ListServices", "{}", "--address", other.address)
        assert other.calls[-1].headers["authorization"] == f"Bearer {session.service_token}"


def test_a_login_of_an_earlier_version_gets_the_token_for_services_at_the_first_call(
    guarded: Shell, auth: FakeAuth
) -> None:
    login(guarded)
    with Sessions(guarded.home).locked() as stored:
        session = stored["local"].session
        assert session
        stored["local"] = stored["local"]._replace(session=session._replace(service_token=""))
    assert guarded("helloworld", "call", "--name=Ann").code == 0
    renewed = kept(guarded).session
    assert renewed
    assert (auth.refreshed, bool(renewed.service_token)) == (1, True)


@pytest.mark.parametrize("state", ["none", "of a process that is gone"])
def test_who_listens_where_no_server_of_this_home_runs_is_shown_nothing(
    guarded: Shell, auth: FakeAuth, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody of this machine may listen there by then."""
    login(guarded)
    age(guarded)
    file = guarded.home / "server" / "state.json"
    if state == "none":
        file.unlink()
        host, _, port = auth.address.rpartition(":")
        monkeypatch.setattr(environment, "DEFAULT_ADDRESS", environment.Address(host, int(port)))
    else:
        with subprocess.Popen(["true"]) as ended:
            pass
        file.write_text(json.dumps({"pid": ended.pid, "proxy_address": auth.address}))
    auth.calls.clear()
    for words in (["services"], ["helloworld", "call"], ["call", "a", "A.B", "{}", "--address", auth.address]):
        guarded(*words)
    assert len(auth.calls) == 3
    asked = len(auth.calls)
    for words, stdin in (
        (["user", "token"], ""),
        (["login", "--username=admin", "--password-stdin"], "admin-secret\n"),
    ):
        result = guarded(*words, stdin=stdin)
        assert (result.code, result.err) == (
            4,
            "micro: no server of this home is running: start one with: micro server\n",
        )
    assert guarded("logout").err.startswith("note: the server could not be told (no server of this home is running")
    assert len(auth.calls) == asked
    assert all("authorization" not in call.headers for call in auth.calls)


def test_a_wrong_password_changes_nothing_and_says_where_it_was_tried(guarded: Shell) -> None:
    login(guarded)
    before = kept(guarded)
    result = guarded("login", "--username", "admin", "--password-stdin", stdin="wrong\n")
    hint = (
        "account and secret do not fit; that was namespace micro, for another: --namespace NAME; "
        "if the secret is lost: micro server --reset-admin"
    )
    assert (result.code, result.out, result.err) == (2, "", f"micro: {hint}\n")
    assert kept(guarded) == before


def test_a_password_on_the_command_line_is_warned_about(guarded: Shell) -> None:
    result = guarded("login", "--username=admin", "--password=admin-secret")
    assert result.code == 0
    assert result.err == (
        "warning: --password stays in the shell's history, and others see it run: use --password-stdin\n"
    )


def test_without_a_terminal_nothing_is_asked(guarded: Shell) -> None:
    for words, missing in ((["--username=admin"], "the password is missing"), ([], "the account is missing")):
        result = guarded("login", *words)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"micro: {missing}")
    assert guarded("login", "--username=admin", "--password-stdin").code == 2


def test_on_a_terminal_the_password_is_asked_for_and_not_shown(guarded: Shell) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "micro", "login"]
    environ = os.environ | guarded.environ | {"PATH": os.environ["PATH"]}

    def typed(prompt: str, text: str) -> str:
        seen = ""
        while prompt not in seen:
            seen += os.read(leader, 1024).decode()
        os.write(leader, text.encode())
        return seen

    with subprocess.Popen(
        command, stdin=follower, stdout=subprocess.PIPE, stderr=follower, env=environ, start_new_session=True
    ) as process:
        shown = typed("Username: ", "admin\n") + typed("Password: ", "admin-secret\n")
        assert process.stdout
        assert process.stdout.read() == b"logged in as admin in namespace micro of local\n"
    shown += os.read(leader, 1024).decode()
    os.close(leader)
    os.close(follower)
    assert process.returncode == 0
    assert "secret" not in shown


def test_a_token_that_is_about_to_end_is_renewed(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded)
    first = kept(guarded).session
    age(guarded)
    assert guarded("services").code == 0
    second = kept(guarded).session
    assert first
    assert second
    assert (auth.refreshed, first.access_token == second.access_token) == (1, False)
    assert second.expires - time.time() > 800  # by this machine's clock, whatever the server's says
    assert guarded("services").code == 0
    assert auth.refreshed == 1


def test_a_refused_token_is_renewed_and_the_call_repeated(guarded: Shell, auth: FakeAuth, tmp_path: Path) -> None:
    """As after a change of scopes, or two rotations of the keys."""
    login(guarded)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text("")
    for number, words in enumerate((["services"], ["logs", "helloworld"], ["run", str(tmp_path / "app")]), 1):
        session = kept(guarded).session
        assert session
        auth.refused.add(session.access_token)
        assert guarded(*words).code == 0, words
        assert auth.refreshed == number


@pytest.mark.parametrize("flags", [[], ["--platform"]])
def test_a_token_that_was_revoked_is_not_printed(guarded: Shell, auth: FakeAuth, flags: list[str]) -> None:
    login(guarded)
    before = kept(guarded).session
    assert before
    assert guarded("user", "token", *flags).out.strip() in (before.service_token, before.access_token)
    assert auth.refreshed == 0
    auth.refused |= {before.access_token, before.service_token}
    printed = guarded("user", "token", *flags).out.strip()
    assert auth.refreshed == 1
    assert printed in auth.access
    assert printed not in auth.refused
    auth.end()
    ended = guarded("user", "token", *flags)
    assert (ended.code, ended.out, ended.err) == (2, "", "micro: your session has ended: micro login\n")


def test_an_error_of_the_services_own_costs_no_refresh_token(guarded: Shell, auth: FakeAuth) -> None:
    from fake_platform import Refusal

    login(guarded)

    def refuse(*_: object) -> None:
        raise Refusal("unauthenticated", "which library card?", 401)

    auth.do_call = refuse  # type: ignore[method-assign,assignment]
    result = guarded("helloworld", "call")
    assert (result.code, result.err) == (2, "micro: unauthenticated: which library card?\n")
    assert auth.refreshed == 0


def test_a_session_that_has_ended_says_so_until_the_next_login(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded)
    auth.end()
    for _ in range(2):
        result = guarded("services")
        assert (result.code, result.out, result.err) == (2, "", "micro: your session has ended: micro login\n")
    asked = len(auth.calls)
    assert guarded("helloworld").code == 2
    assert len(auth.calls) == asked  # it is known by now
    assert guarded("health").code == 0  # needs no account
    login(guarded)
    assert guarded("services").code == 0


def test_a_session_can_be_forgotten_while_the_server_is_away(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded)
    (guarded.home / "server" / "state.json").write_text('{"pid": 1, "proxy_address": "127.0.0.1:1"}')
    result = guarded("logout")
    assert (result.code, result.out) == (0, "logged out of local\n")
    assert result.err.startswith("note: the server could not be told (no server at 127.0.0.1:1")
    assert kept(guarded).session is None


def test_logging_in_again_ends_the_session_before(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded)
    login(guarded)
    assert list(auth.refresh.values()) == [list(auth.sessions)[-1]]


def test_a_server_without_identity_is_told_apart(micro: Shell) -> None:
    result = micro("login", "--username=a", "--password-stdin", stdin="b\n")
    assert (result.code, result.err.startswith("micro: not_found")) == (1, False)


def test_of_many_commands_at_once_one_renews(guarded: Shell, auth: FakeAuth) -> None:
    """Twenty processes find a token that ends; a refresh token that two of them used would end the session."""
    login(guarded)
    age(guarded)
    environ = os.environ | guarded.environ | {"PATH": os.environ["PATH"]}
    wait = (
        "import sys; from micro.cli import app; sys.stdin.read(1);"
        "sys.exit(app.run(['services'], sys.stdin, sys.stdout, sys.stderr))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ)
        for _ in range(20)
    ]
    for one in running:
        assert one.stdin
        one.stdin.close()
    assert [one.wait(60) for one in running] == [0] * 20
    assert auth.refreshed == 1
    assert guarded("services").code == 0


def test_ctrl_c_does_not_lose_the_new_token(guarded: Shell, auth: FakeAuth) -> None:
    """The server has answered and the old refresh token is gone: what it said is kept all the same."""
    login(guarded)
    age(guarded)
    arrived, go = threading.Event(), threading.Event()
    answer = auth._token

    def slow(request: object) -> object:
        arrived.set()
        go.wait(20)
        return answer(request)  # type: ignore[arg-type]

    auth._token = slow  # type: ignore[method-assign]
    environ = os.environ | guarded.environ | {"PATH": os.environ["PATH"]}
    # As from a terminal, also where the tests themselves run in the background, whose children ignore the signal.
    heard = "import runpy, signal; signal.signal(2, signal.default_int_handler); "
    begin = f"{heard}runpy.run_module('micro', None, '__main__')"
    command = [sys.executable, "-c", begin, "services"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert arrived.wait(20)
        process.send_signal(2)
        go.set()
        process.communicate(timeout=20)
    assert process.returncode == 130
    auth._token = answer  # type: ignore[method-assign]
    assert (auth.refreshed, guarded("services").code, auth.refreshed) == (1, 0, 1)


def test_tokens_are_in_no_output(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded)
    session = kept(guarded).session
    assert session
    shown = ""
    for words in (
        ["user"],
        ["user", "config"],
        ["user", "-o", "json"],
        ["env", "-o", "json"],
        ["auth", "list", "tokens"],
    ):
        result = guarded(*words)
        shown += result.out + result.err
    auth.end()
    shown += guarded("services").err + guarded("logout").out
    assert session.access_token not in shown
    assert session.refresh_token not in shown


def test_a_token_goes_to_no_other_machine(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded)
    guarded("env", "add", "prod", "https://prod.example.com")
    with FakeAuth() as other:
        words = ["call", "helloworld", "Helloworld.Call", "{}", "--address", other.address]
        assert guarded("--env", "prod", *words).code == 2
        assert "authorization" not in other.calls[-1].headers
        guarded(*words)  # the machine is the same
        assert "authorization" in other.calls[-1].headers


# --- environments and namespaces --------------------------------------------------------------------------------------


def test_each_environment_has_a_session_of_its_own(guarded: Shell, auth: FakeAuth) -> None:
    guarded("env", "add", "two", auth.address)
    login(guarded)
    assert guarded("--env", "two", "user").code == 2
    login(guarded, "ann", "--env", "two", "--namespace", "acme")
    assert guarded("--env", "two", "user", "namespace").out == "acme\n"
    assert guarded("user", "namespace").out == "micro\n"
    auth.end()
    assert guarded("--env", "two", "services").err == "micro: your session has ended: micro --env two login\n"


def test_an_environment_takes_its_session_with_it(guarded: Shell, auth: FakeAuth) -> None:
    guarded("env", "add", "two", auth.address)
    login(guarded, "admin", "--env", "two")
    assert guarded("env", "del", "two").code == 0
    guarded("env", "add", "two", auth.address)
    assert guarded("--env", "two", "user").code == 2


def test_a_place_that_moves_takes_no_session_along(guarded: Shell, auth: FakeAuth) -> None:
    assert guarded("--env", "dev", "services").err == (
        "micro: environment 'dev' is not configured: give it an address, micro env set-address dev HOST:PORT\n"
    )
    assert guarded("env", "set-address", "dev", auth.address).code == 0
    login(guarded, "admin", "--env", "dev")
    assert guarded("env", "set-address", "dev", auth.address).code == 0
    assert kept(guarded, "dev").session
    assert guarded("env", "set-address", "dev", "other.example.com").out.startswith(
        "dev is at https://other.example.com"
    )
    assert kept(guarded, "dev") == Stored()
    assert guarded("env", "set-address", "dev", "none").code == 0
    assert "not configured" in guarded("env").out.splitlines()[2]
    for words, message in (
        (["set-address", "prod", "a:1"], "'prod' has no address to change: type micro env add prod HOST:PORT"),
        (["add", "dev", "a:1"], "'dev' is built in: type micro env set-address dev HOST:PORT"),
        (
            ["del", "dev"],
            "'dev' is built in and cannot be removed; to take its address away: micro env set-address dev none",
        ),
        (
            ["set", "platform"],
            "'platform' is not configured: give it an address, micro env set-address platform HOST:PORT",
        ),
    ):
        assert guarded("env", *words).err == f"micro: environment {message}\n"


def test_the_namespace_is_the_accounts_until_another_is_chosen(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded, "ann", "--namespace=acme")
    guarded("services")
    assert auth.calls[-1].headers["micro-namespace"] == "acme"
    result = guarded("user", "namespace", "set", "micro")
    assert (result.code, result.err) == (
        2,
        "micro: acme/ann has no namespace 'micro': log in to it with: micro login --namespace micro\n",
    )
    login(guarded, "admin", "--namespace=micro")
    assert guarded("user", "namespace", "set", "acme").out == "acme is the current namespace of local\n"
    guarded("services")
    assert auth.calls[-1].headers["micro-namespace"] == "acme"
    assert "micro, in acme" in guarded("user").out
    assert guarded("--namespace", "micro", "user", "namespace").out == "micro\n"
    age(guarded)
    assert guarded("user", "namespace").out == "acme\n"
    assert guarded("services").code == 0
    login(guarded)  # to the account's own namespace again, where its name is known
    assert guarded("user", "namespace").out == "micro\n"


def test_a_new_password_ends_the_other_sessions_and_not_this_one(guarded: Shell, auth: FakeAuth) -> None:
    login(guarded)
    wrong = guarded("user", "set", "password", "--password-stdin", stdin="nope\nlong enough\n")
    assert (wrong.code, wrong.err) == (2, "micro: the old secret is another\n")
    short = guarded("user", "set", "password", "--password-stdin", stdin="admin-secret\nshort\n")
    assert (short.code, short.err) == (2, "micro: the secret is too short: use at least 8 characters\n")
    result = guarded("user", "set", "password", "--password-stdin", stdin="admin-secret\nlong enough\n")
    assert (result.code, result.err) == (0, "")
    assert auth.secrets["micro", "admin"] == "long enough"
    assert guarded("services").code == 0


def test_settings_of_ones_own(guarded: Shell) -> None:
    assert guarded("user", "config").out.splitlines() == [
        "user: n/a",
        "namespace: micro",
        "environment: local",
    ]
    assert guarded("user", "config", "set", "git.baseurl", "example.com/ann").code == 0
    assert guarded("user", "config", "set", "git.credentials", "-", stdin="hunter2\n").code == 0
    assert guarded("user", "config", "get", "git.baseurl").out == "example.com/ann\n"
    assert "git.credentials: [hidden]" in guarded("user", "config").out
    assert guarded("user", "config", "delete", "git.credentials").code == 0
    for words, code, message in (
        (["get", "git.credentials"], 1, "setting 'git.credentials' is not set"),
        (["delete", "git.credentials"], 1, "setting 'git.credentials' is not set"),
        (["set", "namespace", "x"], 2, "'namespace' is changed with: micro user namespace set NAME"),
        (["set", "a..b", "x"], 2, "'a..b' is not a key: use letters, digits and hyphens, with dots between words"),
    ):
        result = guarded("user", "config", *words)
        assert (result.code, result.err) == (code, f"micro: {message}\n")
