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
_BEARER = "Bearer "
_ANY_TOKEN = _BEARER + base64.urlsafe_b64encode(HEADER_BEGIN.encode()).decode()


def by_header(found: Mapping[str, trees.OnMatch]) -> trees.OnMatch | None:
    """The trees of namespaces, by header alone: services name the namespace that they mean."""
    return _chosen(found, _named(names.DEFAULT_NAMESPACE, NO_NAMESPACE, ""), [])


def by_caller(
    found: Mapping[str, trees.OnMatch], nowhere: trees.OnMatch, base_domain: str = ""
) -> trees.OnMatch | None:
    """The trees of namespaces, by header, token, and host where there is a base domain.

    The tree of "micro" is in it once, whatever leads there, since most have no other; each of the others once for
    each way to it.

    Args:
        nowhere: what no request fits.
        base_domain: "example.com" makes "shop.example.com" the host of namespace shop; empty for no such hosts.
    """
    default, unnamed = names.DEFAULT_NAMESPACE, _named(NO_NAMESPACE, "")
    otherwise = [trees.unless(trees.header(_AUTHORIZATION, "prefix", _ANY_TOKEN))]
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
    its_token = trees.header(_AUTHORIZATION, "prefix", _BEARER + beginning(default))
    # What most requests are comes first.
    is_default = trees.either(trees.every(unnamed, trees.either(trees.every(*otherwise), its_token)), _named(default))
    tokens = {_BEARER + beginning(name): tree for name, tree in others.items()}
    by_token = trees.lookup(
        _AUTHORIZATION, "prefix_match_map", {**tokens, _ANY_TOKEN: nowhere} if tokens else {}, by_host
    )
    return _chosen(found, is_default, [(unnamed, by_token)] if by_token else [])


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
