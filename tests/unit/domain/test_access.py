"""What the platform's own endpoints ask of their callers."""

import importlib
import pkgutil

import pytest

from micro.domain import access, errors
from micro.domain.access import NEEDS, Need
from micro.domain.account import Account, Type
from micro.domain.errors import Kind
from micro.rpc import gen

ADMIN = frozenset({"admin"})
CALLERS = {
    "nobody": None,
    "user": Account("jane", "shop"),
    "service": Account("greeter-v1", "shop", type=Type.SERVICE),
    "admin": Account("boss", "shop", scopes=ADMIN),
    "admin service": Account("robot", "shop", type=Type.SERVICE, scopes=ADMIN),
    "user elsewhere": Account("jane", "bank"),
    "admin elsewhere": Account("boss", "bank", scopes=ADMIN),
    "user of micro": Account("jane", "micro"),
    "platform": Account("admin", "micro", scopes=ADMIN),
}
ENOUGH = {
    Need.OPEN: set(CALLERS),
    Need.ACCOUNT: {"user", "service", "admin", "admin service", "platform"},
    Need.USER: {"user", "admin", "admin service", "platform"},
    Need.SERVICE: {"service", "admin", "admin service", "platform"},
    Need.ADMIN: {"admin", "admin service", "platform"},
    Need.PLATFORM: {"platform"},
    Need.GATEWAY: set(),
    Need.SERVER: set(),
}


def contracts() -> dict[str, str]:
    """Every endpoint of every contract that there is code for, with the file that it comes from."""
    found = {}
    for module in pkgutil.walk_packages(gen.__path__, f"{gen.__name__}."):
        if module.name.endswith("_pb"):
            for service in importlib.import_module(module.name).desc().services:
                for method in service.methods:
                    found[f"/{service.type_name}/{method.name}"] = module.name
    return found


def test_the_table_has_a_row_for_every_endpoint_and_no_other() -> None:
    found = contracts()
    assert len(found) > 40, "the contracts were not found"
    missing = sorted(set(found) - set(NEEDS))
    assert not missing, f"say in micro.domain.access what these ask of their callers: {missing}"
    assert sorted(set(NEEDS) - set(found)) == [], "rows about endpoints that there are none of"


def refusal(path: str, account: Account | None) -> errors.Error | None:
    try:
        access.check(path, account, "shop")
    except errors.Error as error:
        return error
    return None


@pytest.mark.parametrize("path", sorted(NEEDS))
def test_each_endpoint_lets_in_whom_it_says(path: str) -> None:
    refusals = {name: refusal(path, account) for name, account in CALLERS.items()}
    assert {name for name, error in refusals.items() if error is None} == ENOUGH[NEEDS[path]]
    for name, error in refusals.items():
        if error is not None:
            assert error.kind is (Kind.UNAUTHENTICATED if name == "nobody" else Kind.PERMISSION_DENIED)
            assert "\n" not in error.message


def test_a_login_and_nothing_but_it_is_open() -> None:
    opened = {path for path, need in NEEDS.items() if need is Need.OPEN}
    health = {f"/grpc.health.v1.Health/{method}" for method in ("Check", "Watch")}
    assert opened == {"/micro.auth.v1.Auth/Token", "/micro.auth.v1.Keys/List", *health}


@pytest.mark.parametrize("path", ["", "/", "/micro.auth.v1.Auth/token", "/micro.auth.v1.Auth/Token/", "/new.Thing/Do"])
def test_what_is_not_in_the_table_is_closed_to_everybody(path: str) -> None:
    for account in CALLERS.values():
        with pytest.raises(errors.Error) as caught:
            access.check(path, account, "shop")
        assert caught.value.kind in (Kind.UNAUTHENTICATED, Kind.PERMISSION_DENIED)


def test_a_refusal_names_the_endpoint_as_people_type_it() -> None:
    told = refusal("/micro.runtime.v1.Runtime/Read", None)
    assert told is not None
    assert told.message.startswith("runtime Runtime.Read needs an account: log in with `micro login`, or ")


def test_a_stranger_learns_nothing_about_the_namespace() -> None:
    stranger = CALLERS["admin elsewhere"]
    messages = set()
    for path, need in NEEDS.items():
        if need not in (Need.OPEN, Need.GATEWAY, Need.SERVER):
            with pytest.raises(errors.Error) as caught:
                access.check(path, stranger, "shop")
            messages.add(caught.value.message)
    assert messages == {access.foreign(stranger, "shop").message}
