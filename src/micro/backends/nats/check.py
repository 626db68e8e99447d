"""Whether a NATS that somebody else runs is of use: asked before anything is started, so that one line can tell."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from micro.backends.nats._address import NatsAddress
from micro.backends.nats._appends import WITH_BATCHES
from micro.backends.nats._connection import Connection
from micro.backends.nats.registry import NatsRegistry
from micro.domain import errors

CHECK_SECONDS = 5.0
PATIENCE_SECONDS = 15.0
"""Longer than a cluster takes to elect a leader."""

NEEDED_PAYLOAD = 2 << 20
"""Bytes of one message: an event of 1 MiB with all that belongs to it."""

OLDEST = (2, 11, 10)
"""Before this release of NATS there is no reading of several messages at once, or it ends at what retention removed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Attributes:
        cluster: its name; empty for a server that stands alone.
        advice: lines about what works, and could be better.
    """

    cluster: str
    advice: tuple[str, ...] = ()


async def check(address: NatsAddress, replicas: int) -> Found:
    """Connect, and have the registry's bucket made, kept by so many servers.

    Raises:
        Error: UNAVAILABLE when nobody answers, FAILED_PRECONDITION when the files are not right, the servers refuse us
            or we them, the release is older than OLDEST, there is no JetStream, or there are too few servers. Each in
            one line with what to do.
    """
    address.check()
    async with AsyncExitStack() as stack:
        connection = Connection(address, "micro-check", CHECK_SECONDS)
        await connection.start(stack)
        version = connection.version
        if version < OLDEST:
            raise errors.failed_precondition(
                f"NATS at {address.url} is {_dotted(version)}, and {_dotted(OLDEST)} is the oldest that micro works "
                "with: update it"
            )
        if not connection.client.jetstream_there:
            raise errors.failed_precondition(f"NATS at {address.url} runs without JetStream: start it with JetStream")
        try:
            await NatsRegistry(connection, replicas=replicas, patience=PATIENCE_SECONDS).prepare()
        except errors.Error as error:
            raise errors.Error(error.kind, f"NATS at {address.url}: {error.message}") from error
        cluster, payload = connection.client.cluster, connection.client.max_payload
    advice = []
    if cluster and replicas == 1:
        advice.append(
            f"NATS is the cluster {cluster}, and each message is kept by one of its servers: "
            "MICRO_NATS_REPLICAS=3 keeps it through the loss of one"
        )
    if version < WITH_BATCHES:
        advice.append(
            f"NATS is {_dotted(version)}, so a batch of events is published one by one, and a failure may leave a "
            f"part of it: from {_dotted(WITH_BATCHES)} on it is all or nothing"
        )
    if payload < NEEDED_PAYLOAD:
        advice.append(
            f"NATS takes messages of {payload:,} bytes, so large events and services' descriptors are refused: "
            "set max_payload: 8MB in its configuration"
        )
    return Found(cluster, tuple(advice))


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
