"""`micro new` and `micro gen`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from shell import Shell


def test_a_new_service_passes_its_test_as_it_is(lonely: Shell, tmp_path: Path) -> None:
    result = lonely("new", "my-greeter", "--path", str(tmp_path))
    folder = tmp_path / "my-greeter"
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith(f"next:\n  cd {folder}\n  micro run .\n")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        ".gitignore",
        "README.md",
        "main.py",
        "proto/my_greeter.proto",
        "proto/my_greeter_connect.py",
        "proto/my_greeter_pb.py",
        "test_my_greeter.py",
    ]
    done = subprocess.run([sys.executable, "-m", "unittest"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Ran 4 tests" in done.stderr


@pytest.mark.parametrize("name", ["request", "handler", "none", "class", "a.b"])
def test_names_that_mean_something_in_python_work_too(lonely: Shell, tmp_path: Path, name: str) -> None:
    assert lonely("new", name, "--path", str(tmp_path)).code == 0
    code = "import main; print(main.app.name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / name, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{name}\n", done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/tmp/x"], "'/tmp/x' is a path: give a name, and the folder to make it in with --path"),
        ([".."], "'..' is a path: give a name, and the folder to make it in with --path"),
        (
            ["Upper"],
            "'Upper' is not a service name: use up to 63 lower-case letters, digits, hyphens and dots, a letter first",
        ),
        (
            ["a--b"],
            "'a--b' is not a service name: use up to 63 lower-case letters, digits, hyphens and dots, a letter first",
        ),
        (["registry"], "'registry' is a core service of the platform: choose another name"),
        (["x", "--path", "/nowhere"], "no folder '/nowhere' to make 'x' in"),
        ([], "missing NAME; see: micro new --help"),
    ],
)
def test_names_that_cannot_be_are_refused(lonely: Shell, tmp_path: Path, words: list[str], message: str) -> None:
    result = lonely("new", *words)
    assert (result.code, result.out, result.err) == (2, "", f"micro: {message}\n")


@pytest.mark.parametrize("name", ["status", "user", "help"])
def test_a_service_that_is_named_like_a_command_says_how_it_is_called(lonely: Shell, tmp_path: Path, name: str) -> None:
    result = lonely("new", name, "--path", str(tmp_path))
    call = f'micro call {name} {name.title()}.Call \'{{"name": "Ann"}}\''
    assert (result.code, result.err) == (
        0,
        f"note: micro {name} means something else, so this service is called so: {call}\n",
    )
    readme = (tmp_path / name / "README.md").read_text()
    assert f"\n{call}\n" in readme
    assert f"`micro stream {name} {name.title()}.Stream '{{\"count\": 3}}'`" in readme
    assert f"`micro services {name}`" in readme
    assert f"micro {name} call" not in readme
    assert "micro greeter call --name=Ann" in readme_of(lonely, tmp_path, "greeter")


def readme_of(shell: Shell, parent: Path, name: str) -> str:
    assert shell("new", name, "--path", str(parent)).err == ""
    return (parent / name / "README.md").read_text()


def test_what_exists_is_not_touched(lonely: Shell, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    result = lonely("new", "x", "--path", str(tmp_path))
    assert (result.code, list((tmp_path / "x").iterdir())) == (2, [])
    assert "already exists" in result.err


def test_gen_makes_the_code_anew(lonely: Shell, tmp_path: Path) -> None:
    lonely("new", "x", "--path", str(tmp_path))
    code = tmp_path / "x" / "proto" / "x_pb.py"
    before = code.read_bytes()
    code.unlink()
    result = lonely("gen", str(tmp_path / "x"))
    assert (result.code, result.out) == (0, f"{tmp_path}/x/proto/x.proto: x_pb.py, x_connect.py\n")
    assert code.read_bytes() == before


def test_gen_shows_where_a_contract_is_wrong(lonely: Shell, tmp_path: Path) -> None:
    (tmp_path / "bad.proto").write_text('syntax = "proto3";\nmessage {\n')
    result = lonely("gen", str(tmp_path))
    assert result.code == 1
    assert "bad.proto:2:9" in result.err
    (tmp_path / "bad.proto").write_text('syntax = "proto3";\nmessage Many {\n' + "  Unknown field = 1;\n" * 30 + "}\n")
    told = lonely("gen", str(tmp_path)).err.splitlines()
    assert (len(told), "more lines like these" in told[-1]) == (11, True)
    assert lonely("gen", str(tmp_path / "none")).code == 2
    (tmp_path / "empty").mkdir()
    assert "no .proto files in" in lonely("gen", str(tmp_path / "empty")).err


def test_gen_is_for_one_service_at_a_time(lonely: Shell, tmp_path: Path) -> None:
    for name in ("till", "books", "stock", "shelf"):
        lonely("new", name, "--path", str(tmp_path))
    result = lonely("gen", str(tmp_path))
    assert (result.code, result.out) == (2, "")
    assert "has the services books, shelf, stock and 1 more in it" in result.err
    assert f"micro gen {tmp_path}/books" in result.err


def test_the_readme_says_how_to_begin_and_where_the_address_is_shown(lonely: Shell, tmp_path: Path) -> None:
    assert lonely("new", "my-greeter", "--path", str(tmp_path)).code == 0
    text = (tmp_path / "my-greeter" / "README.md").read_text()
    assert "curl http://localhost:8080/my-greeter/call" in text
    assert "where yours has another, `micro status` shows it" in text
    assert "$" not in text
