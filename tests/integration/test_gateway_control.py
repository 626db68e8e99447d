"""Discovery as the platform serves it: by its own calls application, inside Envoy, to Envoys that come and go."""

import asyncio
import http.client
import json
from contextlib import AsyncExitStack

from gateway_world import HERE, World, free_port

from micro.backends.envoy.admin import Admin
from micro.rpc import asgi_server


class Control:
    """The control plane's process."""

    def __init__(self, made: World) -> None:
        self.made, self.port = made, made.ads_port
        self._admin = made.folder / "control.sock"

    async def start(self):
        address = f"127.0.0.1:{self.port}"
        command = asgi_server.command("gateway_control:app", address=address, admin=self._admin, folder=HERE)
        self.made._run("control", command.argv, command.env)
        await Admin(self._admin).wait_ready(20)

    async def state(self, revision=None, **known):
        """Publish, or just ask: revision and error of each connected proxy."""
        body = json.dumps({"revision": revision, "known": known}) if revision else ""
        return await asyncio.to_thread(self._state, body)

    def _state(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/state", body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    async def until(self, expected):
        async with asyncio.timeout(20):
            while (state := await self.state()) != expected:
                await asyncio.sleep(0.05)
        return state


async def test_control_plane_and_gateways_die_and_return_in_any_order(tmp_path):
    async with AsyncExitStack() as stack:
        made = World(tmp_path, stack)
        made.ads_port = free_port()
        control = Control(made)
        one, _ = await asyncio.gather(made.instance("one"), control.start())
        await control.state(1, hello=one)
        await asyncio.gather(made.gateway("api"), made.gateway("proxy"))
        await control.until({"api": [1, ""], "proxy": [1, ""]})
        assert (await made.get("api", "/hello/call"))[0] == 200

        made.processes["proxy"].kill()
        assert await control.until({"api": [1, ""]}), "who is gone is not waited for"

        made.processes["control"].kill()
        assert (await made.get("api", "/hello/call"))[0] == 200
        await control.start()
        await control.until({"api": [0, ""]})
        assert (await made.get("api", "/hello/call"))[0] == 200, "a new control plane that knows nothing takes nothing"
        await control.state(5, hello=one, more=one)
        await control.until({"api": [5, ""]})
        for path in ("/hello/call", "/more/call"):
            assert (await made.get("api", path))[0] == 200

        made.processes["api"].kill()
        await control.until({})
        await made.gateway("api")
        await control.until({"api": [5, ""]})
        assert (await made.get("api", "/more/call"))[0] == 200
