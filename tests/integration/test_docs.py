"""What the documents show is what happens: their transcripts are typed, and the output compared. Then the examples that
they tell of, services with state and events, are run and used. One server for the module."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import worlds

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "guestbook"
ORDERS, MAILER = ROOT / "examples" / "orders", ROOT / "examples" / "mailer"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worlds.World]:
    with worlds.world(tmp_path_factory.mktemp("docs")) as made:
        made.start()
        yield made


def transcript(text: str) -> list[tuple[str, list[str]]]:
    """(command, output lines) of all console blocks, in order. A here-document belongs to its command."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        ends_at = ""
        for line in block.splitlines():
            if ends_at:
                found[-1] = (f"{found[-1][0]}\n{line}", [])
                ends_at = "" if line == ends_at else ends_at
            elif line.startswith("$ "):
                found.append((line[2:], []))
                here = re.search(r"<<'(\w+)'", line)
                ends_at = here.group(1) if here else ""
            else:
                found[-1][1].append(line)
    return found


def matches(shown: list[str], real: str) -> bool:
    """Whether the real output is the one shown; "..." stands for anything within a line, for any lines on its own."""
    parts = [r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"[ ]*\n" for line in shown]
    return re.fullmatch("".join(parts), real if real.endswith("\n") or not real else real + "\n") is not None


# In an order in which none sees what another has left: the page about config is followed with the tests of config.
@pytest.mark.parametrize(
    "page",
    [
        "docs/store.md",
        "docs/messaging.md",
        "docs/getting-started.md",
        "README.md",
        "docs/http.md",
        "docs/services.md",
    ],
)
def test_the_transcripts_of_a_page(page: str, world: worlds.World, tmp_path: Path) -> None:
    follow(page, world, tmp_path)


def follow(page: str, world: worlds.World, cwd: Path) -> None:
    """Type the commands of a page in a world that runs, from a folder on, and compare what they say."""
    steps = transcript((ROOT / page).read_text())
    assert len(steps) >= 4
    env = {**world.env, "PATH": f"{worlds.BIN}:{world.env['PATH']}"}
    for command, shown in steps:
        if command.startswith("cd "):
            cwd = cwd / command[3:]
            continue
        typed = command.replace("127.0.0.1:8080", world.api).replace("127.0.0.1:8081", world.proxy)
        done = subprocess.run(
            ["bash", "-c", typed],
            cwd=cwd,
            env=env,
            text=True,
            timeout=60,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        real = done.stdout.replace(world.api, "127.0.0.1:8080").replace(world.proxy, "127.0.0.1:8081")
        # A port of another length moves the table's columns.
        shown, real = ([re.sub(r" {2,}", "  ", line) for line in shown], re.sub(r" {2,}", "  ", real))
        assert matches(shown, real), f"{page}: $ {command}\nshown:\n" + "\n".join(shown) + f"\nreal:\n{real}"


def test_every_path_and_command_that_the_pages_name_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages:
        for task in re.findall(r"(?:`|^    )make ([a-z]+)\b", page.read_text(), re.MULTILINE):
            assert task in targets, f"{page.name} names make {task}"


# --- examples ---------------------------------------------------------------------------------------------------------


def call(world: worlds.World, *words: str, service: str = "guestbook") -> dict:
    return json.loads(world.cli(service, *words).stdout)


@pytest.mark.parametrize("example", [EXAMPLE, ORDERS, MAILER], ids=lambda path: path.name)
def test_its_own_tests_need_no_server(example: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "unittest"], cwd=example, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_guestbook_keeps_what_it_was_given(world: worlds.World) -> None:
    world.cli("run", str(EXAMPLE))
    signed = [call(world, "sign", f"--name=guest{n}", f"--email=Guest{n}@example.com", "--text=hi") for n in range(4)]
    twice = world.cli("guestbook", "sign", "--name=other", "--email=guest3@example.com", check=False)
    assert (twice.returncode, twice.stderr) == (127, "micro: already_exists: guest3@example.com has signed before\n")

    page = call(world, "list", "--limit=3")
    rest = call(world, "list", "--limit=3", f"--cursor={page['cursor']}")
    assert [entry["id"] for entry in page["entries"] + rest["entries"]] == [one["id"] for one in reversed(signed)]
    assert "cursor" not in rest
    assert call(world, "find", "--email=guest1@example.com") == signed[1]
    assert call(world, "get", f"--id={signed[1]['id']}")["reads"] == "1"

    # The table is the service's own, and what it keeps outlives its process and the store's.
    assert world.cli("store", "list", "email/", "-t", "guestbook").stdout.split() == [
        f"email/guest{n}@example.com" for n in range(4)
    ]
    store = world.processes()["store"]
    os.kill(store, signal.SIGKILL)
    assert worlds.eventually(lambda: world.processes().get("store") not in (None, store))
    world.cli("health", "--wait", "30")
    assert call(world, "get", f"--id={signed[1]['id']}")["reads"] == "2"


def test_a_watch_goes_on_when_the_store_was_away(world: worlds.World) -> None:
    world.cli("store", "write", "begin", "here", "-t", "watched")
    begin = json.loads(world.cli("store", "read", "begin", "-t", "watched", "-o", "json").stdout)[0]["version"]
    watching = subprocess.Popen(
        [worlds.MICRO, "store", "watch", "-p", "w/", "--after", str(begin), "-o", "json", "-t", "watched"],
        env=world.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        world.cli("store", "write", "w/1", "1", "-t", "watched")
        assert json.loads(watching.stdout.readline())["key"] == "w/1"
        before = world.processes()["store"]
        os.kill(before, signal.SIGKILL)
        assert worlds.eventually(lambda: world.processes().get("store") not in (None, before))
        world.cli("health", "--wait", "30")
        world.cli("store", "write", "w/2", "2", "-t", "watched")
        told = json.loads(watching.stdout.readline())
        assert (told["action"], told["key"], told["table"]) == ("written", "w/2", "watched")
    finally:
        watching.kill()
        watching.wait(10)


def test_bytes_of_any_kind_go_through_pipes(world: worlds.World) -> None:
    odd = bytes(range(256)) * 4096
    subprocess.run([worlds.MICRO, "store", "write", "odd"], env=world.env, input=odd, check=True, timeout=60)
    read = subprocess.run(
        [worlds.MICRO, "store", "read", "odd", "-o", "raw"], env=world.env, capture_output=True, check=True, timeout=60
    )
    assert read.stdout == odd


def test_an_order_is_mailed_though_the_mailer_comes_later(world: worlds.World) -> None:
    world.cli("run", str(ORDERS))
    order = call(world, "place", "--email=ann@example.com", "--item=pen", "--quantity=2", service="orders")
    broken = call(world, "place", "--email=nowhere", "--item=pen", service="orders")
    call(world, "cancel", f"--id={order['id']}", service="orders")

    world.cli("run", str(MAILER))
    told = ("events", "groups", "orders", "-o", "json")
    assert worlds.eventually(lambda: [one["lag"] for one in json.loads(world.cli(*told).stdout)] == [0])
    mails = call(world, "list", f"--order={order['id']}", service="mailer")["mails"]
    assert [mail["subject"] for mail in mails] == ["Your order is placed", "Your order is cancelled"]

    dead = json.loads(world.cli("events", "dead-letters", "orders", "mailer", "-o", "json").stdout)
    assert [(one["key"], one["attempt"], one["payload"]["email"]) for one in dead] == [(broken["id"], 3, "nowhere")]
    assert dead[0]["reason"] == "ValueError: 'nowhere' is no address"
    # It is tried again, and is one again.
    assert world.cli("events", "redrive", "orders", "mailer").stdout == "1 event will be delivered to mailer again\n"
    listed = ("events", "dead-letters", "orders", "mailer", "-o", "json")
    assert worlds.eventually(lambda: [one["offset"] for one in json.loads(world.cli(*listed).stdout)] == [2])


def test_consumers_go_on_when_events_was_away(world: worlds.World) -> None:
    world.cli("events", "retain", "away", "--age", "7d", "--create")
    consuming = {
        group: subprocess.Popen(
            [worlds.MICRO, "events", "consume", "away", "-o", "json", *(["-g", group] if group else [])],
            env=world.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for group in ("", "g")
    }
    try:
        for one in consuming.values():
            assert one.stderr is not None
            assert one.stderr.readline().startswith("consuming away from 1 on")
        for number in (1, 2):
            world.cli("events", "publish", "away", str(number))
            for one in consuming.values():
                assert one.stdout is not None
                told = json.loads(one.stdout.readline())
                while told["offset"] < number:  # what was acknowledged a moment before the crash comes again
                    told = json.loads(one.stdout.readline())
                assert (told["offset"], told["payload"], told["attempt"]) == (number, number, 1)
            os.kill(world.processes()["events"], signal.SIGKILL)
            for said in ("waiting for the server at ", "the server is back"):
                for one in consuming.values():
                    assert one.stderr is not None
                    assert one.stderr.readline().startswith(said)
        for one in consuming.values():
            one.send_signal(signal.SIGINT)
            assert one.wait(30) == 130
            assert one.stderr.read() == ""
    finally:
        for one in consuming.values():
            one.kill()
            one.wait(10)
