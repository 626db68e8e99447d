"""From what is typed after an endpoint to the request that travels."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from fake_platform import SAVE
from hypothesis import given, settings
from hypothesis import strategies as st

from micro.cli import failures, flags, scalars, schema
from micro.cli import help as help_texts
from micro.domain.service import Endpoint, Value

REQUEST = schema.value(SAVE)


def read(name: str) -> bytes:
    return Path(name).read_bytes()


def build(*tokens: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    return flags.build(flags.parse(tokens, REQUEST), data or {}, read)


CASES: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["--age=5"], {"age": 5}),
    (["--age", "5"], {"age": 5}),
    (["-age=5"], {"age": 5}),
    (["--age", "-5"], {"age": -5}),
    (["--age=0x10"], {"age": 16}),
    (["--age=007"], {"age": 7}),
    (["--total=9223372036854775807"], {"total": "9223372036854775807"}),
    (["--total", "-9223372036854775808"], {"total": "-9223372036854775808"}),
    (["--ratio=-1e-3"], {"ratio": -0.001}),
    (["--ratio=nan"], {"ratio": "NaN"}),
    (["--ratio", "-inf"], {"ratio": "-Infinity"}),
    (["--active"], {"active": True}),
    (["--active", "--age=1"], {"active": True, "age": 1}),
    (["--active=false"], {"active": False}),
    (["--active", "false"], {"active": False}),
    (["--user_name=a=b=c"], {"user": {"name": "a=b=c"}}),
    (["--user_name="], {"user": {"name": ""}}),
    (["--user-name", "--"], {"user": {"name": "--"}}),
    (["--user_address_city=Rome"], {"user": {"address": {"city": "Rome"}}}),
    (["--user-address-zip-code=1"], {"user": {"address": {"zip_code": 1}}}),
    (["--USER_Address_zipCode=1"], {"user": {"address": {"zip_code": 1}}}),
    (["--tree_left_left_left_label=deep"], {"tree": {"left": {"left": {"left": {"label": "deep"}}}}}),
    (['--user={"name":"A"}', "--user_email=e"], {"user": {"name": "A", "email": "e"}}),
    (["--tags=a,b", "--tags", "c"], {"tags": ["a", "b", "c"]}),
    (['--tags=["a,b"]'], {"tags": ["a,b"]}),
    (["--scores=1,-2", "--scores=3"], {"scores": [1, -2, 3]}),
    (["--role=ROLE_ADMIN"], {"role": "ROLE_ADMIN"}),
    (["--role=admin"], {"role": "ROLE_ADMIN"}),
    (["--role=role-reader"], {"role": "ROLE_READER"}),
    (["--role=2"], {"role": 2}),
    (["--photo=aGk="], {"photo": "aGk="}),
    (["--photo=aGk"], {"photo": "aGk="}),
    (["--photo=_-8"], {"photo": "/+8="}),
    (['--labels={"a":"b"}', "--labels=x=y=z"], {"labels": {"a": "b", "x": "y=z"}}),
    (['--limits={"a":1,"b":"2"}'], {"limits": {"a": 1, "b": 2}}),
    (['--friends={"name":"A,B"}', '--friends={"name":"C"}'], {"friends": [{"name": "A,B"}, {"name": "C"}]}),
    (['--friends=[{"name":"A"},{"name":"B"}]'], {"friends": [{"name": "A"}, {"name": "B"}]}),
    (["--born=2026-01-31T08:00:00.5Z"], {"born": "2026-01-31T08:00:00.5Z"}),
    (["--age=1", "--age=2"], {"age": 2}),
]


@pytest.mark.parametrize(
    ("tokens", "request_"), CASES, ids=lambda case: " ".join(case) if isinstance(case, list) else ""
)
def test_flags_become_the_request(tokens: list[str], request_: dict[str, Any]) -> None:
    assert build(*tokens) == request_


def test_flags_lie_over_data_whichever_way_its_names_are_spelled() -> None:
    data = {"age": 1, "user": {"address": {"zipCode": 7, "city": "Rome"}}, "tags": ["old"]}
    made = build("--user_address_zip_code=8", "--tags=new", data=data)
    assert made == {"age": 1, "user": {"address": {"zipCode": 8, "city": "Rome"}}, "tags": ["new"]}


def test_bytes_can_be_a_files_content(tmp_path: Path) -> None:
    (tmp_path / "photo.bin").write_bytes(b"\x00\xff")
    assert build(f"--photo=@{tmp_path}/photo.bin") == {"photo": base64.b64encode(b"\x00\xff").decode()}


def test_options_of_the_call_stand_beside_the_flags() -> None:
    plan = flags.parse(["--metadata=A=b=c", "--request_timeout", "500ms", "-o", "raw", "--data=-"], REQUEST)
    assert (plan.metadata, plan.timeout, plan.output, plan.data) == ({"a": "b=c"}, 0.5, "raw", "-")


def message(*fields: dict[str, Any]) -> Value:
    return schema.value({"name": "R", "type": "message", "values": [{"type": "string"} | one for one in fields]})


def test_an_option_comes_before_a_field_of_the_same_name() -> None:
    request = message({"name": "data"}, {"name": "o"}, {"name": "metadata", "type": "map", "keyType": "string"})
    plan = flags.parse(["--data={}", "--metadata=a=b", "-o", "raw", "--field-data=x", "--o=y"], request)
    assert (plan.data, plan.metadata, plan.output) == ("{}", {"a": "b"}, "raw")
    assert flags.build(plan, {}, read) == {"data": "x", "o": "y"}
    assert [flag for flag, _ in flags.spellings(request)] == ["field_data", "o", "field_metadata"]
    with pytest.raises(failures.UsageError, match="unknown flag --field_dat: did you mean --field_data"):
        flags.parse(["--field_dat=x"], request)
    with pytest.raises(failures.UsageError, match="--field_metadata takes a JSON object, or KEY=VALUE, not 'x'"):
        flags.build(flags.parse(["--field_metadata=x"], request), {}, read)


def test_a_field_that_no_flag_can_mean_is_left_to_data() -> None:
    inner = {"name": "field", "type": "message", "typeName": "x.F", "values": [{"name": "data", "type": "string"}]}
    request = message({"name": "data"}, inner)
    assert flags.spelling(request, ("field", "data")) == "field_data"
    assert flags.spelling(request, ("data",)) == ""
    assert [flag for flag, _ in flags.spellings(request)] == ["field_data"]
    one = Endpoint("X.Y", "/x.X/Y", request, request)
    assert "The field data has no flag: set it with --data.\n" in help_texts.endpoint("x", one)


ERRORS: list[tuple[list[str], str]] = [
    (["--ages=5"], "unknown flag --ages: did you mean --age?"),
    (["--user_addres_city=x"], "unknown flag --user_addres_city: did you mean --user_address_city?"),
    (["--qqqqqq"], "unknown flag --qqqqqq: see --help"),
    (["word"], "unexpected 'word': flags look like --name=value"),
    (["--age"], "--age needs a value: type --age=VALUE"),
    (["--age", "--active"], "--age needs a value: type --age=VALUE"),
    (["--age=five"], "--age takes a whole number (int32), not 'five'"),
    (["--age="], "--age takes a whole number (int32), not ''"),
    (["--age=1.5"], "--age takes a whole number (int32), not '1.5'"),
    (["--age=2147483648"], "--age takes -2147483648 to 2147483647 (int32), not '2147483648'"),
    (["--total=9223372036854775808"], "--total takes -9223372036854775808 to 9223372036854775807 (int64)"),
    (["--ratio=x"], "--ratio takes a number (double), not 'x'"),
    (["--ratio=1e999"], "--ratio '1e999' is too large for a double"),
    (["--active=maybe"], "--active takes true or false, not 'maybe'"),
    (["--role=king"], "--role takes one of admin, reader, not 'king'"),
    (["--photo=!"], "--photo takes base64, or @FILE to send a file's content, not '!'"),
    (["--photo=@/nowhere/at/all"], "--photo cannot read '/nowhere/at/all': No such file or directory"),
    (["--labels=x"], "--labels takes a JSON object, or KEY=VALUE, not 'x'"),
    (["--labels={"], "--labels takes a JSON object, and '{' is not JSON"),
    (['--limits={"a":"x"}'], "--limits takes a whole number (int32), not 'x'"),
    (['--limits={"a":true}'], "--limits takes int32, not 'true'"),
    (["--user=[]"], "--user takes a JSON object, not '[]'"),
    (["--friends=x"], "--friends takes a JSON object, and 'x' is not JSON"),
    (["--born=yesterday"], "--born takes a timestamp such as 2026-01-31T08:00:00Z, not 'yesterday'"),
    (["--scores=1,x"], "--scores takes a whole number (int32), not 'x'"),
    (["--output=xml"], "--output takes json or raw, not 'xml'"),
    (["--request_timeout=soon"], "'soon' is not a duration"),
    (["--metadata=x"], "--metadata takes KEY=VALUE"),
    (["--metadata=a=b\r\nc: d"], "--metadata takes KEY=VALUE in printable ASCII"),
]


@pytest.mark.parametrize(
    ("tokens", "message"), ERRORS, ids=lambda case: " ".join(case) if isinstance(case, list) else ""
)
def test_what_does_not_fit_is_named(tokens: list[str], message: str) -> None:
    with pytest.raises(failures.UsageError) as caught:
        build(*tokens)
    assert message in str(caught.value)


def test_data_in_the_way_of_a_nested_flag_is_an_error() -> None:
    with pytest.raises(failures.UsageError, match="'user' as something other than an object"):
        build("--user_name=x", data={"user": 5})


_NAMES = st.sampled_from(["_".join(path) for path, _ in schema.leaves(REQUEST)])
_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["[" * 2000, "{" * 2000, "9" * 5000, "1e400", "NaN", "null", "[null]", '{"a":null}', "@", "\ud800", "0x", "²"]
    ),
)
_TOKENS = st.one_of(
    st.builds(lambda name, text: f"--{name}={text}", _NAMES, _TEXTS),
    st.builds(lambda name: f"--{name}", _NAMES),
    _TEXTS,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_TOKENS, max_size=5))
def test_whatever_is_typed_there_is_a_request_or_a_clear_error(tokens: list[str]) -> None:
    try:
        made = build(*tokens)
    except failures.UsageError:
        return  # and nothing else
    assert isinstance(json.loads(json.dumps(made)), dict)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.text(), st.binary(max_size=50), st.booleans())
def test_every_value_of_a_type_can_be_given(number: int, text: str, data: bytes, flag: bool) -> None:
    photo = base64.b64encode(data).decode()
    made = build(f"--age={number}", f"--user_name={text}", f"--photo={photo}", f"--active={str(flag).lower()}")
    assert made == {"age": number, "user": {"name": text}, "photo": photo, "active": flag}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["RED", "GREEN"], ["red", "green"]),
        (["ROLE_UNSPECIFIED", "ROLE_ADMIN", "ROLE_SUPER_ADMIN"], ["admin", "super_admin"]),
        (["V_UNSPECIFIED", "V_1", "V_2"], ["v_1", "v_2"]),
        (["ONLY_ONE"], ["only_one"]),
        (["a", "A"], ["a", "A"]),
        (["A_B", "A_C_B", "A_C"], ["b", "c_b", "c"]),
    ],
)
def test_every_name_of_an_enum_is_accepted_as_help_shows_it_and_in_full(names: list[str], shown: list[str]) -> None:
    field = schema.value({"name": "c", "type": "enum", "enumValues": names})
    assert scalars.choices(field) == shown
    assert scalars.label(field) == "|".join(shown)
    known = names[-len(shown) :]
    assert [scalars.convert(field, text, read) for text in shown] == known
    assert [scalars.convert(field, text, read) for text in known] == known


def test_help_shows_the_first_of_many_names_of_an_enum() -> None:
    field = schema.value({"name": "c", "type": "enum", "enumValues": [f"C_X{n}" for n in range(20)]})
    assert scalars.label(field) == "x0|x1|x2|x3|x4|x5|x6|x7|…"
