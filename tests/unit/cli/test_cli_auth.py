"""Accounts, rules, sessions and namespaces, as an admin types them."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_auth import FakeAuth
from shell import Shell


@pytest.fixture
def auth() -> Iterator[FakeAuth]:
    with FakeAuth() as running:
        yield running


@pytest.fixture
def admin(tmp_path: Path, auth: FakeAuth) -> Shell:
    """The command line of micro's admin."""
    shell = Shell(tmp_path / "home", auth.address)
    assert shell("login", "--username=admin", "--password-stdin", stdin="admin-secret").code == 0
    return shell


def test_an_account_is_made_listed_changed_and_removed(admin: Shell, auth: FakeAuth) -> None:
    made = admin(
        "--namespace", "acme", "auth", "create", "account", "bob", "--scopes", "shop,billing", "--metadata=team=a"
    )
    assert made.out.splitlines() == [
        "account bob created in namespace acme",
        "",
        "  secret  made-up-secret",
        "",
        "It is not shown again.",
    ]
    listed = admin("auth", "list", "accounts", "--namespace=acme").out.splitlines()
    assert [line.split() for line in listed] == [
        ["ID", "NAME", "TYPE", "SCOPES", "METADATA"],
        ["ann", "Ann", "user", "shop", "-"],
        ["bob", "bob", "user", "billing,shop", "team=a"],
    ]
    assert admin("auth", "update", "account", "bob", "--scopes=", "--namespace=acme").out == (
        "account bob has the scopes: none\n"
    )
    assert "made-up-secret" in admin("auth", "update", "secret", "bob", "--namespace", "acme").out
    admin("login", "--username=admin", "--password-stdin", stdin="admin-secret")
    assert admin("auth", "delete", "account", "bob", "--namespace=acme").out == "account bob deleted\n"
    gone = admin("auth", "delete", "account", "bob", "--namespace=acme")
    assert (gone.code, gone.err) == (1, "micro: account 'bob' not found\n")


def test_every_page_of_accounts_is_listed(admin: Shell, auth: FakeAuth) -> None:
    for number in range(5):
        admin("auth", "create", "account", f"a{number}", "--secret-stdin", stdin="long enough\n")
    found = json.loads(admin("auth", "list", "accounts", "-o", "json").out)
    assert [one["id"] for one in found] == ["a0", "a1", "a2", "a3", "a4", "admin"]


def test_a_chosen_secret_is_never_shown(admin: Shell, auth: FakeAuth) -> None:
    made = admin("auth", "create", "account", "bob", "--secret-stdin", "--type=service", stdin="long enough\n")
    assert (made.out, auth.secrets["micro", "bob"]) == ("account bob created in namespace micro\n", "long enough")
    made = admin("auth", "create", "account", "eve", "--secret", "long enough", "-o", "json")
    assert "long enough" not in made.out
    assert made.err.startswith("warning: --secret stays in the shell's history")
    made = admin("auth", "create", "account", "joe", "-o", "json")
    assert json.loads(made.out)["secret"] == "made-up-secret"


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (["create", "account", "a b"], "", "'a b' is not an account id"),
        (["create", "account", "bob", "--scopes", "a b"], "", "'a b' is not a scope"),
        (["create", "account", "bob", "--secret-stdin"], "short\n", "the secret is too short"),
        (["create", "account", "bob", "--secret-stdin"], "", "--secret-stdin reads a line from standard input"),
        (["create", "rule", "r", "--resource", "service:x"], "", "'service:x' is not a resource"),
        (["create", "rule", "default"], "", "'default' is the built-in rule's"),
        (["update", "rule", "default", "--priority=1"], "", "'default' is the built-in rule's"),
        (["update", "rule", "r"], "", "nothing to change: name --scope, --resource, --access or --priority"),
        (["explain", "ann", "service:x:*"], "", "'service:x:*' is not a resource: write service:NAME:ENDPOINT"),
        (["revoke", "token"], "", "type micro auth revoke token SESSION, or --account ID"),
        (["audit", "-n", "0"], "", "--limit takes a number from 1 on, not 0"),
        (["list"], "", "type one of: micro auth list accounts, micro auth list rules, micro auth list tokens"),
        (
            ["list", "acounts"],
            "",
            "unrecognized subcommand for micro auth: list acounts; did you mean: micro auth list acc",
        ),
        (
            ["audit", "--since", "soon"],
            "",
            "--since takes how long ago such as 10m, or a time such as 2026-01-31T08:00Z",
        ),
        (["rotate-key", "x"], "", "unexpected 'x': see: micro auth rotate-keys --help"),
        (["burn"], "", "unrecognized subcommand for micro auth: burn; see: micro auth --help"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(
    admin: Shell, auth: FakeAuth, words: list[str], stdin: str, message: str
) -> None:
    asked = len(auth.calls)
    result = admin("auth", *words, stdin=stdin)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"micro: {message}"), result.err
    assert len(auth.calls) == asked


def test_rules(admin: Shell, auth: FakeAuth) -> None:
    words = ["--resource", "service:helloworld:*", "--access", "denied", "--priority", "5"]
    assert admin("auth", "create", "rule", "no-hello", *words).out == (
        "rule no-hello created: anyone may not call service:helloworld:*, priority 5\n"
    )
    assert auth.rules["no-hello"] == {
        "id": "no-hello",
        "scope": "",
        "resource": {"type": "service", "name": "helloworld", "endpoint": "*"},
        "access": "ACCESS_DENIED",
        "priority": 5,
        "namespace": "micro",
    }
    listed = [line.split() for line in admin("auth", "list", "rules").out.splitlines()]
    assert listed == [
        ["ID", "SCOPE", "ACCESS", "RESOURCE", "PRIORITY"],
        ["no-hello", "<public>", "denied", "service:helloworld:*", "5"],
        ["default", "*", "granted", "*:*:*", "lowest"],
    ]
    assert admin("auth", "update", "rule", "no-hello", "--scope=+").out == (
        "rule no-hello: any account of any namespace may not call service:helloworld:*, priority 5\n"
    )
    assert json.loads(admin("auth", "list", "rules", "-o", "json").out)[0]["scope"] == "+"
    explained = admin("auth", "explain", "ann", "service:helloworld:Helloworld.Call")
    assert explained.out == "allowed: rule no-hello is about ann\n"
    assert admin("auth", "explain", "-", "service:helloworld:X", "-o", "json").code == 0
    assert auth.calls[-1].messages[0]["account"] == ""
    assert admin("auth", "delete", "rule", "no-hello").out == "rule no-hello deleted\n"


@pytest.mark.parametrize(
    ("words", "named", "told"),
    [
        (["--priority=7"], {"priority": 7}, "scope admin may not call service:till:*, priority 7"),
        (["--scope="], {"scope": ""}, "anyone may not call service:till:*, priority 5"),
        (
            ["--scope=*", "--access=granted"],
            {"scope": "*", "access": "ACCESS_GRANTED"},
            "any account of namespace micro may call service:till:*, priority 5",
        ),
        (
            ["--resource=service:shop:Shop.Buy"],
            {"resource": {"type": "service", "name": "shop", "endpoint": "Shop.Buy"}},
            "scope admin may not call service:shop:Shop.Buy, priority 5",
        ),
    ],
)
def test_an_update_of_a_rule_changes_what_is_named_and_nothing_else(
    admin: Shell, auth: FakeAuth, words: list[str], named: dict[str, object], told: str
) -> None:
    made = ["--scope=admin", "--resource=service:till:*", "--access=denied", "--priority=5"]
    admin("auth", "create", "rule", "tills", *made)
    before = dict(auth.rules["tills"])
    assert admin("auth", "update", "rule", "tills", *words).out == f"rule tills: {told}\n"
    assert auth.rules["tills"] == before | named


def test_an_update_of_no_rule_or_of_nothing_changes_nothing(admin: Shell, auth: FakeAuth) -> None:
    missing = admin("auth", "update", "rule", "nope", "--priority=1")
    hint = "list them with micro auth list rules"
    assert (missing.code, missing.err) == (1, f"micro: rule 'nope' not found in namespace micro: {hint}\n")
    assert auth.rules == {}


@pytest.mark.parametrize("noun", ["token", "tokens", "session", "sessions"])
def test_a_session_may_be_called_what_it_is(admin: Shell, auth: FakeAuth, noun: str) -> None:
    (own,) = json.loads(admin("auth", "list", noun, "-o", "json").out)
    assert admin("auth", "revoke", noun, own["id"]).out == f"session {own['id']} has ended\n"


def test_sessions_are_listed_and_ended(admin: Shell, auth: FakeAuth) -> None:
    admin("env", "add", "two", auth.address)
    admin("login", "--env=two", "--namespace=acme", "--username=ann", "--password-stdin", stdin="ann-secret")
    own = json.loads(admin("auth", "list", "tokens", "-o", "json").out)
    assert [one["account"] for one in own] == ["admin"]
    found = json.loads(admin("auth", "list", "tokens", "--all", "--namespace=acme", "-o", "json").out)
    assert [one["account"] for one in found] == ["ann"]
    assert admin("auth", "revoke", "token", found[0]["id"], "--namespace=acme").code == 0
    assert admin("--env=two", "services").err == "micro: your session has ended: micro --env two login\n"
    assert admin("auth", "revoke", "token", "--account", "admin").out == "all sessions of admin have ended\n"
    assert admin("services").code == 2


def test_keys_and_the_audit_log(admin: Shell) -> None:
    assert admin("auth", "rotate-keys").out.startswith("key key-2 signs from now on")
    lines = admin("auth", "audit", "-n", "2").out.splitlines()
    assert (len(lines), lines[0].split()) == (3, ["TIME", "WHO", "WHAT", "TO", "FROM", "OUTCOME"])
    assert json.loads(admin("auth", "audit", "-o", "json").out)[0]["actor"] == "micro/admin"


def test_the_audit_log_is_read_page_after_page(admin: Shell, auth: FakeAuth) -> None:
    auth.audited = 2600
    for asked, told in ((2500, 2500), (5000, 2600), (1000, 1000)):
        before = len(auth.calls)
        found = json.loads(admin("auth", "audit", "-n", str(asked), "-o", "json").out)
        assert [one["target"] for one in found] == [str(number) for number in range(told)]
        assert len(auth.calls) - before == -(-told // 1000)
    admin("auth", "audit", "--since", "2026-01-31T08:00Z", "--until", "1h")
    [sent] = auth.calls[-1].messages
    assert sent["since"] == "2026-01-31T08:00:00.000Z"
    assert abs(dt.datetime.fromisoformat(sent["until"]).timestamp() - time.time() + 3600) < 60


def test_what_changes_is_told_to_programs_as_it_is_listed(admin: Shell, auth: FakeAuth) -> None:
    def told(*words: str, stdin: str = "") -> dict[str, Any]:
        result = admin(*words, "-o", "json", stdin=stdin)
        assert (result.code, result.err) == (0, "")
        found: dict[str, Any] = json.loads(result.out)
        return found

    def listed(*words: str, called: str, key: str = "id") -> dict[str, Any]:
        [found] = [one for one in json.loads(admin(*words, "-o", "json").out) if one[key] == called]
        assert isinstance(found, dict)
        return found

    admin("auth", "create", "account", "bob")
    assert told("auth", "update", "account", "bob", "--scopes", "shop") == listed(
        "auth", "list", "accounts", called="bob"
    )
    changed = told("auth", "update", "secret", "bob")
    assert changed.pop("secret") == "made-up-secret"
    assert admin("login", "--username=admin", "--password-stdin", stdin="admin-secret").code == 0
    assert changed == listed("auth", "list", "accounts", called="bob")
    assert "secret" not in told("auth", "update", "secret", "bob", "--secret-stdin", stdin="rosebud-77\n")
    assert admin("login", "--username=admin", "--password-stdin", stdin="admin-secret").code == 0
    for words in (["create", "rule", "hello", "--scope", "+"], ["update", "rule", "hello", "--priority", "3"]):
        assert told("auth", *words) == listed("auth", "list", "rules", called="hello")
    assert told("namespace", "create", "beta") == listed("namespace", "list", called="beta", key="name")
    assert told("auth", "rotate-keys")["kid"] == "key-2"


def test_namespaces(admin: Shell, auth: FakeAuth) -> None:
    assert admin("namespace", "create", "beta").out == (
        "namespace beta created; its first account: micro auth create account --namespace beta --scopes admin NAME\n"
    )
    assert [line.split()[0] for line in admin("namespace").out.splitlines()] == ["NAME", "acme", "beta", "*"]
    assert [one["name"] for one in json.loads(admin("namespace", "list", "-o", "json").out)] == [
        "acme",
        "beta",
        "micro",
    ]
    assert admin("namespace", "quota", "acme", "--requests", "100", "--upload=64MiB").out.splitlines() == [
        "LIMIT      VALUE",
        "services   200",
        "instances  500",
        "requests   100",
        "upload     64M",
        "topics     no limit",
        "events     no limit",
    ]
    assert auth.namespaces["acme"]["quota"]["upload"] == str(64 * 2**20)
    assert json.loads(admin("namespace", "quota", "acme", "-o", "json").out)["requests"] == 100
    assert admin("namespace", "quota", "acme", "--upload=0").out.splitlines()[4] == "upload     64 MB, the most"
    assert (
        admin("namespace", "quota", "nope").err == "micro: namespace 'nope' not found: list them with micro namespace\n"
    )
    admin("user", "namespace", "set", "beta")
    assert admin("namespace", "delete", "beta").out == "namespace beta deleted\n"
    assert admin("user", "namespace").out == "micro\n"


def test_force_wants_the_name_typed(admin: Shell, auth: FakeAuth) -> None:
    refused = admin("namespace", "delete", "acme")
    assert (refused.code, refused.err) == (1, "micro: namespace 'acme' is not empty: add --force\n")
    for typed in ("", "acm\n"):
        result = admin("namespace", "delete", "acme", "--force", stdin=typed)
        assert (result.code, result.err) == (
            2,
            "micro: nothing was deleted: to delete acme with all that is in it, type its name\n",
        )
    assert "acme" in auth.namespaces
    assert admin("namespace", "delete", "acme", "--force", stdin="acme\n").code == 0


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["auth", ""], ["list", "create", "update", "delete", "explain", "revoke", "rotate-keys", "audit"]),
        (["auth", "list", "r"], ["rules"]),
        (["auth", "delete", "account", ""], ["admin"]),
        (["auth", "create", "account", "bob", "--type", ""], ["user", "service"]),
        (["auth", "create", "account", "--secr"], ["--secret", "--secret-stdin"]),
        (["auth", "--namespace", "a"], ["acme"]),
        (["--namespace", "acme", "auth", "delete", "account", ""], ["ann"]),
        (["user", "namespace", ""], ["set"]),
        (["user", "namespace", "set", ""], ["acme", "micro"]),
        (["user", "se"], ["set"]),
        (["namespace", "delete", ""], ["acme", "micro"]),
        (["env", "set-address", ""], ["dev", "platform"]),
        (["env", "add", "x", "a:1", "--c"], ["--ca", "--cert"]),
        (["login", "--pass"], ["--password", "--password-stdin"]),
    ],
)
def test_the_next_word(admin: Shell, words: list[str], candidates: list[str]) -> None:
    result = admin("__complete", "--", *words)
    assert (result.code, result.err, result.out.splitlines()) == (0, "", candidates)


def test_completion_renews_nothing(admin: Shell, auth: FakeAuth) -> None:
    auth.end()
    assert admin("__complete", "--", "namespace", "delete", "").out == ""
    assert auth.refreshed == 0


@pytest.mark.parametrize("words", [["list", "accounts"], ["create", "rule"], ["audit"], ["revoke", "token"]])
def test_each_action_has_help_of_its_own(admin: Shell, words: list[str]) -> None:
    result = admin("auth", *words, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"usage: micro auth {' '.join(words)}")
