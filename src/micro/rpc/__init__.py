"""The only room that knows protobuf, the RPC libraries and ASGI."""
