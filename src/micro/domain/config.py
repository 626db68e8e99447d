"""Config: paths, values, and the document that they make up. Pure.

A document is a tree: objects are dicts, all else is a leaf, a list too. A leaf keeps the JSON it was given as text, so
that numbers come back digit by digit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeAlias

from micro.domain import errors
from micro.domain.account import Account

NAMES = 32
"""How many names a path has at most."""

PATH_BYTES = 1024
"""How long a path is at most, as it is written."""

VALUE_DEPTH = 64
"""How deep lists and objects of one value are in one another at most."""

DOCUMENT_BYTES = 1 << 20
"""How large a document is at most, as it is kept: the values, each with its path, secrets as they are sealed."""

HISTORY_CHANGES = 1000
"""How many changes of a document are remembered at most."""

HISTORY_BYTES = 32 << 20
"""What they hold at most; the last change is always remembered."""

MASK = "[secret]"
"""What is told in place of a secret."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PART = re.compile(r"(?:[^\\.]|\\[\\.])*")

Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value.

    Attributes:
        text: it, as JSON without blanks; of a secret that is sealed, what the sealing made of it.
        secret: whether it is one.
        key: the data key that it is sealed with; empty for what is not sealed.
    """

    text: str = field(repr=False)
    secret: bool = False
    key: str = ""


Tree: TypeAlias = "dict[str, Tree] | Leaf"
Flat: TypeAlias = Mapping[str, Leaf]
"""The leaves of a tree by path, as it is written. An empty object is a leaf too."""

_EMPTY = Leaf("{}")


@dataclass(frozen=True, slots=True)
class Document:
    """What a namespace has set.

    Attributes:
        revision: number of the last change; 0 before the first.
        tree: the values.
        oldest: the first change that is remembered.
        remembered: what the changes hold that are, in bytes.
        key: the data key that secrets are sealed with from now on; empty before the first.
    """

    revision: int = 0
    tree: Mapping[str, Tree] = field(default_factory=dict)
    oldest: int = 1
    remembered: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a document.

    Attributes:
        time: when, in milliseconds since 1970.
        account: who made it.
        action: "set", "delete" or "rollback".
        path: where, as it is written.
        value: what was given, as JSON with secrets masked; empty for "delete".
        before: each leaf that it changed, as it was; None where none was.
    """

    revision: int
    time: int
    account: str
    action: str
    path: str
    value: str
    before: Mapping[str, Leaf | None]


class _Number(str):
    """A number of JSON, as it was written."""

    __slots__ = ()


# --- paths ------------------------------------------------------------------------------------------------------------


def path(text: str) -> Path:
    r"""The names of a dotted path, none for an empty one. A dot in a name is written `\.`, a backslash `\\`.

    Raises:
        Error: INVALID_ARGUMENT that says what is wrong with it.
    """
    if not text:
        return ()
    if len(_encoded(text, "the path")) > PATH_BYTES:
        raise errors.invalid_argument(f"the path {text[:20]!r}… is longer than {PATH_BYTES:,} bytes")
    found: list[str] = []
    at = 0
    while True:
        part = _PART.match(text, at)
        assert part is not None
        found.append(re.sub(r"\\(.)", r"\1", part[0]))
        at = part.end()
        if at == len(text):
            return checked(tuple(found))
        if text[at] == "\\":
            raise errors.invalid_argument(
                f"the path {text[:80]!r} has a lone backslash: a dot in a name is written \\. and a backslash \\\\"
            )
        at += 1


def written(names: Iterable[str]) -> str:
    """A path as text, for `path`."""
    return ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in names)


def checked(names: Path) -> Path:
    """The names when they make a path. Raises INVALID_ARGUMENT."""
    for name in names:
        if not name:
            raise errors.invalid_argument(
                f"the path {written(names)[:80]!r} has an empty name: write names with one dot between"
            )
        if _CONTROL.search(name):
            raise errors.invalid_argument(f"the name {name[:80]!r} has control characters")
    if len(names) > NAMES:
        raise errors.invalid_argument(
            f"the path {written(names[:3])[:80]}… has {len(names)} names: {NAMES} are the most"
        )
    return names


# --- values -----------------------------------------------------------------------------------------------------------


def parse(text: str, at: Path = (), *, secret: bool = False) -> Tree:
    """The tree that JSON describes.

    Args:
        at: where it is to go.
        secret: whether each leaf is a secret: nothing of it is told by errors then.

    Raises:
        Error: INVALID_ARGUMENT that says what is wrong with it.
    """
    try:
        found = json.loads(
            text, parse_int=_Number, parse_float=_Number, parse_constant=_no_number, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        raise errors.invalid_argument(
            f"the value is not JSON: {error.msg} at line {error.lineno}, character {error.colno}"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    return _tree(found, at, secret)


def _tree(value: Any, at: Path, secret: bool) -> Tree:
    if not isinstance(value, dict):
        # Written anew, so that two spellings of one value are the same, but for numbers.
        return Leaf(_dumped(value, 0), secret)
    found: dict[str, Tree] = {}
    for name, each in value.items():
        below = (*at, name)
        checked(below)
        if len(_encoded(written(below), "a name")) > PATH_BYTES:
            raise errors.invalid_argument(f"a path below {written(at)[:20]!r} is longer than {PATH_BYTES:,} bytes")
        found[name] = _tree(each, below, secret)
    return found


def _dumped(value: Any, depth: int) -> str:
    if depth > VALUE_DEPTH:
        raise _too_deep()
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(_dumped(one, depth + 1) for one in value)}]"
    if isinstance(value, dict):
        pairs = (f"{_dumped(name, depth)}:{_dumped(one, depth + 1)}" for name, one in value.items())
        return f"{{{','.join(pairs)}}}"
    text = json.dumps(value, ensure_ascii=False)
    _encoded(text, "a text in the value")
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise errors.invalid_argument("the value is not JSON: an object has one name twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise errors.invalid_argument(f"the value is not JSON: {text} is no number")


def _too_deep() -> errors.Error:
    return errors.invalid_argument(f"the value is nested too deeply: {VALUE_DEPTH} lists and objects are the most")


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise errors.invalid_argument(f"{what} is not UTF-8") from None


# --- trees ------------------------------------------------------------------------------------------------------------


def find(tree: Mapping[str, Tree], at: Path) -> Tree | None:
    """What is at a path; None when nothing is."""
    found: Tree = dict(tree)
    for name in at:
        if isinstance(found, Leaf) or name not in found:
            return None
        found = found[name]
    return found


def merged(old: Tree | None, new: Tree) -> Tree:
    """`new` over `old`: objects into each other, deeply; anything else takes the place of what was there.

    What takes the place of a secret, or of something with a secret in it, is a secret too.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: merged(old.get(name), each) for name, each in new.items()}}
    if old is not None and has_secrets(old):
        return mapped(new, lambda _, leaf: replace(leaf, secret=True))
    return new


def at_path(at: Path, tree: Tree) -> Tree:
    """The document that has nothing but `tree`, at that path."""
    for name in reversed(at):
        tree = {name: tree}
    return tree


def replaced(tree: Mapping[str, Tree], at: Path, new: Tree | None) -> dict[str, Tree]:
    """The tree with `new`, or nothing, at a path, whatever was there. Values on the way to it make place for it."""
    if not at:
        return dict(new) if isinstance(new, dict) else {}
    name, *rest = at
    below = tree.get(name)
    found = dict(tree)
    if not rest:
        if new is None:
            found.pop(name, None)
        else:
            found[name] = new
    elif isinstance(below, dict) or new is not None:
        found[name] = replaced(below if isinstance(below, dict) else {}, tuple(rest), new)
    return found


def common(tree: Tree, given: Tree) -> Tree:
    """As much of a tree as `given`, which was merged into it, is about."""
    if isinstance(tree, Leaf) or isinstance(given, Leaf):
        return tree
    return {name: common(tree[name], each) for name, each in given.items()}


def data_keys(tree: Tree) -> set[str]:
    """The data keys that the secrets in it are sealed with."""
    if isinstance(tree, Leaf):
        return {tree.key} if tree.secret else set()
    return set().union(*map(data_keys, tree.values()))


def has_secrets(tree: Tree) -> bool:
    """Whether there is a secret in it."""
    return tree.secret if isinstance(tree, Leaf) else any(map(has_secrets, tree.values()))


def mapped(tree: Tree, change: Callable[[Path, Leaf], Leaf], at: Path = ()) -> Tree:
    """The tree with each leaf as `change` makes it of its path and itself."""
    if isinstance(tree, Leaf):
        return change(at, tree)
    return {name: mapped(each, change, (*at, name)) for name, each in tree.items()}


def flat(tree: Mapping[str, Tree]) -> dict[str, Leaf]:
    """The leaves by path, in order. For `grown`."""
    found: dict[str, Leaf] = {}

    def walk(at: str, below: Tree) -> None:
        if isinstance(below, Leaf) or not below:
            found[at] = below if isinstance(below, Leaf) else _EMPTY
            return
        for name, each in sorted(below.items()):
            walk(f"{at}.{written((name,))}", each)

    for name, each in sorted(tree.items()):
        walk(written((name,)), each)
    return found


def grown(leaves: Flat) -> dict[str, Tree]:
    """The tree of these leaves. Raises INVALID_ARGUMENT where they do not make one."""
    found: dict[str, Tree] = {}
    for text, leaf in leaves.items():
        *way, name = path(text)
        below: Any = found
        for each in way:
            below = below.setdefault(each, {})
            if isinstance(below, Leaf):
                raise errors.invalid_argument(f"{text[:80]!r} is below a value")
        if name in below:
            raise errors.invalid_argument(f"{text[:80]!r} is a value and has some below it")
        below[name] = {} if leaf == _EMPTY else leaf
    return found


def difference(before: Flat, after: Flat) -> dict[str, Leaf | None]:
    """What to put, or to remove, to make `before` of `after` again."""
    found: dict[str, Leaf | None] = {at: leaf for at, leaf in before.items() if after.get(at) != leaf}
    found |= {at: None for at in after if at not in before}
    return found


def undone(after: Flat, changes: Iterable[Change]) -> dict[str, Leaf]:
    """The leaves as they were before the changes, which are given with the newest first."""
    found = dict(after)
    for change in changes:
        for at, leaf in change.before.items():
            if leaf is None:
                found.pop(at, None)
            else:
                found[at] = leaf
    return found


def render(tree: Tree, opened: Callable[[Path, Leaf], str] | None = None, at: Path = ()) -> str:
    """The tree as JSON, secrets masked, or as `opened` tells what is in them."""
    if isinstance(tree, Leaf):
        if not tree.secret:
            return tree.text
        return f'"{MASK}"' if opened is None else opened(at, tree)
    pairs = (
        f"{json.dumps(name, ensure_ascii=False)}:{render(each, opened, (*at, name))}"
        for name, each in sorted(tree.items())
    )
    return f"{{{','.join(pairs)}}}"


def related(one: Path, other: Path) -> bool:
    """Whether one of the paths is the other, or above it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def may_see_secrets(account: Account, namespace: str) -> bool:
    """Whether secrets are told to somebody: to services of the namespace and to its admins. A program that only calls
    has an account of their type, which stands for none."""
    own = bool(account.service) and account.namespace == namespace
    return own or account.administers(namespace)
