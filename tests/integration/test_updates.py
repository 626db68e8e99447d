"""New code replaces old without a request lost; bad code replaces nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
import zipfile

import pytest
import worlds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    with worlds.world(tmp_path_factory.mktemp("updates"), MICRO_READY_TIMEOUT="8") as made:
        made.start()
        made.cli("run", str(made.service()))
        yield made


def greet(world: worlds.World) -> str:
    with urllib.request.urlopen(f"http://{world.api}/helloworld/call?name=Ann", timeout=10) as response:
        return json.loads(response.read())["msg"]


def status(world: worlds.World, name: str = "helloworld") -> dict:
    found = json.loads(world.cli("status", "-o", "json").stdout)
    return next((service for service in found if service["name"] == name), {})


async def test_thirty_thousand_requests_during_five_updates_all_succeed(world: worlds.World) -> None:
    async with worlds.load(world.api, connections=8) as load:
        await load.reached(1000)
        for number in range(5):
            folder = world.service(source=worlds.HELLO.replace('"Hello"', f'"Hello{number}"'))
            await asyncio.to_thread(world.cli, "update", str(folder))
            await load.reached(load.sent + 500)
        await load.reached(30_000, within=180)
    assert load.failures == []
    assert load.sent >= 30_000
    assert {f'{{"msg":"Hello{number} Ann"}}' for number in range(5)} <= load.answers.keys()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
        ("def broken(:\n", "    def broken(:\n"),
        ("", 'helloworld did not start: main.py defines no app: end it with app = Service("name", Handler())'),
        ("app = 5\n", "app in main.py is of type int, not an ASGI application: end it with app = "),
        (worlds.HELLO + "\nraise RuntimeError('no thanks')\n", "no thanks"),
        (worlds.HELLO + "\n@app.on_start\nasync def never():\n    await asyncio.Event().wait()\n", "ready"),
        (worlds.HELLO + "\n@app.on_start\nasync def crash():\n    os._exit(7)\n", "exit status 7"),
    ],
    ids=["import", "syntax", "empty", "no application", "raises", "never ready", "crashes"],
)
def test_code_that_does_not_start_leaves_the_old_serving_and_says_why(
    world: worlds.World, source: str, expected: str
) -> None:
    world.cli("update", str(world.service()))
    before = greet(world)
    done = world.cli("update", str(world.service(source=source)), check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr.splitlines()[0]
    assert greet(world) == before
    described = status(world)
    assert described["status"] == "running"
    assert expected in described["error"]


def test_a_first_run_that_does_not_start_says_why_and_can_be_mended(world: worlds.World) -> None:
    proto = worlds.PROTO.replace("helloworld", "mended").replace("Helloworld", "Mended")
    good = worlds.HELLO.replace("helloworld", "mended").replace("Helloworld", "Mended")
    folder = world.service("mended", "import nothing_of_that_name\n", proto)
    done = world.cli("run", str(folder), check=False)
    assert done.returncode == 1
    assert "nothing_of_that_name" in done.stderr
    assert status(world, "mended")["status"] == "error"
    world.service("mended", good, proto)
    assert "running" in world.cli("run", str(folder)).stdout
    assert status(world, "mended")["error"] == ""
    world.cli("kill", "mended")
    assert status(world, "mended") == {}


def test_two_updates_at_once_both_succeed(world: worlds.World) -> None:
    folder = world.service()

    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(world.cli, "update", str(folder)) for _ in range(2)))

    asyncio.run(both())
    assert greet(world).endswith("Ann")
    assert status(world)["instances"] == 1


def test_a_killed_service_leaves_nothing_behind(world: worlds.World) -> None:
    proto = worlds.PROTO.replace("helloworld", "brief").replace("Helloworld", "Brief")
    source = worlds.HELLO.replace("helloworld", "brief").replace("Helloworld", "Brief")
    folder = world.service("brief", "import colours\n" + source, proto)
    with zipfile.ZipFile(folder / "colours-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("colours.py", "print('red')")
        wheel.writestr("colours-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n")
        wheel.writestr("colours-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("colours-1.0.dist-info/RECORD", "")
    (folder / "requirements.txt").write_text("--no-index\n./colours-1.0-py3-none-any.whl\n")
    world.cli("run", str(folder))
    environments = world.layout.runtime / "environments"
    assert len(list(environments.iterdir())) == 1
    with urllib.request.urlopen(f"http://{world.api}/brief/call?name=pid", timeout=5) as response:
        pid = int(json.loads(response.read())["msg"])
    world.cli("kill", "brief")
    assert not worlds.alive(pid)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{world.api}/brief/call?name=x", timeout=5)
    assert refused.value.code == 404
    assert "brief" not in world.cli("services").stdout
    assert not list((world.layout.runtime / "namespaces").glob("*/services/brief/*"))
    assert not list((world.layout.runtime / "namespaces").glob("*/uploads/*"))
    assert not list(world.layout.run.glob("brief-*"))
    assert worlds.eventually(lambda: not list(environments.iterdir()))
    assert "red" in world.cli("logs", "brief").stdout


def test_an_archive_that_is_none_is_refused_and_leaves_no_trace(world: worlds.World) -> None:
    code = """
import asyncio, sys
from micro import errors
from micro.rpc.client import Client
from micro.rpc.gen.micro.runtime.v1.runtime_connect import RuntimeClient, SourceClient
from micro.rpc.gen.micro.runtime.v1.runtime_pb import CreateRequest, Service, UploadRequest

async def pieces():
    yield UploadRequest(name="broken", data=b"this is no archive" * 100)

async def main():
    client = Client(metadata={"authorization": f"Bearer {sys.argv[1]}"})
    uploaded = await client.of(SourceClient, "runtime").upload(pieces())
    try:
        request = CreateRequest(service=Service(name="broken"), upload_id=uploaded.id, wait=True)
        await client.of(RuntimeClient, "runtime").create(request)
    except errors.Error as error:
        print(error.kind.code, error.message)

asyncio.run(main())
"""
    token = world.cli("user", "token", "--platform").stdout.strip()
    command = [sys.executable, "-c", code, token]
    done = subprocess.run(command, env=world.env, capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("invalid_argument "), done.stdout + done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    assert status(world, "broken") == {}
    assert not list((world.layout.runtime / "services").glob("*/broken/*"))
    assert not list((world.layout.runtime / "namespaces").glob("*/uploads/*"))
