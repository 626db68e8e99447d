"""Values of the registry: equal when alike, and never changed in place."""

from dataclasses import FrozenInstanceError

import pytest

from micro.domain.service import Change, Endpoint, Node, Registration, StreamKind, Value


def make(**metadata: str) -> Registration:
    shape = Value("Request", "message", values=(Value("name", "string"),))
    endpoint = Endpoint("Greeter.Hello", "/greeter.Greeter/Hello", shape, shape)
    return Registration("micro", "greeter", "latest", Node("greeter-1", "127.0.0.1:80", metadata), (endpoint,))


def test_registrations_are_equal_when_everything_in_them_is() -> None:
    assert make(zone="a") == make(zone="a")
    assert make(zone="a") != make(zone="b")


def test_the_key_tells_instances_apart_and_nothing_else() -> None:
    assert make(zone="a").key == make(zone="b").key == ("micro", "greeter", "greeter-1")


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make().version = "v2"  # type: ignore[misc]


@pytest.mark.parametrize("kind", StreamKind)
def test_a_method_streams_unless_it_is_unary(kind: StreamKind) -> None:
    endpoint = Endpoint("A.B", "/a.A/B", Value("", ""), Value("", ""), kind)
    assert endpoint.stream == (kind is not StreamKind.UNARY)


def test_a_change_without_a_registration_says_whether_a_lease_ended() -> None:
    assert not Change(1, make().key, None).expired
    assert Change(1, make().key, None, expired=True) != Change(1, make().key, None)
