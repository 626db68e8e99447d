"""From contracts to Python: protoc with the two plugins, all of them wheels, nothing fetched.

`micro gen` runs this for users, `scripts/generate.py` for ourselves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from micro.domain import errors

_BIN = Path(sys.executable).parent


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join((str(_BIN), os.environ.get("PATH", ""))))
    if found is None:
        raise errors.failed_precondition(f"{name} is not installed beside {sys.executable}: install micro again")
    return found


def generate(root: Path, out: Path, files: Sequence[Path] = ()) -> list[Path]:
    """Generate `*_pb.py` and `*_connect.py` for contracts.

    Args:
        root: folder that the contracts' imports start from.
        out: folder that receives the code, laid out as below `root`; made if absent.
        files: contracts below `root`; none means all of them.

    Returns:
        The contracts that were compiled, sorted.

    Raises:
        Error: NOT_FOUND without contracts, INVALID_ARGUMENT with protoc's words (file, line, cause) for a bad one.
    """
    contracts = sorted(files) or sorted(root.rglob("*.proto"))
    if not contracts:
        raise errors.not_found(f"no .proto files in {root}")
    out.mkdir(parents=True, exist_ok=True)
    command = [
        _program("protoc"),
        f"--proto_path={root}",
        f"--plugin=protoc-gen-py={_program('protoc-gen-py')}",
        f"--plugin=protoc-gen-connectrpc={_program('protoc-gen-connectrpc')}",
        f"--py_out={out}",
        f"--connectrpc_out={out}",
        *(str(contract) for contract in contracts),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise errors.invalid_argument(done.stderr.strip() or f"protoc ended with {done.returncode}")
    return contracts
