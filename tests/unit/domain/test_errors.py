"""The platform's kinds of errors are gRPC's and Connect's, by number and by name."""

import inspect

import grpc
import pytest
from connectrpc.code import Code

from micro.domain import errors
from micro.domain.errors import Error, Kind

CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def test_the_kinds_are_the_codes_of_grpc_all_but_ok() -> None:
    spelled = {number: name.replace("CANCELLED", "CANCELED") for number, name in CODES.items()}
    assert {kind.value: kind.name for kind in Kind} == {number: name for number, name in spelled.items() if number}


def test_the_names_on_the_wire_are_those_of_connect() -> None:
    assert {kind.code for kind in Kind} == {code.value for code in Code}
    assert all(Kind.of_code(kind.code) is kind for kind in Kind)


@pytest.mark.parametrize("code", ["", "ok", "nonsense", "NOT FOUND"])
def test_a_name_that_is_none_is_unknown(code: str) -> None:
    assert Kind.of_code(code) is Kind.UNKNOWN


def test_every_kind_has_an_http_status_that_says_who_has_to_act() -> None:
    callers = {kind for kind in Kind if 400 <= kind.http_status < 500}
    servers = {kind for kind in Kind if 500 <= kind.http_status < 600}
    assert callers | servers == set(Kind)
    assert {Kind.INTERNAL, Kind.UNAVAILABLE, Kind.DATA_LOSS, Kind.UNKNOWN} <= servers
    assert Kind.UNAUTHENTICATED.http_status == 401
    assert Kind.NOT_FOUND.http_status == 404
    assert Kind.DEADLINE_EXCEEDED.http_status == 504


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.code)
def test_every_kind_has_a_function_of_its_name_that_makes_it(kind: Kind) -> None:
    error = getattr(errors, kind.code)("why", details=["more"])
    assert isinstance(error, Error)
    assert (error.kind, error.message, error.details) == (kind, "why", ("more",))


def test_there_is_no_function_for_a_kind_that_is_none() -> None:
    functions = {name for name, _ in inspect.getmembers(errors, inspect.isfunction) if not name.startswith("_")}
    assert functions == {kind.code for kind in Kind}


def test_an_error_shows_its_message_else_its_kind() -> None:
    assert str(errors.not_found("no such book")) == "no such book"
    assert str(errors.not_found()) == "not_found"
    assert repr(errors.not_found("no such book")) == "Error(NOT_FOUND, 'no such book')"
