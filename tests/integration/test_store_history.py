"""The history that clients of a store were told is judged as it should be: what cannot have been is found out."""

from __future__ import annotations

import pytest
from store_history import History, Seen

from micro.rpc.gen.micro.store.v1 import store_pb as pb

WRITTEN, DELETED = pb.Change.Action.WRITTEN, pb.Change.Action.DELETED


def history(*reads: Seen) -> History:
    """ "a" is there from the beginning, is written as 6 and removed by 8; "b" is written as 7."""
    told = [(6, WRITTEN, "a"), (7, WRITTEN, "b"), (8, DELETED, "a")]
    commits = [
        pb.WatchResponse(revision=number, changes=[pb.Change(action=action, record=pb.Record(key=key, version=number))])
        for number, action, key in told
    ]
    return History(begin=5, initial={"a": (3, b""), "d": (1, b"")}, commits=commits, reads=list(reads))


@pytest.mark.parametrize(
    "seen",
    [
        Seen("a", 3, least=5),
        Seen("a", 6, least=5),  # while it was being written
        Seen("a", 6, least=6),
        Seen("a", 6, least=7),
        Seen("a", 0, least=5),
        Seen("a", 0, least=8),
        Seen("a", 6, least=5, revision=7),
        Seen("b", 0, least=6, revision=6),
        Seen("c", 0, least=8),
        Seen("d", 1, least=8),
        Seen("d", 1, least=5, revision=5),
    ],
)
def test_a_read_may_be_of_any_moment_that_it_lasted(seen: Seen) -> None:
    history(seen).check_reads()


@pytest.mark.parametrize(
    "seen",
    [
        Seen("a", 3, least=6),  # 6 had been acknowledged to somebody
        Seen("a", 6, least=8),
        Seen("b", 0, least=7),
        Seen("a", 4, least=5),  # never was
        Seen("a", 3, least=6, revision=5),
        Seen("a", 3, least=5, revision=6),  # not what was there then
        Seen("a", 0, least=5, revision=7),
        Seen("c", 1, least=5),
        Seen("d", 0, least=5),
        Seen("d", 0, least=5, revision=8),
    ],
)
def test_a_read_of_an_earlier_moment_is_found_out(seen: Seen) -> None:
    with pytest.raises(AssertionError, match="is stale"):
        history(seen).check_reads()
