"""The yardstick: the least that a unary gRPC call can be as an ASGI application."""

from proto.helloworld_pb import Request, Response

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
END = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")], "more_trailers": False}


async def call(request):
    return Response(msg="Hello " + request.name)


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    for _name, _value in scope["headers"]:
        pass
    event = await receive()
    body = event["body"]
    while event.get("more_body"):
        event = await receive()
        body += event["body"]
    answer = (await call(Request.from_binary(body[5:]))).to_binary()
    await send(START)
    framed = b"\0" + len(answer).to_bytes(4, "big") + answer
    await send({"type": "http.response.body", "body": framed, "more_body": False})
    await send(END)
