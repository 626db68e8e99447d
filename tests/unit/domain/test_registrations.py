"""A map with a bounded history: whoever resumes either learns all that happened or is told to begin anew."""

from hypothesis import given
from hypothesis import strategies as st

from micro.domain.registrations import Action, Entry, Registrations
from micro.domain.service import Change, Node, Registration


def make(node: str, version: str = "v1") -> Registration:
    return Registration("micro", "greeter", version, Node(node, "h:1"), descriptors=b"large")


def key(node: str) -> tuple[str, str, str]:
    return make(node).key


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["v1", "v2", None, "expired"]), st.integers(1, 3)))


@given(STEPS, st.integers(1, 10))
def test_from_any_revision_the_steps_lead_to_what_is_there_or_are_not_known(steps: list[tuple], limit: int) -> None:
    registrations = Registrations(limit)
    seen = {0: {}}
    revision = 0
    for node, version, gap in steps:
        revision += gap
        there = make(node, version) if version in ("v1", "v2") else None
        registrations.apply(Change(revision, key(node), there, expired=version == "expired"))
        seen[revision] = {entry.registration.key: entry.registration.version for entry in registrations.entries()}
    now = seen[revision]
    for start, state in seen.items():
        found = registrations.since(start)
        if found is None:
            assert len([each for each in seen if each > start]) > limit, "forgotten too early"
            continue
        assert len(found) <= limit
        assert [step.revision for step in found] == sorted({step.revision for step in found})
        replayed = dict(state)
        for step in found:
            if step.present:
                replayed[step.registration.key] = step.registration.version
            else:
                del replayed[step.registration.key]
        assert replayed == now
    assert registrations.since(revision) == []
    assert registrations.since(revision + 1) is None


def test_a_step_says_what_it_did() -> None:
    registrations = Registrations()
    steps = [
        registrations.apply(Change(1, key("a"), make("a"))),
        registrations.apply(Change(2, key("a"), make("a", "v2"))),
        registrations.apply(Change(3, key("a"), None)),
        registrations.apply(Change(4, key("a"), make("a"))),
        registrations.apply(Change(5, key("a"), None, expired=True)),
    ]
    assert [step.action for step in steps if step] == [*[*Action][:3], Action.CREATE, Action.EXPIRE]
    assert registrations.apply(Change(6, key("a"), None)) is None, "what is absent cannot go"
    assert registrations.revision == 6


def test_a_change_that_is_told_twice_counts_once() -> None:
    registrations = Registrations()
    assert registrations.apply(Change(5, key("a"), make("a")))
    assert registrations.apply(Change(5, key("a"), None)) is None
    assert registrations.apply(Change(4, key("a"), None)) is None
    assert registrations.get(key("a")) == Entry(5, make("a"))


def test_steps_are_light_unless_asked_for_whole_and_entries_always_whole() -> None:
    for whole, descriptors in ((False, b""), (True, b"large")):
        registrations = Registrations(whole=whole)
        step = registrations.apply(Change(1, key("a"), make("a")))
        assert step is not None
        assert step.registration.descriptors == descriptors
        assert registrations.entries()[0].registration.descriptors == b"large"


def test_after_a_reset_everybody_begins_anew() -> None:
    registrations = Registrations()
    registrations.apply(Change(1, key("a"), make("a")))
    registrations.reset(9, [Entry(7, make("c")), Entry(3, make("b"))])
    assert [entry.revision for entry in registrations.entries()] == [3, 7]
    assert registrations.since(1) is None
    assert registrations.since(9) == []
