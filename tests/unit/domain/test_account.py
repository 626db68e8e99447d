"""Accounts: what may be one, and where it is at home."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.domain import account as accounts
from micro.domain import errors
from micro.domain.account import Account, Type

ADMIN = frozenset({"admin"})


def refusal(check, given) -> str:
    with pytest.raises(errors.Error) as caught:
        check(given)
    assert caught.value.kind is errors.Kind.INVALID_ARGUMENT
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("text", ["a", "Jane", "jane.doe+test@example.org", "greeter-v1.2", "0_", "a" * 128])
def test_an_id_is_what_people_and_services_are_called(text: str) -> None:
    assert accounts.account_id(text) == text


@pytest.mark.parametrize("text", ["", " ", "a b", "a/b", "a:b", "-a", "@a", "a\n", "a\0", "ü", "a" * 129, "*", "+"])
def test_what_could_be_mistaken_for_something_else_is_no_id(text: str) -> None:
    assert "128" in refusal(accounts.account_id, text)


@pytest.mark.parametrize("text", ["J", "Jane «J» Doe", "名前", "a/b:c", "x" * 128])
def test_people_are_called_what_they_like(text: str) -> None:
    assert accounts.called(text) == text


@pytest.mark.parametrize("text", ["", " ", " a", "a ", "a\nb", "a\x1b[31m", "\u202eevil", "x" * 129])
def test_but_a_name_is_one_line_to_print(text: str) -> None:
    assert "128" in refusal(accounts.called, text)


def test_scopes_are_few_and_short() -> None:
    assert accounts.scopes(["b", "a", "b", "ops:eu/1.x-_"]) == {"a", "b", "ops:eu/1.x-_"}
    assert accounts.scopes(str(number) for number in range(32)) == set(map(str, range(32)))
    for scope in ("", "*", "+", "a b", "a\n", "x" * 65):
        assert "scope" in refusal(accounts.scopes, ["fine", scope])
    assert "33" in refusal(accounts.scopes, map(str, range(33)))


def test_a_secret_is_long_enough_and_never_quoted() -> None:
    for text in ("12345678", "x" * 1024, "päss wörd"):
        assert accounts.secret(text) == text
    for text in ("1234567", "y" * 1025):
        assert text not in refusal(accounts.secret, text)
    assert "8" in refusal(accounts.secret, "")


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=5))
def test_metadata_is_given_back_as_it_is(pairs: dict[str, str]) -> None:
    assert accounts.metadata(pairs) == pairs
    assert accounts.metadata(pairs) is not pairs


def test_metadata_is_short_however_it_is_cut() -> None:
    for pairs in ({"a": "x" * 2048}, {"☃" * 400: ""}, {str(number): "" for number in range(300)}):
        assert "2048" in refusal(accounts.metadata, pairs)


def test_an_account_is_at_home_in_its_namespace() -> None:
    jane = Account("jane", "shop", scopes=frozenset({"ops"}))
    assert jane.belongs("shop")
    assert not jane.belongs("bank")
    assert not jane.belongs("micro")
    assert not jane.administers("shop")
    assert not jane.platform
    assert (jane.key, str(jane)) == (("shop", "jane"), "shop/jane")


def test_an_admin_administers_its_own_namespace_and_the_platforms_all() -> None:
    here, there = Account("a", "shop", scopes=ADMIN), Account("a", "micro", scopes=ADMIN)
    assert here.administers("shop")
    assert not here.administers("bank")
    assert not here.administers("micro")
    assert not here.platform
    assert there.platform
    assert all(there.belongs(each) and there.administers(each) for each in ("micro", "shop", "bank"))
    member = Account("a", "micro")
    assert not member.platform
    assert not member.belongs("shop")


def test_an_account_stands_for_a_service_only_when_it_is_one() -> None:
    metadata = {"service": "greeter"}
    assert Account("g", "shop", type=Type.SERVICE, metadata=metadata).service == "greeter"
    assert Account("g", "shop", type=Type.USER, metadata=metadata).service == ""
    assert Account("g", "shop", type=Type.SERVICE).service == ""
