"""What trees of lookups are made of: maps on a header, conditions on headers, and the routes at their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from micro.rpc.gen.envoy.config.route.v3.route_components_pb import Route, RouteList
from micro.rpc.gen.envoy.type.matcher.v3.http_inputs_pb import HttpRequestHeaderMatchInput
from micro.rpc.gen.xds.core.v3.extension_pb import TypedExtensionConfig
from micro.rpc.gen.xds.type.matcher.v3.matcher_pb import Matcher
from micro.rpc.gen.xds.type.matcher.v3.regex_pb import RegexMatcher
from micro.rpc.gen.xds.type.matcher.v3.string_pb import StringMatcher
from micro.rpc.wkt import Any, oneof

OnMatch = Matcher.OnMatch
Predicate = Matcher.MatcherList.Predicate


def action(routes: Sequence[Route]) -> OnMatch:
    """The end of a path through the tree: these routes, tried from the first on."""
    found: Route | RouteList = routes[0] if len(routes) == 1 else RouteList(routes=list(routes))
    return OnMatch(on_match=oneof("action", TypedExtensionConfig(name="route", typed_config=Any.pack(found))))


def lookup(
    header: str,
    how: Literal["exact_match_map", "prefix_match_map"],
    entries: Mapping[str, OnMatch],
    otherwise: OnMatch | None = None,
) -> OnMatch | None:
    """A map on a header; Envoy refuses an empty one, so that is left out."""
    if not entries:
        return otherwise
    tree = Matcher.MatcherTree(
        input=_input(header), tree_type=oneof(how, Matcher.MatcherTree.MatchMap(map=dict(entries)))
    )
    matcher = Matcher(matcher_type=oneof("matcher_tree", tree), on_no_match=otherwise)
    return OnMatch(on_match=oneof("matcher", matcher))


def first(conditions: Sequence[tuple[Predicate, OnMatch]], otherwise: OnMatch | None = None) -> OnMatch | None:
    """The first of a few conditions that holds. Each is tried for every request, so lookups are better for many."""
    if not conditions:
        return otherwise
    matchers = [Matcher.MatcherList.FieldMatcher(predicate=when, on_match=then) for when, then in conditions]
    made = Matcher.MatcherList(matchers=matchers)
    matcher = Matcher(matcher_type=oneof("matcher_list", made), on_no_match=otherwise)
    return OnMatch(on_match=oneof("matcher", matcher))


def header(name: str, how: Literal["exact", "prefix", "contains"], value: str) -> Predicate:
    """A condition on a header, case counts; one that is not there fulfils none."""
    return _single(name, StringMatcher(match_pattern=oneof(how, value)))


def header_like(name: str, pattern: str) -> Predicate:
    """A condition on a header: the whole of it matches a pattern."""
    engine = oneof("google_re2", RegexMatcher.GoogleRE2())
    matcher = RegexMatcher(engine_type=engine, regex=pattern)
    return _single(name, StringMatcher(match_pattern=oneof("safe_regex", matcher)))


def either(*conditions: Predicate) -> Predicate:
    """Any of them, tried from the first on."""
    if len(conditions) == 1:
        return conditions[0]
    return Predicate(match_type=oneof("or_matcher", Predicate.PredicateList(predicate=list(conditions))))


def every(*conditions: Predicate) -> Predicate:
    """All of them, tried from the first on."""
    if len(conditions) == 1:
        return conditions[0]
    return Predicate(match_type=oneof("and_matcher", Predicate.PredicateList(predicate=list(conditions))))


def unless(condition: Predicate) -> Predicate:
    """What the condition is not."""
    return Predicate(match_type=oneof("not_matcher", condition))


def _single(name: str, matcher: StringMatcher) -> Predicate:
    made = Predicate.SinglePredicate(input=_input(name), matcher=oneof("value_match", matcher))
    return Predicate(match_type=oneof("single_predicate", made))


def _input(header_name: str) -> TypedExtensionConfig:
    return TypedExtensionConfig(
        name=header_name, typed_config=Any.pack(HttpRequestHeaderMatchInput(header_name=header_name))
    )
