"""How secrets are sealed: each with its namespace's data key, and that with a key of the server's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key as it is kept: of no use without the server's key.

    Attributes:
        id: which data key; what is sealed with it says so.
        wrapped_by: which of the server's keys wraps it.
        wrapped: it.
    """

    id: str
    wrapped_by: str
    wrapped: bytes = field(repr=False)


class Sealing(ABC):
    """Authenticated encryption. What is sealed is opened under the namespace and the path that it was sealed for, and
    nowhere else.

    No error tells anything of a key or of a value. Everything may raise FAILED_PRECONDITION when the server has no
    usable key.
    """

    @abstractmethod
    def has_key(self) -> bool:
        """Whether the server has a key; False where it would have to make its first one."""

    @abstractmethod
    def begin(self) -> None:
        """Make the server's first key, and keep it. Only where there is none."""

    @abstractmethod
    def renew(self) -> None:
        """Take up the newest key: wrap with it from now on. The ones before go on opening what they have wrapped."""

    @abstractmethod
    def create(self, namespace: str) -> DataKey:
        """A new data key, wrapped."""

    @abstractmethod
    def rewrap(self, namespace: str, key: DataKey) -> DataKey:
        """The same data key, wrapped by the newest key. Raises as `check` does."""

    @abstractmethod
    def check(self, namespace: str, key: DataKey) -> None:
        """Whether a data key can be unwrapped. Raises FAILED_PRECONDITION when the server's key for it is missing, and
        DATA_LOSS when it is damaged or another namespace's."""

    @abstractmethod
    def seal(self, namespace: str, key: DataKey, path: str, text: str) -> str:
        """Seal a value; another result each time. Raises as `check` does."""

    @abstractmethod
    def open(self, namespace: str, key: DataKey, path: str, sealed: str) -> str:
        """What was sealed. Raises as `check` does; DATA_LOSS when it was changed, or sealed for another path."""
