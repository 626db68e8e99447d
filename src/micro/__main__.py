"""`micro` and `python -m micro`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line with the process's own arguments and streams."""
    try:
        from micro.cli import app

        code = app.run(sys.argv[1:], sys.stdin, sys.stdout, sys.stderr)
    except KeyboardInterrupt:  # while all is imported
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
