"""Addresses to listen on: free, different, and not among those that outgoing connections get."""

import socket
from pathlib import Path

import pytest

from micro.domain.address import split
from micro.ports.free_address import free_address, free_addresses


def test_they_are_different_free_and_outside_of_the_ephemeral_range() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found = free_addresses(20)
    assert len(set(found)) == 20
    for host, port in map(split, found):
        assert host == "127.0.0.1"
        assert low > 20_000 or high < 32_767 or not low <= port <= high
        with socket.socket() as listener:
            listener.bind((host, port))


def test_what_is_taken_is_left_out() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(split(free_address()))
        taken.listen()
        port = taken.getsockname()[1]
        others = (20_000, port - 1) if port < 32_767 else (20_000, port - 2)
        assert split(free_address())[1] != port
        # Room for the one that is taken and those behind it only.
        found = {split(text)[1] for text in free_addresses(3, ephemeral=others)}
        assert port not in found
        assert len(found) == 3


def test_without_room_the_kernel_chooses() -> None:
    found = free_addresses(3, ephemeral=(1, 65_535))
    assert len({split(text)[1] for text in found}) == 3


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_has_brackets(host: str) -> None:
    assert free_address(host).startswith("[::1]:")


def test_a_host_that_is_not_ours_is_told() -> None:
    with pytest.raises(OSError, match="assign"):
        free_address("192.0.2.1")
