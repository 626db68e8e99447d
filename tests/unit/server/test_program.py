"""What a server checks before it begins."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from micro.domain.errors import Error, Kind
from micro.server.program import _check_private, _unless


def test_a_folder_for_sockets_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    _check_private(folder)
    folder.chmod(0o755)
    with pytest.raises(Error, match="remove it and try again") as caught:
        _check_private(folder)
    assert caught.value.kind is Kind.FAILED_PRECONDITION
    # Where everybody may write, only its owner may remove it.
    stranger = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    with pytest.raises(Error, match="belongs to another user: set TMPDIR"):
        _check_private(folder)


async def test_what_takes_long_is_given_up_when_the_server_is_to_stop() -> None:
    stop, ended = asyncio.Event(), []

    async def for_ever() -> None:
        try:
            stop.set()
            await asyncio.Event().wait()
        finally:
            ended.append("tidied")

    async def failing() -> None:
        raise ZeroDivisionError

    assert not await _unless(stop, for_ever())
    assert ended == ["tidied"]
    stop.clear()
    assert await _unless(stop, asyncio.sleep(0))
    with pytest.raises(ZeroDivisionError):
        await _unless(stop, failing())
