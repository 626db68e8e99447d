"""What every backend of `micro.ports.identity` must do. Authors of a backend subclass `IdentityContract` in a test
file and give it a fixture `store` that yields a started, empty backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from micro.domain import errors, token
from micro.domain.account import Account, Type
from micro.domain.errors import Kind
from micro.domain.namespace import Namespace, Quota
from micro.domain.rule import Access, Resource, Rule
from micro.ports.identity import (
    AUDIT_EACH,
    AUDIT_KEPT,
    SERVED_KEPT,
    SESSIONS_LISTED,
    Entry,
    IdentityStore,
    RefreshTokenReusedError,
    Revoked,
    Session,
    SigningKey,
)

JANE = Account(
    "jane",
    "micro",
    "Jane «J» Doe ☃",
    Type.USER,
    frozenset({"admin", "ops:eu"}),
    {"team": 'a"\\é', "": ""},
    "2026-01-01",
)
ROBOT = Account("greeter-v1", "micro", "greeter-v1", Type.SERVICE, frozenset(), {"service": "greeter"})
RULE = Rule("only-ops", "micro", "ops:eu", Resource("service", "greeter*", "Greeter.Hello"), Access.DENIED, -7)
SHOP = Namespace("shop", Quota(1, 2, 3, 2**40), "2026-02-02")
HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA"
NOW = 1_800_000_000.25
LATER = NOW + 3600.0
PAST = 1_700_000_000.0
"""A moment before any at which something is recorded."""


def entry(action: str, namespace: str = "micro", actor: str = "micro/admin", target: str = "jane") -> Entry:
    """A line of the audit log."""
    return Entry(NOW, actor, action, target, namespace, "192.0.2.7", "ok ☃")


def session(id: str = "s1", account: Account = JANE, created: float = NOW) -> Session:  # noqa: A002
    """A session whose refresh token is made of its id."""
    return Session(id, account.id, account.namespace, hashed(id), created, created, created + 3600.0, "2001:db8::1")


def hashed(text: str) -> bytes:
    """32 bytes that stand for a SHA-256, NULs and all."""
    return text.encode().rjust(32, b"\0")


def revoked(session: str = "jane's", before: float = NOW, until: float = LATER) -> Revoked:
    return Revoked("micro", session, before, until)


async def refused(kind: Kind, call: Awaitable[object], *words: str) -> None:
    """The call fails with that kind, and says these words in one line."""
    with pytest.raises(errors.Error) as caught:
        await call
    assert caught.value.kind is kind
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


async def audited(store: IdentityStore) -> list[str]:
    """What was done, the first first."""
    return [each.action for each in reversed(await store.audit(limit=1000))]


class AccountsContract:
    """Accounts, and the names they go by."""

    async def test_gives_back_every_field_of_an_account(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "argon2 ☃")
        await store.create_account(ROBOT, "other")
        assert await store.account("micro", "jane") == JANE
        assert await store.secret("micro", "jane") == (JANE, "argon2 ☃")
        assert await store.secret("micro", JANE.name) == (JANE, "argon2 ☃")
        assert await store.secret("micro", ROBOT.id) == (ROBOT, "other")

    async def test_knows_nobody_by_a_name_alone_where_an_id_is_asked_for(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "x")
        for namespace, id in (("micro", JANE.name), ("micro", "Jane"), ("micro", ""), ("shop", "jane")):  # noqa: A001
            assert await store.account(namespace, id) is None
        for namespace, id in (("micro", "Jane"), ("micro", ""), ("shop", "jane")):  # noqa: A001
            assert await store.secret(namespace, id) is None

    async def test_ids_and_names_share_one_space(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "x")
        for id, name in (("jane", "new"), ("new", "jane"), ("new", JANE.name)):  # noqa: A001
            await refused(Kind.ALREADY_EXISTS, store.create_account(Account(id, "micro", name), "x", entry("no")), id)
        assert await store.accounts("micro") == [JANE]
        assert await store.secret("micro", "new") is None
        assert await audited(store) == []

    async def test_a_name_is_free_in_another_namespace(self, store: IdentityStore) -> None:
        await store.create_namespace(SHOP)
        await store.create_account(JANE, "a")
        there = replace(JANE, namespace="shop")
        await store.create_account(there, "b")
        assert await store.secret("shop", JANE.name) == (there, "b")
        assert await store.secret("micro", JANE.name) == (JANE, "a")

    async def test_an_account_needs_a_namespace(self, store: IdentityStore) -> None:
        await refused(Kind.NOT_FOUND, store.create_account(replace(JANE, namespace="shop"), "x", entry("no")), "shop")
        assert await store.accounts("shop") == []
        assert await audited(store) == []

    async def test_lists_accounts_by_id_a_page_at_a_time(self, store: IdentityStore) -> None:
        ids = ["B", "a", "a-1", "a.b", "b", "zed@example.org"]
        for id in reversed(ids):  # noqa: A001
            await store.create_account(Account(id, "micro"), "x")
        found: list[str] = []
        while page := await store.accounts("micro", after=found[-1] if found else "", limit=4):
            found += [account.id for account in page]
        assert found == ids

    async def test_an_account_that_is_renamed_gives_its_name_free(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "x")
        renamed = replace(JANE, name="Dr Doe", scopes=frozenset({"ops"}), metadata={}, type=Type.SERVICE)
        await store.replace_account(renamed, entry("rename"))
        assert await store.secret("micro", "Dr Doe") == (renamed, "x")
        await store.create_account(Account("other", "micro", JANE.name), "y")
        taken = replace(renamed, name=JANE.name)
        await refused(Kind.ALREADY_EXISTS, store.replace_account(taken, entry("no")), "jane")
        assert await store.account("micro", "jane") == renamed
        assert await store.secret("micro", "Dr Doe") == (renamed, "x")
        assert await audited(store) == ["rename"]

    async def test_what_is_not_there_cannot_be_changed(self, store: IdentityStore) -> None:
        await refused(Kind.NOT_FOUND, store.replace_account(JANE, entry("no"), secret=HASH, revoked=revoked()), "jane")
        await refused(Kind.NOT_FOUND, store.delete_account("micro", "jane", revoked(), entry("no")), "jane")
        assert await store.revocations(NOW) == []
        assert await audited(store) == []

    async def test_a_new_secret_ends_the_sessions_and_a_new_scope_does_not(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "x")
        await store.open_session(session())
        await store.replace_account(replace(JANE, scopes=frozenset()), revoked=revoked())
        assert await store.sessions("micro", "jane") == [session()]
        assert await store.revocations(NOW) == [revoked()]
        await store.replace_account(JANE, entry("secret"), secret=HASH)
        assert await store.secret("micro", "jane") == (JANE, HASH)
        assert await store.sessions("micro", "jane") == []
        assert await store.rotate(hashed("s1"), hashed("next"), NOW, LATER) is None

    async def test_a_deleted_account_leaves_nothing_but_its_revocation(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "x")
        await store.create_account(ROBOT, "x")
        await store.open_session(session())
        await store.open_session(session("s2", ROBOT))
        await store.delete_account("micro", "jane", revoked(), entry("delete"))
        assert await store.accounts("micro") == [ROBOT]
        assert await store.secret("micro", JANE.name) is None
        assert await store.sessions("micro") == [session("s2", ROBOT)]
        assert await store.rotate(hashed("s1"), hashed("next"), NOW, LATER) is None
        assert await store.revocations(NOW) == [revoked()]
        await store.create_account(Account("other", "micro", "jane"), "y")
        assert await store.sessions("micro", "jane") == []

    async def test_a_deployment_begins_once(self, store: IdentityStore) -> None:
        await store.create_account(ROBOT, "x")
        assert await store.create_first(JANE, "y", entry("begin"))
        assert await store.secret("micro", "jane") == (JANE, "y")
        assert not await store.create_first(replace(JANE, id="other", name="o"), "z", entry("no"))
        await store.delete_account("micro", "jane", revoked())
        assert not await store.create_first(JANE, "z", entry("no"))
        assert await store.accounts("micro") == [ROBOT]
        assert await audited(store) == ["begin"]

    async def test_a_deployment_that_has_users_has_begun(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "x")
        assert not await store.create_first(Account("admin", "micro"), "y")
        await store.delete_account("micro", "jane", revoked())
        assert not await store.create_first(Account("admin", "micro"), "y")

    async def test_a_beginning_that_failed_was_none(self, store: IdentityStore) -> None:
        await store.create_account(replace(ROBOT, name="jane"), "x")
        await refused(Kind.ALREADY_EXISTS, store.create_first(JANE, "y", entry("no")), "jane")
        await store.delete_account("micro", ROBOT.id, revoked())
        assert await store.create_first(JANE, "y")

    async def test_of_many_that_want_one_name_one_gets_it(self, store: IdentityStore) -> None:
        wishes = [
            store.create_account(Account(f"n{each}", "micro", "wanted"), "x", entry(str(each))) for each in range(9)
        ]
        found = await asyncio.gather(*wishes, return_exceptions=True)
        assert [type(each) for each in found].count(errors.Error) == 8
        assert len(await store.accounts("micro")) == 1
        assert len(await audited(store)) == 1


class SessionsContract:
    """Sessions and their refresh tokens."""

    @pytest.fixture
    async def peopled(self, store: IdentityStore) -> IdentityStore:
        """The store with two accounts in it."""
        await store.create_account(JANE, "x")
        await store.create_account(ROBOT, "x")
        return store

    async def test_lists_the_newest_first(self, peopled: IdentityStore) -> None:
        opened = [session("b", created=NOW), session("a", created=NOW + 2), session("c", ROBOT, NOW + 1)]
        for each in opened:
            await peopled.open_session(each, entry(f"login {each.id}"))
        assert [each.id for each in await peopled.sessions("micro")] == ["a", "c", "b"]
        assert await peopled.sessions("micro", "jane") == [opened[1], opened[0]]
        assert await peopled.sessions("micro", "nobody") == await peopled.sessions("shop") == []
        assert await audited(peopled) == ["login b", "login a", "login c"]

    async def test_an_answer_has_an_end(self, peopled: IdentityStore) -> None:
        for number in range(SESSIONS_LISTED + 1):
            await peopled.open_session(session(f"s{number}", created=NOW + number / 1000))
        found = await peopled.sessions("micro")
        assert len(found) == SESSIONS_LISTED
        assert found[-1].id == "s1"

    async def test_a_session_needs_its_account(self, peopled: IdentityStore) -> None:
        gone = session(account=replace(JANE, id="gone"))
        await refused(Kind.NOT_FOUND, peopled.open_session(gone, entry("no")), "gone")
        assert await peopled.sessions("micro") == []
        assert await audited(peopled) == []

    async def test_neither_an_id_nor_a_token_serves_two_sessions(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session())
        for other in (replace(session(), current=hashed("x")), replace(session("s2"), current=hashed("s1"))):
            await refused(Kind.ALREADY_EXISTS, peopled.open_session(other, entry("no")))
        assert await peopled.sessions("micro") == [session()]
        assert await audited(peopled) == []

    async def test_a_refresh_token_turns_into_the_next(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session())
        for number, (used, fresh) in enumerate((("s1", "t1"), ("t1", "t2"))):
            at = NOW + number
            now = replace(session(), current=hashed(fresh), refreshed=at, expires=at + 50.0)
            assert await peopled.rotate(hashed(used), hashed(fresh), at, at + 50.0) == now
            assert await peopled.sessions("micro") == [now]
        assert await peopled.rotate(hashed("unknown"), hashed("t3"), NOW, LATER) is None

    async def test_who_lost_the_answer_may_ask_again_for_a_while(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session())
        await peopled.rotate(hashed("s1"), hashed("t1"), NOW, LATER)
        at = NOW + token.REPEAT_SECONDS / 2
        again = await peopled.rotate(hashed("s1"), hashed("t1"), at, LATER + 1)
        assert again == replace(session(), current=hashed("t1"), refreshed=at, expires=LATER + 1)
        assert await peopled.sessions("micro") == [again]
        for fresh, when in (("t2", at), ("t1", NOW + token.REPEAT_SECONDS)):
            with pytest.raises(RefreshTokenReusedError):
                await peopled.rotate(hashed("s1"), hashed(fresh), when, LATER)
        assert await peopled.rotate(hashed("t1"), hashed("t2"), at, LATER)
        with pytest.raises(RefreshTokenReusedError):
            await peopled.rotate(hashed("s1"), hashed("t1"), at, LATER)

    async def test_one_that_has_served_gives_the_thief_away(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session())
        await peopled.open_session(session("s2"))
        await peopled.rotate(hashed("s1"), hashed("t1"), NOW, LATER)
        current = await peopled.rotate(hashed("t1"), hashed("t2"), NOW + 1, LATER)
        for used in ("s1", "t1"):
            with pytest.raises(RefreshTokenReusedError, match="s1") as caught:
                await peopled.rotate(hashed(used), hashed("t3"), NOW + 2, LATER)
            assert caught.value.kind is Kind.ABORTED
            assert caught.value.session == current
        ended = revoked("s1")
        assert await peopled.end_sessions("micro", ended, entry("reuse"), session="s1")
        for used in ("s1", "t1", "t2"):
            assert await peopled.rotate(hashed(used), hashed("t3"), NOW + 3, LATER) is None
        assert await peopled.sessions("micro") == [session("s2")]
        assert await peopled.revocations(NOW) == [ended]

    async def test_of_a_session_s_refresh_tokens_that_have_served_the_last_are_known(
        self, peopled: IdentityStore
    ) -> None:
        await peopled.open_session(session())
        await peopled.rotate(hashed("s1"), hashed("t0"), NOW, LATER)
        for each in range(SERVED_KEPT):
            await peopled.rotate(hashed(f"t{each}"), hashed(f"t{each + 1}"), NOW + (each + 1) / SERVED_KEPT, LATER)
        assert await peopled.rotate(hashed("s1"), hashed("no"), NOW + 2, LATER) is None
        with pytest.raises(RefreshTokenReusedError):
            await peopled.rotate(hashed("t0"), hashed("no"), NOW + 2, LATER)

    async def test_of_two_that_use_one_token_at_a_time_one_gets_on(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session())
        tries = [peopled.rotate(hashed("s1"), hashed(f"t{each}"), NOW, LATER) for each in range(10)]
        found = await asyncio.gather(*tries, return_exceptions=True)
        won = [each for each in found if isinstance(each, Session)]
        assert len(won) == 1
        assert [type(each) for each in found].count(RefreshTokenReusedError) == 9
        assert await peopled.sessions("micro") == won

    async def test_a_session_that_has_expired_does_not_come_back(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session())
        await peopled.rotate(hashed("s1"), hashed("t1"), NOW, LATER)
        for used in ("s1", "t1"):
            assert await peopled.rotate(hashed(used), hashed("t2"), LATER, LATER + 50) is None
        await peopled.open_session(session("s2", created=LATER))
        assert [each.id for each in await peopled.sessions("micro")] == ["s2"], "the next login clears them away"

    async def test_used_tokens_are_known_for_as_long_as_one_lives(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session())
        end = NOW + token.REFRESH_SECONDS
        await peopled.rotate(hashed("s1"), hashed("t1"), NOW, end + 9)
        with pytest.raises(RefreshTokenReusedError):
            await peopled.rotate(hashed("s1"), hashed("no"), end - 1, end)
        assert await peopled.rotate(hashed("s1"), hashed("no"), end, end + 1) is None
        assert await peopled.rotate(hashed("t1"), hashed("t2"), end, end + 9) is not None
        with pytest.raises(RefreshTokenReusedError):
            await peopled.rotate(hashed("t1"), hashed("no"), end, end + 9)

    async def test_a_fresh_token_is_one_that_nobody_has(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session())
        await peopled.open_session(session("s2"))
        for fresh in ("s1", "s2"):
            await refused(Kind.ALREADY_EXISTS, peopled.rotate(hashed("s1"), hashed(fresh), NOW, LATER))
        assert await peopled.rotate(hashed("s1"), hashed("t1"), NOW, LATER) is not None

    async def test_ends_one_session_or_all_of_an_account(self, peopled: IdentityStore) -> None:
        for each in (session("a"), session("b"), session("c"), session("d", ROBOT)):
            await peopled.open_session(each)
        assert await peopled.end_sessions("micro", revoked("a"), entry("one"), session="a", account="jane")
        assert {each.id for each in await peopled.sessions("micro")} == {"b", "c", "d"}
        assert await peopled.end_sessions("micro", revoked(), entry("all"), account="jane")
        assert {each.id for each in await peopled.sessions("micro")} == {"d"}
        assert await audited(peopled) == ["one", "all"]

    async def test_nobody_ends_the_session_of_another(self, peopled: IdentityStore) -> None:
        await peopled.open_session(session("d", ROBOT))
        for namespace, account, id in (("micro", "jane", "d"), ("shop", "", "d"), ("micro", "", "e")):  # noqa: A001
            ended = await peopled.end_sessions(namespace, revoked(id), entry("no"), session=id, account=account)
            assert not ended
        assert await peopled.sessions("micro") == [session("d", ROBOT)]
        assert await peopled.revocations(NOW) == []
        assert await audited(peopled) == []

    async def test_an_account_without_sessions_is_revoked_all_the_same(self, peopled: IdentityStore) -> None:
        assert not await peopled.end_sessions("micro", revoked(), entry("all"), account="jane")
        assert await peopled.revocations(NOW) == [revoked()]
        assert await audited(peopled) == ["all"]


class RulesContract:
    """Rules, and the namespaces that they are of."""

    async def test_gives_back_every_field_of_a_rule(self, store: IdentityStore) -> None:
        rules = [RULE, Rule("A", "micro"), Rule("b.c", "micro", "+", priority=2**31 - 1)]
        for rule in rules:
            await store.create_rule(rule, entry(rule.id))
        assert await store.rules("micro") == sorted(rules, key=lambda rule: rule.id)
        assert await store.rules("shop") == []
        assert await audited(store) == [rule.id for rule in rules]

    async def test_replaces_and_deletes_a_rule(self, store: IdentityStore) -> None:
        await store.create_rule(RULE)
        await refused(Kind.ALREADY_EXISTS, store.create_rule(replace(RULE, priority=5), entry("no")), RULE.id)
        assert await store.rules("micro") == [RULE]
        changed = replace(RULE, scope="", resource=Resource(), access=Access.GRANTED, priority=9)
        await store.replace_rule(changed, entry("replace"))
        assert await store.rules("micro") == [changed]
        await store.delete_rule("micro", RULE.id, entry("delete"))
        assert await store.rules("micro") == []
        await refused(Kind.NOT_FOUND, store.delete_rule("micro", RULE.id, entry("no")), RULE.id)
        await refused(Kind.NOT_FOUND, store.replace_rule(RULE, entry("no")), RULE.id)
        assert await audited(store) == ["replace", "delete"]

    async def test_namespaces_do_not_see_each_others_rules(self, store: IdentityStore) -> None:
        await store.create_namespace(SHOP)
        there = replace(RULE, namespace="shop", scope="")
        await store.create_rule(RULE)
        await refused(Kind.NOT_FOUND, store.replace_rule(there))
        await refused(Kind.NOT_FOUND, store.delete_rule("shop", RULE.id))
        await store.create_rule(there)
        await store.delete_rule("micro", RULE.id)
        assert (await store.rules("micro"), await store.rules("shop")) == ([], [there])
        await refused(Kind.NOT_FOUND, store.create_rule(replace(RULE, namespace="gone"), entry("no")), "gone")

    async def test_the_platforms_namespace_is_always_there(self, store: IdentityStore) -> None:
        assert await store.namespaces() == [Namespace("micro")]
        await refused(Kind.FAILED_PRECONDITION, store.delete_namespace("micro", entry("no")), "micro")
        assert await store.namespaces() == [Namespace("micro")]
        assert await store.revocations(NOW) == []

    async def test_makes_lists_and_limits_namespaces(self, store: IdentityStore) -> None:
        for name in ("zoo", "a-b", "ab"):
            await store.create_namespace(replace(SHOP, name=name))
        assert [each.name for each in await store.namespaces()] == ["a-b", "ab", "micro", "zoo"]
        await store.create_namespace(SHOP, entry("create"))
        await refused(Kind.ALREADY_EXISTS, store.create_namespace(Namespace("shop"), entry("no")), "shop")
        assert SHOP in await store.namespaces()
        for name in ("shop", "micro"):
            limited = Namespace(name, Quota(0, 0, 2**31 - 1, 2**63 - 1), "2026")
            await store.replace_namespace(limited, entry("quota"))
            assert limited in await store.namespaces()
        await refused(Kind.NOT_FOUND, store.replace_namespace(Namespace("gone"), entry("no")), "gone")
        assert await audited(store) == ["create", "quota", "quota"]

    async def test_a_deleted_namespace_takes_all_that_is_in_it_with_it(self, store: IdentityStore) -> None:
        there = replace(JANE, namespace="shop")
        for account in (JANE, there):
            if account.namespace != "micro":
                await store.create_namespace(SHOP, entry("create", "shop"))
            await store.create_account(account, "x")
            await store.open_session(session(account.namespace, account))
            await store.create_rule(replace(RULE, namespace=account.namespace))
        await store.delete_namespace("shop", entry("delete", "shop"))
        await refused(Kind.NOT_FOUND, store.delete_namespace("shop", entry("no")), "shop")
        assert await store.namespaces() == [Namespace("micro")]
        assert await store.account("shop", "jane") is None
        assert await store.rotate(hashed("shop"), hashed("next"), NOW, LATER) is None
        assert await store.audit("shop") == [entry("delete", "shop"), entry("create", "shop")]
        await store.create_namespace(SHOP)
        assert await store.accounts("shop") == []
        assert await store.rules("shop") == []
        assert await store.sessions("shop") == []
        await store.create_account(there, "y")
        assert await store.account("micro", "jane") == JANE
        assert await store.rules("micro") == [RULE]
        assert len(await store.sessions("micro")) == 1


class RecordsContract:
    """The issuer, keys, revocations and the audit log."""

    async def test_is_healthy_once_started(self, store: IdentityStore) -> None:
        assert store.healthy()

    async def test_the_issuer_stays_the_same(self, store: IdentityStore) -> None:
        assert await store.issuer() == await store.issuer()
        assert len(await store.issuer()) >= 16

    async def test_keeps_the_last_keys_whatever_the_clock_says(self, store: IdentityStore) -> None:
        assert await store.keys() == []
        keys = [SigningKey(kid, bytes(range(256)), NOW + back) for kid, back in (("a", 0.0), ("b", 9.0), ("c", -9.0))]
        await store.add_key(keys[0], 2, entry("rotate"))
        await store.add_key(keys[1], 2)
        assert await store.keys() == [keys[1], keys[0]]
        await refused(Kind.ALREADY_EXISTS, store.add_key(replace(keys[1], private=b""), 2, entry("no")), "b")
        await store.add_key(keys[2], 2)
        assert await store.keys() == [keys[2], keys[1]]
        assert await audited(store) == ["rotate"]

    async def test_revocations_are_forgotten_when_they_no_longer_matter(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "x")
        for until in (LATER, LATER + 1):
            await store.end_sessions("micro", revoked(until=until), account="jane")
        assert await store.revocations(LATER) == [revoked(until=LATER + 1)]
        assert await store.revocations(LATER + 1) == []
        assert await store.revocations(NOW) == []

    async def test_a_revocation_is_never_weakened(self, store: IdentityStore) -> None:
        await store.create_account(JANE, "x")
        for before, until in ((NOW, LATER), (NOW - 5, LATER + 5), (NOW + 1, LATER - 5)):
            await store.replace_account(JANE, revoked=revoked(before=before, until=until))
        assert await store.revocations(NOW) == [revoked(before=NOW + 1, until=LATER + 5)]

    async def test_the_audit_log_tells_the_last_first(self, store: IdentityStore) -> None:
        entries = [
            entry("login", actor="micro/jane", target=""),
            replace(entry("delete"), time=NOW - 99),
            entry("create", "shop", target="zed"),
        ]
        await store.record(*entries[:2])
        await store.record(entries[2])
        assert await store.audit() == entries[::-1]
        assert await store.audit("shop") == entries[2:]
        assert await store.audit(limit=2) == [entries[2], entries[1]]
        assert await store.audit(account="jane") == [entries[1]]
        assert await store.audit(account="micro/jane") == [entries[0]]
        assert await store.audit("shop", account="micro/admin", limit=9) == entries[2:]
        assert await store.audit("nowhere") == []

    async def test_the_audit_log_is_told_in_pages_and_of_a_time(self, store: IdentityStore) -> None:
        done = [
            replace(entry(str(number), "shop" if number % 3 == 0 else "micro"), time=PAST + number)
            for number in range(20)
        ]
        await store.record(*done[:7])
        for one in done[7:15]:
            await store.record(one)
        await store.record(*done[15:])
        last_first = done[::-1]
        for size in (1, 2, 3, 7, 20):
            told: list[Entry] = []
            while page := await store.audit(limit=size, before=told[-1].place if told else ""):
                assert len(page) <= size
                told += page
            assert told == last_first, f"pages of {size}"
        shops = [one for one in last_first if one.namespace == "shop"]
        half = await store.audit("shop", limit=3)
        await store.record(entry("later", "shop"))
        assert half + await store.audit("shop", limit=50, before=half[-1].place) == shops, "new ones change no page"

        assert await store.audit(since=PAST + 4, until=PAST + 8) == last_first[12:16]
        assert (await store.audit(since=PAST + 18))[1:] == last_first[:2]
        assert await store.audit("shop", until=PAST + 6, limit=1) == [done[3]]
        assert await store.audit("shop", until=PAST + 6, before=half[-1].place) == [done[3], done[0]]
        assert await store.audit(since=PAST + 99, until=NOW) == []
        for text in ("x", "-1", "0.0.0", "../1", "\u0661"):
            await refused(Kind.INVALID_ARGUMENT, store.audit(before=text))

    async def test_the_audit_log_has_an_end(self, store: IdentityStore) -> None:
        for first in range(0, 100_000, 10_000):
            await store.record(*(entry(str(number)) for number in range(first, first + 10_000)))
        await store.record(*(entry(str(number)) for number in range(100_000, 100_003)))
        found = await store.audit(limit=200_000)
        assert len(found) == 100_000
        assert (found[0].action, found[-1].action) == ("100002", "3")

    async def test_no_namespace_flushes_what_is_kept_of_others(self, store: IdentityStore) -> None:
        await store.record(entry("kept"), entry("shop's", "shop"))
        for first in range(0, AUDIT_EACH + 2000, 1000):
            await store.record(*(entry(str(number), "loud") for number in range(first, first + 1000)))
        assert len(await store.audit("loud", limit=AUDIT_KEPT)) == AUDIT_EACH
        assert [each.action for each in await store.audit("shop")] == ["shop's"]
        for first in range(0, AUDIT_KEPT - AUDIT_EACH + 2000, 1000):
            loud = f"loud{first // 1000 % 5}"
            await store.record(*(entry(str(number), loud) for number in range(first, first + 1000)))
        assert len(await store.audit(limit=2 * AUDIT_KEPT)) == AUDIT_KEPT + 1, "not more by any number of them"
        assert [each.action for each in await store.audit("micro")] == ["kept"]


class IdentityContract(AccountsContract, SessionsContract, RulesContract, RecordsContract):
    """Subclass it; see the module."""

    @pytest.fixture
    async def store(self) -> IdentityStore:
        """A started backend that holds nothing: override it."""
        raise NotImplementedError
