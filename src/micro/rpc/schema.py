"""What a service can be asked for, as plain values: the shapes of its messages, and its contracts in binary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescFile,
    DescMessage,
    ScalarType,
)
from protobuf.wkt import FileDescriptorSet

from micro.domain import names
from micro.domain.service import Endpoint, Value
from micro.rpc import comments
from micro.rpc.method import Method

_EXPLICIT = 1  # FeatureSet.FieldPresence

_Kind = ScalarType | DescEnum | DescMessage


def endpoints(methods: Sequence[Method]) -> tuple[Endpoint, ...]:
    """One endpoint a method, in order, with shapes of any depth."""
    return tuple(
        Endpoint(
            name=method.name,
            path=method.path,
            request=message(method.desc.input),
            response=message(method.desc.output),
            kind=method.kind,
            timeout=method.timeout or 0.0,
            description=method.description,
        )
        for method in methods
    )


def message(desc: DescMessage) -> Value:
    """The shape of a message. Where a type contains itself its fields are left out: they stand further up."""
    return Value(name=desc.name, type="message", type_name=desc.type_name, values=_fields(desc, ()))


def _fields(desc: DescMessage, above: tuple[str, ...]) -> tuple[Value, ...]:
    if desc.type_name in above:
        return ()
    said = comments.of_fields(desc)
    fields = [(field, _field(field, (*above, desc.type_name))) for field in desc.fields]
    groups = {field.name: group.name for group in desc.oneofs for field in group.fields}
    return tuple(
        replace(
            shape,
            description=said.get(field.local_name, ""),
            oneof=groups.get(field.name, ""),
            json_name="" if field.json_name == names.json_name(field.name) else field.json_name,
        )
        for field, shape in fields
    )


def _field(field: DescField, above: tuple[str, ...]) -> Value:
    value = field.value
    if isinstance(value, DescFieldValueMap):
        inner = _shape("value", value.value, above)
        return Value(name=field.name, type="map", key_type=value.key.name.lower(), values=(inner,))
    if isinstance(value, DescFieldValueList):
        return _shape(field.name, value.element, above, repeated=True)
    kind: _Kind
    if isinstance(value, DescFieldValueMessage):
        kind = value.message
    elif isinstance(value, DescFieldValueEnum):
        kind = value.enum
    else:
        assert isinstance(value, DescFieldValueScalar)
        kind = value.scalar
    # A message may always be absent, which says nothing; of the others it is the author's choice.
    optional = not isinstance(kind, DescMessage) and int(field.presence) == _EXPLICIT
    return _shape(field.name, kind, above, optional=optional)


def _shape(name: str, kind: _Kind, above: tuple[str, ...], *, repeated: bool = False, optional: bool = False) -> Value:
    if isinstance(kind, DescMessage):
        values = _fields(kind, above)
        return Value(name=name, type="message", type_name=kind.type_name, repeated=repeated, values=values)
    if isinstance(kind, DescEnum):
        known = tuple(value.name for value in kind.values)
        return Value(
            name=name, type="enum", type_name=kind.type_name, repeated=repeated, optional=optional, enum_values=known
        )
    return Value(name=name, type=kind.name.lower(), repeated=repeated, optional=optional)


def files(roots: Iterable[DescFile]) -> list[DescFile]:
    """The files and all they import, each once, what is imported first."""
    found: dict[str, DescFile] = {}

    def add(file: DescFile) -> None:
        if file.name not in found:
            for dependency in file.dependencies:
                add(dependency)
            found[file.name] = file

    for root in roots:
        add(root)
    return list(found.values())


def descriptors(methods: Sequence[Method]) -> bytes:
    """A FileDescriptorSet of the methods' contracts with everything they import."""
    every = files(method.desc.parent.file for method in methods)
    return FileDescriptorSet(file=[file.proto for file in every]).to_binary()
