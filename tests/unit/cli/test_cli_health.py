"""`micro health`, where what is kept is damaged."""

from __future__ import annotations

import json

from fake_platform import FakePlatform, Refusal
from shell import Shell


def test_health_names_the_databases_that_are_damaged(micro: Shell, platform: FakePlatform) -> None:
    damaged: set[object] = set()

    def ask(request: dict[str, object], _: dict[str, str]) -> object:
        where = request.get("database") or request.get("namespace")
        if where in damaged:
            raise Refusal("data_loss", f"database {where} is damaged", 500)
        return {}

    platform.do_tables = platform.do_list = ask  # type: ignore[method-assign,assignment,attr-defined]
    for name in ("store", "config"):
        platform.health[f"{name} databases"] = "NOT_SERVING"
        for where, told in (("micro", "of micro is damaged"), ("other", "of another namespace is damaged")):
            damaged.clear()
            damaged.add(where)
            result = micro("health", "-o", "json")
            found = {one["name"]: (one["status"], one["detail"]) for one in json.loads(result.out)}
            status, detail = found.pop(name)
            assert (result.code, status) == (1, "not ready")
            assert f"{told}; see: micro logs {name}" in detail
            assert {state for state, _ in found.values()} == {"ready"}
        platform.health[f"{name} databases"] = "SERVING"
    assert micro("health").code == 0
