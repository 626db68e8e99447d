"""The helloworld service. Its contract is proto/helloworld.proto."""

from collections.abc import AsyncIterator

from micro import Service, errors

from proto.helloworld_connect import Helloworld
from proto.helloworld_pb import Ping, Pong, Request, Response, StreamRequest, StreamResponse


class Handler(Helloworld):
    """Answers the calls: one method for each in the contract."""

    async def call(self, request: Request, ctx) -> Response:
        if not request.name:
            raise errors.invalid_argument("name is empty")
        return Response(msg=f"Hello {request.name}")

    async def stream(self, request: StreamRequest, ctx) -> AsyncIterator[StreamResponse]:
        for count in range(1, request.count + 1):
            yield StreamResponse(count=count)

    async def ping_pong(self, pings: AsyncIterator[Ping], ctx) -> AsyncIterator[Pong]:
        async for ping in pings:
            yield Pong(stroke=ping.stroke)


app = Service("helloworld", Handler())

if __name__ == "__main__":
    app.run()
