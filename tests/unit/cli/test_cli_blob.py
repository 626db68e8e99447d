"""`micro blob` as people see it: what it lists, shows and says of what is not there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from fake_store import FakeStore
from shell import Result, Screen, Shell
from test_cli_store import Pipe

from micro.cli import app
from micro.cli.platform import PIECE, Platform
from micro.rpc.gen.micro.store.v1 import store_pb as pb


@pytest.fixture
def state() -> Iterator[FakeStore]:
    with FakeStore() as running:
        running.keep("photos/ann.png", b"x" * 1500, content_type="image/png", public=True, metadata={"by": "ann"})
        running.keep("photos/\x1b[2J", b"")
        running.keep("notes", b"hello", content_type="text/plain")
        yield running


@pytest.fixture
def micro(tmp_path: Path, state: FakeStore) -> Shell:
    return Shell(tmp_path / "home", state.address)


@pytest.mark.parametrize("words", [["photos/"], ["--prefix", "photos/"], ["-p", "photos/"]])
def test_a_prefix_is_an_argument_or_a_flag(micro: Shell, words: list[str]) -> None:
    assert micro("blob", "list", *words).out.splitlines()[-1] == "photos/ann.png"
    assert len(json.loads(micro("blob", "list", *words, "-o", "json").out)) == 2


def test_the_table_says_who_may_read_and_moves_no_cursor(micro: Shell) -> None:
    rows = [line.split() for line in micro("blob", "list", "-v").out.splitlines()]
    assert rows[0] == ["KEY", "SIZE", "TYPE", "ACCESS"]
    assert rows[1] == ["notes", "5", "B", "text/plain", "private"]
    assert rows[2][0] == r"photos/\x1b[2J"
    assert rows[3] == ["photos/ann.png", "1.5", "kB", "image/png", "public"]
    nothing = Result(0, "", "namespace micro has no blobs whose key begins with 'x'\n")
    assert micro("blob", "list", "x") == micro("blob", "list", "-p", "x", "-v") == nothing
    assert micro("blob", "list", "x", "-o", "json") == Result(0, "[]\n", "")


def test_what_is_known_of_a_blob_is_shown_for_people_and_for_programs(micro: Shell) -> None:
    shown = dict(line.split(None, 1) for line in micro("blob", "stat", "photos/ann.png").out.splitlines())
    assert shown["size"] == "1.5 kB, 1,500 bytes"
    assert (shown["type"], shown["access"]) == ("image/png", "public")
    assert shown["metadata"].split() == ["by", "ann"]
    found = json.loads(micro("blob", "stat", "photos/ann.png", "-o", "json").out)
    assert (found["size"], found["public"], found["metadata"]) == (1500, True, {"by": "ann"})
    assert found["modified"].endswith("+00:00"), "a time, as in all other listings"


def test_an_empty_pipe_is_refused_and_an_empty_file_is_kept(
    micro: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in ([], ["-"]):
        err = Screen()
        assert app.run(["blob", "write", "notes", *words], Pipe(), Screen(), err, micro.environ) == 2
        hint = "to keep an empty blob, name an empty file"
        assert err.getvalue() == f"micro: FILE is empty: nothing came on standard input; {hint}\n"
    assert json.loads(micro("blob", "stat", "notes", "-o", "json").out)["size"] == 5
    sent: list[bytes] = []

    def take(_: Platform, __: str, messages: Iterable[bytes], ___: float) -> Iterator[bytes]:
        sent[:] = [pb.BlobStoreWriteRequest.from_binary(one).data for one in messages][1:]
        yield pb.BlobStoreWriteResponse(blob=pb.Blob(key="k")).to_binary()

    monkeypatch.setattr(Platform, "blob_stream", take)
    (tmp_path / "empty").touch()
    for words, stdin, pieces in (
        ([str(tmp_path / "empty")], b"", []),
        ([], b"x" * (PIECE + 1), [b"x" * PIECE, b"x"]),
        (["-"], b"y", [b"y"]),
    ):
        assert app.run(["blob", "write", "k", *words], Pipe(stdin), Screen(), Screen(), micro.environ) == 0
        assert sent == pieces


def test_deleting_says_nothing_or_that_there_was_nothing(micro: Shell) -> None:
    assert micro("blob", "delete", "notes") == Result(0, "", "")
    assert micro("blob", "delete", "notes") == Result(0, "", "there was no blob 'notes'\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["stat", "nope"], 1, "there is no blob 'nope'"),
        (["list", "a", "--prefix", "b"], 2, "two prefixes, 'a' and 'b': give one"),
        (["write", "k", "/nowhere"], 2, "cannot read /nowhere: No such file or directory"),
        (["write", "k", "-", "--metadata", "a"], 2, "--metadata takes KEY=VALUE, not 'a'"),
        (["--foo"], 2, "--foo comes before the action: type micro blob ACTION --foo"),
    ],
)
def test_what_goes_wrong_is_one_line(micro: Shell, words: list[str], code: int, said: str) -> None:
    assert micro("blob", *words) == Result(code, "", f"micro: {said}\n")
