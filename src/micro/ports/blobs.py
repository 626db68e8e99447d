"""Where blobs are kept: bytes of any length under a key, written and read as streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass, field

from micro.domain import errors
from micro.domain.record import Durability

PIECE_BYTES = 512 << 10
"""What a read yields at a time, at most."""

CONTENT_TYPE = "application/octet-stream"
"""What a blob is when nobody said."""


@dataclass(frozen=True, slots=True)
class Blob:
    """What is known of a blob without reading it.

    Attributes:
        size: bytes.
        checksum: SHA-256 of the whole, in hexadecimal.
        content_type: what the writer said it is.
        metadata: the writer's own pairs.
        public: whether everybody may read it over HTTP.
        modified: when it was written, in milliseconds since 1970.
    """

    key: str
    size: int
    checksum: str
    content_type: str = CONTENT_TYPE
    metadata: Mapping[str, str] = field(default_factory=dict)
    public: bool = False
    modified: int = 0


class Opened(ABC):
    """One blob as it was when it was opened, whatever is written or removed meanwhile.

    Attributes:
        blob: what is known of it.
    """

    blob: Blob

    @abstractmethod
    def pieces(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes from `start` on, `length` of them or to the end; a range beyond the end is cut there. Raises
        DATA_LOSS when what is kept is not what was written, before the last piece is told."""


class Blobs(ABC):
    """Blobs by namespace and key. Keys are any text of 1 to 1,024 UTF-8 bytes: a backend maps them to its own names so
    that none leads out of its namespace. Memory does not grow with a blob's length.

    Everything may raise UNAVAILABLE when the state cannot be reached.
    """

    @property
    @abstractmethod
    def durability(self) -> Durability:
        """What an acknowledged blob outlives."""

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Open the state. Raises UNAVAILABLE."""

    @abstractmethod
    def healthy(self) -> bool:
        """Whether the state can be reached, as far as is known without asking."""

    @abstractmethod
    async def write(
        self,
        namespace: str,
        key: str,
        pieces: AsyncIterator[bytes],
        *,
        content_type: str = CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        public: bool = False,
        checksum: str = "",
        most: int = 0,
    ) -> Blob:
        """Keep the pieces as one blob, in place of what is there. Durable and whole when it returns; until then, and
        when it raises (what `pieces` raises, too), readers see what was there.

        Of several that write one key at the same time the last to end wins, whole.

        Args:
            checksum: SHA-256 that the bytes must have, in hexadecimal; empty for any.
            most: bytes allowed; 0 for any number.

        Raises INVALID_ARGUMENT for another checksum, RESOURCE_EXHAUSTED for more than `most` bytes and when there is no
        room.
        """

    @abstractmethod
    async def stat(self, namespace: str, key: str) -> Blob | None:
        """What is known of it; None when it is absent."""

    @abstractmethod
    def open(self, namespace: str, key: str) -> AbstractAsyncContextManager[Opened]:
        """The blob that is there now, to read of. Raises NOT_FOUND; DATA_LOSS when it is damaged."""

    async def read(self, namespace: str, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes of the blob that was there at the first await, as `Opened.pieces` tells them. Raises NOT_FOUND;
        DATA_LOSS."""
        async with self.open(namespace, key) as opened, aclosing(opened.pieces(start, length)) as pieces:
            async for piece in pieces:
                yield piece

    @abstractmethod
    async def list(self, namespace: str, prefix: str = "", after: str = "", limit: int = 1000) -> list[Blob]:
        """Those whose key begins with `prefix` and comes after `after`, in order of their keys' bytes. Costs the more,
        the more keys the namespace has, but reads none of their bytes. Raises DATA_LOSS for a damaged one among them,
        which can be written anew or deleted."""

    @abstractmethod
    async def delete(self, namespace: str, key: str) -> bool:
        """Remove; whether there was one. Readers that have begun finish."""

    @abstractmethod
    async def drop(self, namespace: str) -> None:
        """Remove all of a namespace."""


def absent(key: str) -> errors.Error:
    """What is told of a blob that is not there."""
    return errors.not_found(f"there is no blob {key[:80]!r}")


def damaged(key: str) -> errors.Error:
    """What is told of a blob that is not what was written."""
    return errors.data_loss(f"blob {key[:80]!r} is damaged: write it anew, or restore it from a copy")


def too_large(key: str, most: int) -> errors.Error:
    """What is told of a blob that is larger than it may be."""
    return errors.resource_exhausted(f"blob {key[:80]!r} is larger than the {most:,} bytes that are allowed")


def other_checksum(key: str, wanted: str, found: str) -> errors.Error:
    """What is told of bytes that are not those that the writer announced."""
    return errors.invalid_argument(
        f"the bytes of blob {key[:80]!r} have SHA-256 {found}, not {wanted[:64]}: nothing was kept; send them again"
    )
