"""Names: what may be one, and what follows from that."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.domain import errors, names

PLAUSIBLE = st.text("abz019-._AZ /\n", max_size=70)
ANY = PLAUSIBLE | st.text(max_size=70)


def accepted(check: Callable[[str], str], name: str) -> bool:
    try:
        return check(name) == name
    except errors.Error as error:
        return error.kind is not errors.Kind.INVALID_ARGUMENT


@given(ANY)
def test_a_service_name_fits_a_host_name_a_path_and_a_folder(name: str) -> None:
    fits = (
        0 < len(name) <= 63
        and re.search(r"[^a-z0-9.-]", name) is None
        and name[0].isalpha()
        and name[-1] not in ".-"
        and re.search(r"[.-]{2}", name) is None
    )
    assert accepted(names.service, name) == fits


@given(ANY.filter(bool))
def test_a_namespace_is_one_label_of_a_host_name(name: str) -> None:
    fits = (
        len(name) <= 63
        and re.search(r"[^a-z0-9-]", name) is None
        and "-" not in (name[0], name[-1])
        and "--" not in name
    )
    assert accepted(names.namespace, name) == fits


@given(ANY.filter(bool))
def test_a_version_fits_a_folder_and_is_not_hidden(name: str) -> None:
    fits = len(name) <= 63 and re.search(r"[^A-Za-z0-9._-]", name) is None and name[0] not in "._-"
    assert accepted(names.version, name) == fits


def test_an_empty_namespace_or_version_is_the_default_and_an_empty_service_is_none() -> None:
    assert names.namespace("") == names.DEFAULT_NAMESPACE
    assert names.version("") == names.DEFAULT_VERSION
    with pytest.raises(errors.Error, match="not a service name"):
        names.service("")


def test_the_platforms_own_names_are_names() -> None:
    assert [names.service(name) for name in names.CORE_SERVICES] == list(names.CORE_SERVICES)
    assert len(set(names.CORE_SERVICES)) == len(names.CORE_SERVICES)


@pytest.mark.parametrize(("check", "name"), [(names.service, "a\nb"), (names.namespace, "A"), (names.version, "../x")])
def test_a_refusal_is_one_line_that_quotes_the_name(check: Callable[[str], str], name: str) -> None:
    with pytest.raises(errors.Error) as caught:
        check(name)
    assert caught.value.kind is errors.Kind.INVALID_ARGUMENT
    assert repr(name) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "camel"),
    [("greeter", "Greeter"), ("my-greeter", "MyGreeter"), ("a.b_c-d", "ABCD"), ("", ""), ("v2", "V2")],
)
def test_a_name_as_a_type(name: str, camel: str) -> None:
    assert names.camel(name) == camel


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("Call", "call"),
        ("GetService", "get_service"),
        ("HTTPGet", "http_get"),
        ("getV2Thing", "get_v2_thing"),
        ("A", "a"),
    ],
)
def test_a_method_as_a_function(name: str, snake: str) -> None:
    assert names.snake(name) == snake


@given(st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z][a-z0-9]{0,8}){0,3}", fullmatch=True))
def test_a_service_name_that_begins_its_parts_with_letters_makes_an_identifier(name: str) -> None:
    assert names.camel(name).isidentifier()
    assert names.folded(names.camel(name)) == names.folded(name)


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True))
def test_folding_forgets_how_the_words_were_parted(name: str) -> None:
    assert names.folded(names.snake(name)) == names.folded(name) == names.folded(name.upper())


def test_what_begins_with_a_name_of_the_platform_is_the_platforms() -> None:
    assert all(names.platforms(name) and names.platforms(f"{name}.more") for name in names.CORE_SERVICES)
    assert not any(names.platforms(name) for name in ("author", "auth-keys", "my.auth", "books"))


def test_names_are_nested_by_whole_parts() -> None:
    for one, other in (("books", "books.call"), ("books", "books.call.more"), ("books.call", "books.call.more")):
        assert names.nested(one, other)
        assert names.nested(other, one)
    for one, other in (("books", "books"), ("book", "books.call"), ("books.a", "books.b"), ("books", "books-call")):
        assert not names.nested(one, other)
