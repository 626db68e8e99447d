"""Long bytes are written beside the other fields, and read back as if they were not."""

from __future__ import annotations

import os

import pytest

from micro.rpc import binary
from micro.rpc.binary import LONG
from micro.rpc.gen.micro.store.v1 import store_pb as pb


@pytest.mark.parametrize("size", [0, 1, LONG - 1, LONG, LONG + 1, 300_000])
def test_a_message_is_read_back_as_it_was_whatever_its_length(size: int) -> None:
    data = os.urandom(size)
    message = pb.BlobStoreWriteRequest(key="k", data=data, options=pb.BlobOptions(public=True, metadata={"a": "b"}))
    found = pb.BlobStoreWriteRequest.from_binary(binary.encode(message))
    assert found == message == pb.BlobStoreWriteRequest.from_binary(message.to_binary())
    assert message.data == data


def test_short_messages_are_written_as_the_library_writes_them() -> None:
    for message in (
        pb.BlobStoreReadResponse(data=b"x"),
        pb.Record(key="k", value=b"v"),
        pb.BlobStoreReadRequest(key="k"),
    ):
        assert binary.encode(message) == message.to_binary()


def test_a_class_without_bytes_is_written_by_the_library_alone() -> None:
    assert binary.encoder(pb.BlobStoreReadRequest) == pb.BlobStoreReadRequest.to_binary


def test_several_long_fields_and_bytes_that_are_no_bytes_object() -> None:
    record = pb.Record(key="k", value=bytearray(b"v" * LONG))
    assert pb.Record.from_binary(binary.encode(record)).value == b"v" * LONG


@pytest.mark.parametrize("size", [0, 10, LONG - 1, LONG, 300_000])
@pytest.mark.parametrize("step", [3, 16, 17, 4096, 1 << 20])
@pytest.mark.parametrize("key", ["", "k"])
def test_a_message_is_read_from_the_pieces_it_came_in(size: int, step: int, key: str) -> None:
    message = pb.BlobStoreWriteRequest(key=key, data=os.urandom(size))
    body = b"".join(binary.parts(message))
    pieces = [memoryview(body)[start : start + step] for start in range(0, len(body), step)]
    found = binary.decode(pb.BlobStoreWriteRequest, pieces)
    assert found == message
    assert type(found.data) is bytes


def test_a_length_that_does_not_fit_is_no_message() -> None:
    body = bytearray(pb.BlobStoreWriteRequest(data=bytes(LONG)).to_binary())
    body[1] ^= 1
    with pytest.raises(ValueError, match=r"\w"):
        binary.decode(pb.BlobStoreWriteRequest, [bytes(body)])
