"""What is typed as JSON is held against the contract: fields it has not, wrong types, two of one choice."""

# ruff: noqa: E501 - a table is read one case a line

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_platform import SAVE, FakePlatform, endpoint, message, value
from shell import Shell

from gen.echo.v1.echo_pb import EchoRequest
from micro.cli import checking, failures, schema
from micro.rpc import schema as shapes

CHOICE = message(
    "ChooseRequest",
    value("left", oneof="side"),
    value("right", "int32", oneof="side"),
    value("zip_code", "int32", jsonName="postcode"),
    value("free", "message", typeName="google.protobuf.Struct"),
    value("any", "message", typeName="google.protobuf.Value"),
    value("items", "message", typeName="google.protobuf.ListValue"),
    value("count", "message", typeName="google.protobuf.Int32Value"),
    value("nothing", "message", typeName="google.protobuf.Empty"),
    typeName="choose.ChooseRequest",
)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"cnt": 3}, "the request has no field 'cnt': it has user, tree, age, total, ratio, active, tags, scores and 6 more"),
        ({"user": {"nme": "x"}}, "the request has no field 'user.nme': did you mean user.name?"),
        ({"user": {"address": {"zipcode": 1}}}, "the request has no field 'user.address.zipcode': did you mean user.address.zip_code?"),
        ({"tree": {"left": {"left": {"lable": 1}}}}, "the request has no field 'tree.left.left.lable': did you mean tree.left.left.label?"),
        ({"friends": [{"name": "a"}, {"nmae": "b"}]}, "the request has no field 'friends[1].nmae': did you mean friends[1].name?"),
        ({"age": "x"}, "age takes a whole number (int32), not 'x'"),
        ({"age": 1.5}, "age takes int32, not '1.5'"),
        ({"age": True}, "age takes int32, not 'true'"),
        ({"age": 2**31}, f"age takes {-2**31} to {2**31 - 1} (int32), not '{2**31}'"),
        ({"ratio": []}, "ratio takes double, not '[]'"),
        ({"active": "true"}, """active takes bool, not '"true"'"""),
        ({"tags": "a"}, """tags takes a JSON array, not '"a"'"""),
        ({"tags": ["a", 1]}, "tags[1] takes string, not '1'"),
        ({"tags": [None]}, "tags[0] takes string, not 'null'"),
        ({"user": []}, "user takes a JSON object, not '[]'"),
        ({"role": "admin"}, """role takes one of ROLE_UNSPECIFIED, ROLE_ADMIN, ROLE_READER, not '"admin"'"""),
        ({"photo": "%"}, "photo takes base64, or @FILE to send a file's content, not '%'"),
        ({"limits": {"a": "x"}}, "limits.a takes a whole number (int32), not 'x'"),
        ({"limits": []}, "limits takes a JSON object, not '[]'"),
        ({"born": "today"}, "born takes a timestamp such as 2026-01-31T08:00:00Z, not 'today'"),
        ({"born": 3}, "born takes timestamp, not '3'"),
    ],
)  # fmt: skip
def test_what_the_contract_has_not_is_named_by_its_path(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(failures.UsageError) as raised:
        checking.check(schema.value(SAVE), request_)
    assert raised.value.message == said


@pytest.mark.parametrize(
    "request_",
    [
        {"age": 3.0, "total": "9007199254740993", "ratio": "NaN", "scores": [1, "2"]},
        {"user": {"address": {"zipCode": 1}}, "tree": {"left": {"label": "x"}}, "friends": [{"name": "a"}]},
        {"user": {"address": {"zip_code": 1}}, "role": 7, "photo": "aGk", "labels": {"a": "b"}, "active": False},
        {"user": None, "tags": None, "age": None, "born": "2026-01-31T08:00:00Z"},
    ],
)
def test_what_json_may_say_of_a_message_passes(request_: dict[str, Any]) -> None:
    checking.check(schema.value(SAVE), request_)


def test_of_a_choice_one_field_is_given() -> None:
    choice = schema.value(CHOICE)
    for good in ({"left": "a"}, {"right": 3}, {"left": None, "right": 3}, {"postcode": 1}, {"zip_code": 1}):
        checking.check(choice, good)
    with pytest.raises(failures.UsageError, match=r"^left and right exclude each other: give one of them$"):
        checking.check(choice, {"left": "x", "right": 3})
    with pytest.raises(failures.UsageError, match="has no field 'zipCode'"):
        checking.check(choice, {"zipCode": 3})


def test_what_has_no_fields_of_its_own_takes_anything() -> None:
    choice = schema.value(CHOICE)
    checking.check(choice, {"free": {"a": {"b": 1}}, "any": None, "items": [1], "count": 3, "nothing": {}})
    checking.check(choice, {"any": {"a": [1]}})
    checking.check(schema.value({}), {"any": "thing"})
    for wrong in ({"free": []}, {"items": {}}, {"count": "x"}):
        with pytest.raises(failures.UsageError, match=rf"^{next(iter(wrong))} takes"):
            checking.check(choice, wrong)


def test_contracts_that_contain_themselves_are_held_against_at_any_depth() -> None:
    shape = shapes.message(EchoRequest.desc())
    inner: dict[str, Any] = {"twoWords": "a", "byId": {"1": {"more": {"left": "x"}}}, "boxed": "b", "span": "1.5s"}
    request = {"body": {"a": {"more": {"inners": [{"more": inner}]}}}}
    checking.check(shape, request)
    assert EchoRequest.from_json(json.dumps(request)).body
    inner["byId"]["1"]["more"]["right"] = 3
    with pytest.raises(failures.UsageError, match=r"byId\.1\.more\.left and body\.a\.more.*right exclude each other"):
        checking.check(shape, request)
    inner["byId"]["1"]["more"] = {"ritgh": 3}
    with pytest.raises(failures.UsageError, match=r"byId\.1\.more\.ritgh.*did you mean .*byId\.1\.more\.right"):
        checking.check(shape, request)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["helloworld", "--data", '{"nmae":"Ann"}'], "helloworld call: the request has no field 'nmae': did you mean name?"),
        (["users", "save", "--user", '{"nme":"x"}'], "users save: the request has no field 'user.nme': did you mean user.name?"),
        (["call", "helloworld", "Helloworld.Call", '{"nmae":1}'], "the request has no field 'nmae': did you mean name?"),
        (["call", "helloworld", "Helloworld.Call", '{"name":1}'], "name takes string, not '1'"),
        (["stream", "helloworld", "Helloworld.Stream", '{"cuont":1}'], "the request has no field 'cuont': did you mean count?"),
        (["helloworld", "choose", "--left=a", "--right=3"], "helloworld choose: left and right exclude each other: give one of them"),
        (["helloworld", "choose", "--data", '{"left":"a"}', "--right=3"], "helloworld choose: left and right exclude each other: give one of them"),
        (["helloworld", "choose", "--data", '{"right":' + "1" * 5000 + "}"], "helloworld choose: --data is not JSON: "),
    ],
)  # fmt: skip
def test_nothing_is_sent_that_was_mistyped(micro: Shell, platform: FakePlatform, words: list[str], said: str) -> None:
    platform.services[0]["endpoints"].append(endpoint("Helloworld.Choose", "helloworld", CHOICE))
    result = micro(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"micro: {said}")
    assert result.err.count("\n") == 1
    assert all("helloworld." not in call.path and "users." not in call.path for call in platform.calls)


def test_a_mistyped_message_of_a_stream_is_named_by_its_line(micro: Shell, platform: FakePlatform) -> None:
    lines = "\n".join(json.dumps(one) for one in ({"stroke": 1}, {"storke": 2}))
    result = micro("stream", "helloworld", "Helloworld.PingPong", stdin=lines + "\n")
    assert result.code == 2
    assert result.err == "micro: line 2 of standard input: the request has no field 'storke': did you mean stroke?\n"


def test_an_address_of_ones_own_has_no_contract_to_hold_against(micro: Shell, platform: FakePlatform) -> None:
    result = micro("call", "--address", platform.address, "helloworld", "Helloworld.Call", '{"new":1}')
    assert (result.code, result.err) == (0, "")
