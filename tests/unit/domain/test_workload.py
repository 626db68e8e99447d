"""The runtime's decisions: restarts, states, and the words for a failure."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro.domain import workload
from micro.domain.errors import Error, Kind
from micro.domain.workload import Restarts, State, Workload


def delays(*ready_for: float | None) -> list[float]:
    """The waits after ends that came after so many seconds of being ready (None: it never was)."""
    steps = itertools.accumulate(ready_for, lambda restarts, ready: restarts.failed(ready), initial=Restarts())
    return [round(step.delay, 3) for step in steps][1:]


def test_a_service_that_was_ready_comes_back_at_once_the_first_time() -> None:
    assert delays(5, 5, 5, 5) == [0, 0.2, 0.4, 0.8]


def test_a_service_that_never_was_ready_waits_from_the_first_time_on() -> None:
    assert delays(None, None, None) == [0.2, 0.4, 0.8]


def test_a_minute_of_health_is_forgiveness() -> None:
    assert delays(None, None, None, 60, 1) == [0.2, 0.4, 0.8, 0, 0.2]
    assert delays(None, None, None, 59) == [0.2, 0.4, 0.8, 0.8]


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=200))
def test_no_wait_is_ever_longer_than_half_a_minute(ends: list[float | None]) -> None:
    assert all(0 <= delay <= 30 for delay in delays(*ends))


def test_restarts_are_counted_for_ever() -> None:
    restarts = Restarts()
    for _ in range(10_000):
        restarts = restarts.failed(100)
    assert (restarts.count, restarts.streak) == (10_000, 1)


@pytest.mark.parametrize(
    ("phase", "instances", "expected"),
    [
        (State.BUILDING, [], State.BUILDING),
        (State.STOPPING, [State.RUNNING], State.STOPPING),
        (None, [State.ERROR, State.RUNNING], State.RUNNING),
        (None, [State.ERROR, State.STARTING], State.STARTING),
        (None, [State.ERROR], State.ERROR),
        (None, [], State.ERROR),
    ],
)
def test_the_state_of_a_whole_is_that_of_its_best_part(
    phase: State | None, instances: list[State], expected: State
) -> None:
    assert workload.overall(phase, instances) is expected


def test_an_instance_that_stopped_stays_so() -> None:
    for new in State:
        if new is not State.STOPPED:
            with pytest.raises(ValueError, match="does not go from stopped"):
                workload.step(State.STOPPED, new)
    assert workload.step(State.STOPPED, State.STOPPED) is State.STOPPED


def test_every_state_can_be_left_for_the_end() -> None:
    for state in State:
        if state not in (State.STOPPING, State.STOPPED):
            assert workload.step(state, State.STOPPING) is State.STOPPING


@pytest.mark.parametrize(
    ("status", "tail", "expected"),
    [
        (137, [], "exit status 137 (SIGKILL)"),
        (143, ["Traceback (most recent call last):"], "exit status 143 (SIGTERM)"),
        (255, ["its end was not seen"], "exit status 255"),
        (1, [], "exit status 1, without any output"),
        (3, ["no space left", ""], "exit status 3, its last line: no space left"),
    ],
)
def test_why_a_process_ended(status: int, tail: list[str], expected: str) -> None:
    assert workload.exit_reason(status, tail) == expected


def test_a_traceback_is_told_by_its_last_line_and_the_service_s_own_frame() -> None:
    tail = [
        "starting",
        "Traceback (most recent call last):",
        '  File "/srv/hello/main.py", line 7, in <module>',
        "    import rooms",
        '  File "/srv/hello/rooms/__init__.py", line 2, in <module>',
        "    import yaml",
        '  File "/usr/lib/python3.11/importlib/__init__.py", line 126, in import_module',
        "    return _bootstrap._gcd_import(name[level:], package, level)",
        "           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
        "ModuleNotFoundError: No module named 'yaml'",
        "Envoy says goodbye",
    ]
    told = "ModuleNotFoundError: No module named 'yaml' (rooms/__init__.py, line 2)"
    assert workload.exit_reason(1, tail, "/srv/hello") == told


def test_a_syntax_error_is_told_with_file_and_line() -> None:
    tail = [
        "Traceback (most recent call last):",
        '  File "/usr/lib/python3.11/runpy.py", line 3, in run',
        '  File "/srv/hello/main.py", line 12',
        "    def call(self",
        "            ^",
        "SyntaxError: '(' was never closed",
    ]
    assert workload.exit_reason(1, tail, "/srv/hello") == "SyntaxError: '(' was never closed (main.py, line 12)"


def test_of_two_tracebacks_the_last_one_counts() -> None:
    tail = [
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in f',
        "KeyError: 'a'",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "b.py", line 2, in g',
        "RuntimeError: no a",
    ]
    assert workload.exception(tail) == "RuntimeError: no a (b.py, line 2)"


def test_an_exception_without_traceback_is_found_and_the_server_s_own_words_are_left_out() -> None:
    tail = [
        "my own line",
        "[backtrace] [./source/server/backtrace.h:161] Caught Segmentation fault",
        "[dynamic_modules] [source/extensions/dynamic_modules/abi_impl.cc:60] Failed to initialize ASGI app",
        "SyntaxError: invalid syntax (main.py, line 33)",
        "[main] [source/server/server.cc:453] error `Failed to create filter config` initializing config 'x",
        "    /tmp/x.json'",
        "Failed to create filter config: Failed to initialize dynamic module network filter config",
    ]
    assert workload.exit_reason(1, tail) == "SyntaxError: invalid syntax (main.py, line 33)"
    assert workload.story(tail) == ("my own line", "SyntaxError: invalid syntax (main.py, line 33)")


def test_what_envoy_says_of_its_filters_is_left_out_also_without_an_exception() -> None:
    tail = [
        "no database",
        "Failed to initialize ASGI app",
        "[critical][main] error `Failed to create filter config` initializing config 'x",
        "    /tmp/x.json'",
        "Failed to create filter config: Failed to initialize dynamic module network filter config",
        "",
    ]
    assert workload.exit_reason(1, tail) == "exit status 1, its last line: no database"
    assert workload.told("hello", "why", tail) == "hello: why\nno database"
    assert workload.story(["I say: Failed to create filter config", "  and so on"]) == (
        "I say: Failed to create filter config",
        "  and so on",
    )


ANSWERED = (
    "internal error, id 87f3d8983a7d",
    "Traceback (most recent call last):",
    '  File "/srv/hello/main.py", line 26, in deep',
    '    {}["a"]',
    "KeyError: 'a'",
    "",
    "During handling of the above exception, another exception occurred:",
    "",
    "Traceback (most recent call last):",
    '  File "/srv/hello/main.py", line 28, in deep',
    '    raise KeyError("b")',
    "KeyError: 'b'",
)
DIED = (
    "Traceback (most recent call last):",
    '  File "/srv/hello/main.py", line 9, in go',
    "    raise OSError('gone')",
    "OSError: gone",
)
LINES = st.text(max_size=60) | st.sampled_from(
    [*ANSWERED, *DIED, "  + Exception Group Traceback (most recent call last):"]
)


@given(st.integers(0, 255), st.lists(LINES, max_size=40), st.booleans())
def test_any_end_is_told_in_one_line(status: int, tail: list[str], served: bool) -> None:
    lines = [line for text in tail for line in text.splitlines()]
    reason = workload.exit_reason(status, lines, "/srv", served=served)
    assert reason
    assert len(reason.splitlines()) == 1


def test_a_failure_is_told_with_its_last_lines() -> None:
    told = workload.told("hello did not start", "exit status 1", [*(f"line {i}" for i in range(50)), " ", ""])
    lines = told.splitlines()
    assert lines[0] == "hello did not start: exit status 1"
    assert lines[1:] == [f"line {i}" for i in range(30, 50)]


def test_what_the_reason_says_is_not_said_again() -> None:
    tail = [
        "ERROR cannot start",
        "Traceback (most recent call last):",
        '  File "/opt/src/micro/framework/service.py", line 135, in lifespan',
        "    await self.start(stack)",
        '  File "/srv/hello/main.py", line 8, in go',
        "    rooms.open()",
        "    ~~~~~~~~~~^^",
        '  File "/srv/hello/rooms.py", line 2, in open',
        "    json.loads('{')",
        '  File "/usr/lib/python3.11/json/__init__.py", line 346, in loads',
        "    return _default_decoder.decode(s)",
        "ValueError: bad start",
        "RuntimeError: Application startup failed: hello cannot start: bad start",
    ]
    reason = workload.exit_reason(1, tail, "/srv/hello")
    assert workload.told("hello", reason, tail).splitlines() == [
        "hello: ValueError: bad start (rooms.py, line 2)",
        "ERROR cannot start",
        "Traceback (most recent call last):",
        '  File "/srv/hello/main.py", line 8, in go',
        "    rooms.open()",
        "    ~~~~~~~~~~^^",
        '  File "/srv/hello/rooms.py", line 2, in open',
        "    json.loads('{')",
    ]


def test_a_traceback_without_any_code_of_the_service_is_left_as_it_is() -> None:
    frame = '  File "/usr/lib/python3.11/site-packages/x/y.py", line 1, in z'
    tail = ["Traceback (most recent call last):", frame, "    z()", "KeyError: 'a'"]
    assert workload.story(tail) == tuple(tail)


def test_one_line_that_says_all_is_the_reason() -> None:
    line = 'main.py defines no app: end it with app = Service("name", Handler())'
    reason = workload.exit_reason(1, ["hello from main", f"micro: {line}"])
    assert reason == line
    assert workload.told("hello did not start", reason, ["hello from main", f"micro: {line}"]).splitlines() == [
        f"hello did not start: {line}",
        "hello from main",
    ]
    assert workload.told("hello", "exit status 1: NameError", ["NameError"]) == "hello: exit status 1: NameError"


@pytest.mark.parametrize("status", [1, 3])
def test_an_exception_that_a_call_was_answered_with_ended_nothing(status: int) -> None:
    for tail in (ANSWERED, ("hello", *ANSWERED)):
        reason = workload.exit_reason(status, tail, "/srv/hello", served=True)
        assert reason == f"exit status {status}" + (", its last line: hello" if tail[0] == "hello" else "")
        assert "KeyError" not in workload.told("hello", reason, tail)
    assert (
        workload.exit_reason(status, [*ANSWERED, "no space left"])
        == f"exit status {status}, its last line: no space left"
    )


def test_an_exception_of_an_event_s_handler_ended_nothing() -> None:
    tail = ["orders failed at event 7, try 2: KeyError", *ANSWERED[1:], "bye"]
    assert workload.exit_reason(1, tail, served=True) == "exit status 1, its last line: bye"
    assert workload.outlived([tail[0], "bye"]) == (tail[0], "bye")


def test_an_exception_group_that_was_answered_is_left_out_to_its_end() -> None:
    group = ["  + Exception Group Traceback (most recent call last):", '  |   File "a.py", line 1, in f', "  +----"]
    assert workload.outlived([ANSWERED[0], *group, "next"]) == ("next",)


def test_only_status_one_is_that_of_an_exception() -> None:
    assert workload.exit_reason(1, DIED, "/srv/hello", served=True) == "OSError: gone (main.py, line 9)"
    assert workload.exit_reason(1, [*ANSWERED, *DIED], "/srv/hello") == "OSError: gone (main.py, line 9)"
    assert workload.exit_reason(3, DIED, "/srv/hello") == "exit status 3: OSError: gone"


def test_what_was_logged_before_the_last_words_of_a_service_that_ran_is_not_what_ended_it() -> None:
    tail = [*DIED, "out of ideas"]
    assert workload.exit_reason(1, tail, "/srv/hello", served=True) == "exit status 1, its last line: out of ideas"
    assert workload.exit_reason(1, tail, "/srv/hello") == "OSError: gone (main.py, line 9)"
    assert workload.story(tail) == tuple(tail)


def test_a_traceback_whose_begin_is_lost_ended_only_what_never_ran() -> None:
    tail = ANSWERED[3:]
    assert workload.exit_reason(1, ANSWERED[2:], "/srv/hello", served=True) == "exit status 1"
    assert workload.outlived(ANSWERED[2:], served=True) == ()
    assert workload.exit_reason(1, tail, "/srv/hello") == "KeyError: 'b' (main.py, line 28)"


@pytest.mark.parametrize(
    "env", [{"MICRO_X": "1"}, {"": "1"}, {"A B": "1"}, {"A": "\0"}, {"1A": ""}, {"MICRO_LOG_LEVEL": "loud"}]
)
def test_variables_that_cannot_be_set(env: dict[str, str]) -> None:
    with pytest.raises(Error) as caught:
        workload.environment(env)
    assert caught.value.kind is Kind.INVALID_ARGUMENT


def test_of_the_platforms_variables_the_level_of_the_log_is_the_users() -> None:
    assert workload.environment({"MICRO_LOG_LEVEL": "debug", "A": "b"}) == {"MICRO_LOG_LEVEL": "debug", "A": "b"}
    with pytest.raises(Error, match="use one of debug, info, warning, error"):
        workload.environment({"MICRO_LOG_LEVEL": "DEBUG"})
    with pytest.raises(Error, match="MICRO_HOME cannot be set: of those that begin with MICRO_, MICRO_LOG_LEVEL can"):
        workload.environment({"MICRO_HOME": "/"})


def test_a_workload_is_shown_as_users_name_it() -> None:
    assert str(Workload("micro", "hello", "latest")) == "hello"
    assert str(Workload("micro", "hello", "v2")) == "hello@v2"
