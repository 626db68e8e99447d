"""Logins on disk: private, whole, and one writer at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from micro.domain.errors import Error, Kind
from micro.ports.sessions import Sessions, Stored, StoredSession

ANN = StoredSession("ann", "Ann", "acme", "access-1", "refresh-1", 1000.5, "service-1")


def test_a_login_is_there_for_the_next_command_and_for_nobody_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Sessions(home).locked() as stored:
        stored["local"] = Stored("acme", ANN)

    assert Sessions(home).read("local") == Stored("acme", ANN)
    assert Sessions(home).read("prod") == Stored()
    assert {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()} == {
        "sessions.json": 0o600,
        "sessions.lock": 0o600,
    }
    session = {"id": "ann", "name": "Ann", "namespace": "acme", "access_token": "access-1"}
    session |= {"refresh_token": "refresh-1", "expires": 1000.5, "service_token": "service-1"}
    assert json.loads((home / "sessions.json").read_text()) == {"local": {"namespace": "acme", "session": session}}


def test_a_login_of_an_earlier_version_is_read_and_lacks_the_token_for_services(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    with sessions.locked() as stored:
        stored["local"] = Stored("acme", ANN)
    kept = json.loads(sessions.path.read_text())
    del kept["local"]["session"]["service_token"]
    sessions.path.write_text(json.dumps(kept))
    assert sessions.read("local").session == ANN._replace(service_token="")


def test_logging_out_leaves_the_other_environments(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    with sessions.locked() as stored:
        stored.update(local=Stored(session=ANN), prod=Stored("acme", ANN))
    with sessions.locked() as stored:
        del stored["local"]
    assert sessions.read("local") == Stored()
    assert sessions.read("prod") == Stored("acme", ANN)


def test_what_fails_on_the_way_stores_nothing(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)

    def change() -> None:
        with sessions.locked() as stored:
            stored["local"] = Stored(session=ANN)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        change()
    assert sessions.read("local") == Stored()
    with sessions.locked() as stored:  # the lock was given back
        assert stored == {}


def test_looking_writes_nothing(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    sessions.read("local")
    assert not list(tmp_path.iterdir())
    with sessions.locked():
        pass
    assert not sessions.path.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"local": 1}', '{"local": {"session": {"id": "ann"}}}', "\xff"])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, text: str) -> None:
    sessions = Sessions(tmp_path)
    sessions.path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Error, match=r"sessions\.json cannot be read.*remove it") as raised:
        sessions.read("local")
    assert raised.value.kind is Kind.FAILED_PRECONDITION


def test_tokens_stay_out_of_what_is_printed(tmp_path: Path) -> None:
    assert "access-1" not in repr(Stored("acme", ANN))
    assert "refresh-1" not in repr(ANN)


COUNTING = """
import sys
from pathlib import Path
from micro.ports.sessions import Sessions
for _ in range(20):
    with Sessions(Path(sys.argv[1])).locked() as stored:
        session = stored["local"].session
        fresh = session._replace(refresh_token=str(int(session.refresh_token) + 1))
        stored["local"] = stored["local"]._replace(session=fresh)
"""


def test_processes_take_turns_and_none_uses_a_token_that_another_has_used(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    with sessions.locked() as stored:
        stored["local"] = Stored("acme", ANN._replace(refresh_token="0"))
    running = [subprocess.Popen([sys.executable, "-c", COUNTING, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    found = sessions.read("local").session
    assert found is not None
    assert found.refresh_token == "80"
