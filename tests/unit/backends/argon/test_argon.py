"""Secrets as argon2id hashes: told apart in the same time, two at once."""

import asyncio
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters

from micro.backends.argon import secrets
from micro.backends.argon.secrets import ArgonHasher


@pytest.fixture
def hasher() -> ArgonHasher:
    return ArgonHasher(passes=1, memory=8)


async def test_a_secret_is_known_by_its_hash_and_nothing_else_is(hasher: ArgonHasher) -> None:
    hashed = await hasher.hash("café ☃")
    assert await hasher.verify(hashed, "café ☃")
    assert not await hasher.verify(hashed, "cafe ☃")
    assert not await hasher.verify(hashed, "")
    assert await hasher.hash("café ☃") != hashed, "equal secrets cannot be told"


@pytest.mark.parametrize("hashed", ["", "x", "$argon2id$v=19$m=8,t=1,p=1$AAAA", "$2b$12$abc"])
async def test_what_is_no_hash_is_nobodys(hasher: ArgonHasher, hashed: str) -> None:
    assert not await hasher.verify(hashed, "secret")


async def test_without_a_hash_the_same_work_is_done_and_the_answer_is_no() -> None:
    hasher = ArgonHasher()
    nobody, somebody = hasher._nobody, await hasher.hash("secret")
    assert extract_parameters(nobody) == extract_parameters(somebody)
    assert not await hasher.verify(None, "secret")


async def test_the_cost_is_what_owasp_names_as_the_least() -> None:
    found = extract_parameters(await ArgonHasher().hash("secret"))
    assert (found.type.name, found.memory_cost, found.time_cost, found.parallelism) == ("ID", 19456, 2, 1)
    assert (found.salt_len, found.hash_len) == (16, 32)


async def test_two_are_worked_out_at_once_even_when_nobody_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    release, busy, most = threading.Event(), [], []

    def slow(hasher: PasswordHasher, secret: str) -> str:
        busy.append(secret)
        most.append(len(busy))
        release.wait(10)
        busy.remove(secret)
        return secret

    monkeypatch.setattr(PasswordHasher, "hash", slow)
    hasher = ArgonHasher()
    tasks = [asyncio.create_task(hasher.hash(str(number))) for number in range(6)]
    while len(busy) < secrets.AT_ONCE:
        await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    assert len(busy) == secrets.AT_ONCE
    release.set()
    assert await asyncio.gather(*tasks[1:]) == ["1", "2", "3", "4", "5"]
    assert max(most) == secrets.AT_ONCE


def test_a_secret_that_was_made_is_hashed_by_argon2id_too_and_quickly_told_apart() -> None:
    hasher = ArgonHasher()
    one, other = hasher.hash_made("made"), hasher.hash_made("made")
    assert one != other
    assert one.startswith("$argon2id$")
    assert hasher.is_made(one)
    assert hasher.proves(one, "made")
    assert not hasher.proves(one, "other")
    assert not hasher.proves("", "made")


async def test_a_chosen_secret_is_never_proven_quickly() -> None:
    hasher = ArgonHasher()
    chosen = await hasher.hash("chosen")
    assert not hasher.is_made(chosen)
    assert not hasher.proves(chosen, "chosen")
