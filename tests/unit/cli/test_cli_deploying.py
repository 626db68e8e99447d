"""`micro run`, `update`, `kill`, `status`, `logs` and `health`."""

# ruff: noqa: E501 - a table is read one case a line

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_platform import FakePlatform, Refusal, endpoint, message, value
from shell import Shell

from micro.cli import deploying, environment, plan, tracebacks, view
from micro.cli.platform import Platform
from micro.cli.session import Session
from micro.cli.transport import Address

BROKEN = """it ended with 1 before it was ready
Traceback (most recent call last):
  File "/home/x/.micro/server/runtime/micro/greeter/main.py", line 3, in <module>
    import handlers
  File "/home/x/.micro/server/runtime/micro/greeter/handlers/__init__.py", line 7, in <module>
    nonsense
  File "/usr/lib/python3.11/site-packages/other/main.py", line 99, in f
NameError: name 'nonsense' is not defined"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A service's folder."""
    made = tmp_path / "helloworld"
    made.mkdir()
    (made / "main.py").write_text("print('hi')\n")
    return made


def names_in(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as opened:
        return opened.getnames()


def test_run_uploads_the_folder_and_says_what_to_type_next(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    result = micro("run", str(folder))
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "helloworld is running",
        "",
        "  url   http://127.0.0.1:18080/helloworld",
        "  call  micro helloworld call --name=Ann",
        '        curl http://127.0.0.1:18080/helloworld/call -d \'{"name": "Ann"}\'',
        "  logs  micro logs helloworld",
    ]
    assert names_in(platform.uploads["upload-0"]) == ["main.py"]
    created = platform.last("/Create").messages[0]
    assert created == {
        "service": {"name": "helloworld", "version": "latest", "namespace": "micro", "source": str(folder)},
        "uploadId": "upload-0",
        "wait": True,
    }
    first = platform.last("/Upload").messages[0]
    assert (first["name"], first["namespace"]) == ("helloworld", "micro")


def test_what_to_type_next_means_the_same_namespace(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    platform.services[0]["namespace"] = "acme"
    lines = micro("--namespace=acme", "run", str(folder)).out.splitlines()
    assert lines[3:] == [
        "  call  micro --namespace acme helloworld call --name=Ann",
        "        curl http://127.0.0.1:18080/helloworld/call -H 'micro-namespace: acme' -d '{\"name\": \"Ann\"}'",
        "  logs  micro --namespace acme logs helloworld",
    ]


def test_where_an_account_is_needed_the_example_shows_a_token(micro: Shell, folder: Path) -> None:
    file = micro.home / "server" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "accounts": True}))
    assert (
        "        curl http://127.0.0.1:18080/helloworld/call "
        """-H "authorization: Bearer $(micro user token)" -d '{"name": "Ann"}'"""
    ) in micro("run", str(folder)).out.splitlines()


def test_on_a_terminal_one_line_says_what_goes_on_and_is_gone_in_the_end(micro: Shell, folder: Path) -> None:
    result = micro("run", str(folder), terminal=True)
    assert "uploading helloworld…" in result.err
    assert "starting helloworld…" in result.err
    assert "\n" not in result.err
    assert result.err.endswith("\r\x1b[2K")
    assert "✓" in result.out


def test_run_passes_its_flags_on(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    words = [
        "--name=other",
        "--version=v2",
        "-e",
        "A=b=c",
        "--env_vars=D=",
        "-i",
        "3",
        "--metadata",
        "team=x",
        "--no-wait",
    ]
    result = micro("run", str(folder), *words)
    assert result.out == "other@v2 is starting; see: micro status other\n"
    created = platform.last("/Create").messages[0]
    assert created["service"] | {"source": ""} == {
        "name": "other", "version": "v2", "namespace": "micro", "source": "", "metadata": {"team": "x"},
    }  # fmt: skip
    assert (created["env"], created["instances"], "wait" in created) == ({"A": "b=c", "D": ""}, 3, False)


def test_run_of_what_runs_already_updates_it(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    micro("run", str(folder))
    result = micro("run", str(folder))
    assert result.out.startswith("helloworld is updated and running\n")
    assert platform.last("/Update").messages[0]["uploadId"] == "upload-1"


def test_a_large_folder_is_uploaded_in_pieces(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    import random

    noise = random.Random(1).randbytes(700_000)
    (folder / "model.bin").write_bytes(noise)
    assert micro("run", str(folder)).code == 0
    assert len(platform.last("/Upload").messages) == 3
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(platform.uploads["upload-0"]))) as opened:
        member = opened.extractfile("model.bin")
        assert member
        assert member.read() == noise


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{}/nothing"], "no folder '{}/nothing': give the folder of a service, or make one: micro new"),
        (["{}"], "no main.py in '{}': a service starts there; make one with: micro new NAME"),
        (["{}/helloworld/main.py"], "'{}/helloworld/main.py' is a file: give the folder of the service, micro run {}/helloworld"),
        (["github.com/micro/services/helloworld"], "no folder 'github.com/micro/services/helloworld': clone it first, then run the folder"),
        (["{}/helloworld", "--name=Bad_Name"], "'Bad_Name' is not a service name: use up to 63 lower-case letters, digits, hyphens and dots, a letter first"),
        (["{}/helloworld", "--name=registry"], "'registry' is a core service of the platform: give another name with --name"),
        (["{}/helloworld", "-e", "A"], "-e takes KEY=VALUE, a variable of the service, not 'A'; to choose an environment: --env A"),
        (["{}/helloworld", "-e", "=x"], "-e takes KEY=VALUE, not '=x'"),
        (["{}/helloworld", "-i", "0"], "--instances takes a number from 1 to 64, not '0'; see: micro run --help"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_anything_is_sent(
    micro: Shell, platform: FakePlatform, folder: Path, words: list[str], message: str
) -> None:
    here = str(folder.parent)
    result = micro("run", *(word.replace("{}", here) for word in words))
    assert (result.code, result.out, result.err) == (2, "", f"micro: {message.replace('{}', here)}\n")
    assert platform.calls == []


def test_a_service_that_does_not_start_shows_the_place_and_its_last_output(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    (folder / "handlers").mkdir()
    (folder / "handlers" / "__init__.py").write_text("nonsense\n")
    platform.fail_start = BROKEN
    result = micro("run", str(folder))
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert (
        lines[0] == "micro: helloworld did not start: handlers/__init__.py:7: NameError: name 'nonsense' is not defined"
    )
    assert lines[1] == "  it ended with 1 before it was ready"
    assert "    nonsense" in result.err
    status = micro("status", "helloworld")
    assert "\nhelloworld:\n  it ended with 1 before it was ready\n  Traceback" in status.out
    assert json.loads(micro("status", "-o", "json").out)[0]["error"] == BROKEN


def test_update_by_name_finds_the_folder_again(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    micro("run", str(folder), "--name=other")
    (folder / "extra.py").write_text("")
    result = micro("update", "other")
    assert result.out.startswith("other is updated and running\n")
    assert names_in(platform.uploads["upload-1"]) == ["extra.py", "main.py"]
    assert platform.last("/Update").messages[0]["service"]["name"] == "other"


def test_update_of_what_does_not_run_is_an_error(micro: Shell, folder: Path) -> None:
    result = micro("update", "nope")
    assert (result.code, result.err) == (
        4,
        "micro: service 'nope' is not running: see micro status, or start it: micro run\n",
    )
    assert micro("update", str(folder)).code == 4


def test_a_failed_update_leaves_the_word_to_the_runtime(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    micro("run", str(folder))
    platform.fail_start = "no luck"
    result = micro("update", str(folder))
    assert result.code == 1
    assert result.err == "micro: helloworld did not start: no luck\nthe old code of helloworld keeps serving\n"


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("upload", "helloworld was not uploaded: nothing has changed\n"),
        ("update", "the server goes on updating helloworld; see: micro status helloworld\n"),
        ("create", "the server goes on starting helloworld; see: micro status helloworld\n"),
    ],
)
def test_ctrl_c_says_what_goes_on_in_the_server(
    micro: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, told: str
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    if step == "update":
        micro("run", str(folder))
    monkeypatch.setattr(Platform, step, pressed)
    done = micro("update" if step == "update" else "run", str(folder))
    assert (done.code, done.out, done.err) == (130, "", told)


def test_what_to_type_next_is_the_first_that_the_contract_declares(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    request = message("R", value("text"))
    platform.services[0]["endpoints"] = [
        endpoint("Notes.Watch", "notes", request, "server_stream"),
        endpoint("Notes.Write", "notes", request),
        endpoint("Notes.Append", "notes", request),
    ]
    assert "  call  micro helloworld notes write --text=hello" in micro("run", str(folder)).out


def test_what_to_type_next_for_a_service_that_is_named_like_a_command(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    request = message("R", value("name"))
    endpoints = [
        endpoint("Status.Watch", "status", request, "server_stream"),
        endpoint("Status.Call", "status", request),
    ]
    platform.services.append({"name": "status", "version": "latest", "namespace": "micro", "endpoints": endpoints})
    lines = micro("run", str(folder), "--name=status").out.splitlines()
    assert lines[3:5] == [
        """  call  micro call status Status.Call '{"name": "Ann"}'""",
        """        curl http://127.0.0.1:18080/status/call -d '{"name": "Ann"}'""",
    ]
    assert micro("call", "status", "Status.Call", '{"name": "Ann"}').code == 0
    endpoints.pop()
    lines = micro("run", str(folder), "--name=status").out.splitlines()
    assert lines[3] == """  call  micro stream status Status.Watch '{"name": "Ann"}'"""


def test_kill_stops_each_and_goes_on_after_one_that_is_not_there(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    for name in ("one", "two"):
        micro("run", str(folder), "--name", name)
    result = micro("kill", "one", "nope", "two")
    assert (result.code, result.out) == (4, "one stopped\ntwo stopped\n")
    assert result.err == "micro: service 'nope' is not running: see micro status\n"
    assert platform.running == {}


def test_kill_ends_the_one_version_that_runs_whatever_it_is_called(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    micro("run", str(folder), "--version=v2")
    assert micro("kill", "helloworld").out == "helloworld@v2 stopped\n"
    assert platform.running == {}


def test_kill_asks_which_of_several_versions_is_meant(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    for version in ("latest", "v1", "v2"):
        micro("run", str(folder), "--version", version)
    micro("run", str(folder), "--name=other")
    refused = micro("kill", "helloworld", "other")
    assert (refused.code, refused.out) == (2, "other stopped\n")
    assert refused.err == (
        "micro: service 'helloworld' runs as helloworld@latest, helloworld@v1, helloworld@v2: "
        "type micro kill helloworld@VERSION, or add --all\n"
    )
    assert micro("kill", "helloworld@v1", "--all").code == 2
    assert micro("kill", "helloworld@v1").out == "helloworld@v1 stopped\n"
    assert micro("kill", "--all", "helloworld").out == "helloworld stopped\nhelloworld@v2 stopped\n"
    assert platform.running == {}


def test_kill_leaves_the_platform_alone(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    micro("run", str(folder))
    result = micro("kill", "helloworld", "registry")
    assert (result.code, result.err) == (2, "micro: 'registry' is a core service: it ends with micro server\n")
    assert len(platform.running) == 1


def test_more_instances_than_there_can_be_are_refused_before_anything_is_sent(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    for many in ("65", "9" * 10):
        result = micro("run", str(folder), "-i", many)
        assert (result.code, f"takes a number from 1 to 64, not '{many}'" in result.err) == (2, True)
    assert not platform.uploads
    assert micro("run", str(folder), "-i", "64").code == 0


def test_limits_on_lines_are_the_servers(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    assert micro("run", str(folder)).code == 0
    assert micro("logs", "helloworld", "-n", "20000").code == 0
    assert platform.last("/Logs").messages[0]["lines"] == 20000


def test_status_is_a_table_for_people(micro: Shell, folder: Path) -> None:
    empty = micro("status")
    assert (empty.code, empty.out) == (0, "")
    micro("run", str(folder), "-i", "2")
    header, row = micro("status").out.splitlines()
    assert header.split() == ["NAME", "VERSION", "STATUS", "INSTANCES", "URL", "UPDATED"]
    assert row.split()[:5] == ["helloworld", "latest", "running", "2/2", "http://127.0.0.1:18080/helloworld"]
    assert header.index("STATUS") == row.index("running")
    assert "\x1b[32mrunning\x1b[0m" in micro("status", terminal=True).out
    assert micro("status", "nope").code == 4


def test_status_of_all_says_in_a_line_what_is_wrong_with_one(
    micro: Shell, platform: FakePlatform, folder: Path
) -> None:
    micro("run", str(folder))
    platform.running[("helloworld", "latest")]["error"] = "helloworld could not " + "be changed " * 20 + "\nTraceback\n"
    last = micro("status").out.splitlines()[2:]
    assert last[0] == ""
    assert last[1].startswith("helloworld runs; its last update said: could not be changed be changed")
    assert last[2:] == ["all that one says: micro status NAME"]
    assert len(last[1]) > 200
    micro.environ |= {"COLUMNS": "70", "NO_COLOR": "1"}
    shown = micro("status", terminal=True).out.splitlines()[3]
    assert (len(shown), shown[-1]) == (70, "…")
    assert "Traceback" in micro("status", "helloworld").out


def test_a_crash_is_headed_as_one(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    micro("run", str(folder), "-i", "2")
    service = platform.running[("helloworld", "latest")]
    service["error"] = "helloworld: exit status 3: out of paper\nthe last line\n"
    assert micro("status").out.splitlines()[3] == (
        "helloworld crashed and was started again: exit status 3: out of paper"
    )
    assert micro("status", "helloworld").out.splitlines()[3:] == [
        "helloworld crashed and was started again:",
        "  exit status 3: out of paper",
        "  the last line",
    ]
    service["instances"][1]["status"] = "STATUS_ERROR"
    assert "helloworld runs, but not all of its instances: exit status 3" in micro("status").out
    service["status"] = "STATUS_ERROR"
    assert micro("status").out.splitlines()[3] == "helloworld: exit status 3: out of paper"


def test_status_as_json_keeps_its_promise(micro: Shell, folder: Path) -> None:
    assert micro("status", "-o", "json").out == "[]\n"
    micro("run", str(folder), "-i", "2")
    assert json.loads(micro("status", "-o", "json").out) == [
        {
            "name": "helloworld",
            "namespace": "micro",
            "version": "latest",
            "source": str(folder),
            "status": "running",
            "instances": 2,
            "url": "http://127.0.0.1:18080/helloworld",
            "error": "",
            "updated": "2026-01-31T08:00:00Z",
        }
    ]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is two hours ahead of UTC."""
    monkeypatch.setenv("TZ", "XYZ-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_logs_show_the_local_time_and_further_lines_below_the_first(micro: Shell, platform: FakePlatform) -> None:
    platform.log[4] |= {"level": "error", "message": "no luck\nTraceback\n  File x\n"}
    assert micro("logs", "-n", "2", "helloworld").out.splitlines() == [
        "10:00:03  line 3",
        "10:00:04  no luck",
        "          Traceback",
        "            File x",
    ]
    coloured = micro("logs", "-n", "1", "helloworld", terminal=True).out
    assert coloured.startswith("\x1b[2m10:00:04\x1b[0m  \x1b[31mno luck\x1b[0m\n")


@pytest.mark.usefixtures("zone")
def test_logs_name_the_instance_where_there_are_several(micro: Shell, platform: FakePlatform, folder: Path) -> None:
    micro("run", str(folder), "-i", "2")
    assert "10:00:04  line 4\n" in micro("logs", "helloworld").out
    platform.log[4]["instance"] = "helloworld-2"
    assert "10:00:04 helloworld-2  line 4\n" in micro("logs", "helloworld").out
    assert micro("logs", "helloworld", "-n", "2").out.splitlines() == [
        "10:00:03 helloworld-1  line 3",
        "10:00:04 helloworld-2  line 4",
    ]


def test_logs_are_lines_or_records(micro: Shell, platform: FakePlatform) -> None:
    assert micro("logs", "helloworld").out.count("\n") == 5
    records = [json.loads(line) for line in micro("logs", "registry", "-o", "json").out.splitlines()]
    assert len(records) == 5
    assert list(records[0]) == ["timestamp", "level", "message", "instance"]
    micro("logs", "helloworld@v2")
    asked = platform.last("/Logs").messages[0]
    assert asked == {"name": "helloworld", "version": "v2", "namespace": "micro", "lines": 15, "follow": False}
    assert micro("logs", "nope").code == 4
    assert micro("logs", "helloworld", "-n", "0").code == 2


def test_health_has_a_line_for_every_core_service(micro: Shell, platform: FakePlatform) -> None:
    result = micro("health")
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines()[1:]]
    core = (
        "nats",
        "registry",
        "auth",
        "network",
        "runtime",
        "store",
        "config",
        "broker",
        "events",
        "mesh",
        "api",
        "proxy",
    )
    assert lines == [[name, "ready"] for name in core]
    platform.health.pop("runtime")
    platform.proxies = [{"id": "proxy"}, {"id": "api", "error": "bad route"}]
    result = micro("health", "-o", "json")
    assert result.code == 1
    found = {one["name"]: (one["status"], one["detail"]) for one in json.loads(result.out)}
    assert found["runtime"] == ("down", "runtime is not available: no healthy upstream; see: micro health")
    assert found["mesh"] == ("down", "not connected to network")
    assert found["api"] == ("not ready", "refused its routes: bad route")


def test_health_says_what_an_acknowledged_event_outlives(micro: Shell, platform: FakePlatform) -> None:
    platform.services.append({"namespace": "micro", "name": "events", "metadata": {"durability": "replicated"}})
    platform.services.append({"namespace": "micro", "name": "store", "metadata": {"durability": "of a later release"}})
    found = {one["name"]: one["detail"] for one in json.loads(micro("health", "-o", "json").out)}
    assert found["events"].startswith("durability replicated: on a majority of the servers")
    assert "one by one" not in found["events"]
    platform.services[-2]["metadata"]["batches"] = "apart"
    assert "a batch is published one by one, not all or nothing: NATS is older" in micro("health").out
    assert found["store"] == ""
    assert found["registry"] == ""


def test_health_waits_until_the_last_is_ready(
    micro: Shell, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.health["runtime"] = "NOT_SERVING"

    def turn(self: Session, seconds: float) -> None:
        platform.health["runtime"] = "SERVING"

    monkeypatch.setattr(Session, "sleep", turn)
    assert micro("health", "--wait", "30").code == 0
    assert sum(call.headers["micro-service"] == "runtime" for call in platform.calls) == 2


def test_health_waits_for_a_server_that_is_not_there_yet(
    lonely: Shell, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "sleep", lambda self, seconds: Shell(lonely.home, platform.address) and None)
    assert lonely("health", "--wait=30").code == 0


def test_health_waits_for_the_server_of_this_home_and_not_for_what_listens_there_already(
    platform: FakePlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener of a server answers before the server has written down where it is and who is logged in."""
    host, port = platform.address.split(":")
    monkeypatch.setattr(environment, "DEFAULT_ADDRESS", Address(host, int(port)))
    starting = Shell(tmp_path / "home")
    result = starting("health")
    assert result.code == 1
    assert [line.split()[0] for line in result.out.splitlines() if "still starting" in line] == ["mesh", "api", "proxy"]
    monkeypatch.setattr(Session, "sleep", lambda self, seconds: Shell(starting.home, platform.address) and None)
    result = starting("health", "--wait=30")
    assert result.code == 0
    assert {line.split()[1] for line in result.out.splitlines()[1:]} == {"ready"}


def test_health_says_what_only_admins_see_where_the_server_refuses(micro: Shell, platform: FakePlatform) -> None:
    def refuse(*_: object) -> None:
        raise Refusal("permission_denied", "not for you", 403)

    platform.do_proxies = refuse  # type: ignore[method-assign,assignment]
    result = micro("health")
    assert (result.code, result.out.count("shown to admins")) == (0, 1)


def test_status_of_nothing_names_the_namespace(micro: Shell) -> None:
    assert micro("--namespace=acme", "status").err.startswith("nothing runs in namespace acme yet; make a service: ")


def test_health_gives_up_in_the_end(lonely: Shell) -> None:
    result = lonely("health", "--wait=0.01")
    assert (result.code, result.out) == (4, "")


def test_a_name_that_is_nearly_a_services_is_told(micro: Shell, folder: Path) -> None:
    micro("run", str(folder))
    for words in (["status", "helloword"], ["logs", "helloword"], ["kill", "helloword"], ["status", "-w", "helloword"]):
        result = micro(*words)
        assert (result.code, result.out) == (4, "")
        assert result.err == "micro: service 'helloword' is not running: did you mean helloworld?\n"
    assert micro("logs", "registy").err.endswith("did you mean registry?\n")
    for words in (["status", "nope"], ["logs", "nope"], ["status", "helloworld@v9"], ["kill", "nope"]):
        assert "did you mean" not in micro(*words).err


@pytest.mark.parametrize(
    ("folder_name", "name"),
    [
        ("helloworld", "helloworld"),
        ("My_Service", "my-service"),
        ("2048 game!", "game"),
        ("a.b", "a.b"),
        ("x--", "x"),
        ("a_.b", "a.b"),
    ],
)
def test_a_folders_name_is_made_a_services(folder_name: str, name: str) -> None:
    assert plan.name_of_folder(folder_name) == name


def test_the_place_of_a_failure_is_the_innermost_of_the_services_own_files() -> None:
    assert tracebacks.place(BROKEN, {"main.py"}) == "main.py:3: NameError: name 'nonsense' is not defined"
    assert tracebacks.place("all is lost", {"main.py"}) == ""
    syntax = 'File "/x/main.py", line 2\n    def\n       ^\nSyntaxError: invalid syntax'
    assert tracebacks.place(syntax, {"main.py"}) == "main.py:2: SyntaxError: invalid syntax"


@pytest.mark.parametrize(
    ("updated", "shown"),
    [
        ("2026-01-31T08:00:00Z", "just now"),
        ("2026-01-31T07:59:59.5Z", "just now"),
        ("2026-01-31T07:59:58Z", "2 seconds ago"),
        ("2026-01-31T07:59:00Z", "1 minute ago"),
        ("2026-01-30T08:00:00Z", "1 day ago"),
        ("", ""),
    ],
)
def test_times_are_shown_as_people_say_them(updated: str, shown: str) -> None:
    assert view.ago(updated, 1769846400.0) == shown


def test_a_contract_that_is_newer_than_its_code_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "proto").mkdir()
    contract, code = tmp_path / "proto/greeter.proto", tmp_path / "proto/greeter_pb.py"
    for file in (contract, code):
        file.touch()
    os.utime(code, (200, 200))
    os.utime(contract, (100, 100))
    assert deploying.stale(tmp_path) == []
    os.utime(contract, (300, 300))
    assert deploying.stale(tmp_path) == [Path("proto/greeter.proto")]
    assert deploying.stale(tmp_path / "nowhere") == []
