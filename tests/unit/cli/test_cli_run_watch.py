"""`micro run --watch`: every save taken live, also one that is made while the server is away."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_platform import FakePlatform, Refusal
from shell import Screen, Shell
from test_cli_deploying import BROKEN

from micro.cli import deploying, pack, plan
from micro.cli.session import Session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A service's folder."""
    made = tmp_path / "helloworld"
    made.mkdir()
    (made / "main.py").write_text("print('hi')\n")
    return made


def test_watching_takes_each_change_live_and_shows_a_failure_once(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    micro("run", str(folder))
    out, err = Screen(), Screen()
    session = Session(Screen(), out, err, micro.environ)
    workload = plan.Workload(plan.Reference("helloworld"), "micro", str(folder))

    def edits() -> Iterator[object]:
        (folder / "main.py").write_text("nonsense\n")
        platform.fail_start = BROKEN
        yield "broken"
        (folder / "main.py").write_text("nonsense # still\n")
        yield "broken the same way"
        platform.fail_start = ""
        (folder / "main.py").write_text("fine\n")
        yield "mended"
        yield "saved, nothing changed"

    deploying.watch(workload, folder, pack.pack(folder), edits(), session)
    assert out.getvalue() == "helloworld updated\n"
    assert err.getvalue().count("helloworld did not start: main.py:3: NameError: name 'nonsense' is not defined") == 1
    assert err.getvalue().count("the old code of helloworld keeps serving") == 1


def test_what_is_saved_while_the_server_is_away_is_taken_in_when_it_is_back(
    micro: Shell, platform: FakePlatform, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    micro("run", str(folder))
    out, err = Screen(), Screen()
    session = Session(Screen(), out, err, micro.environ)
    workload = plan.Workload(plan.Reference("helloworld"), "micro", str(folder))

    def away(*_: object) -> None:
        raise Refusal("unavailable", "it is stopping", 503)

    def edits() -> Iterator[object]:
        for method in ("do_update", "do_read"):
            monkeypatch.setattr(platform, method, away)
        yield from (set(), set())
        assert not platform.calls[-1].path.endswith("/Update"), "nothing was saved, nothing is done"
        (folder / "main.py").write_text("first\n")
        yield "saved"
        (folder / "main.py").write_text("second\n")
        yield from ("saved", set(), set())
        assert out.getvalue() == ""
        monkeypatch.undo()
        state = micro.home / "server" / "state.json"
        held, asked = state.read_text(), len(platform.calls)
        state.unlink()
        yield set()
        assert len(platform.calls) == asked, "what listens there may be anybody's"
        state.write_text(held)
        yield from (set(), set(), set())

    deploying.watch(workload, folder, pack.pack(folder), edits(), session)
    assert out.getvalue() == "helloworld updated: the server is back\n"
    assert err.getvalue().count("\n") == 1
    assert err.getvalue().endswith("; this goes on when it answers again\n")
    assert sum(call.path.endswith("/Update") for call in platform.calls) == 2, "one that failed, one that did not"
    last = platform.uploads[f"upload-{len(platform.uploads) - 1}"]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(last))) as opened:
        file = opened.extractfile("main.py")
        assert file is not None
        assert file.read() == b"second\n"


def test_a_service_that_was_killed_while_its_folder_is_watched_is_told_and_not_waited_for(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    micro("run", str(folder))
    out, err = Screen(), Screen()
    session = Session(Screen(), out, err, micro.environ)
    workload = plan.Workload(plan.Reference("helloworld"), "micro", str(folder))
    platform.running.clear()

    def edits() -> Iterator[object]:
        (folder / "main.py").write_text("new\n")
        yield from ("saved", set(), set())

    deploying.watch(workload, folder, pack.pack(folder), edits(), session)
    assert (out.getvalue(), err.getvalue().count("is not running\n")) == ("", 1)
    assert sum(call.path.endswith("/Update") for call in platform.calls) == 1
