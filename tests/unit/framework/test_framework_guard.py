"""Who may call: by rules, by the table of the core, at once when either changes, and never past a token's end."""

from __future__ import annotations

from typing import Any

import pytest
from guarded import Clock, Endpoint, admitted
from hypothesis import given
from hypothesis import strategies as st

from micro.domain import access
from micro.domain.account import Account, Type
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.domain.rule import ANY_NAMESPACE, ANYONE, Access, Resource, Rule
from micro.domain.token import ACCESS_SECONDS, SKEW_SECONDS, TAG
from micro.framework import guard as guards
from micro.framework.guard import CoreGuard, RuleGuard
from micro.framework.policy import Policy
from micro.rpc.context import Context
from micro.rpc.guard import RefusedTokenError
from micro.rpc.tokens import JwtVerifier
from micro.testing.identity import Deployment, revoked, rule_changed, rule_gone

ANN = Account("ann", "shop", scopes=frozenset({"buyer"}))
BOB = Account("bob", "other")
ROOT = Account("admin", "micro", scopes=frozenset({"admin"}))
CORE = Account("runtime", "micro", type=Type.SERVICE, scopes=frozenset({"admin"}))
TILL = Account("till-latest", "shop", type=Type.SERVICE, metadata={"service": "till"})

BUYERS = Rule("buyers", "shop", "buyer", Resource("service", "books", "Books.Buy"), priority=2)
NOBODY_BUYS = Rule("no", "shop", ANYONE, Resource("service", "books", "Books.Buy"), Access.DENIED, 1)
VISITORS = Rule("visitors", "shop", ANY_NAMESPACE, Resource("service", "books", "Books.Read"))


def call(guard: Any, path: str = "/Books/Buy", **headers: str) -> Context:
    return admitted(guard, path, headers)[0]


def refusal(guard: Any, path: str = "/Books/Buy", **headers: str) -> Kind | None:
    try:
        call(guard, path, **headers)
    except Error as error:
        return error.kind
    return None


class World:
    """A service `books` of namespace shop, in a deployment with real tokens."""

    def __init__(self, *rules: Rule, public: bool = False) -> None:
        self.clock = Clock()
        self.here = Deployment(clock=self.clock)
        self.policy = self.here.policy("shop", rules, public=public)
        self.guard = RuleGuard("books", "shop", self.policy, clock=self.clock)


# --- users' services ------------------------------------------------------------------------------------------------


def test_a_public_deployment_lets_anyone_in_and_a_shared_one_its_accounts() -> None:
    public, shared = World(public=True), World()
    assert refusal(public.guard) is None
    assert refusal(shared.guard) is Kind.UNAUTHENTICATED
    for world in (public, shared):
        assert call(world.guard, authorization=world.here.bearer(ANN)).account == ANN
        assert refusal(world.guard, authorization=world.here.bearer(BOB)) is Kind.PERMISSION_DENIED
        assert call(world.guard, authorization=world.here.bearer(ROOT)).account == ROOT


def test_rules_go_before_what_the_deployment_says() -> None:
    world = World(BUYERS, NOBODY_BUYS, VISITORS, public=True)
    assert refusal(world.guard) is Kind.UNAUTHENTICATED
    assert refusal(world.guard, authorization=world.here.bearer(ANN)) is None
    assert refusal(world.guard, authorization=world.here.bearer(TILL)) is Kind.PERMISSION_DENIED
    assert refusal(world.guard, "/Books/Read", authorization=world.here.bearer(BOB)) is None


def test_the_namespace_is_the_service_s_own_whatever_a_header_says() -> None:
    world = World(public=True)
    for header in ("", "-", "shop"):
        assert call(world.guard, micro_namespace=header).namespace == "shop"
    assert refusal(world.guard, micro_namespace="other") is Kind.NOT_FOUND
    assert refusal(world.guard, micro_namespace="other", authorization=world.here.bearer(ROOT)) is Kind.NOT_FOUND
    assert call(world.guard, authorization=world.here.bearer(ROOT)).namespace == "shop"


def test_a_service_that_acts_for_somebody_is_seen_and_not_what_is_decided_about() -> None:
    world = World(BUYERS, NOBODY_BUYS)
    ann, till = world.here.bearer(ANN), world.here.bearer(TILL)
    ctx = call(world.guard, authorization=ann, micro_actor=till)
    assert (ctx.account, ctx.actor) == (ANN, TILL)
    assert refusal(world.guard, micro_actor=till) is Kind.UNAUTHENTICATED
    for somebody in (ANN, ROOT, Account("till-latest", "other", type=Type.SERVICE)):
        actor = world.here.bearer(somebody)
        assert refusal(world.guard, authorization=ann, micro_actor=actor) is Kind.PERMISSION_DENIED
    assert call(world.guard, authorization=ann, micro_actor=world.here.bearer(CORE)).actor == CORE
    with pytest.raises(RefusedTokenError) as refused:
        call(world.guard, authorization=ann, micro_actor=world.here.bearer(TILL, ago=3600))
    assert refused.value.header == b"micro-actor"


@pytest.mark.parametrize("header", ["authorization", "micro_actor"])
def test_a_token_is_shown_only_to_whom_it_is_for(header: str) -> None:
    """What a user's service is shown is worth nothing to the platform; and what is worth something, it is not shown."""
    here = Deployment()
    rules, core = RuleGuard("books", "micro", here.policy()), CoreGuard(here.policy(), "secret")
    ours, theirs = (here.bearer(CORE, audience=audience) for audience in (Audience.PLATFORM, Audience.SERVICES))
    for guard, path, right, wrong, told in (
        (rules, "/Books/Buy", theirs, ours, "must not be shown to others: use the one of `micro user token`"),
        (
            core,
            "/micro.registry.v1.Registry/ListServices",
            ours,
            theirs,
            "use the one of `micro user token --platform`",
        ),
    ):
        for _ in range(2):  # remembered or not
            assert call(guard, path, **{"authorization": right, header: right}).account == CORE
            with pytest.raises(RefusedTokenError, match=told) as refused:
                call(guard, path, **{"authorization": right, header: wrong})
            assert (refused.value.kind, refused.value.header) == (
                Kind.UNAUTHENTICATED,
                header.replace("_", "-").encode(),
            )
    with pytest.raises(RefusedTokenError):
        call(core, "/micro.auth.v1.Auth/Token", authorization=theirs)
    assert call(rules, "/Books/Buy", authorization=theirs).audience is Audience.SERVICES
    assert call(core, "/micro.auth.v1.Auth/Inspect", authorization=ours).audience is Audience.PLATFORM


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YTpi", "bearer x.y.z", "Bearer  x", "Bearer é", "Bearer " + "a" * 9000, "Token x"],
)
def test_what_is_no_token_of_ours_is_never_anonymity(header: str) -> None:
    for guard in (World(public=True).guard, CoreGuard(World().policy, "secret")):
        with pytest.raises(RefusedTokenError) as refused:
            call(guard, "/micro.auth.v1.Auth/Token", authorization=header)
        assert refused.value.header == b"authorization"


FUZZED = World(public=True)
GOOD = FUZZED.here.token(ANN).encode()
FOR_PLATFORM = FUZZED.here.bearer(ANN, audience=Audience.PLATFORM)


@given(header=st.binary(max_size=300), name=st.sampled_from([b"authorization", b"micro-actor"]))
def test_no_bytes_are_taken_for_an_account(header: bytes, name: bytes) -> None:
    _never_taken({name: header})


@given(at=st.integers(0, len(GOOD) - 1), cut=st.integers(0, 3), put=st.binary(max_size=3))
def test_no_change_of_a_good_token_goes_unnoticed(at: int, cut: int, put: bytes) -> None:
    changed = GOOD[:at] + put + GOOD[at + cut :]
    if changed != GOOD:
        _never_taken({b"authorization": b"Bearer " + changed})


def _never_taken(headers: dict[bytes, bytes]) -> None:
    for guard in (FUZZED.guard, CoreGuard(FUZZED.policy, "secret", clock=FUZZED.clock)):
        for path in ("/Books/Buy", "/micro.auth.v1.Auth/Token", "/micro.auth.v1.Setup/Begin"):
            with pytest.raises(RefusedTokenError):
                guard.admit(Context(Endpoint(path), {"headers": list(headers.items())}, None), headers)  # type: ignore[arg-type]


@given(asked=st.binary(max_size=80))
def test_no_header_leads_to_another_namespace(asked: bytes) -> None:
    reached = reach(FUZZED.guard, "/Books/Buy", {b"micro-namespace": asked})
    assert reached == ("shop" if asked in (b"", b"-", b"shop") else Kind.NOT_FOUND)
    core = CoreGuard(FUZZED.policy, "secret", clock=FUZZED.clock)
    headers = {b"micro-namespace": asked, b"authorization": FOR_PLATFORM.encode()}
    reached = reach(core, "/micro.registry.v1.Registry/Watch", headers)
    assert reached in ("shop", Kind.INVALID_ARGUMENT, Kind.PERMISSION_DENIED)


def reach(guard: Any, path: str, headers: dict[bytes, bytes]) -> str | Kind:
    """The namespace that a call is let into, or why it is not."""
    ctx = Context(Endpoint(path), {"headers": list(headers.items())}, None)  # type: ignore[arg-type]
    try:
        guard.admit(ctx, headers)
    except Error as error:
        return error.kind
    return ctx.namespace


def test_a_token_of_another_deployment_is_refused() -> None:
    world = World(public=True)
    strangers = Deployment(clock=world.clock)
    strangers.key = world.here.key
    assert refusal(world.guard, authorization=f"Bearer {strangers.token(ANN, issuer='else')}") is Kind.UNAUTHENTICATED
    assert refusal(world.guard, authorization=Deployment(clock=world.clock).bearer(ANN)) is Kind.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, None),
        ({"sec_fetch_site": "none"}, None),
        ({"sec_fetch_site": "same-origin", "origin": "http://localhost:7", "host": "localhost:7"}, None),
        ({"origin": "http://localhost:7", "host": "localhost:7"}, None),
        ({"sec_fetch_site": "cross-site"}, Kind.PERMISSION_DENIED),
        (
            {"sec_fetch_site": "same-site", "origin": "http://localhost:9", "host": "localhost:7"},
            Kind.PERMISSION_DENIED,
        ),
        ({"origin": "http://evil.test", "host": "localhost:7"}, Kind.PERMISSION_DENIED),
        ({"origin": "null", "host": "localhost:7"}, Kind.PERMISSION_DENIED),
        ({"origin": "http://known.test", "host": "localhost:7", "micro_namespace": "-"}, None),
    ],
)
def test_a_page_does_not_call_a_public_service_behind_its_reader_s_back(
    headers: dict[str, str], wanted: Kind | None
) -> None:
    """Unless it has come by the gateway, which knows whose pages may, or has a token, which no browser adds."""
    world = World(public=True)
    assert refusal(world.guard, **headers) is wanted
    assert refusal(world.guard, **headers, authorization=world.here.bearer(ANN)) is None


# --- what is remembered ---------------------------------------------------------------------------------------------


def test_a_remembered_token_ends_when_it_says() -> None:
    world = World()
    token = world.here.bearer(ANN)
    assert refusal(world.guard, authorization=token) is None
    world.clock.now += ACCESS_SECONDS + SKEW_SECONDS - 1
    assert refusal(world.guard, authorization=token) is None
    world.clock.now += 1
    assert refusal(world.guard, authorization=token) is Kind.UNAUTHENTICATED


def test_a_rule_acts_on_callers_that_are_remembered() -> None:
    world = World(public=True)
    ann = world.here.bearer(ANN)
    assert (refusal(world.guard), refusal(world.guard, authorization=ann)) == (None, None)
    world.policy.apply(rule_changed(NOBODY_BUYS))
    assert refusal(world.guard) is Kind.UNAUTHENTICATED
    assert refusal(world.guard, authorization=ann) is Kind.PERMISSION_DENIED
    world.policy.apply(rule_changed(BUYERS))
    assert refusal(world.guard, authorization=ann) is None
    world.policy.apply(rule_gone("buyers"))
    world.policy.apply(rule_gone("no"))
    assert refusal(world.guard) is None


def test_a_revocation_acts_on_tokens_that_are_remembered() -> None:
    world = World()
    tag = "a" * TAG
    first, other = (world.here.bearer(ANN, session=f"{tag}{number}", ago=60) for number in (1, 2))
    assert refusal(world.guard, authorization=first) is refusal(world.guard, authorization=other) is None
    world.policy.apply(revoked(world.clock.now, f"{tag}1"))
    assert refusal(world.guard, authorization=first) is Kind.UNAUTHENTICATED
    assert refusal(world.guard, authorization=other) is None
    world.policy.apply(revoked(world.clock.now - 90, tag))
    assert refusal(world.guard, authorization=other) is None
    world.policy.apply(revoked(world.clock.now, tag))
    assert refusal(world.guard, authorization=other) is Kind.UNAUTHENTICATED
    assert refusal(world.guard, authorization=world.here.bearer(ANN)) is None


def test_a_key_that_is_gone_takes_its_tokens_with_it() -> None:
    world = World()
    token = world.here.bearer(ANN)
    assert refusal(world.guard, authorization=token) is None
    world.here.key = world.here.signer.generate(world.clock.now)
    world.policy.apply(world.here.keys())
    assert refusal(world.guard, authorization=token) is Kind.UNAUTHENTICATED
    assert refusal(world.guard, authorization=world.here.bearer(ANN)) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MOST", 3)
    world = World()
    for number in range(10):
        account = Account(f"a{number}", "shop")
        assert call(world.guard, authorization=world.here.bearer(account)).account == account
        assert len(world.guard._callers) <= 3


def test_before_the_policy_is_known_nothing_is_decided() -> None:
    policy = Policy(JwtVerifier(), "shop")
    here = Deployment()
    rules, core = RuleGuard("books", "shop", policy), CoreGuard(policy, "secret")
    assert refusal(rules) is Kind.UNAVAILABLE
    assert refusal(rules, authorization=here.bearer(ANN)) is Kind.UNAVAILABLE
    assert refusal(core, "/micro.registry.v1.Registry/Watch", authorization=here.bearer(ROOT)) is Kind.UNAVAILABLE
    assert refusal(core, "/micro.auth.v1.Auth/Token") is None
    assert refusal(core, "/micro.auth.v1.Setup/Begin", authorization="Bearer secret") is None
    for change in here.state(public=True):
        policy.apply(change)
    assert refusal(rules) is None


# --- core services --------------------------------------------------------------------------------------------------

OWNER = Account("owner", "shop", scopes=frozenset({"admin"}))
CALLERS = {"nobody": None, "service": TILL, "user": ANN, "admin": OWNER, "foreign admin": BOB, "platform": ROOT}
ALLOWED = {
    access.Need.OPEN: set(CALLERS),
    access.Need.ACCOUNT: {"service", "user", "admin", "platform"},
    access.Need.USER: {"user", "admin", "platform"},
    access.Need.SERVICE: {"service", "admin", "platform"},
    access.Need.ADMIN: {"admin", "platform"},
    access.Need.PLATFORM: {"platform"},
    access.Need.GATEWAY: set(),
    access.Need.SERVER: set(),
}


@pytest.mark.parametrize("path", sorted(access.NEEDS))
def test_each_core_endpoint_lets_in_whom_it_needs(path: str) -> None:
    here = Deployment()
    core = CoreGuard(here.policy(), "secret")
    for name, account in CALLERS.items():
        headers = {"micro_namespace": "shop"} | (
            {"authorization": here.bearer(account, audience=Audience.PLATFORM)} if account else {}
        )
        wanted = None if name in ALLOWED[access.NEEDS[path]] else Kind.PERMISSION_DENIED if account else None
        got = refusal(core, path, **headers)
        if account is None and name not in ALLOWED[access.NEEDS[path]]:
            wanted = Kind.UNAUTHENTICATED
        assert got is wanted, name
    closed = access.NEEDS[path] in (access.Need.GATEWAY, access.Need.SERVER)
    assert refusal(core, path, authorization="Bearer secret") is (None if closed else Kind.UNAUTHENTICATED)
    for wrong in ("Bearer wrong", "secret", "Bearer ", "Basic secret"):
        assert refusal(core, path, authorization=wrong) is Kind.UNAUTHENTICATED


def test_an_empty_server_secret_opens_nothing() -> None:
    core = CoreGuard(Deployment().policy(), "")
    for shown in ("Bearer ", ""):
        assert refusal(core, "/micro.auth.v1.Setup/Begin", authorization=shown) is Kind.UNAUTHENTICATED


def test_an_endpoint_that_is_in_no_table_cannot_be_called() -> None:
    here = Deployment()
    core = CoreGuard(here.policy(), "secret")
    assert refusal(core, "/micro.auth.v1.Auth/New") is Kind.UNAUTHENTICATED
    assert (
        refusal(core, "/micro.auth.v1.Auth/New", authorization=here.bearer(ROOT, audience=Audience.PLATFORM))
        is Kind.PERMISSION_DENIED
    )


def test_the_namespace_of_a_core_call() -> None:
    here = Deployment()
    core, path = CoreGuard(here.policy(), "secret"), "/micro.registry.v1.Registry/ListServices"
    ann, root = (here.bearer(account, audience=Audience.PLATFORM) for account in (ANN, ROOT))
    assert call(core, path, authorization=ann).namespace == "shop"
    assert call(core, path, authorization=ann, micro_namespace="-").namespace == "shop"
    assert call(core, path, authorization=root).namespace == "micro"
    ctx = call(core, path, authorization=root, micro_namespace="shop")
    assert (ctx.namespace, ctx.within(""), ctx.within("other")) == ("shop", "shop", "other")
    assert refusal(core, path, authorization=ann, micro_namespace="other") is Kind.PERMISSION_DENIED
    assert refusal(core, path, authorization=ann, micro_namespace="No!") is Kind.INVALID_ARGUMENT
    ctx = call(core, path, authorization=ann)
    assert ctx.within("shop") == "shop"
    with pytest.raises(Error, match="not of namespace other") as denied:
        ctx.within("other")
    assert denied.value.kind is Kind.PERMISSION_DENIED
    assert call(core, "/micro.auth.v1.Auth/Token").within("shop") == "shop"


# --- paths with nothing behind them ---------------------------------------------------------------------------------


def revealed(guard: Any, **headers: str) -> Kind | None:
    try:
        guard.reveal({name.replace("_", "-").encode(): value.encode() for name, value in headers.items()})
    except Error as error:
        return error.kind
    return None


def test_what_a_service_offers_is_told_to_whom_it_is_open() -> None:
    shared, public = World(), World(public=True)
    assert (revealed(shared.guard), revealed(public.guard)) == (Kind.UNAUTHENTICATED, None)
    assert revealed(shared.guard, authorization=shared.here.bearer(ANN)) is None
    assert revealed(shared.guard, authorization=shared.here.bearer(BOB)) is Kind.PERMISSION_DENIED
    assert revealed(public.guard, micro_namespace="other") is Kind.NOT_FOUND
    core = CoreGuard(shared.policy, "secret", clock=shared.clock)
    assert revealed(core) is Kind.UNAUTHENTICATED
    assert revealed(core, authorization=shared.here.bearer(ANN, audience=Audience.PLATFORM)) is None
    assert revealed(core, authorization=shared.here.bearer(ANN)) is Kind.UNAUTHENTICATED
    assert revealed(core, authorization="Bearer x") is Kind.UNAUTHENTICATED
