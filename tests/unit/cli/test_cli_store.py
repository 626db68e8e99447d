"""`micro store`: records as people and scripts handle them, against the store's own handlers."""

# ruff: noqa: E501 - a table is read one case a line

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_store import FakeStore
from shell import Result, Screen, Shell

from micro.cli import app
from micro.cli.session import Session
from micro.domain import errors

ODD = bytes(range(256))


@pytest.fixture
def state() -> Iterator[FakeStore]:
    with FakeStore() as running:
        yield running


@pytest.fixture
def micro(tmp_path: Path, state: FakeStore) -> Shell:
    return Shell(tmp_path / "home", state.address)


class Pipe(io.TextIOWrapper):
    """A stream that has bytes below, as those of a process have."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(io.BytesIO(data), "utf-8")

    @property
    def data(self) -> bytes:
        self.flush()
        below = self.buffer
        assert isinstance(below, io.BytesIO)
        return below.getvalue()


def piped(micro: Shell, *words: str, stdin: bytes = b"") -> bytes:
    """Run a command with bytes on its standard input, and return those of its output."""
    out, err = Pipe(), Screen()
    code = app.run(list(words), Pipe(stdin), out, err, micro.environ)
    assert code == 0, err.getvalue()
    return out.data


def test_a_value_is_written_and_read(micro: Shell) -> None:
    assert micro("store", "write", "ann", "hello there") == micro("store", "write", "bob", "2", "--expiry", "90s")
    assert micro("store", "read", "ann").out == "hello there\n"
    assert micro("store", "read", "--prefix", "").out == "hello there\n2\n"
    shown = micro("store", "read", "--prefix=", "-v").out.splitlines()
    assert [line.split()[:1] for line in shown] == [["KEY"], ["ann"], ["bob"]]
    assert shown[1].endswith("never")
    assert shown[2].endswith(("1.5m", "s"))


@pytest.mark.parametrize(
    "words", [["--prefix", "u/"], ["u/", "--prefix"], ["--prefix=u/"], ["-p", "u/"], ["-p", "-l", "9", "u/"]]
)
def test_a_prefix_is_a_flag_with_a_value_or_a_switch(micro: Shell, words: list[str]) -> None:
    for key in ("u/1", "u/2", "v/1"):
        micro("store", "write", key, key)
    assert micro("store", "read", *words).out == "u/1\nu/2\n"
    assert micro("store", "list", *words).out == "u/1\nu/2\n"


def test_pages_orders_and_ends(micro: Shell) -> None:
    for number in range(6):
        micro("store", "write", f"k{number}", str(number), "-t", "many")
    assert micro("store", "read", "k", "--prefix", "-t", "many", "--limit", "2", "--offset", "1").out == "1\n2\n"
    assert micro("store", "read", "--prefix", "--order=desc", "-l2", "-t", "many").out == "5\n4\n"
    assert micro("store", "list", "--suffix", "5", "-t", "many").out == "k5\n"
    assert json.loads(micro("store", "list", "-t", "many", "-o", "json", "--limit=2").out) == ["k0", "k1"]
    assert micro("store", "tables").out == "many\n"
    assert json.loads(micro("store", "databases", "-o", "json").out) == ["micro"]
    assert micro("store", "list", "-d", "team").out == ""


def test_ranges_cursors_and_keys_themselves(micro: Shell) -> None:
    for key in ("a", "ab", "b/1", "b/2", "b/3", "c"):
        micro("store", "write", key, key)
    for words, keys in (
        (["--from", "ab", "--until", "b/3"], "ab b/1 b/2"),
        (["-p", "b/", "--until=b/3"], "b/1 b/2"),
        (["-p", "b/", "--limit", "2", "--cursor", "b/1"], "b/2 b/3"),
        (["--cursor", "b/1", "--order", "desc"], "ab a"),
        (["--from", "c"], "c"),
        (["--suffix", "b"], "ab"),
        (["--suffix", "b", "--until", "ab"], ""),
    ):
        assert micro("store", "list", *words).out.split() == keys.split(), words
        assert micro("store", "read", *words).out.split() == keys.split(), words
    assert micro("store", "list", "a", "--exact").out == "a\n"
    assert micro("store", "list", "b", "--exact") == Result(0, "", "table micro has no such records\n")
    assert json.loads(micro("store", "list", "--from", "x", "-o", "json").out) == []
    assert micro("store", "list", "--from", "x").err == "table micro has no such records\n"
    assert micro("store", "list", "--exact").code == micro("store", "read", "a", "--cursor", "a").code == 2
    assert micro("store", "list", "-p", "b/", "--suffix", "2").out == "b/2\n"
    assert "takes a prefix or a suffix" in micro("store", "read", "-p", "b/", "--suffix", "2").err
    assert "a key is one" in micro("store", "list", "a", "--exact", "--suffix", "a").err


def test_metadata_keep_their_type(micro: Shell, tmp_path: Path) -> None:
    pairs = ["n=3", "f=2.5", "yes=true", "by=ann", 'text="3"', 'in={"at": [1]}', "none=null", "nan=NaN", "eq=a=b"]
    assert micro("store", "write", "k", "x", *(word for pair in pairs for word in ("--metadata", pair))).code == 0
    kept = json.loads(micro("store", "read", "k", "-o", "json").out)
    assert kept[0]["metadata"] == {
        "n": 3, "f": 2.5, "yes": True, "by": "ann", "text": "3", "in": {"at": [1]}, "none": None, "nan": "NaN", "eq": "a=b",
    }  # fmt: skip
    done = micro("store", "write", "k", "y", "--metadata", "n=9007199254740993")
    assert done.code == 2
    assert "--metadata has the number 9007199254740993" in done.err
    assert "as a string" in done.err
    kept[0]["metadata"]["n"] = 2**60 + 1
    (tmp_path / "export").write_text(json.dumps(kept))
    done = micro("store", "import", f"{tmp_path}/export")
    assert "the metadata of 'k' in record 1 of" in done.err
    assert "nothing was imported" in done.err
    assert micro("store", "read", "k").out == "x\n"
    assert micro("store", "write", "k", "y", "--metadata", "n").code == 2


def test_where_nothing_is_found_that_is_said(micro: Shell) -> None:
    assert micro("store", "tables") == Result(0, "", "no table holds records yet\n")
    assert micro("store", "databases") == Result(0, "", "no namespace holds records yet\n")
    assert micro("store", "list") == Result(0, "", "table micro has no records\n")
    micro("store", "write", "a", "1", "-t", "orders")
    for words in (["list"], ["read", "--prefix"], ["read", "-p", "x", "-v"]):
        said = "table micro has no records; those that have: orders\n"
        assert micro("store", *words) == Result(0, "", said)
        assert micro("store", *words, "-t", "order").err == "table order has no records: did you mean orders?\n"
        assert micro("store", *words[:2], "-o", "json").out == "[]\n"
        assert micro("store", *words[:2], "-o", "json").err == ""
    assert micro("store", "list", "b", "-t", "orders").err == "table orders has no such records\n"
    assert micro("store", "list", "a", "-t", "orders") == Result(0, "a\n", "")


def test_values_come_from_files_and_pipes_as_they_are(micro: Shell, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(ODD)
    piped(micro, "store", "write", "file", f"@{tmp_path}/photo")
    piped(micro, "store", "write", "pipe", stdin=ODD)
    piped(micro, "store", "write", "dash", "-", stdin=ODD)
    for key in ("file", "pipe", "dash"):
        assert piped(micro, "store", "read", key, "-o", "raw") == ODD
    assert piped(micro, "store", "read", "file") == ODD + b"\n"
    assert micro("store", "read", "file", "-v").out.splitlines()[1].split()[1] == f"0x{ODD[:20].hex()}…"


def test_nothing_is_kept_only_where_it_is_said(micro: Shell, tmp_path: Path) -> None:
    micro("store", "write", "k", "before")
    assert micro("store", "write", "k").code == 2
    assert micro("store", "read", "k").out == "before\n"
    assert micro("store", "write", "k", "").code == 0
    assert micro("store", "read", "k", "-o", "raw").out == ""
    (tmp_path / "empty").touch()
    assert micro("store", "write", "k", f"@{tmp_path}/empty") == Result(0, "", "")


def test_a_value_lives_as_long_as_was_said_and_may_stand_behind_that(micro: Shell) -> None:
    for flag in ("--expiry", "--ttl"):
        assert micro("store", "write", "k", flag, "1h", "x") == Result(0, "", "")
        assert "expires" in json.loads(micro("store", "read", "k", "-o", "json").out)[0]
    assert "also --ttl" in micro("store", "write", "--help").out


def test_a_terminal_is_told_what_is_watched(micro: Shell, state: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "stream", lambda path, requests: iter([{"revision": "1"}, {"revision": "2"}]))
    monkeypatch.setattr(Session, "sleep", leave)
    micro.environ["NO_COLOR"] = "1"
    for words, told in (
        ([], "watching all keys of table micro; Ctrl-C ends\n"),
        (["a", "-t", "many"], "watching 'a' of table many; Ctrl-C ends\n"),
        (["-p", "a/"], "watching keys that begin with 'a/' of table micro; Ctrl-C ends\n"),
        (["-p"], "watching all keys of table micro; Ctrl-C ends\n"),
    ):
        away = f"waiting for the server at {state.address} …\n"
        assert micro("store", "watch", *words, terminal=True) == Result(130, "", told + away)
        assert micro("store", "watch", *words) == Result(130, "", away)


def test_a_terminal_is_shown_text_that_does_nothing_to_it(micro: Shell) -> None:
    piped(micro, "store", "write", "bell", stdin=b"a\x07\x1b[2Jb\xff")
    assert micro("store", "read", "bell", terminal=True).out == "a\\x07\\x1b[2Jb\\xff\n"


def test_json_goes_back_into_import_whatever_the_bytes(micro: Shell, tmp_path: Path) -> None:
    piped(micro, "store", "write", "odd", stdin=ODD)
    micro("store", "write", "soon", "x", "--expiry", "1h")
    printed = micro("store", "read", "--prefix", "-o", "json").out
    found = json.loads(printed)
    assert [base64.b64decode(one["value"]) for one in found] == [ODD, b"x"]
    assert "expires" not in found[0]
    (tmp_path / "kept.json").write_text(printed)
    assert micro("store", "import", str(tmp_path / "kept.json"), "-t", "copy").err == "2 records imported\n"
    assert piped(micro, "store", "read", "odd", "-t", "copy", "-o", "raw") == ODD
    assert (
        json.loads(micro("store", "read", "soon", "-t", "copy", "-o", "json").out)[0]["expires"][:16]
        == found[1]["expires"][:16]
    )


def test_an_export_is_lines_that_another_namespace_imports(micro: Shell, tmp_path: Path) -> None:
    for table, key in (("a", "1"), ("a", "2"), ("b", "1")):
        micro("store", "write", key, f"{table}{key}", "-t", table)
    lines = micro("store", "export").out
    assert [(one["table"], one["key"]) for one in map(json.loads, lines.splitlines())] == [
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
    ]
    assert micro("store", "export", str(tmp_path / "out"), "-t", "b").err == "1 record exported\n"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    assert micro("--namespace", "team", "store", "import", stdin=lines).code == 0
    assert micro("--namespace", "team", "store", "export").out.replace('"version": 1', "") != ""
    assert micro("store", "read", "2", "-t", "a", "-d", "team").out == "a2\n"


def test_copies_show_how_far_they_are_on_a_terminal(micro: Shell, tmp_path: Path) -> None:
    micro("store", "write", "k", "1")
    file = str(tmp_path / "file")
    for words, shown in (
        (["export", file], "exporting micro [########################] 100%  1 record"),
        (["import", file], "importing into micro [########################] 100%  1 record"),
        (["backup", file, "--force"], "backing up micro [------------------------]   0%  0 records"),
    ):
        result = micro("store", *words, terminal=True)
        assert shown in result.err, result.err
        assert shown.split(" [")[0] not in micro("store", *words).err


def test_a_key_that_comes_twice_ends_as_its_last(micro: Shell) -> None:
    lines = "".join(json.dumps({"key": "k", "value": base64.b64encode(text).decode()}) + "\n" for text in (b"1", b"2"))
    assert micro("store", "import", stdin=lines).err == "2 records imported\n"
    assert micro("store", "read", "k").out == "2\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"key": "a"}\nx\n', "line 2 of standard input is not JSON; nothing was imported"),
        ('{"value": ""}\n', 'line 1 of standard input is no record: write {"key": "…", "value": "BASE64"}; nothing was imported'),
        ('[{"key": "a", "value": "?"}]', "the value of 'a' in record 1 of standard input is not base64; nothing was imported"),
        ('{"key": "a", "expires": "soon"}', "'soon' in line 1 of standard input is no time: write 2031-12-31T23:59:59Z; nothing was imported"),
    ],
)  # fmt: skip
def test_an_import_that_is_none_says_where(micro: Shell, given: str, said: str) -> None:
    result = micro("store", "import", stdin=given)
    assert (result.code, result.err) == (2, f"micro: {said}\n")
    assert micro("store", "list").out == ""


def test_a_backup_comes_back_whole(micro: Shell, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    piped(micro, "store", "write", "odd", "-t", "a", stdin=ODD)
    micro("store", "write", "k", "1")
    assert micro("store", "backup", str(file)).out == f"2 records of namespace micro in {file}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    micro("store", "write", "k", "2")
    micro("store", "write", "later", "x")

    refused = micro("store", "restore", str(file))
    assert (refused.code, refused.err) == (
        2,
        "micro: nothing was restored: micro keeps records; to replace them, add --force\n",
    )
    assert micro("store", "read", "k").out == "2\n"
    assert micro("store", "restore", str(file), "--force").out == f"2 records of {file} in namespace micro\n"
    assert micro("store", "read", "--prefix").out == "1\n"
    assert piped(micro, "store", "read", "odd", "-t", "a", "-o", "raw") == ODD
    # Where nothing is, nothing is asked.
    assert micro("--namespace", "team", "store", "restore", str(file)).code == 0
    assert micro("store", "read", "k", "-d", "team").out == "1\n"
    # What was restored elsewhere is newer than all that the backup knows.
    version = json.loads(micro("store", "read", "k", "-d", "team", "-o", "json").out)[0]["version"]
    assert int(version) > int(json.loads(file.read_text().splitlines()[-2])["revision"]) >= 2


def test_what_is_damaged_is_something_that_a_backup_replaces(
    micro: Shell, state: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def damaged(database: str) -> list[str]:
        raise errors.data_loss(f"database {database} is damaged: it is cut off")

    micro("store", "write", "k", "kept")
    micro("store", "backup", f"{tmp_path}/copy")
    micro("store", "write", "k", "lost")
    monkeypatch.setattr(state.kept, "tables", damaged)
    done = micro("store", "restore", f"{tmp_path}/copy")
    assert done.code == 2
    assert "database micro is damaged" in done.err
    assert "nothing was restored: micro keeps records; to replace them, add --force" in done.err
    assert micro("store", "restore", f"{tmp_path}/copy", "--namespace", "micro", "--force").code == 0
    assert micro("store", "read", "k").out == "kept\n"


def test_a_terminal_is_asked_before_records_are_replaced(micro: Shell, tmp_path: Path) -> None:
    file = str(tmp_path / "backup")
    micro("store", "write", "k", "1")
    micro("store", "backup", file)
    micro("store", "write", "k", "2")
    for typed, left in (("no\n", "2\n"), ("\n", "2\n"), ("yes\n", "1\n")):
        out, err = Screen(terminal=True), Screen(terminal=True)
        code = app.run(["store", "restore", file], Screen(typed, terminal=True), out, err, micro.environ)
        assert code == (0 if left == "1\n" else 2)
        assert "This replaces all records of micro by what they were at " in err.getvalue()
        assert micro("store", "read", "k").out == left


def test_a_damaged_backup_changes_nothing(micro: Shell, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    micro("store", "write", "k", "old value")
    micro("store", "backup", str(file))
    micro("store", "write", "k", "new")
    good = file.read_bytes()
    for bad in (
        b"", good[:-1], good[: len(good) // 2], good + b"\n", good.replace(b'"key":"k"', b'"key":"K"'),
        b"".join(good.splitlines(keepends=True)[:-1]), good.replace(b"b2xk", b"b2xl"), b'{"key": "a"}\n',
        good.replace(b'"format":1', b'"format":2'),
    ):  # fmt: skip
        assert bad != good
        file.write_bytes(bad)
        result = micro("store", "restore", str(file), "--force")
        assert result.code == 1, bad
        assert str(file) in result.err
        assert micro("store", "read", "k").out == "new\n"


def test_all_namespaces_go_into_one_file(micro: Shell, tmp_path: Path) -> None:
    file = str(tmp_path / "all")
    micro("store", "write", "k", "1")
    micro("store", "write", "k", "2", "-d", "team")
    assert micro("store", "backup", file, "--all-namespaces").out == f"2 records of 2 namespaces in {file}\n"
    micro("store", "delete", "k")
    micro("store", "delete", "k", "-d", "team")
    assert micro("--namespace", "team", "store", "restore", file).out == f"1 record of {file} in namespace team\n"
    assert micro("store", "read", "k", "-d", "team").out == "2\n"
    assert micro("store", "read", "k").code == 1
    assert micro("store", "restore", file, "--all-namespaces", "--force").code == 0
    assert micro("store", "read", "k").out == "1\n"


def test_a_file_that_is_no_backup_is_called_so(micro: Shell, tmp_path: Path) -> None:
    file = tmp_path / "ann.png"
    for content in (b"hello\n", b'{"key": "k"}\n', bytes(range(256))):
        file.write_bytes(content)
        result = micro("store", "restore", str(file), "--force")
        assert (result.code, result.err) == (1, f"micro: {file} is no backup: micro store backup makes one\n")


def test_a_backup_takes_the_place_of_another_only_when_told_and_whole(
    micro: Shell, state: FakeStore, tmp_path: Path
) -> None:
    file = tmp_path / "backup"
    micro("store", "write", "k", "1")
    micro("store", "backup", str(file))
    before = file.read_bytes()
    refused = micro("store", "backup", str(file))
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"micro: {file} already exists: choose another name, or replace it with --force\n"
    assert file.read_bytes() == before
    assert micro("store", "backup", str(file), "--force").code == 0
    before = file.read_bytes()
    state.stream = lambda path, requests: iter([{"count": "1"}])  # type: ignore[method-assign]
    result = micro("store", "backup", str(file), "--force")
    assert (result.code, result.err) == (1, "micro: the copy of micro broke off: nothing was written, try again\n")
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir() if one.name != "home"] == ["backup"]


FAILURES: list[tuple[list[str], int, str]] = [
    (["read", "nobody"], 1, "there is no 'nobody' in table micro"),
    (["read"], 2, "KEY is missing: type micro store read KEY, or --prefix for all"),
    (["read", "a", "--prefix=b"], 2, "two prefixes, 'a' and 'b': give one"),
    (["read", "k", "--limit", "-1"], 2, "--limit takes a number, 0 or more, not '-1'; see: micro store read --help"),
    (["write", "k", "v", "--expiry", "soon"], 2, "--expiry takes a time such as 500ms, 10s or 2h, not 'soon'; see: micro store write --help"),
    (["write", "k", "v", "--ttl=5x"], 2, "--expiry takes a time such as 500ms, 10s or 2h, not '5x'; see: micro store write --help"),
    (["write", "k", "two", "words"], 2, "unexpected 'words': see: micro store write --help"),
    (["write", "k"], 2, "VALUE is empty: nothing came on standard input; to keep nothing, type ''"),
    (["write", "k", "-"], 2, "VALUE is empty: nothing came on standard input; to keep nothing, type ''"),
    (["write", "k", "@/nowhere"], 2, "cannot read /nowhere: No such file or directory; text that begins with @ is piped in"),
    (["write", "", "v"], 2, "the key is empty"),
    (["write", "k", "v", "-t", ".locks"], 2, "table '.locks' is the platform's own: use a name that begins with a letter or a digit"),
    (["delete", "k", "--if-version", "7"], 1, "'k' of table micro is not there, not version 7: read it again and decide anew"),
    (["read", "k", "-d", "nowhere"], 1, "there is no namespace nowhere"),
    (["reed", "k"], 2, "unrecognized subcommand for micro store: reed; did you mean: micro store read"),
    (["-o", "json", "list"], 2, "-o comes before the action: type micro store ACTION -o\n"),
    (["restore", "/nowhere"], 2, "cannot read /nowhere: No such file or directory"),
    (["backup", "/nowhere/at/all"], 2, "cannot write /nowhere/at/all: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "said"), FAILURES, ids=[" ".join(words) for words, _, _ in FAILURES])
def test_what_goes_wrong_is_one_line(micro: Shell, words: list[str], code: int, said: str) -> None:
    result = micro("store", *words)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"micro: {said}")
    assert result.err.count("\n") == 1


def test_deleting_what_is_absent_succeeds_and_conditions_hold(micro: Shell) -> None:
    assert micro("store", "delete", "nobody") == Result(0, "", "there was no 'nobody' in table micro\n")
    assert micro("store", "write", "k", "--if-version", "0", "1") == Result(0, "", "")
    assert micro("store", "write", "k", "2", "--if-version=0").code == 1
    assert micro("store", "delete", "k").code == 0
    assert micro("store", "read", "k").code == 1
