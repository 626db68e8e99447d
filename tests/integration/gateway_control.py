"""A control plane as an application: the platform's own code for calls and discovery, and a registry that a test
writes over HTTP. It knows nothing until the first POST."""

import json

from micro.backends.envoy.ads import EnvoyDataplane
from micro.domain import route
from micro.domain.service import Node, Registration
from micro.rpc.app import Application

plane = EnvoyDataplane("9.9.9")
calls = Application("control", [plane])


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    if scope["path"] != "/state":
        await calls(scope, receive, send)
        return
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    body += message["body"]
    if body:
        told = json.loads(body)
        known = [Registration("micro", name, "latest", Node(name, address)) for name, address in told["known"].items()]
        plane.apply(route.compile(known), told["revision"])
    state = {proxy.id: [proxy.revision, proxy.error] for proxy in plane.proxies()}
    head = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": json.dumps(state).encode()})
