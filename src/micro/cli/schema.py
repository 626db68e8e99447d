"""The registry's records as values, and the way from typed words to an endpoint. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from micro.cli import failures
from micro.cli.catalog import TAKEN
from micro.domain import names
from micro.domain.service import Endpoint, StreamKind, Value

_SUGGESTIONS = 5
_LISTED = 8


def value(record: Mapping[str, Any]) -> Value:
    """A `micro.registry.v1.Value` out of its JSON."""
    return Value(
        name=record.get("name", ""),
        type=record.get("type", ""),
        type_name=record.get("typeName", ""),
        repeated=bool(record.get("repeated", False)),
        optional=bool(record.get("optional", False)),
        values=tuple(value(inner) for inner in record.get("values", ())),
        enum_values=tuple(record.get("enumValues", ())),
        key_type=record.get("keyType", ""),
        description=record.get("description", ""),
        oneof=record.get("oneof", ""),
        json_name=record.get("jsonName", ""),
    )


def endpoint(record: Mapping[str, Any]) -> Endpoint:
    """A `micro.registry.v1.Endpoint` out of its JSON."""
    stream = bool(record.get("stream", False))
    return Endpoint(
        name=record.get("name", ""),
        path=record.get("path", ""),
        request=value(record.get("request", {})),
        response=value(record.get("response", {})),
        kind=StreamKind(record.get("kind") or (StreamKind.SERVER if stream else StreamKind.UNARY)),
        timeout=float(record.get("timeout", 0.0)),
        description=record.get("description", ""),
    )


def newest(services: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The version that a command speaks of when none is named: "latest", else the last."""
    return next((one for one in services if one.get("version") == names.DEFAULT_VERSION), services[-1])


def endpoints(services: Sequence[Mapping[str, Any]]) -> list[Endpoint]:
    """The endpoints of the newest version, sorted by name."""
    return sorted(contract(services), key=lambda one: one.name)


def contract(services: Sequence[Mapping[str, Any]]) -> list[Endpoint]:
    """The endpoints of the newest version, in the order in which its contract declares them."""
    return [endpoint(record) for record in newest(services).get("endpoints", ())]


def words(service: str, name: str) -> str:
    """How an endpoint is typed: "Helloworld.PingPong" of helloworld is "ping_pong", "Books.List" is "books list"."""
    owner, _, method = name.rpartition(".")
    own = names.folded(owner) == names.folded(names.camel(service))
    return names.snake(method) if own or not owner else f"{names.snake(owner)} {names.snake(method)}"


def find(service: str, known: Sequence[Endpoint], typed: Sequence[str], command: str = "") -> Endpoint:
    """The endpoint that words mean.

    No word means `<Service>.Call`, one `<Service>.<Word>` (or the only endpoint of that name), two `<Word1>.<Word2>`.
    Case, hyphens and underscores do not matter; "Books.List" and "books/list" may be typed as they are.

    Args:
        service: its name.
        known: its endpoints.
        typed: the words.
        command: what stands before an endpoint's name, for what errors suggest; empty: words after `micro SERVICE`.

    Raises:
        UsageError: more than two words, or a name that several endpoints have.
        NoEndpointError: none matches; names the closest.
    """
    typed = [part for word in typed for part in word.split("/") if part]
    if len(typed) > 2:
        raise failures.UsageError(f"too many words: {' '.join(typed)!r}; see: {_overview(service)}")
    own = names.camel(service)
    wanted = names.folded(
        ".".join(typed) if len(typed) == 2 or "." in "".join(typed) else f"{own}.{(*typed, 'Call')[0]}"
    )
    for one in known:
        if names.folded(one.name) == wanted:
            return one
    method = wanted.rpartition(".")[2]
    same = [one for one in known if names.folded(one.name.rpartition(".")[2]) == method] if len(typed) < 2 else []
    if len(same) == 1:
        return same[0]
    if same:
        hint = _choose(service, same, command)
        raise failures.UsageError(f"service {service!r} has several endpoints of that name: {hint}")
    shown = " ".join(typed) or f"{own}.Call"
    hint = _choose(service, _near(known, typed), command) or _offered(service, known, command)
    if len(typed) == 2 and not command:
        alone = [one for one in known if names.folded(one.name) == names.folded(f"{own}.{typed[0]}")]
        hint = f"{typed[1]!r} needs a flag, see: micro {service} {typed[0]} --help" if alone else hint
    raise failures.NoEndpointError(f"endpoint {shown!r} not found for service {service!r}: {hint}")


def _choose(service: str, among: Sequence[Endpoint], command: str) -> str:
    """What to type for one of these endpoints; empty for none."""
    typed = [one.name if command else words(service, one.name) for one in among]
    if not typed:
        return ""
    if len(typed) > 1:
        return f"type one of: {', '.join(typed)}"
    return f"did you mean: {command or f'micro {service}'} {typed[0]}"


def _offered(service: str, known: Sequence[Endpoint], command: str) -> str:
    """Which endpoints there are."""
    typed = [one.name if command else words(service, one.name) for one in known]
    if not typed:
        return "it has none"
    more = f" and {len(typed) - _LISTED} more, see: {_overview(service)}" if len(typed) > _LISTED else ""
    return f"it has {', '.join(typed[:_LISTED])}{more}"


def _overview(service: str) -> str:
    """What to type to see all that a service offers; one that is named like a command is no command."""
    return f"micro services {service}" if service in TAKEN else f"micro {service} --help"


def _near(known: Sequence[Endpoint], typed: Sequence[str]) -> list[Endpoint]:
    """The endpoints that were probably meant: those of the closest method, or all of the handler that is named."""
    if not typed:
        return []
    by_owner: dict[str, dict[str, Endpoint]] = {}
    for one in known:
        owner, _, method = one.name.rpartition(".")
        by_owner.setdefault(names.snake(owner), {})[names.snake(method)] = one
    *handler, text = ".".join(typed).split(".")
    if handler:
        owner = failures.closest(".".join(handler), list(by_owner))
        near = failures.closest(text, list(by_owner.get(owner, ())))
        if near:
            return [by_owner[owner][near]]
    elif names.folded(text) in map(names.folded, by_owner):
        return list(by_owner[failures.closest(text, list(by_owner))].values())[:_SUGGESTIONS]
    near = failures.closest(text, [method for methods in by_owner.values() for method in methods])
    if near or handler:
        return [methods[near] for methods in by_owner.values() if near in methods][:_SUGGESTIONS]
    return list(by_owner.get(failures.closest(text, list(by_owner)), {}).values())[:_SUGGESTIONS]


def leaves(request: Value) -> Iterator[tuple[tuple[str, ...], Value]]:
    """Every field that a flag of its own can set, as (path, field), in the contract's order.

    A message's own fields stand for it; where a type contains itself the walk stops at the message.
    """
    yield from _leaves(request, (), (request.type_name or request.name,))


def _leaves(parent: Value, path: tuple[str, ...], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Value]]:
    for field in parent.values:
        here = (*path, field.name)
        if nested(field) and field.values and field.type_name not in above:
            yield from _leaves(field, here, (*above, field.type_name))
        else:
            yield here, field


def nested(field: Value) -> bool:
    """Whether a field is one message whose fields have flags of their own."""
    return field.type == "message" and not field.repeated and not field.type_name.startswith("google.protobuf.")


def lookup(request: Value, flag: str) -> tuple[tuple[str, ...], Value] | None:
    """The field that a flag means, at any depth, also inside types that contain themselves.

    "user_address_city" means field city of address of user; a field whose own name is so comes first.
    """
    return _lookup(request, names_of(flag), (), (request,))


def names_of(flag: str) -> str:
    """What the spellings of a flag share."""
    return flag.replace("-", "_").lower()


def _lookup(
    parent: Value, flag: str, path: tuple[str, ...], above: tuple[Value, ...]
) -> tuple[tuple[str, ...], Value] | None:
    for field in parent.values:
        if field.name.lower() == flag or json_name(field).lower() == flag:
            return (*path, field.name), field
    for field in sorted(parent.values, key=lambda one: -len(one.name)):
        if nested(field) and flag.startswith(f"{field.name.lower()}_"):
            inner = whole(field, above)
            found = _lookup(inner, flag[len(field.name) + 1 :], (*path, field.name), (*above, inner))
            if found:
                return found
    return None


def whole(field: Value, above: tuple[Value, ...]) -> Value:
    """The field with its type's fields, which a type that contains itself has further up."""
    if field.values:
        return field
    return next((one for one in above if one.values and field.type_name in (one.type_name, one.name)), field)


def json_name(field: Value) -> str:
    """What a field is called in JSON."""
    return field.json_name or names.json_name(field.name)


def put(request: dict[str, Any], path: Sequence[str], new: Any) -> None:
    """Set a field of a request that may hold others, under either spelling of its name; messages are merged.

    Raises:
        UsageError: something other than a message is in the way.
    """
    *parents, last = path
    here = request
    for name in parents:
        inner = here.setdefault(_spelling(here, name), {})
        if not isinstance(inner, dict):
            raise failures.UsageError(
                f"--data has {name!r} as something other than an object, so {'_'.join(path)!r} cannot be set"
            )
        here = inner
    key = _spelling(here, last)
    old = here.get(key)
    here[key] = {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new


def _spelling(record: Mapping[str, Any], name: str) -> str:
    camel = names.json_name(name)
    return camel if camel in record else name
