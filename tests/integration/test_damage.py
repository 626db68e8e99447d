"""Files of a server that are damaged: what people are told of it, and that doing as they are told mends it."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds import MICRO, World, eventually, world

BY_HAND = re.compile(
    r"move (.*) of \$MICRO_HOME/(\S+) away, put a copy of the file there as (\S+), and start the server"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that has kept something and has ended, with copies of it beside."""
    with world(tmp_path_factory.mktemp("damage")) as made:
        made.start()
        made.cli("store", "write", "ann", "kept")
        made.cli("store", "backup", "kept.backup")
        made.cli("config", "set", "db.host", "kept")
        assert made.stop() == 0
        shutil.copytree(made.layout.root, made.home / "copy")
        yield made


def hurt(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 100)


def mend(home: World, told: str) -> None:
    """What the message says, with the copy."""
    found = BY_HAND.search(told)
    assert found, told
    files, folder, name = found.groups()
    for each in re.split(r", | and ", files):
        (home.home / folder / each).unlink(missing_ok=True)
    shutil.copy(home.home / "copy" / Path(folder).relative_to("server") / name, home.home / folder / name)


def begin(home: World) -> None:
    """Start the server, which may not be well."""
    with (home.home / "server.out").open("w") as output:
        home.process = subprocess.Popen(
            [MICRO, "server"], env=home.env, stdout=output, stderr=subprocess.STDOUT, text=True
        )
    assert eventually(lambda: home.layout.state.exists() or home.process.poll() is not None, 40)
    assert home.process.poll() is None, home.output()


def test_without_what_all_depends_on_nothing_starts_and_one_line_says_why(home: World) -> None:
    for file in ("auth/state/auth.db", "runtime/state/runtime.db", "runtime/state/platform.db"):
        path = home.layout.root / file
        hurt(path)
        done = home.cli("server", check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"micro: {path}: database {path.stem} is damaged: ")
        assert done.stderr.count("\n") == 1
        assert "✓" not in done.stdout
        assert home.processes() == {}
        mend(home, done.stderr)
    home.start()
    assert home.cli("store", "read", "ann").stdout == "kept\n"
    assert home.stop() == 0


def test_who_asks_for_what_is_damaged_is_told_how_it_comes_back_and_health_names_it(home: World) -> None:
    hurt(home.layout.root / "store" / "micro.db")
    hurt(home.layout.root / "config" / "micro.db")
    begin(home)
    health = home.cli("health", check=False)
    assert health.returncode == 1
    for name in ("store", "config"):
        assert f"the database of micro is damaged; see: micro logs {name}" in health.stdout
        assert f"{home.layout.root / name / 'micro.db'}: database micro is damaged" in home.cli("logs", name).stdout

    refused = home.cli("store", "read", "ann", check=False)
    assert refused.returncode == 1
    assert str(home.home) not in refused.stderr, "where the files are is nothing for accounts"
    asked = home.cli("store", "restore", "kept.backup", check=False)
    assert "to replace them, add --force" in asked.stderr
    command = re.search("`micro (.*?)`", refused.stderr)
    assert command, refused.stderr
    home.cli(*shlex.split(command[1].replace("FILE", "kept.backup")))
    assert home.cli("store", "read", "ann").stdout == "kept\n"

    refused = home.cli("config", "get", "db.host", check=False)
    assert str(home.home) not in refused.stderr
    assert home.stop() == 0
    mend(home, refused.stderr)
    home.start()
    assert home.cli("config", "get", "db.host").stdout == "kept\n"
