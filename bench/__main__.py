"""`python -m bench [MEASURE …]`: measure, print a table, keep it in bench/results/."""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import asdict
from pathlib import Path

from bench import blobs, identity, machine, messaging, rows, state

RESULTS = Path(__file__).parent / "results"
ALL = {
    "echo": rows.echo,
    "gateway": rows.gateway,
    "mesh": rows.mesh,
    "start": rows.start,
    "scale": rows.scale,
    "identity": identity.identity,
    "state": state.state,
    "blobs": blobs.blobs,
    "messaging": messaging.messaging,
    "topics": messaging.topics,
    "soak": messaging.soak,
}


def line(row: rows.Row) -> str:
    value = f"{row.value:,.0f}" if abs(row.value) >= 100 else f"{row.value:,.2f}"
    sign = "≤" if row.at_most else "≥"
    goal = "" if row.goal is None else f"{sign} {row.goal:g}"
    verdict = {None: "", True: "ok", False: "MISSED"}[row.good]
    return f"  {row.name:<58} {value:>9} {row.unit:<12} {goal:<8} {verdict}"


def _file() -> Path:
    return RESULTS / f"{dt.datetime.now(dt.UTC):%Y-%m-%d}.json"


def _keep(about: dict[str, object], name: str, measured: list[rows.Row]) -> None:
    """Write what a measure found beside the day's others, in place of what it found before: a run that is cut short
    has not been in vain."""
    file = _file()
    kept = json.loads(file.read_text()) if file.exists() else {}
    others = kept.get("measures", {}) if kept.get("machine") == about else {}
    others[name] = [asdict(row) | {"good": row.good} for row in measured]
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps({"machine": about, "measures": others}, indent=2) + "\n")


def main(names: list[str]) -> int:
    unknown = set(names) - ALL.keys()
    if unknown:
        print(f"bench: no measure {', '.join(sorted(unknown))}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    about = machine.describe()
    print(
        f"{about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB, Python {about['python']}\n",
        flush=True,
    )
    found: list[rows.Row] = []
    for name in names or ALL:
        measure = ALL[name]
        print((measure.__doc__ or name).splitlines()[0], flush=True)
        measured = []
        for row in measure():
            measured.append(row)
            print(line(row), flush=True)
        _keep(about, name, measured)
        found += measured
    print(f"\nkept in {_file()}")
    return 1 if any(row.good is False for row in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
