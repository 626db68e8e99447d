"""The same echo as its author would write it with Micro."""

from proto.helloworld_connect import Helloworld
from proto.helloworld_pb import Response

from micro import Service


class Handler(Helloworld):
    async def call(self, request, ctx):
        return Response(msg="Hello " + request.name)


app = Service("helloworld", Handler())
