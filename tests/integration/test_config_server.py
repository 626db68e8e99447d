"""Settings and secrets on a real server: set by people, read by a service, kept whatever is killed."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_docs
import worlds

PLAIN = "correct-horse-battery-staple"
ROOT = Path(__file__).resolve().parents[2]

SERVICE = """
import json
from micro import Service, config
from proto.settings_connect import Settings
from proto.settings_pb import Response

class Handler(Settings):
    async def call(self, request, ctx):
        return Response(msg=json.dumps(await config.get(request.name, "nothing")))

app = Service("settings", Handler())
"""
PROTO = worlds.PROTO.replace("helloworld", "settings").replace("Helloworld", "Settings")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.World]:
    with worlds.world(tmp_path_factory.mktemp("config")) as made:
        made.start()
        made.cli("run", str(made.service("settings", SERVICE, PROTO)))
        yield made


def post(world: worlds.World, path: str, body: Any, token: str = "") -> tuple[int, Any]:
    host, _, port = world.api.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def seen(world: worlds.World, path: str) -> Any:
    """What the service sees."""
    status, answer = post(world, "/settings/call", {"name": path})
    assert status == 200, answer
    return json.loads(answer["msg"])


def test_the_transcript_of_the_page(world: worlds.World) -> None:
    steps = test_docs.transcript((ROOT / "docs" / "config.md").read_text())
    assert len(steps) > 8
    env = {**world.env, "PATH": f"{worlds.BIN}:{world.env['PATH']}"}
    for command, shown in steps:
        done = subprocess.run(["bash", "-c", command], env=env, text=True, capture_output=True, timeout=60)
        shown, real = ([re.sub(r" {2,}", "  ", line) for line in shown], re.sub(r" {2,}", "  ", done.stdout))
        assert test_docs.matches(shown, real + done.stderr), f"$ {command}\n{real}{done.stderr}"


def test_a_running_service_sees_changes_and_secrets(world: worlds.World) -> None:
    assert seen(world, "feature") == "nothing"
    for value in ({"on": True}, [1, 2.5], "text", None):
        world.cli("config", "set", "feature", json.dumps(value))
        assert worlds.eventually(lambda value=value: seen(world, "feature") == value)
    world.cli("config", "set", "mail.password", "--secret", stdin=PLAIN)
    assert worlds.eventually(lambda: seen(world, "mail") == {"password": PLAIN})
    world.cli("config", "del", "mail.password")
    assert worlds.eventually(lambda: seen(world, "mail.password") == "nothing")


def test_over_http_with_a_platform_token_only(world: worlds.World) -> None:
    token = world.cli("user", "token", "--platform").stdout.strip()
    big = "9007199254740993"
    assert post(world, "/config/set", {"path": "http.n", "value": {"data": big}}, token)[0] == 200
    status, answer = post(world, "/config/get", {"path": "http.n"}, token)
    assert (status, answer["value"]) == (200, {"data": big})
    assert post(world, "/config/get", {"path": "http.x"}, token)[0] == 404
    assert post(world, "/config/set", {"path": "http.n", "value": {"data": "{"}}, token)[0] == 400
    deep = "[" * 1000 + "]" * 1000
    assert post(world, "/config/set", {"path": "http.n", "value": {"data": deep}}, token)[0] == 400
    for wrong in ("", "nonsense", world.cli("user", "token").stdout.strip()):
        assert post(world, "/config/get", {"path": "http.n"}, wrong)[0] in (401, 403, 404)
    assert world.cli("config", "get", "http.n").stdout == f"{big}\n"


def test_what_was_acknowledged_survives_and_services_go_on_with_what_they_know(world: worlds.World) -> None:
    world.cli("config", "set", "kept", "0")
    assert worlds.eventually(lambda: seen(world, "kept") == 0)
    for number in range(1, 4):
        world.cli("config", "set", "kept", str(number))
        killed = world.processes()["config"]
        os.kill(killed, signal.SIGKILL)
        assert seen(world, "kept") in (number - 1, number)
        assert worlds.eventually(lambda killed=killed: world.processes().get("config", killed) != killed)
        assert worlds.eventually(lambda: world.cli("config", "get", "kept", check=False).returncode == 0)
        assert world.cli("config", "get", "kept").stdout == f"{number}\n"
        assert worlds.eventually(lambda number=number: seen(world, "kept") == number)


def test_nothing_of_a_secret_is_anywhere_in_the_clear(world: worlds.World) -> None:
    world.cli("config", "set", "vault", "--secret", stdin=json.dumps({"a": PLAIN, "b": [PLAIN]}))
    world.cli("config", "set", "vault.a", stdin=f"{PLAIN}-again")
    world.cli("config", "rollback", "vault.a", "9999", check=False)
    assert worlds.eventually(lambda: seen(world, "vault.a") == f"{PLAIN}-again")
    key = (world.home / "config.key").read_bytes().strip()
    assert (world.home / "config.key").stat().st_mode & 0o777 == 0o600
    for file in world.layout.root.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert PLAIN.encode() not in content, file
            assert key not in content, file
    for text in (world.output(), world.cli("config", "history").stdout, world.cli("status", "-o", "json").stdout):
        assert PLAIN not in text
    for pid in world.processes().values():
        assert key not in Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()


def told(world: worlds.World, topic: str) -> list[dict[str, Any]]:
    """What the platform has told of itself, the oldest first."""
    lines = world.cli("events", "read", topic, "--limit", "0", "-o", "json").stdout.splitlines()
    found = [json.loads(line) for line in lines]
    assert all(one["metadata"] == {"type": one["payload"]["type"]} for one in found)
    return [one["payload"] for one in found]


def test_the_platform_tells_what_happens_and_no_secrets(world: worlds.World) -> None:
    texts = (text.replace("settings", "news").replace("Settings", "News") for text in (SERVICE, PROTO))
    world.cli("run", str(world.service("news", *texts)))
    world.cli("kill", "news")
    made = re.search(r"secret  (\S+)", world.cli("auth", "create", "account", "reporter").stdout)
    assert made is not None
    world.cli("config", "set", "news.password", "--secret", stdin=PLAIN)
    common = {"service": "news", "version": "latest"}

    def types(topic: str, **about: str) -> list[str]:
        return [one["type"] for one in told(world, topic) if one.items() >= about.items()]

    assert worlds.eventually(lambda: "service.killed" in types("micro.runtime", **common))
    lived = ["service.created", "service.started", "service.ready", "service.stopped", "service.killed"]
    assert types("micro.runtime", **common) == lived
    assert types("micro.registry", **common) == ["instance.registered", "instance.deregistered"]
    assert types("micro.auth", account="news@latest") == ["account.created", "account.deleted"]
    assert types("micro.auth", account="reporter", by="micro/admin") == ["account.created"]
    assert types("micro.config", path="news.password", secret="true") == ["value.set"]
    everything = json.dumps([told(world, f"micro.{topic}") for topic in ("runtime", "registry", "auth", "config")])
    assert PLAIN not in everything
    assert made[1] not in everything
    refused = world.cli("events", "publish", "micro.runtime", "{}", check=False)
    assert (refused.returncode, "told by the platform itself" in refused.stderr) == (2, True), refused.stderr


def test_the_key_may_come_from_a_variable_and_reaches_who_seals_alone(world: worlds.World) -> None:
    world.cli("config", "set", "last", "--secret", stdin=PLAIN)
    file = world.home / "config.key"
    key = file.read_text().strip()
    world.stop()
    file.unlink()
    world.extra["MICRO_CONFIG_SECRET_KEY"] = key
    world.start()
    assert world.cli("config", "get", "last", "--secret").stdout == f"{PLAIN}\n"
    for name, pid in world.processes().items():
        knows = key.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        assert knows is (name in ("auth", "config", "runtime")), name
        assert key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert not any(key.encode() in file.read_bytes() for file in world.layout.root.rglob("*") if file.is_file())
    assert not file.exists()
