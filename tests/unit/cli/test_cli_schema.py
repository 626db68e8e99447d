"""From typed words to an endpoint."""

from __future__ import annotations

import pytest
from fake_platform import SERVICES

from micro.cli import failures, schema

HELLOWORLD = schema.endpoints([SERVICES[0]])
USERS = schema.endpoints([SERVICES[1]])


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ([], "Helloworld.Call"),
        (["call"], "Helloworld.Call"),
        (["CALL"], "Helloworld.Call"),
        (["pingPong"], "Helloworld.PingPong"),
        (["ping-pong"], "Helloworld.PingPong"),
        (["ping_pong"], "Helloworld.PingPong"),
        (["helloworld", "stream"], "Helloworld.Stream"),
        (["Helloworld.Stream"], "Helloworld.Stream"),
        (["helloworld.stream"], "Helloworld.Stream"),
    ],
)
def test_words_mean_an_endpoint(typed: list[str], name: str) -> None:
    assert schema.find("helloworld", HELLOWORLD, typed).name == name


def test_a_single_word_finds_the_only_endpoint_of_another_handler() -> None:
    assert schema.find("users", USERS, ["list"]).name == "Accounts.List"


def test_a_word_that_several_handlers_have_must_be_made_clear() -> None:
    with pytest.raises(failures.UsageError, match="type one of: accounts count, groups count"):
        schema.find("users", USERS, ["count"])
    assert schema.find("users", USERS, ["groups", "count"]).name == "Groups.Count"


def test_an_unknown_endpoint_names_the_closest() -> None:
    with pytest.raises(failures.NoEndpointError, match="did you mean: micro helloworld stream"):
        schema.find("helloworld", HELLOWORLD, ["steam"])
    with pytest.raises(failures.NoEndpointError, match=r"'Users.Call' not found.*it has .*accounts list.*"):
        schema.find("users", USERS, [])
    many = [schema.endpoint({"name": f"Many.M{number}"}) for number in range(20)]
    with pytest.raises(failures.NoEndpointError, match=r"it has m0, .*, m7 and 12 more, see: micro many --help"):
        schema.find("many", many, ["other"])
    with pytest.raises(failures.NoEndpointError, match="it has none"):
        schema.find("many", [], ["other"])


def test_three_words_are_too_many() -> None:
    with pytest.raises(failures.UsageError, match="too many words"):
        schema.find("users", USERS, ["a", "b", "c"])


def test_help_spells_an_endpoint_as_it_is_typed() -> None:
    assert schema.words("helloworld", "Helloworld.PingPong") == "ping_pong"
    assert schema.words("my-greeter", "MyGreeter.Call") == "call"
    assert schema.words("users", "Accounts.List") == "accounts list"
    for one in USERS:
        assert schema.find("users", USERS, schema.words("users", one.name).split()) == one


def test_the_latest_version_speaks_for_a_service() -> None:
    versions = [{"version": "latest", "name": "a"}, {"version": "v1", "name": "a"}]
    assert schema.newest(versions)["version"] == "latest"
    assert schema.newest(versions[1:])["version"] == "v1"


def test_leaves_stop_where_a_type_contains_itself() -> None:
    request = next(one for one in USERS if one.name == "Users.Save").request
    paths = ["_".join(path) for path, _ in schema.leaves(request)]
    assert [path for path in paths if path.startswith("tree")] == ["tree_label", "tree_left"]
    assert schema.lookup(request, "tree_left_left_label") is not None
    assert schema.lookup(request, "tree_left_left_nothing") is None
