"""The alarm on the code's budgets rings when it should, and only then."""

from pathlib import Path

import pytest
from scripts import budgets


def judge(root: Path, text: str, name: str = "module.py") -> list[str]:
    folder = root / "src"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return budgets.judge(budgets.measure(root, ("src",)))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("x = 1\n" * 601, "601 lines, 600 are the most"),
        ("x = 1\n" * 451, "files: p95 is 451 lines"),
        ("def f():\n" + "    x = 1\n" * 60, "f: 61 lines, 60 are the most"),
        ("def f():\n" + "    x = 1\n" * 35, "functions: p95 is 36 lines"),
        ("def f():\n    global x\n", "module.py:2: global"),
        ("import asyncio\nasyncio.create_task(f())\n", "module.py:2: a task without an owner"),
        ("asyncio.get_running_loop().create_task(f())\n", "without an owner"),
        ("self._loop.create_task(f())\n", "without an owner"),
        ("asyncio.ensure_future(f())\n", "without an owner"),
    ],
)
def test_a_breach_is_named(tmp_path: Path, text: str, word: str) -> None:
    assert [breach for breach in judge(tmp_path, text) if word in breach]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1\n" * 450,
        "def f():\n" + "    x = 1\n" * 34,
        'def f():\n    """' + "\n" * 80 + '"""\n    return 1\n',
        "async def f():\n    async with asyncio.TaskGroup() as tasks:\n        tasks.create_task(g())\n",
        "task = loop.create_task(f())  # owned: by the caller\n",
        "# owned: by the caller\ntask = asyncio.create_task(f())\n",
    ],
)
def test_what_is_within_the_budget_is_silent(tmp_path: Path, text: str) -> None:
    assert judge(tmp_path, text) == []


@pytest.mark.parametrize("name", ["util.py", "utils.py", "_helpers.py", "common.py", "misc.py"])
def test_a_name_that_says_nothing_is_a_breach(tmp_path: Path, name: str) -> None:
    assert "name it for what it holds" in judge(tmp_path, "", name)[0]


def test_generated_code_is_exempt(tmp_path: Path) -> None:
    folder = tmp_path / "src/micro/rpc/gen"
    folder.mkdir(parents=True)
    (folder / "large_pb.py").write_text("global_ = 1\n" * 5000)
    assert judge(tmp_path, "") == []


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.95, 0),
        ([7], 0.5, 7),
        (list(range(1, 101)), 0.95, 95),
        (list(range(1, 21)), 0.95, 19),
        ([3, 1, 2], 0.5, 2),
    ],
)
def test_a_percentile_is_a_value_that_is_there(values: list[int], share: float, expected: int) -> None:
    assert budgets.percentile(values, share) == expected


def test_it_fails_on_a_breach_and_prints_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(tmp_path, "def f():\n    global x\n")
    assert budgets.main(tmp_path) == 1
    out, err = capsys.readouterr()
    assert "functions" in out
    assert "budget: src/module.py:2" in err
    (tmp_path / "src/module.py").write_text("x = 1\n")
    assert budgets.main(tmp_path) == 0
