"""What every backend of `micro.ports.store` must do. Authors of a backend subclass `StoreContract` in a test file and
give it a fixture `store` that takes `clock`, hands it to the backend, and yields the backend started and empty."""

from micro.testing.contracts._store_records import BatchesContract, RecordsContract, ScansContract
from micro.testing.contracts._store_time import CopiesContract, ExpiryContract, WatchContract
from micro.testing.contracts._store_world import (
    DB,
    PATIENCE,
    SettableClock,
    everything,
    put,
    refused,
    watching,
    write,
)

__all__ = ["DB", "PATIENCE", "SettableClock", "StoreContract", "everything", "put", "refused", "watching", "write"]


class StoreContract(RecordsContract, BatchesContract, ScansContract, ExpiryContract, WatchContract, CopiesContract):
    """All of it."""
