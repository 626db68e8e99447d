"""What a server checks before it begins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from micro.domain.errors import Error, Kind
from micro.server.program import _check_private


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
