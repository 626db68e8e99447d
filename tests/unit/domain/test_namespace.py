"""Namespaces: how much one may take."""

import pytest

from micro.domain import errors
from micro.domain.namespace import Namespace, Quota


@pytest.mark.parametrize(
    "quota",
    [Quota(), Quota(0, 0, 0, 0), Quota(2**31 - 1, 2**31 - 1, 2**31 - 1, 2**63 - 1)],
)
def test_a_limit_is_a_number_or_none(quota: Quota) -> None:
    assert quota.checked() == quota


@pytest.mark.parametrize("name", ["services", "instances", "requests", "upload", "topics", "events"])
def test_a_limit_that_is_out_of_range_is_named(name: str) -> None:
    for value in (-1, 2**63 if name in ("upload", "events") else 2**31):
        with pytest.raises(errors.Error, match=f"{name}={value}") as caught:
            Quota(**{name: value}).checked()
        assert caught.value.kind is errors.Kind.INVALID_ARGUMENT


def test_a_namespace_starts_with_generous_limits() -> None:
    assert Namespace("shop").quota == Quota().checked()
