"""Calling services: `micro SERVICE ENDPOINT --flags`, `micro call` and `micro stream`."""

# ruff: noqa: E501 - a table is read one case a line

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_platform import FakePlatform, Refusal
from shell import Screen, Shell

from micro.cli import app


def test_a_service_is_a_command(micro: Shell, platform: FakePlatform) -> None:
    result = micro("helloworld", "call", "--name=Ann")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == {"msg": "Hello Ann", "sum": "9007199254740993"}
    call = platform.last("/helloworld.Helloworld/Call")
    assert call.messages == [{"name": "Ann"}]
    assert call.headers["micro-service"] == "helloworld"
    assert call.headers["micro-namespace"] == "micro"
    assert call.headers["content-type"] == "application/json"


def test_a_registry_that_is_not_for_this_account_to_read_is_passed_over(
    micro: Shell, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(request: Any, headers: Any) -> Any:
        raise Refusal("permission_denied", "micro/bill is not of namespace shop", 403)

    monkeypatch.setattr(platform, "do_getservice", hidden)
    for words in (
        ["call", "helloworld", "Helloworld.Call", '{"name": "Bill"}'],
        ["call", "helloworld", "Call", '{"name": "Bill"}'],
        ["helloworld", "call", "--data", '{"name": "Bill"}'],
        ["helloworld", "helloworld", "call", "--data", '{"name": "Bill"}'],
    ):
        result = micro("--namespace", "shop", *words)
        assert (result.code, json.loads(result.out)["msg"]) == (0, "Hello Bill"), result.err
        call = platform.last()
        assert call.path.lower() == "/helloworld/helloworld/call"
        assert (call.headers["micro-service"], call.headers["micro-namespace"]) == ("helloworld", "shop")
    result = micro("--namespace", "shop", "stream", "helloworld", "Helloworld.Stream", '{"count": 3}')
    assert (result.code, len(result.out.splitlines())) == (0, 3)
    assert platform.last().path == "/helloworld/Helloworld/Stream"

    calls = len([call for call in platform.calls if "GetService" not in call.path])
    for words in (["helloworld", "call", "--name", "Bill"], ["helloworld", "call"], ["helloworld", "call", "--help"]):
        result = micro("--namespace", "shop", *words)
        assert (result.code, result.err) == (
            2,
            (
                "micro: micro/bill is not of namespace shop; so the flags of helloworld are not known here: "
                "give JSON, micro --namespace shop call helloworld call '{…}'\n"
            ),
        )
    assert "'helth' is no command: did you mean health?" in micro("helth").err
    assert len([call for call in platform.calls if "GetService" not in call.path]) == calls


def test_without_an_endpoint_flags_go_to_call(micro: Shell, platform: FakePlatform) -> None:
    assert micro("helloworld", "--name=Ann").code == 0
    assert platform.last("/Call").messages == [{"name": "Ann"}]


def test_the_answer_is_indented_or_as_it_came(micro: Shell) -> None:
    assert micro("helloworld", "--name=A").out == '{\n  "msg": "Hello A",\n  "sum": "9007199254740993"\n}\n'
    assert micro("helloworld", "--name=A", "-o", "raw").out == '{"msg": "Hello A", "sum": "9007199254740993"}\n'


def test_two_words_name_an_endpoint_of_another_handler(micro: Shell, platform: FakePlatform) -> None:
    for words in (["accounts", "list"], ["accounts/list"], ["Accounts.List"], ["list"]):
        assert micro("users", *words).out == "{}\n"
        assert platform.last().path == "/users.Accounts/List"


def test_data_comes_from_a_flag_a_file_or_standard_input(micro: Shell, platform: FakePlatform, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"name": "file"}')
    micro("helloworld", "call", "--data", '{"name": "flag"}')
    assert platform.last("/Call").messages == [{"name": "flag"}]
    micro("helloworld", "call", f"--data=@{tmp_path}/request.json")
    assert platform.last("/Call").messages == [{"name": "file"}]
    micro("helloworld", "call", "--data", "-", stdin='{"name": "stdin"}')
    assert platform.last("/Call").messages == [{"name": "stdin"}]
    micro("helloworld", "call", "--data=-", "--name=flag", stdin='{"name": "stdin"}')
    assert platform.last("/Call").messages == [{"name": "flag"}]


def test_metadata_and_a_deadline_travel(micro: Shell, platform: FakePlatform) -> None:
    micro("helloworld", "call", "--metadata", "X-Trace=a=b", "--request_timeout=1500ms")
    headers = platform.last("/Call").headers
    assert (headers["x-trace"], headers["grpc-timeout"], headers["connect-timeout-ms"]) == ("a=b", "1500m", "1500")


FAILURES: list[tuple[list[str], int, str]] = [
    (["helloworld", "--name=nobody"], 127, "micro: not_found: no such book\n"),
    (["call", "helloworld", "Helloworld.Call", '{"name":"nobody"}'], 127, "micro: not_found: no such book\n"),
    (["helloworld", "--name=secret"], 2, "micro: permission_denied: not yours\n"),
    (["helloworld", "cal"], 5, "micro: endpoint 'cal' not found for service 'helloworld': did you mean: micro helloworld call\n"),
    (["helloworld", "--nam=x"], 2, "micro: helloworld call: unknown flag --nam: did you mean --name?\n"),
    (["users", "save", "--age=x"], 2, "micro: users save: --age takes a whole number (int32), not 'x'\n"),
    (["helloword"], 4, "micro: no command or service 'helloword': did you mean helloworld?\n"),
    (["servics"], 4, "micro: no command or service 'servics': did you mean services?\n"),
    (["qqq", "x"], 4, "micro: no command or service 'qqq': list them with: micro services\n"),
    (["call", "nope", "Nope.Call"], 4, "micro: service 'nope' not found in namespace 'micro': see micro services\n"),
    (["users", "lst"], 5, "micro: endpoint 'lst' not found for service 'users': did you mean: micro users accounts list\n"),
    (["users", "accounts/lst"], 5, "micro: endpoint 'accounts lst' not found for service 'users': did you mean: micro users accounts list\n"),
    (["users", "accounts"], 5, "micro: endpoint 'accounts' not found for service 'users': type one of: accounts count, accounts list\n"),
    (["users", "cuont"], 5, "micro: endpoint 'cuont' not found for service 'users': type one of: accounts count, groups count\n"),
    (["call", "users", "lst"], 5, "micro: endpoint 'lst' not found for service 'users': did you mean: micro call users Accounts.List\n"),
    (["stream", "helloworld", "Helloworld.Steam"], 5, "micro: endpoint 'Helloworld.Steam' not found for service 'helloworld': did you mean: micro stream helloworld Helloworld.Stream\n"),
    (["call", "helloworld", "Helloworld.Nope"], 5, "micro: endpoint 'Helloworld.Nope' not found for service 'helloworld': it has Helloworld.Call, Helloworld.PingPong, Helloworld.Stream\n"),
    (["helloworld", "nope"], 5, "micro: endpoint 'nope' not found for service 'helloworld': it has call, ping_pong, stream\n"),
    (["call", "helloworld", "Helloworld.Call", "{"], 2, "micro: the request is not JSON: Expecting property name enclosed in double quotes at character 2; in a shell: '{\"name\": \"value\"}'\n"),
    (["helloworld", "call", "Ann"], 5, "micro: endpoint 'call Ann' not found for service 'helloworld': 'Ann' needs a flag, see: micro helloworld call --help\n"),
    (["call", "helloworld", "Helloworld.Stream"], 2, "micro: Helloworld.Stream streams: type micro stream helloworld Helloworld.Stream\n"),
    (["helloworld", "call", "--data=@/nowhere"], 2, "micro: helloworld call: cannot read /nowhere: No such file or directory\n"),
    (["helloworld", "call", "--data=[]"], 2, 'micro: helloworld call: --data is not a JSON object: write {"name": "value"}\n'),
    (["call", "helloworld"], 2, "micro: missing ENDPOINT; see: micro call --help\n"),
    (["call", "helloworld", "Helloworld.Call", "--request_timeout=x"], 2, "micro: 'x' is not a duration: give for example 500ms, 5s or 2m\n"),
    (["--bogus"], 2, "micro: unknown flag --bogus: see: micro --help\n"),
    (["--env"], 2, "micro: --env needs a name: type --env NAME\n"),
    (["services", "--outptu=json"], 2, "micro: unknown flag --outptu: did you mean --output?\n"),
    (["server", "--api-adress", "x"], 2, "micro: unknown flag --api-adress: did you mean --api-address?\n"),
    (["server", "--tls_certs", "x"], 2, "micro: unknown flag --tls_certs: did you mean --tls-cert?\n"),
    (["server", "--api_address"], 2, "micro: --api-address needs a value; see: micro server --help\n"),
    (["services", "users", "extra"], 2, "micro: unexpected 'extra': see: micro services --help\n"),
    (["services", "nope"], 4, "micro: service 'nope' not found in namespace 'micro': see micro services\n"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "message"), FAILURES, ids=lambda case: " ".join(case) if isinstance(case, list) else ""
)
def test_each_failure_is_one_line_and_an_exit_code_of_its_own(
    micro: Shell, words: list[str], code: int, message: str
) -> None:
    result = micro(*words)
    assert (result.code, result.out, result.err) == (code, "", message)


@pytest.mark.parametrize(
    "words", [["services"], ["helloworld"], ["status"], ["health"], ["logs", "x"], ["call", "a", "b"], ["kill", "x"]]
)
def test_without_a_server_every_command_says_how_to_start_one(lonely: Shell, words: list[str]) -> None:
    result = lonely(*words)
    assert (result.code, result.out) == (4, "")
    assert "no server at 127.0.0.1:1: start one with: micro server" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("words", [["greeter", "call"], ["call", "greeter", "Greeter.Call", "{}"]])
@pytest.mark.parametrize(("status", "starts"), [("STARTING", True), ("RUNNING", True), ("ERROR", False)])
def test_a_service_that_is_starting_is_not_called_unknown(
    micro: Shell, platform: FakePlatform, words: list[str], status: str, starts: bool
) -> None:
    """As after a restart of the server: the runtime knows it, and the registry does not yet."""
    platform.running["greeter", "latest"] = {"name": "greeter", "status": f"STATUS_{status}"}
    result = micro(*words)
    told = result.err == "micro: greeter is starting: try again in a moment, or see: micro status\n"
    assert (result.code, result.out, told) == (4, "", starts)


def test_without_a_server_a_slip_in_a_commands_name_is_still_recognised(lonely: Shell) -> None:
    assert lonely("statsu").err == "micro: 'statsu' is not a command: did you mean status?\n"
    assert lonely("helloworld").err == (
        "micro: no command 'helloworld', and no server at 127.0.0.1:1: start one with: micro server\n"
    )


def test_the_slip_of_a_finger_after_which_the_server_speaks_something_else(lonely: Shell) -> None:
    """A port on which something other than HTTP answers is no reason for a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        result = Shell(lonely.home, f"127.0.0.1:{listener.getsockname()[1]}")("services")
        thread.join()
    assert result.code == 4
    assert "not HTTP: 'SSH-2.0-OpenSSH'" in result.err


def test_a_stream_is_printed_message_by_message_one_a_line_on_a_pipe(micro: Shell, platform: FakePlatform) -> None:
    result = micro("stream", "helloworld", "Helloworld.Stream", '{"count": 3}')
    assert (result.code, result.out) == (0, '{"count":"0"}\n{"count":"1"}\n{"count":"2"}\n')
    assert platform.last().messages == [{"count": 3}]
    assert micro("helloworld", "stream", "--count=3").out == result.out


def test_a_stream_that_fails_shows_what_came_before(micro: Shell) -> None:
    result = micro("helloworld", "stream", "--count=9")
    assert result.out.count("\n") == 5
    assert (result.code, result.err) == (127, "micro: out_of_range: five is enough\n")


def test_messages_from_standard_input_are_answered_before_the_last_is_typed(
    micro: Shell, platform: FakePlatform
) -> None:
    """A bidirectional stream goes both ways at once: the second message is typed after the first answer."""
    out = Screen()
    answered = threading.Event()
    out.write = lambda text, write=out.write: (write(text), answered.set())[0]  # type: ignore[method-assign]
    typed = iter(['{"stroke": 1}\n', '{"stroke": 2}\n', ""])

    class Keyboard(Screen):
        def readline(self, *_: object) -> str:
            line = next(typed)
            if "2" in line:
                assert answered.wait(10)
            return line

    code = app.run(["helloworld", "ping_pong"], Keyboard(), out, Screen(), micro.environ)
    assert (code, out.getvalue()) == (0, '{"stroke":1}\n{"stroke":2}\n')


def test_a_bad_line_on_standard_input_ends_the_stream_with_its_number(micro: Shell) -> None:
    result = micro("stream", "helloworld", "PingPong", stdin='{"stroke": 1}\nnonsense\n')
    assert result.code == 2
    assert "line 2 of standard input is not JSON" in result.err


def test_an_address_of_ones_own_is_called_without_the_registry(lonely: Shell, platform: FakePlatform) -> None:
    result = lonely("call", "helloworld", "Helloworld.Call", '{"name":"Ann"}', "--address", platform.address)
    assert (result.code, result.err) == (0, "")
    assert [call.path for call in platform.calls] == ["/helloworld/Helloworld/Call"]


def test_a_namespace_is_sent_and_no_other_is_asked(micro: Shell, platform: FakePlatform) -> None:
    assert micro("--namespace", "acme", "helloworld", "--name=Ann").code == 4
    platform.services[0]["namespace"] = "acme"
    platform.calls.clear()
    assert micro("--namespace", "acme", "helloworld", "--name=Ann").code == 0
    asked = [call.messages[0]["namespace"] for call in platform.calls if call.path.endswith("GetService")]
    assert asked == ["acme"]
    assert {call.headers["micro-namespace"] for call in platform.calls} == {"acme"}


def test_an_option_comes_before_a_field_of_its_name_and_the_field_has_a_prefix(
    micro: Shell, platform: FakePlatform
) -> None:
    fields = [{"name": name, "type": "string"} for name in ("namespace", "env", "data", "output", "help", "timeout")]
    platform.services[1]["endpoints"][0]["request"] = {"name": "R", "type": "message", "values": fields}
    platform.services[1]["namespace"] = "acme"
    words = ["--namespace=acme", "--env=local", "--output=raw", "--timeout=5", "--data", '{"env": "a", "data": "b"}']
    assert micro("users", "save", *words, "--field_env=prod", "--field-help", "me").out == '{"msg": "saved"}\n'
    call = platform.last("/Save")
    assert call.messages == [{"env": "prod", "data": "b", "timeout": "5", "help": "me"}]
    assert call.headers["micro-namespace"] == "acme"
    wrong = micro("--namespace=acme", "users", "save", "--data=b")
    assert wrong.err.startswith("micro: users save: --data is not JSON: ")
    assert wrong.err.endswith("; the field is --field_data\n")
    help_ = micro("--namespace=acme", "users", "save", "--help").out
    assert "\n  --field_data string\n" in help_
    assert "\n--data is the option below; the field data is --field_data.\n" in help_
    assert help_.count("--data ") == 2


def test_global_flags_may_stand_before_the_endpoint(micro: Shell, platform: FakePlatform) -> None:
    platform.services[0]["namespace"] = "acme"
    assert micro("helloworld", "--namespace", "acme", "call", "--name=Ann").code == 0
    assert platform.last("/Call").headers["micro-namespace"] == "acme"
    assert micro("helloworld", "call", "--env").err == "micro: --env needs a name: type --env NAME\n"


def test_a_call_that_is_not_answered_in_time_says_so(micro: Shell, platform: FakePlatform) -> None:
    def slow(_: Any, __: Any) -> Any:
        raise Refusal("deadline_exceeded", "too slow", 504)

    platform.do_call = slow  # type: ignore[method-assign]
    assert micro("helloworld", "--name=A").err == "micro: deadline_exceeded: too slow\n"


def test_services_are_listed_by_name(micro: Shell, platform: FakePlatform) -> None:
    assert micro("services").out == "helloworld\nusers\n"
    platform.services = []
    empty = micro("services")
    assert (empty.code, empty.out) == (0, "")
    assert "micro new" in empty.err


def test_services_as_json_keep_their_promise(micro: Shell) -> None:
    found = json.loads(micro("services", "-o", "json").out)
    assert [set(one) for one in found] == [{"name", "version", "nodes", "endpoints", "consumes", "subscribes"}] * 2
    hello = found[0]
    assert hello["nodes"] == [{"id": "helloworld-1", "address": "127.0.0.1:40001"}]
    assert [(one["name"], one["stream"]) for one in hello["endpoints"]] == [
        ("Helloworld.Call", False),
        ("Helloworld.PingPong", True),
        ("Helloworld.Stream", True),
    ]
    assert set(hello["endpoints"][0]) == {"name", "stream", "request", "response"}
    assert hello["endpoints"][0]["request"]["values"][0]["name"] == "name"


def test_colour_is_for_terminals_that_want_it(micro: Shell) -> None:
    assert "\x1b[" in micro("health", terminal=True).out
    assert "\x1b[" not in micro("health").out
    micro.environ["NO_COLOR"] = "1"
    assert not re.search("\x1b\\[[0-9]+m", micro("health", terminal=True).out)
