"""Nothing that was acknowledged is lost when the process that keeps identity is killed."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from micro.backends.aesgcm.keyring import Keyring
from micro.backends.aesgcm.sealing import AesGcmSealing
from micro.backends.sqlite.store import SqliteStore
from micro.backends.stored.identity import StoredIdentity
from micro.domain.account import Account
from micro.domain.rule import Resource, Rule
from micro.ports.identity import Entry, Session

ROUNDS = 8
MOST = 60
"""Acknowledgements that a round waits for at most; a transaction syncs the disk, so the kill falls into one mostly."""


def account(name: str) -> Account:
    return Account(name, "micro", f"Name of {name}", scopes=frozenset({"ops"}), metadata={"padding": name * 50})


def rule(name: str) -> Rule:
    return Rule(name, "micro", "ops", Resource("service", name, "*"))


def token(name: str, turn: int) -> bytes:
    return f"{name}/{turn}".encode().rjust(32)


def entry(action: str, name: str) -> Entry:
    return Entry(1.0, "micro/writer", action, name, "micro", "")


def store_in(path: Path) -> StoredIdentity:
    sealing = AesGcmSealing(Keyring("", path / "config.key"))
    sealing.begin()
    return StoredIdentity(SqliteStore(path / "state"), sealing)


async def write(path: Path, generation: str) -> None:
    """Store accounts, rules and sessions for ever, and print the name of each when it is acknowledged."""
    async with AsyncExitStack() as stack:
        store = store_in(path)
        await store.start(stack)
        number = 0
        while True:
            name = f"g{generation}-{number:06}"
            await store.create_account(account(name), f"hash of {name}", entry("account.create", name))
            print(f"account {name}", flush=True)
            await store.create_rule(rule(name), entry("rule.create", name))
            print(f"rule {name}", flush=True)
            await store.open_session(Session(name, name, "micro", token(name, 0), 1.0, 1.0, 9e9), entry("login", name))
            await store.rotate(token(name, 0), token(name, 1), 2.0, 9e9)
            print(f"session {name}", flush=True)
            number += 1


def killed(path: Path, generation: int, after: int) -> list[str]:
    """What a writer acknowledged that was killed once it had acknowledged so many."""
    argv = [sys.executable, __file__, str(path), str(generation)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            acknowledged = [child.stdout.readline() for _ in range(after)]
        finally:
            os.kill(child.pid, signal.SIGKILL)
        acknowledged += child.stdout.read().splitlines(keepends=True)
    assert all(acknowledged[:after]), "the writer ended by itself"
    return [line.strip() for line in acknowledged if line.endswith("\n")]


@pytest.mark.slow
async def test_every_acknowledged_change_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path
    choose = random.Random()  # no seed: other moments each time
    acknowledged: list[str] = []
    for generation in range(ROUNDS):
        now = await asyncio.to_thread(killed, path, generation, choose.randint(1, MOST))
        acknowledged += now
        async with AsyncExitStack() as stack:
            store = store_in(path)
            await store.start(stack)
            accounts = {each.id: each for each in await store.accounts("micro", limit=100_000)}
            rules = {each.id: each for each in await store.rules("micro")}
            sessions = {each.id: each for name in accounts for each in await store.sessions("micro", name)}
            for what, name in map(str.split, acknowledged):
                found = {"account": accounts, "rule": rules, "session": sessions}[what].get(name)
                assert found is not None, f"{what} {name} was acknowledged and is lost"
                if what == "session":
                    assert sessions[name].current == token(name, 1), "a refresh token that has served serves again"
            assert all(each == account(each.id) for each in accounts.values())
            assert all(each == rule(each.id) for each in rules.values())
            assert {name: (await store.secret("micro", name))[1] for name in accounts} == {
                name: f"hash of {name}" for name in accounts
            }
            audit = [(each.action, each.target) for each in await store.audit(limit=100_000)]
            assert sorted(audit) == sorted(
                [("account.create", name) for name in accounts]
                + [("rule.create", name) for name in rules]
                + [("login", name) for name in sessions]
            ), "each change and its line in the audit log are there, or neither"
            changes = len(accounts) + len(rules) + len(sessions)
            assert changes <= len(acknowledged) + generation + 1, "one change a round can be stored without an answer"


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), sys.argv[2]))
