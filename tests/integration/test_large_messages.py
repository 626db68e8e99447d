"""A service that takes more than the usual 32 MB can be sent more, and can send more, through the mesh too."""

from __future__ import annotations

import json
from pathlib import Path

import worlds

RELAY = """
from micro import Service, client
from proto.helloworld_connect import Helloworld
from proto.helloworld_pb import Request, Response

class Handler(Helloworld):
    async def call(self, request, ctx):
        if not request.name.isdigit():
            return Response(msg=request.name)
        answer = await client.call("helloworld", "Helloworld.Call", Request(name="x" * int(request.name)))
        return Response(msg=f"{len(answer.msg)} bytes")

app = Service("helloworld", Handler(), max_message=64 * 2**20)
"""


def test_a_message_of_40_mb_passes_the_mesh_both_ways(tmp_path: Path) -> None:
    with worlds.world(tmp_path / "home") as world:
        world.start()
        world.cli("run", str(world.service(source=RELAY)))
        told = world.cli("call", "helloworld", "call", json.dumps({"name": str(40 * 2**20)}))
        assert json.loads(told.stdout) == {"msg": f"{40 * 2**20} bytes"}
        refused = world.cli("call", "helloworld", "call", json.dumps({"name": str(64 * 2**20)}), check=False)
        assert refused.returncode == 127
        assert "larger than configured max" in refused.stderr
