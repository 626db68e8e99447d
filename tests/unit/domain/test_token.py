"""Tokens: what they say, for how long it holds, and how their first letters tell the namespace."""

import base64
import json
import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from micro.domain import account as accounts
from micro.domain import errors, token
from micro.domain.account import Account, Type
from micro.domain.audience import Audience
from micro.domain.token import SKEW_SECONDS, Claims, Revocations

ISSUER = "3f0c"
NOW = 1_800_000_000.5
JANE = Account("jane", "shop", "Jane ☃", Type.USER, frozenset({"ops", "admin"}), {"team": "a"})
CLAIMS = Claims(JANE, ISSUER, Audience.PLATFORM, "jti-1", "session-1", NOW, NOW + token.ACCESS_SECONDS)

NAMESPACES = st.from_regex(r"[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9])){0,62}", fullmatch=True)


def why(claims: dict, now: float = NOW, issuer: str = ISSUER, audience: Audience | None = Audience.PLATFORM) -> str:
    """What a token that does not hold is refused with."""
    with pytest.raises(errors.Error) as caught:
        Claims.load(claims, issuer, now, audience)
    assert caught.value.kind is errors.Kind.UNAUTHENTICATED
    return caught.value.message


@given(
    st.builds(
        Claims,
        st.builds(
            Account,
            st.text(),
            NAMESPACES,
            st.text(),
            st.sampled_from(Type),
            st.frozensets(st.text()),
            st.dictionaries(st.text(), st.text()),
        ),
        st.text(),
        st.sampled_from(Audience),
        st.text(),
        st.text(),
        st.floats(0, NOW),
        st.floats(NOW, 2**40),
    )
)
def test_what_is_dumped_is_what_is_loaded(claims: Claims) -> None:
    over_the_wire = json.loads(json.dumps(claims.dump()))
    for audience in (claims.audience, None):
        assert Claims.load(over_the_wire, claims.issuer, NOW, audience) == claims


def test_a_token_holds_until_it_ends_give_or_take_the_clocks() -> None:
    said = CLAIMS.dump()
    end = CLAIMS.expires + SKEW_SECONDS
    for now in (NOW - SKEW_SECONDS, NOW, CLAIMS.expires, math.nextafter(end, 0)):
        assert Claims.load(said, ISSUER, now, Audience.PLATFORM) == CLAIMS
    assert "expired" in why(said, end)
    assert "future" in why(said, NOW - SKEW_SECONDS - 0.001)


def test_a_token_is_for_the_deployment_that_made_it() -> None:
    assert "deployment" in why(CLAIMS.dump(), issuer="other")
    for name in ("iss", "aud"):
        assert "deployment" in why({**CLAIMS.dump(), name: "other"})
        assert "deployment" in why({**CLAIMS.dump(), name: ""})
    for aud in ([ISSUER], f"{ISSUER}/", f"{ISSUER}/services/", "/services", f"{ISSUER}/platform"):
        why({**CLAIMS.dump(), "aud": aud}, audience=None)


def test_a_token_is_for_the_platforms_own_services_or_for_users() -> None:
    for_services = replace(CLAIMS, audience=Audience.SERVICES)
    assert (CLAIMS.dump()["aud"], for_services.dump()["aud"]) == (ISSUER, f"{ISSUER}/services")
    assert Claims.load(for_services.dump(), ISSUER, NOW, Audience.SERVICES) == for_services
    shown = why(CLAIMS.dump(), audience=Audience.SERVICES)
    assert shown == (
        "this token is for the platform's own services, and must not be shown to others: "
        "use the one of `micro user token`"
    )
    assert "micro user token --platform" in why(for_services.dump(), audience=Audience.PLATFORM)
    assert Audience.of("registry") is Audience.PLATFORM
    assert {Audience.of(name) for name in ("books", "Registry", "registry2", "", "server")} == {Audience.SERVICES}


@pytest.mark.parametrize("name", sorted(CLAIMS.dump()))
@pytest.mark.parametrize("value", [None, True, {}, [], ["a", 1], {"a": 1}, {1: "a"}, 10**400, math.nan, math.inf, b"x"])
def test_a_claim_of_the_wrong_kind_holds_nowhere(name: str, value: object) -> None:
    legal = (name == "scopes" and value == []) or (name == "meta" and value == {})
    if not legal:
        why({**CLAIMS.dump(), name: value})


@pytest.mark.parametrize("name", sorted(CLAIMS.dump()))
def test_no_claim_may_be_missing(name: str) -> None:
    said = CLAIMS.dump()
    del said[name]
    assert why(said) == "the token does not say what it must"


def test_a_scope_is_not_made_of_letters() -> None:
    why({**CLAIMS.dump(), "scopes": "admin"})
    why({**CLAIMS.dump(), "meta": "ab"})
    why({**CLAIMS.dump(), "meta": [["service", "greeter"]]})
    why({**CLAIMS.dump(), "type": "root"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(ISSUER),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(CLAIMS.dump())) | st.text(max_size=5), JSON), st.booleans(), st.floats())
@example({"exp": 10**400}, True, NOW)
@example({"exp": math.nan, "iat": -math.inf}, True, NOW)
def test_garbage_is_refused_and_nothing_worse(garbage: dict, mixed: bool, now: float) -> None:
    said = {**CLAIMS.dump(), **garbage} if mixed else garbage
    try:
        found = Claims.load(said, ISSUER, now, None)
    except errors.Error as error:
        kind = error.kind
    else:
        kind = errors.Kind.UNAUTHENTICATED
        assert found.dump() == {name: said[name] for name in found.dump()} | {"scopes": sorted(found.account.scopes)}
    assert kind is errors.Kind.UNAUTHENTICATED


def test_the_largest_account_fits_into_a_token() -> None:
    account = Account(
        accounts.account_id("a" * 128),
        "n" * 63,
        accounts.called("☃" * 128),
        Type.SERVICE,
        accounts.scopes(f"{number:064}" for number in range(32)),
        accounts.metadata({"k": "v" * 2000}),
    )
    said = json.dumps(
        Claims(account, "i" * 32, Audience.SERVICES, "j" * 32, "s" * 32, NOW, NOW).dump(), separators=(",", ":")
    )
    header = json.dumps({"typ": "JWT", "alg": "ES256", "ns": account.namespace, "kid": "k" * 43})
    signature = b"s" * 64
    parts = [base64.urlsafe_b64encode(part) for part in (header.encode(), said.encode(), signature)]
    assert len(b".".join(parts)) <= token.LONGEST


# --- revocations ------------------------------------------------------------------------------------------------------


def test_revocations_cover_what_was_made_before_them() -> None:
    before, after = math.nextafter(NOW, 0), math.nextafter(NOW, math.inf)
    revocations = Revocations({CLAIMS.session: NOW})
    assert revocations.cover(replace(CLAIMS, issued=before))
    assert not revocations.cover(replace(CLAIMS, issued=NOW))
    assert not revocations.cover(replace(CLAIMS, issued=after))
    assert not Revocations().cover(CLAIMS)


def test_revocations_are_about_one_session_or_all_with_one_tag() -> None:
    janes, johns = "j" * token.TAG, "i" * token.TAG
    first, second, other = (replace(CLAIMS, issued=0.0, session=its) for its in (f"{janes}1", f"{janes}2", f"{johns}1"))
    one, all_of_jane = Revocations({first.session: NOW}), Revocations({janes: NOW})
    assert [one.cover(each) for each in (first, second, other)] == [True, False, False]
    assert [all_of_jane.cover(each) for each in (first, second, other)] == [True, True, False]


# --- beginnings -------------------------------------------------------------------------------------------------------


def encoded_header(namespace: str, kid: str) -> str:
    """The first part of a token, as the standard has it (RFC 7515, 3)."""
    header = {"typ": "JWT", "alg": "ES256", "ns": namespace, "kid": kid}
    return base64.urlsafe_b64encode(json.dumps(header, separators=(",", ":")).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("length", range(1, 64))
def test_a_token_begins_as_its_namespace_says(length: int) -> None:
    for namespace in ("a" * length, "9" * length, ("z-" * 32)[: length - 1] + "z"):
        begins = token.beginning(namespace)
        assert "=" not in begins
        for kid in ("0", "zzz", "-_", "a" * 43):
            assert encoded_header(namespace, kid).startswith(begins)


@given(NAMESPACES, NAMESPACES | st.integers(0, 63), st.text("az09-", min_size=1, max_size=9))
def test_no_token_begins_as_anothers_does(one: str, other: str | int, kid: str) -> None:
    other = f"{one}{'a' * other}"[:63] if isinstance(other, int) else other
    if one != other:
        assert not encoded_header(other, kid).startswith(token.beginning(one))
        assert not token.beginning(other).startswith(token.beginning(one))
        assert not token.beginning(one).startswith(token.beginning(other))


def test_every_namespace_starts_at_a_group_of_letters() -> None:
    assert len(token.HEADER_BEGIN) % 3 == 0
