"""HOST:PORT as people write it."""

import pytest

from micro.domain import address
from micro.domain.errors import Error, Kind


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        (":8080", "", 8080),
        ("[::1]:65535", "::1", 65535),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("my-host.example:443", "my-host.example", 443),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert address.split(text) == (host, port)
    assert address.join(host, port) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "8080", "localhost", "localhost:", "localhost:http", "localhost:65536", "localhost:-1", "localhost:+80"),
        *("localhost: 80", "localhost:٨٠", "localhost:000080", "::1:80", "[::1]80", "[::1:80", "::1]:80", "[host]:80"),
        *("http://localhost:80", "user@host:80", "a b:80", "[[::1]]:80"),
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(Error) as refused:
        address.split(text)
    assert refused.value.kind is Kind.INVALID_ARGUMENT
    assert repr(text) in refused.value.message


def test_brackets_are_given_once() -> None:
    assert address.join("::1", 80) == address.join("[::1]", 80) == "[::1]:80"
