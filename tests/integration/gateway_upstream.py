"""The smallest upstream: says who it is, over HTTP and gRPC, and does what the path asks of it."""

import asyncio
import json
import os

GRPC = [(b"content-type", b"application/grpc")]


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "echo " + (message.get("text") or "")})
        return
    while (await receive()).get("more_body"):
        pass
    path, query = scope["path"], dict(pair.split(b"=") for pair in scope["query_string"].split(b"&") if b"=" in pair)
    await asyncio.sleep(float(query.get(b"sleep", b"0")))
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    told = {"instance": os.environ["INSTANCE"], "path": path, "headers": headers}
    if headers.get("content-type", "").startswith("application/grpc"):
        await asyncio.sleep(float(headers.get("x-sleep", "0")))
        body = json.dumps(told).encode()
        await send({"type": "http.response.start", "status": 200, "headers": GRPC, "trailers": True})
        await send({"type": "http.response.body", "body": b"\0" + len(body).to_bytes(4, "big") + body})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False})
        return
    body = json.dumps(told).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": int(query.get(b"status", b"200")), "headers": head})
    await send({"type": "http.response.body", "body": body})
