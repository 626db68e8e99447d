"""What services consume and subscribe to, shown, and whether they are connected to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_platform import FakePlatform
from shell import Shell
from test_cli_help import agree

MAILER: dict[str, Any] = {
    "name": "mailer",
    "version": "latest",
    "namespace": "micro",
    "nodes": [{"id": "mailer-1", "address": "127.0.0.1:40003"}],
    "metadata": {"consumes": "orders/mailer payments/books", "subscribes": "prices.>"},
}


@pytest.fixture
def mailer(platform: FakePlatform) -> FakePlatform:
    platform.services.append(MAILER)
    platform.running["mailer", "latest"] = {**MAILER, "status": "STATUS_RUNNING"}
    platform.health["mailer consumers"] = "SERVING"
    return platform


def broken(platform: FakePlatform) -> None:
    """The mailer has lost its payments."""
    platform.health |= {
        "mailer consumers": "NOT_SERVING",
        "mailer consumers/orders/mailer": "SERVING",
        "mailer consumers/payments/books": "NOT_SERVING",
        "mailer consumers/prices.>": "SERVING",
    }


def test_a_service_is_shown_with_what_it_listens_to(micro: Shell, mailer: FakePlatform) -> None:
    agree("service-mailer", micro("services", "mailer").out)
    broken(mailer)
    agree("service-mailer-broken", micro("services", "mailer").out)
    agree("service-users", micro("services", "users").out)


def test_what_is_not_told_is_not_made_up(micro: Shell, mailer: FakePlatform) -> None:
    del mailer.health["mailer consumers"]
    (found,) = json.loads(micro("services", "mailer", "-o", "json").out)
    assert [one["connected"] for one in (*found["consumes"], *found["subscribes"])] == [None] * 3
    assert "connected" not in micro("services", "mailer").out


def test_as_json_it_has_a_structure(micro: Shell, mailer: FakePlatform) -> None:
    listed = {one["name"]: one for one in json.loads(micro("services", "-o", "json").out)}
    assert listed["mailer"]["consumes"] == [
        {"topic": "orders", "group": "mailer"}, {"topic": "payments", "group": "books"}
    ]  # fmt: skip
    assert listed["mailer"]["subscribes"] == [{"topic": "prices.>", "queue": ""}]
    assert (listed["users"]["consumes"], listed["users"]["subscribes"]) == ([], [])
    broken(mailer)
    (found,) = json.loads(micro("services", "mailer", "-o", "json").out)
    assert [one["connected"] for one in (*found["consumes"], *found["subscribes"])] == [True, False, True]


def test_status_of_one_says_what_it_is_not_connected_to(micro: Shell, mailer: FakePlatform) -> None:
    assert "connected" not in micro("status", "mailer").out
    broken(mailer)
    assert micro("status", "mailer").out.splitlines()[-1] == ("not connected to payments/books; why: micro logs mailer")
    assert "connected" not in micro("status").out


def test_a_service_that_only_consumes_is_run_without_a_way_to_call_it(
    micro: Shell, mailer: FakePlatform, tmp_path: Path
) -> None:
    folder = tmp_path / "mailer"
    folder.mkdir()
    (folder / "main.py").write_text("")
    said = micro("run", str(folder)).out
    assert "micro services mailer" in said
    assert "curl" not in said
    assert "call" not in said
