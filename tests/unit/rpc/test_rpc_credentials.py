"""A process logs in once for all of its calls, renews before the end, and does not insist where it is refused."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable

import pytest

from micro.domain import errors
from micro.domain.audience import Audience
from micro.domain.errors import Error, Kind
from micro.rpc.client import Client
from micro.rpc.credentials import Credentials, Environment
from micro.rpc.gen.micro.auth.v1.auth_pb import TokenRequest, TokenResponse

LIFE = 900.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Auth:
    """Answers logins, an hour ahead of our clock; refuses while `error` says so, and waits while it is held."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.asked: list[str] = []
        self.error: Error | None = None
        self.free = asyncio.Event()
        self.free.set()
        self._refresh: set[str] = set()

    async def token(self, request: TokenRequest) -> TokenResponse:
        self.asked.append("refresh" if request.refresh_token else f"{request.namespace}/{request.id}")
        number = len(self.asked)
        await self.free.wait()
        if self.error is not None:
            raise self.error
        if request.refresh_token and request.refresh_token not in self._refresh:
            raise errors.unauthenticated("the session has ended")
        if not request.refresh_token and request.secret != "right":
            raise errors.unauthenticated("wrong")
        self._refresh = {f"r{number}"}
        created = dt.datetime.fromtimestamp(self._clock() + 3600, dt.UTC)
        return TokenResponse(
            access_token=f"t{number}",
            service_token=f"s{number}",
            refresh_token=f"r{number}",
            created=created.isoformat(),
            expires=(created + dt.timedelta(seconds=LIFE)).isoformat().replace("+00:00", "Z"),
        )

    def end_sessions(self) -> None:
        self._refresh.clear()


class World:
    def __init__(self, secret: str = "right") -> None:
        self.clock = Clock()
        self.auth = Auth(self.clock)
        self.own = Credentials(
            "till", secret, "shop", self.auth.token, clock=self.clock, delays=lambda: iter([0.5, 2.0, 8.0, 8.0])
        )


async def test_one_exchange_brings_the_tokens_for_the_platform_and_for_others() -> None:
    world = World()
    assert await world.own.token(Audience.SERVICES) == "s1"
    assert await world.own.token(Audience.PLATFORM) == "t1"
    assert world.auth.asked == ["shop/till"]
    world.clock.now += 2
    assert world.own.refused("s1"), "whichever of them was refused, both are replaced"
    assert [await world.own.token(audience) for audience in Audience] == ["t2", "s2"]


async def test_many_calls_need_one_login() -> None:
    world = World()
    world.auth.free.clear()
    waiting = [asyncio.ensure_future(world.own.token(Audience.PLATFORM)) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    world.auth.free.set()
    assert await asyncio.gather(*waiting[1:]) == ["t1"] * 9
    assert await world.own.token(Audience.PLATFORM) == "t1"
    assert world.auth.asked == ["shop/till"]


async def test_a_token_is_renewed_beside_the_calls_before_it_ends() -> None:
    world = World()
    assert await world.own.token(Audience.PLATFORM) == "t1"
    world.clock.now += LIFE * 0.7
    world.auth.free.clear()
    assert [await world.own.token(Audience.PLATFORM) for _ in range(3)] == ["t1"] * 3
    await asyncio.sleep(0)
    world.auth.free.set()
    while await world.own.token(Audience.PLATFORM) == "t1":
        await asyncio.sleep(0)
    assert world.auth.asked == ["shop/till", "refresh"]


async def test_a_token_that_has_ended_is_waited_for_and_a_session_that_has_begins_anew() -> None:
    world = World()
    await world.own.token(Audience.PLATFORM)
    world.clock.now += LIFE
    assert await world.own.token(Audience.PLATFORM) == "t2"
    world.auth.end_sessions()
    world.clock.now += LIFE
    assert await world.own.token(Audience.PLATFORM) == "t4"
    assert world.auth.asked == ["shop/till", "refresh", "refresh", "shop/till"]


async def test_a_refresh_token_is_shown_once_whatever_became_of_it() -> None:
    world = World()
    await world.own.token(Audience.PLATFORM)
    world.clock.now += LIFE
    world.auth.error = errors.unavailable("gone")
    with pytest.raises(Error, match="cannot log in as shop/till: gone"):
        await world.own.token(Audience.PLATFORM)
    world.auth.error = None
    world.clock.now += 1
    await world.own.token(Audience.PLATFORM)
    assert world.auth.asked == ["shop/till", "refresh", "shop/till"]


async def test_while_auth_is_away_a_token_serves_to_its_end() -> None:
    world = World()
    await world.own.token(Audience.PLATFORM)
    world.auth.error = errors.unavailable("gone")
    world.clock.now += LIFE * 0.8
    for _ in range(5):
        assert await world.own.token(Audience.PLATFORM) == "t1"
        await asyncio.sleep(0)
    assert world.auth.asked == ["shop/till", "refresh"]
    world.clock.now += LIFE
    with pytest.raises(Error) as failed:
        await world.own.token(Audience.PLATFORM)
    assert failed.value.kind is Kind.UNAVAILABLE


async def test_a_wrong_secret_says_so_and_is_not_tried_over_and_over() -> None:
    world = World(secret="wrong!!")
    for _ in range(5):
        with pytest.raises(Error, match="shop/till: its id or its secret is not right") as refused:
            await world.own.token(Audience.PLATFORM)
        assert refused.value.kind is Kind.UNAUTHENTICATED
        assert "wrong!!" not in str(refused.value)
    assert len(world.auth.asked) == 1
    for later, tried in ((0.4, 1), (0.2, 2), (1.0, 2), (1.1, 3)):
        world.clock.now += later
        with pytest.raises(Error):
            await world.own.token(Audience.PLATFORM)
        assert len(world.auth.asked) == tried


async def test_a_refused_token_is_replaced_unless_it_is_the_newest_there_can_be() -> None:
    world = World()
    first = await world.own.token(Audience.PLATFORM)
    assert not world.own.refused(first)
    world.clock.now += 60
    assert world.own.refused(first)
    assert world.own.refused(first)
    assert await world.own.token(Audience.PLATFORM) == "t2"
    assert world.own.refused(first)
    assert await world.own.token(Audience.PLATFORM) == "t2"
    assert world.auth.asked == ["shop/till"] * 2


async def test_the_environment_names_somebody_or_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTH_ID", "AUTH_SECRET", "NAMESPACE"):
        monkeypatch.delenv(f"MICRO_{name}", raising=False)
    found = Environment(Client("127.0.0.1:1"))
    assert (await found.token(Audience.PLATFORM), found.refused("t")) == ("", False)
    monkeypatch.setenv("MICRO_AUTH_ID", "till")
    assert await found.token(Audience.PLATFORM) == ""
    monkeypatch.setenv("MICRO_AUTH_SECRET", "right")
    current = found._current()
    assert current is found._current() is not None
    monkeypatch.setenv("MICRO_AUTH_SECRET", "other")
    assert found._current() is not current
