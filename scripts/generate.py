"""Make the generated code anew, or with --check say whether what is committed is current."""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from micro.rpc import codegen

ROOT = Path(__file__).resolve().parent.parent
# (contracts, code): the platform's own, the tests', the examples'.
TARGETS = [
    (ROOT / "proto", ROOT / "src/micro/rpc/gen"),
    (ROOT / "tests/proto", ROOT / "tests/gen"),
    *((path, path) for path in sorted(ROOT.glob("examples/*/proto"))),
]


def files(root: Path) -> dict[str, Path]:
    return {str(path.relative_to(root)): path for path in root.rglob("*.py")}


def main() -> int:
    stale: list[str] = []
    for contracts, code in TARGETS:
        if not list(contracts.rglob("*.proto")):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            fresh_root = Path(scratch)
            codegen.generate(contracts, fresh_root)
            fresh, committed = files(fresh_root), files(code) if code.exists() else {}
            if "--check" in sys.argv:
                stale += [
                    str(code / name)
                    for name in sorted(fresh.keys() | committed.keys())
                    if name not in fresh
                    or name not in committed
                    or not filecmp.cmp(fresh[name], committed[name], shallow=False)
                ]
                continue
            for name in committed.keys() - fresh.keys():
                committed[name].unlink()
            for name, path in fresh.items():
                target = code / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    if stale:
        print("generated code is not current; run make gen:", *stale, sep="\n  ")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
