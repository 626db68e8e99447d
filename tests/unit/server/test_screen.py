"""What a server says when it is up."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from micro.ports.sessions import Sessions, Stored, StoredSession
from micro.server import settings
from micro.server.first_start import FirstAdmin
from micro.server.screen import Terminal
from micro.server.settings import Layout

OTHERS = {"MICRO_PROXY_ADDRESS": "0.0.0.0:8081", "MICRO_API_ADDRESS": "0.0.0.0:8080"}
TLS = {"MICRO_TLS_CERT": "/a.pem", "MICRO_TLS_KEY": "/a.key"}


RUN = "next: micro new greeter && cd greeter && micro run ."
LOGIN = "next: micro login --username admin"


def told(environ: dict[str, str], first: FirstAdmin | None = None, home: str = "/home/ann/.micro") -> str:
    out = io.StringIO()
    read = settings.read({"MICRO_HOME": home, **environ})
    Terminal(out, colour=False).running(read, Layout(read.home), first)
    return out.getvalue()


@pytest.mark.parametrize(
    ("environ", "calls", "tls"),
    [
        ({}, "services: anyone can call them, the listeners are on loopback", "TLS   off\n"),
        ({**OTHERS, **TLS}, "services: an account is needed", "TLS   on, with /a.pem\n"),
        ({**OTHERS, **TLS, "MICRO_PUBLIC": "1"}, "anyone can call them, on every address", "TLS   on"),
        ({**OTHERS, "MICRO_INSECURE": "1"}, "an account is needed", "off: what is in front of the listeners"),
        ({**TLS, "MICRO_TLS_CLIENT_CA": "/ca.pem"}, "on loopback", "clients need a certificate"),
    ],
)
def test_one_line_says_who_may_call_and_one_how_private_it_is(environ: dict[str, str], calls: str, tls: str) -> None:
    text = told(environ)
    assert calls in text
    assert tls in text
    assert ("https://" in text) is ("MICRO_TLS_CERT" in environ)


def test_the_admins_secret_is_shown_once_with_what_to_do_with_it() -> None:
    text = told({}, FirstAdmin("admin", "s3cret-s3cret", session=True))
    assert text.count("s3cret-s3cret") == 1
    assert "not shown again" in text
    assert "logged in already" in text
    assert "nobody is logged in" in told({}, FirstAdmin("admin", "s3cret-s3cret", session=False))
    assert "s3cret" not in told({})
    assert "s3cret" not in repr(FirstAdmin("admin", "s3cret-s3cret", session=True))


@pytest.mark.parametrize("environ", [{}, {"MICRO_NO_LOCAL_LOGIN": "1"}, {"MICRO_RESET_ADMIN": "1"}])
def test_what_comes_next_is_a_login_while_nobody_is_logged_in(environ: dict[str, str], tmp_path: Path) -> None:
    home = str(tmp_path)
    assert told(environ, FirstAdmin("admin", "s3cret-s3cret", session=False), home).splitlines()[-1].strip() == LOGIN
    assert told(environ, None, home).splitlines()[-1].strip() == LOGIN
    assert told(environ, FirstAdmin("admin", "s3cret-s3cret", session=True), home).splitlines()[-1].strip() == RUN
    with Sessions(tmp_path).locked() as stored:
        stored["local"] = Stored(session=StoredSession("ann", "Ann", "micro", "a", "r", 1.0))
    assert told(environ, None, home).splitlines()[-1].strip() == RUN


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("[::]", "localhost")])
def test_a_listener_on_every_address_is_shown_where_it_can_be_opened(host: str, shown: str) -> None:
    text = told({"MICRO_API_ADDRESS": f"{host}:8080", "MICRO_PROXY_ADDRESS": f"{host}:8081", "MICRO_INSECURE": "1"})
    assert f"HTTP  http://{shown}:8080  on every address\n" in text
    assert f"gRPC  {shown}:8081  on every address\n" in text
    assert "on every address" not in told({})
