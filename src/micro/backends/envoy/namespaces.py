"""Which namespace a request is about: header micro-namespace, else the first letters of its token, else (api) the
leftmost label of the host, else "micro".

The data plane only routes by it: whether the token holds, and who may call, decides whoever is called. A namespace that
nothing is known of leads nowhere, never to another's services.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from micro.backends.envoy import trees
from micro.backends.envoy.shared import NAMESPACE, NO_NAMESPACE
from micro.domain import names
from micro.domain.token import HEADER_BEGIN, beginning

_AUTHORIZATION = "authorization"
_SCHEMES = ("Bearer ", "bearer ")
"""The spellings that clients use. In another a token is good for whoever is called, but leads nowhere."""

_TOKEN = base64.urlsafe_b64encode(HEADER_BEGIN.encode()).decode()
"""How every token begins."""


def by_header(found: Mapping[str, trees.OnMatch]) -> trees.OnMatch | None:
    """The trees of namespaces, by header alone: services name the namespace that they mean."""
    return _chosen(found, _named(names.DEFAULT_NAMESPACE, NO_NAMESPACE, ""), [])


def by_caller(
    found: Mapping[str, trees.OnMatch], nowhere: trees.OnMatch, base_domain: str = ""
) -> trees.OnMatch | None:
    """The trees of namespaces, by header, token, and host where there is a base domain.

    The tree of "micro" is in it once, whatever leads there, since most have no other; each of the others once for
    each way to it, of which a token is two.

    Args:
        nowhere: what no request fits.
        base_domain: "example.com" makes "shop.example.com" the host of namespace shop; empty for no such hosts.
    """
    default, unnamed = names.DEFAULT_NAMESPACE, _named(NO_NAMESPACE, "")
    otherwise = [trees.unless(_shows(_TOKEN))]
    by_host: trees.OnMatch | None = None
    others = {namespace: tree for namespace, tree in found.items() if namespace != default}
    if base_domain:
        label = trees.header_like(":authority", rf"(?i)[^.:]+\.{re.escape(base_domain)}(?::[0-9]+)?")
        otherwise.append(
            trees.either(trees.unless(label), trees.header(":authority", "prefix", f"{default}.{base_domain}"))
        )
        by_host = trees.lookup(
            ":authority", "prefix_match_map", {f"{name}.{base_domain}": tree for name, tree in others.items()}
        )
    its_token = _shows(beginning(default))
    # What most requests are comes first.
    is_default = trees.either(trees.every(unnamed, trees.either(trees.every(*otherwise), its_token)), _named(default))
    tokens = {beginning(name): tree for name, tree in others.items()}
    shown = {**tokens, _TOKEN: nowhere} if tokens else {}
    by_token = trees.lookup(_AUTHORIZATION, "prefix_match_map", _spelled(shown), by_host)
    return _chosen(found, is_default, [(unnamed, by_token)] if by_token else [])


def by_token(some: Mapping[str, trees.OnMatch], bearing: trees.OnMatch, untold: trees.OnMatch) -> trees.OnMatch:
    """The trees of some namespaces, by the token alone; for that of any other, `bearing`; without one, `untold`."""
    tokens = {beginning(name): tree for name, tree in some.items()}
    found = trees.lookup(_AUTHORIZATION, "prefix_match_map", _spelled({**tokens, "": bearing}), untold)
    assert found is not None
    return found


def _spelled(tokens: Mapping[str, trees.OnMatch]) -> dict[str, trees.OnMatch]:
    """By what the header begins with, from what the token does."""
    return {scheme + token: tree for scheme in _SCHEMES for token, tree in tokens.items()}


def _shows(token: str) -> trees.Predicate:
    """Whether a token is shown that begins so."""
    return trees.either(*(trees.header(_AUTHORIZATION, "prefix", scheme + token) for scheme in _SCHEMES))


def _chosen(
    found: Mapping[str, trees.OnMatch],
    is_default: trees.Predicate,
    more: list[tuple[trees.Predicate, trees.OnMatch]],
) -> trees.OnMatch | None:
    default = found.get(names.DEFAULT_NAMESPACE)
    others = {namespace: tree for namespace, tree in found.items() if namespace != names.DEFAULT_NAMESPACE}
    conditions = [(is_default, default), *more] if default else more
    return trees.first(conditions, trees.lookup(NAMESPACE, "exact_match_map", others))


def _named(*values: str) -> trees.Predicate:
    return trees.either(*(trees.header(NAMESPACE, "exact", value) for value in values))
