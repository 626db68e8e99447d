"""Where others reach a listener, services ask who calls, unless they were told to be public."""

from __future__ import annotations

import identity_world
import pytest
import worlds
from identity_world import Identities, http_call

OPEN = ({200}, "OK")
CLOSED = ({401}, "UNAUTHENTICATED")


def found(world: Identities, by: str | identity_world.Member = "") -> tuple[set[int], str]:
    """What callers come to over HTTP, on this machine's own address and as a stranger names it, and over gRPC."""
    address = world.world.api.replace("0.0.0.0", "127.0.0.1")
    shown = by if isinstance(by, str) else by.token
    hosts = ({}, {"host": "server.example"})
    statuses = {http_call(address, "/who/me", identity_world.bearing(shown, host)).status for host in hosts}
    return statuses, world.grpc("/who.Who/Me", {}, by).code


def test_a_listener_that_others_reach_closes_services_until_the_server_is_told_otherwise(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with worlds.world(tmp_path_factory.mktemp("listeners")) as made:
        made.api = made.api.replace("127.0.0.1", "0.0.0.0")
        made.start()
        assert worlds.eventually(lambda: (made.home / "sessions.json").exists())
        world = Identities(made)
        world.run(("micro", "who"))
        assert "an account is needed" in told(made)
        ann = world.member("micro", "ann")
        assert found(world) == CLOSED
        assert found(world, ann) == OPEN
        # A rule opens what anybody may call; the platform itself is never open.
        world.rule("micro", "open", "service:who:Who.Me")
        identity_world.within_a_second(lambda: found(world) == OPEN)
        world.forget("micro", "open")
        identity_world.within_a_second(lambda: found(world) == CLOSED)
        made.stop()

        made.start("--public")
        assert worlds.eventually(lambda: found(world) == OPEN, 20)
        assert "anyone can call them" in told(made)
        world.log_in()
        world.rule("micro", "closed", "service:who:*", "", "DENIED")
        identity_world.within_a_second(lambda: found(world) == CLOSED)
        for path in ("/micro.runtime.v1.Runtime/Read", "/micro.auth.v1.Accounts/List"):
            assert world.grpc(path).code == "UNAUTHENTICATED"
        assert found(world, ann) == ({403}, "PERMISSION_DENIED"), "a token outlives a restart, and a rule too"


def told(world: worlds.World) -> str:
    """What the banner says of who may call services."""
    assert worlds.eventually(lambda: "services:" in world.output())
    return next(line for line in world.output().splitlines() if "services:" in line)
