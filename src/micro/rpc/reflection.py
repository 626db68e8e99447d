"""What a service offers, told to tools like grpcurl: grpc.reflection, v1 and v1alpha."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from protobuf import DescEnum, DescFile, DescMessage, DescService, Oneof

from micro.domain import errors
from micro.domain.errors import Error
from micro.rpc import schema
from micro.rpc.gen.grpc.health.v1 import health_pb
from micro.rpc.gen.grpc.reflection.v1 import reflection_connect as v1_connect
from micro.rpc.gen.grpc.reflection.v1 import reflection_pb as v1_pb
from micro.rpc.gen.grpc.reflection.v1alpha import reflection_connect as v1alpha_connect
from micro.rpc.gen.grpc.reflection.v1alpha import reflection_pb as v1alpha_pb


class _Index:
    """Files by name and by each symbol they define."""

    def __init__(self, services: Sequence[DescService]) -> None:
        standard = [file.services[0] for file in (health_pb.desc(), v1_pb.desc(), v1alpha_pb.desc())]
        self.services = sorted({service.type_name for service in (*services, *standard)})
        self._files: dict[str, DescFile] = {}
        self._symbols: dict[str, DescFile] = {}
        self._extensions: dict[tuple[str, int], DescFile] = {}
        for file in schema.files(service.file for service in (*services, *standard)):
            self._files[file.name] = file
            for symbol in _symbols(file):
                self._symbols[symbol] = file
            for extension in file.extensions:
                self._extensions[extension.extendee.type_name, extension.number] = file

    def file(self, name: str) -> list[bytes]:
        return self._closure(self._files.get(name), name)

    def symbol(self, name: str) -> list[bytes]:
        return self._closure(self._symbols.get(name.removeprefix(".")), name)

    def extension(self, extendee: str, number: int) -> list[bytes]:
        return self._closure(self._extensions.get((extendee, number)), f"extension {number} of {extendee}")

    def extensions(self, extendee: str) -> list[int]:
        if extendee not in self._symbols:
            raise errors.not_found(f"{extendee} is not known here")
        return sorted(number for name, number in self._extensions if name == extendee)

    def _closure(self, file: DescFile | None, name: str) -> list[bytes]:
        if file is None:
            raise errors.not_found(f"{name} is not known here")
        return [each.proto.to_binary() for each in reversed(schema.files([file]))]


def _symbols(file: DescFile) -> Iterator[str]:
    def message(desc: DescMessage) -> Iterator[str]:
        yield desc.type_name
        yield from (f"{desc.type_name}.{field.name}" for field in desc.fields)
        for nested in desc.nested_messages:
            yield from message(nested)
        for enum in desc.nested_enums:
            yield from enumeration(enum)

    def enumeration(desc: DescEnum) -> Iterator[str]:
        yield desc.type_name
        scope = desc.type_name.rpartition(".")[0]
        yield from (f"{scope}.{value.name}" if scope else value.name for value in desc.values)

    for desc in file.messages:
        yield from message(desc)
    for enum in file.enums:
        yield from enumeration(enum)
    yield from (extension.type_name for extension in file.extensions)
    for service in file.services:
        yield service.type_name
        yield from (f"{service.type_name}.{method.name}" for method in service.methods)


async def _info(index: _Index, pb: Any, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        try:
            answer = _answer(index, pb, request.message_request)
        except Error as error:
            answer = Oneof("error_response", pb.ErrorResponse(error_code=int(error.kind), error_message=error.message))
        yield pb.ServerReflectionResponse(valid_host=request.host, original_request=request, message_response=answer)


def _answer(index: _Index, pb: Any, asked: Any) -> Any:
    files: list[bytes]
    match asked.field if asked is not None else None:
        case "list_services":
            services = [pb.ServiceResponse(name=name) for name in index.services]
            return Oneof("list_services_response", pb.ListServiceResponse(service=services))
        case "all_extension_numbers_of_type":
            numbers = index.extensions(asked.value)
            answer = pb.ExtensionNumberResponse(base_type_name=asked.value, extension_number=numbers)
            return Oneof("all_extension_numbers_response", answer)
        case "file_by_filename":
            files = index.file(asked.value)
        case "file_containing_symbol":
            files = index.symbol(asked.value)
        case "file_containing_extension":
            files = index.extension(asked.value.containing_type, asked.value.extension_number)
        case _:
            raise errors.invalid_argument("the request asks for nothing")
    return Oneof("file_descriptor_response", pb.FileDescriptorResponse(file_descriptor_proto=files))


class _V1(v1_connect.ServerReflection):
    def __init__(self, index: _Index) -> None:
        self._index = index

    async def server_reflection_info(self, requests: AsyncIterator[Any], ctx: Any) -> AsyncIterator[Any]:
        async for response in _info(self._index, v1_pb, requests):
            yield response


class _V1Alpha(v1alpha_connect.ServerReflection):
    def __init__(self, index: _Index) -> None:
        self._index = index

    async def server_reflection_info(self, requests: AsyncIterator[Any], ctx: Any) -> AsyncIterator[Any]:
        async for response in _info(self._index, v1alpha_pb, requests):
            yield response


def reflections(services: Sequence[DescService]) -> list[object]:
    """The two handlers, for a service with these contracts."""
    index = _Index(services)
    return [_V1(index), _V1Alpha(index)]
