"""The anchor: the same echo on grpc.aio. `grpc_aio_server.py ADDRESS`."""

import asyncio
import sys

import grpc
from proto.helloworld_pb import Request, Response


async def call(request, context):
    return Response(msg="Hello " + request.name)


async def main() -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=Request.from_binary, response_serializer=Response.to_binary
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("helloworld.Helloworld", {"Call": handler}),))
    server.add_insecure_port(sys.argv[1])
    await server.start()
    await server.wait_for_termination()


asyncio.run(main())
