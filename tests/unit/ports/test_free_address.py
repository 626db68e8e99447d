"""Addresses to listen on: free, different, and not among those that outgoing connections get."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from micro.domain.address import split
from micro.ports import free_address as module
from micro.ports.free_address import free_address, free_addresses

ALONE = "127.83.0.9"  # an address of this machine where nobody else listens
FEW = (20_004, 40_000)  # leaves 20000 to 20003
CHOOSER = f"""
import sys
from micro.ports.free_address import free_addresses
print(*free_addresses(2, {ALONE!r}, {FEW}), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nobody has chosen any port yet; the file of those who do from now on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "_claimed", type(module._claimed)())
    module._claims.cache_clear()
    yield tmp_path / f"micro-{os.getuid()}-ports"
    module._claims.cache_clear()


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


def test_nobody_else_is_given_them_until_their_process_ends(claims: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(claims.parent)}
    with subprocess.Popen([sys.executable, "-c", CHOOSER], env=environment, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        theirs = set(other.stdout.readline().split())
        ours = set(free_addresses(2, ALONE, FEW))
        assert theirs | ours == {f"{ALONE}:{port}" for port in range(20_000, 20_004)}
        (third,) = free_addresses(1, ALONE, FEW)
        assert split(third)[1] > 20_003  # the kernel's choice
        other.stdin.close()
        other.wait(60)
    assert set(free_addresses(2, ALONE, FEW)) == theirs
    assert claims.stat().st_mode & 0o777 == 0o600


def test_what_was_chosen_long_ago_is_given_again(claims: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLAIMS", 2)
    first, second, third, fourth, fifth = (free_addresses(1, ALONE, FEW)[0] for _ in range(5))
    assert len({first, second, third}) == 3
    assert fourth not in (second, third)
    assert fifth not in (third, fourth)
    assert all(split(each)[1] < 20_004 for each in (first, second, third, fourth, fifth))
    assert claims.exists()


def test_without_a_file_of_our_own_ports_are_still_chosen(claims: Path, tmp_path: Path) -> None:
    claims.symlink_to(tmp_path / "elsewhere")
    assert len(free_addresses(3)) == 3
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_has_brackets(host: str) -> None:
    assert free_address(host).startswith("[::1]:")


def test_a_host_that_is_not_ours_is_told() -> None:
    with pytest.raises(OSError, match="assign"):
        free_address("192.0.2.1")
