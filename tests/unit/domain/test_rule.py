"""Rules: who may call what."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.domain import errors, names, rule
from micro.domain.account import Account
from micro.domain.rule import Access, Decision, Resource, Rule, Rules, allowed, decide, ordered

NAMESPACE = "shop"
ALL = Resource()
HELLO = Resource("service", "greeter", "Greeter.Hello")
JANE = Account("jane", NAMESPACE)
OPS = Account("ops", NAMESPACE, scopes=frozenset({"ops"}))
FOREIGN = Account("jane", "bank", scopes=frozenset({"ops", "admin"}))
PLATFORM = Account("admin", "micro", scopes=frozenset({"admin"}))
MEMBER = Account("member", "micro", scopes=frozenset({"ops"}))


def granted(scope: str = "", priority: int = 0, resource: Resource = ALL) -> Rule:
    return Rule(f"granted-{scope}-{priority}-{resource}", NAMESPACE, scope, resource, Access.GRANTED, priority)


def denied(scope: str = "", priority: int = 0, resource: Resource = ALL) -> Rule:
    return Rule(f"denied-{scope}-{priority}-{resource}", NAMESPACE, scope, resource, Access.DENIED, priority)


@pytest.mark.parametrize(
    ("rules", "account", "may"),
    [
        ([], None, False),
        ([], JANE, False),
        ([granted("")], None, True),
        ([granted("")], JANE, True),
        ([granted("*")], None, False),
        ([granted("*")], JANE, True),
        ([granted("*")], FOREIGN, False),
        ([granted("")], FOREIGN, False),
        ([granted("+")], None, False),
        ([granted("+")], JANE, True),
        ([granted("+")], FOREIGN, True),
        ([granted("ops")], None, False),
        ([granted("ops")], JANE, False),
        ([granted("ops")], OPS, True),
        ([granted("ops")], FOREIGN, False),
        ([granted("ops")], MEMBER, False),
        ([granted("Ops")], OPS, False),
        ([granted("*")], PLATFORM, True),
        ([granted("admin")], PLATFORM, True),
        ([granted("ops")], PLATFORM, False),
        ([denied("")], None, False),
        ([denied("*")], JANE, False),
        ([granted("*"), denied("*")], JANE, False),
        ([granted("*", 1), denied("*")], JANE, True),
        ([granted("*"), denied("*", 1)], JANE, False),
        ([granted("*", -1), denied("*", -2)], JANE, True),
        ([granted(""), denied("ops", 1)], OPS, False),
        ([granted(""), denied("ops", 1)], JANE, True),
        ([granted("ops", 1), denied("*")], OPS, True),
        ([granted("ops", 1), denied("*")], JANE, False),
        ([denied(""), granted("*", 1)], None, False),
        ([denied("", 1), granted("+")], FOREIGN, True),
    ],
)
def test_the_first_rule_about_the_caller_decides(rules: list[Rule], account: Account | None, may: bool) -> None:
    assert allowed(rules, account, HELLO) is may
    assert Rules(rules).decide(account, HELLO).allowed is may


@pytest.mark.parametrize(
    ("pattern", "covers"),
    [
        ("service:greeter:Greeter.Hello", True),
        ("service:greeter:*", True),
        ("service:*:*", True),
        ("*:*:*", True),
        ("*:greeter:greeter.hello", True),
        ("SERVICE:GREETER:GREETER.HELLO", True),
        ("service:greeter:Greeter.*", True),
        ("service:greeter:gReEtEr.HELLO*", True),
        ("service:gree*:*", True),
        ("ser*:greeter:*", True),
        ("service:greeter:Greeter", False),
        ("service:greeter:Greeter.Hello.More", False),
        ("service:greeter:Greeter.Hello.*", False),
        ("service:greeters:*", False),
        ("service:greeters*:*", False),
        ("service:greet:*", False),
        ("service:*:Other.*", False),
        ("topic:greeter:*", False),
        ("topic*:*:*", False),
    ],
)
def test_a_pattern_is_exact_or_all_or_a_beginning(pattern: str, covers: bool) -> None:
    only = [granted("", resource=rule.resource(pattern))]
    assert allowed(only, None, HELLO) is covers
    assert Rules(only).decide(None, HELLO).allowed is covers


def test_a_path_is_a_beginning_too() -> None:
    rules = [granted("", resource=rule.resource("service:web:/files/*"))]
    assert allowed(rules, None, Resource("service", "web", "/files/a/b"))
    assert allowed(rules, None, Resource("service", "web", "/files/"))
    assert not allowed(rules, None, Resource("service", "web", "/files"))
    assert not allowed(rules, None, Resource("service", "web", "/filesystem"))


def test_the_decision_names_its_rule() -> None:
    rules = ordered([granted("*"), denied("ops", 5)])
    assert decide(rules, OPS, HELLO) == Decision(False, rules[0])
    assert decide(rules, JANE, HELLO) == Decision(True, rules[1])
    assert decide(rules, None, HELLO) == Decision(False, None)


def test_the_built_in_rule_is_below_all_that_can_be_stored() -> None:
    lowest = denied("", rule.LOWEST + 1)
    for public, account in ((True, None), (False, JANE)):
        last = rule.built_in(NAMESPACE, public=public)
        assert allowed([last], account, HELLO)
        assert ordered([last, lowest]) == [lowest, last]
        assert not allowed([last, rule.checked(replace(lowest, id="lowest"))], account, HELLO)
    assert not allowed([rule.built_in(NAMESPACE, public=False)], None, HELLO)


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (Rule("", NAMESPACE), "''"),
        (Rule("default", NAMESPACE), "built-in"),
        (Rule("a b", NAMESPACE), "'a b'"),
        (Rule("a\n", NAMESPACE), "id"),
        (Rule("a" * 129, NAMESPACE), "128"),
        (Rule("a", NAMESPACE, "**"), "scope"),
        (Rule("a", NAMESPACE, " "), "scope"),
        (Rule("a", NAMESPACE, priority=rule.LOWEST), "priority"),
        (Rule("a", NAMESPACE, priority=2**31), "priority"),
        (Rule("a", NAMESPACE, resource=Resource("", "", "")), "resource"),
        (Rule("a", NAMESPACE, resource=Resource("service", "a:b", "*")), "resource"),
        (Rule("a", NAMESPACE, resource=Resource("service", "*a", "*")), "resource"),
        (Rule("a", NAMESPACE, resource=Resource("service", "a", "a**")), "resource"),
        (Rule("a", NAMESPACE, resource=Resource("service", "a", "ü")), "resource"),
        (
            Rule("a", NAMESPACE, resource=Resource("service", "events", "*")),
            "micro auth explain ACCOUNT service:events:",
        ),
        (Rule("a", NAMESPACE, resource=Resource("*", "Store", "Store.Read")), "Store is the platform's own"),
        (Rule("a", NAMESPACE, resource=Resource("service", "auth.*", "*")), "rules are about users' services"),
    ],
)
def test_what_is_no_rule_is_not_stored(broken: Rule, word: str) -> None:
    with pytest.raises(errors.Error, match=word.replace("*", r"\*")) as caught:
        rule.checked(broken)
    assert caught.value.kind is errors.Kind.INVALID_ARGUMENT


@pytest.mark.parametrize("name", [*names.CORE_SERVICES, "nats.jobs"])
def test_no_rule_is_about_one_of_the_platforms_own_services(name: str) -> None:
    with pytest.raises(errors.Error, match="the platform's own"):
        rule.checked(Rule("a", NAMESPACE, resource=Resource("service", name, "*")))


@pytest.mark.parametrize("name", ["*", "events*", "eventful", "my-store", "store-of-books", "bookstore"])
def test_a_rule_may_be_about_users_services_whatever_their_names_share(name: str) -> None:
    made = Rule("a", NAMESPACE, resource=Resource("service", name, "*"))
    assert rule.checked(made) is made


@given(st.text(max_size=300))
def test_a_resource_is_read_as_it_is_written_or_refused(text: str) -> None:
    for exact in (False, True):
        with contextlib.suppress(errors.Error):
            assert str(rule.resource(text, exact=exact)) == text


def test_an_exact_resource_has_no_star() -> None:
    assert rule.resource("service:greeter:Greeter.Hello", exact=True) == HELLO
    for pattern in ("service:greeter:*", "service:gree*:Greeter.Hello", "*:greeter:Greeter.Hello"):
        with pytest.raises(errors.Error, match="service:NAME:ENDPOINT"):
            rule.resource(pattern, exact=True)


# --- properties -------------------------------------------------------------------------------------------------------

SCOPES = ["", "*", "+", "ops", "admin"]
NAMES = st.sampled_from(["a", "A", "ab", "abc", "b", "b*"])
PATTERNS = st.sampled_from(["*", "a", "A", "a*", "ab", "aB*", "abc", "b", "abcd*", "x"])
RESOURCES = st.builds(Resource, st.sampled_from(["service", "topic", "S*"]), NAMES, NAMES)
RULES = st.builds(
    Rule,
    st.uuids().map(str),
    st.just(NAMESPACE),
    st.sampled_from(SCOPES),
    st.builds(Resource, st.sampled_from(["*", "service", "s*", "Topic"]), PATTERNS, PATTERNS),
    st.sampled_from(Access),
    st.integers(-2, 2),
)
LISTS = st.lists(RULES, max_size=12)
ACCOUNTS = st.builds(
    Account,
    st.just("someone"),
    st.sampled_from([NAMESPACE, "bank", "micro"]),
    scopes=st.frozensets(st.sampled_from(["ops", "admin", "other"])),
)
CALLERS = st.none() | ACCOUNTS


@given(LISTS, CALLERS, RESOURCES, st.randoms(use_true_random=False))
def test_the_order_of_insertion_never_matters(rules, account, resource, random) -> None:
    shuffled = random.sample(rules, len(rules))
    assert decide(ordered(shuffled), account, resource) == decide(ordered(rules), account, resource)
    assert Rules(shuffled).decide(account, resource) == Rules(rules).decide(account, resource)


@given(LISTS, RULES, CALLERS, RESOURCES)
def test_a_denied_rule_of_the_highest_priority_always_wins(rules, no, account, resource) -> None:
    highest = max((each.priority for each in rules), default=0)
    for priority in (highest, highest + 1):
        last_word = replace(no, access=Access.DENIED, priority=priority)
        if last_word.applies(account) and last_word.resource.covers(resource):
            assert not allowed([*rules, last_word], account, resource)


WIDER = {"ops": ["*", "", "+"], "*": ["", "+"], "": [], "+": []}
"""Whom a scope is about, each of the wider ones is about too. "" and "+" are not wider than each other: callers without
an account are of the first only, accounts of other namespaces of the second."""


@given(LISTS, RULES, st.sampled_from([(one, other) for one in WIDER for other in WIDER[one]]), CALLERS, RESOURCES)
def test_widening_the_scope_of_what_is_granted_takes_nothing_away(rules, chosen, scopes, account, resource) -> None:
    narrow, wide = (replace(chosen, access=Access.GRANTED, scope=scope) for scope in scopes)
    if allowed([*rules, narrow], account, resource):
        assert allowed([*rules, wide], account, resource)


@given(LISTS, RULES, st.sampled_from([(one, other) for one in WIDER for other in WIDER[one]]), CALLERS, RESOURCES)
def test_widening_the_scope_of_what_is_denied_gives_nothing(rules, chosen, scopes, account, resource) -> None:
    narrow, wide = (replace(chosen, access=Access.DENIED, scope=scope) for scope in scopes)
    if allowed([*rules, wide], account, resource):
        assert allowed([*rules, narrow], account, resource)


@given(LISTS, RULES, CALLERS, RESOURCES)
def test_granting_more_takes_nothing_away_and_denying_more_gives_nothing(rules, chosen, account, resource) -> None:
    before, after = allowed(rules, account, resource), allowed([*rules, chosen], account, resource)
    assert after >= before if chosen.access is Access.GRANTED else after <= before


@given(LISTS, ACCOUNTS, RESOURCES)
def test_strangers_are_let_in_by_the_rules_for_all_namespaces_only(rules, account, resource) -> None:
    if account.namespace == NAMESPACE or account.platform:
        return
    decision = decide(ordered(rules), account, resource)
    for_all = [each for each in rules if each.scope == rule.ANY_NAMESPACE]
    assert decision == decide(ordered(for_all), account, resource)
    assert decision.rule is None or decision.rule.scope == rule.ANY_NAMESPACE


@given(LISTS, ACCOUNTS, RESOURCES)
def test_an_admin_of_the_platform_is_at_home_everywhere(rules, account, resource) -> None:
    if account.platform:
        at_home = replace(account, namespace=NAMESPACE)
        assert decide(ordered(rules), account, resource) == decide(ordered(rules), at_home, resource)


# --- laid out ---------------------------------------------------------------------------------------------------------


@given(LISTS, CALLERS, RESOURCES)
def test_laid_out_they_say_what_they_say_in_a_row(rules, account, resource) -> None:
    laid_out = Rules(rules)
    assert laid_out.decide(account, resource) == decide(ordered(rules), account, resource)
    assert list(laid_out) == ordered(rules)
    assert len(laid_out) == len(rules)


@given(
    st.lists(st.tuples(RULES, st.sampled_from("abcde"), st.booleans()), max_size=15),
    st.lists(st.tuples(CALLERS, RESOURCES), min_size=5, max_size=5),
)
def test_changed_one_by_one_they_say_the_same(changes, calls) -> None:
    laid_out, expected = Rules(), {}
    for number, (chosen, id, stays) in enumerate(changes):  # noqa: A001
        old, said = laid_out, [laid_out.decide(*call) for call in calls]
        chosen = replace(chosen, id=id)
        if stays or number % 2:
            laid_out = laid_out.with_rule(chosen)
            expected[id] = chosen
        else:
            laid_out = laid_out.without(id)
            expected.pop(id, None)
        assert [old.decide(*call) for call in calls] == said, "what was there does not change"
        row = ordered(expected.values())
        assert [laid_out.decide(*call) for call in calls] == [decide(row, *call) for call in calls]
        assert list(laid_out) == row
        assert laid_out.get(id) == expected.get(id)


def test_nothing_is_left_of_what_was_taken_out() -> None:
    start = Rules([granted("*")])
    changed = start
    for number in range(50):
        one = replace(granted(resource=Resource("service", f"n{number}*", f"e{'x' * number}*")), id="one")
        changed = changed.with_rule(one)
    changed = changed.without("one").without("one")
    assert list(changed) == list(start)
    assert steps(lambda: changed.decide(JANE, HELLO)) == steps(lambda: start.decide(JANE, HELLO))


def steps(work: Callable[[], object]) -> int:
    """How many lines of code are run."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "resource",
    [
        lambda number: Resource("service", f"service-{number}", "*"),
        lambda number: Resource("service", f"service-{number // 10}", f"Greeter.Method{number % 10}"),
        lambda number: Resource("service", "*", f"Greeter{number}.Hello"),
        lambda number: Resource("service", f"service-{number:04}*", f"Greeter{number:04}*"),
    ],
)
@pytest.mark.parametrize("account", [None, OPS])
def test_ten_thousand_rules_are_no_more_work_than_ten(resource: Callable[[int], Resource], account) -> None:
    few, many = (
        Rules(
            [
                rule.built_in(NAMESPACE, public=True),
                *(replace(granted("*", 0, resource(n)), id=f"{n}") for n in range(size)),
            ]
        )
        for size in (10, 10_000)
    )
    asked = resource(7)
    asked = Resource(asked.type, asked.name.strip("*"), asked.endpoint.strip("*") or "Greeter.Hello")
    if asked.name == "":
        asked = replace(asked, name="greeter")
    assert many.decide(account, asked) == few.decide(account, asked)
    assert steps(lambda: many.decide(account, asked)) == steps(lambda: few.decide(account, asked))


def test_of_two_rules_with_one_id_the_later_counts() -> None:
    one, other = replace(granted(), id="same"), replace(denied(), id="same")
    assert list(Rules([one, other])) == [other]
    assert not Rules([one, other]).decide(None, HELLO).allowed


def test_the_built_in_rule_says_that_it_has_the_lowest_priority() -> None:
    assert str(rule.built_in("shop", public=False)).endswith("may call *:*:*, lowest priority")
