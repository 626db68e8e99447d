"""`micro` and `python -m micro`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line with the process's own arguments and streams."""
    from micro.cli import app

    sys.exit(app.run(sys.argv[1:], sys.stdin, sys.stdout, sys.stderr))


if __name__ == "__main__":
    main()
