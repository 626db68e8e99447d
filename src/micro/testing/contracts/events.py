"""What every backend of `micro.ports.events` must do. Authors of a backend subclass `EventsContract` in a test file and
give it a fixture `events` that yields the backend started and empty; it runs on the machine's clock.

Retention may be kept to a little later than it is said: what is promised is that the newest events are kept, without a
gap, and that in the end no more are there than was asked for.
"""

from micro.testing.contracts._events_groups import DeadLettersContract, ProgressContract
from micro.testing.contracts._events_log import AppendContract, DedupContract, ReadContract
from micro.testing.contracts._events_tails import TailContract
from micro.testing.contracts._events_topics import RetentionContract, TopicsContract
from micro.testing.contracts._events_world import NS, OTHER, PATIENCE, TOPIC, append, eventually, new, ready, refused

__all__ = ["NS", "OTHER", "PATIENCE", "TOPIC", "EventsContract", "append", "eventually", "new", "ready", "refused"]


class EventsContract(
    AppendContract,
    DedupContract,
    ReadContract,
    TailContract,
    RetentionContract,
    TopicsContract,
    ProgressContract,
    DeadLettersContract,
):
    """All of it."""
