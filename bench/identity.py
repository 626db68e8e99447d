"""What identity costs: a check in the service, a login, calls through `api` with and without a token, and all of it
again beside ten thousand accounts and rules."""

from __future__ import annotations

import asyncio
import json
import operator
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

from bench import load, machine, processes
from bench.rows import Row, paired, pin
from micro.backends.jwt.tokens import JwtSigner
from micro.domain.account import Account
from micro.domain.audience import Audience
from micro.domain.rule import Access, Resource, Rule
from micro.domain.token import Claims
from micro.framework.guard import RuleGuard
from micro.framework.policy import Policy
from micro.rpc.context import Context
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.tokens import JwtVerifier
from micro.server import catalog, settings
from micro.server.settings import Layout

MANY = 10_000
_ROUNDS = 12  # many short ones: the machine changes its speed within seconds
_TOGETHER = 100  # so many are stored at a time


def identity() -> Iterator[Row]:
    """What identity costs: calls with a token against calls without; service on one core, gateway and generator on the
    other."""
    yield Row("token check in the service, cached", _check(), "us", 10, at_most=True)
    with processes.platform(MICRO_GATEWAY_WORKERS="1") as platform:
        platform.cli("run", str(processes.CONTRACT))
        yield Row("login with a secret that micro made", _login(platform, "made"), "ms", 150, at_most=True)
        chosen = _login(platform, "chosen", "--secret", "correct horse battery staple")
        yield Row("login with a secret that somebody chose", chosen, "ms", 150, at_most=True)
        yield from _calls(platform)


def _calls(none: processes.Platform) -> Iterator[Row]:
    """Two platforms at once, one of them with many accounts and rules: what is measured minutes apart would tell of the
    machine as well."""
    with processes.platform(MICRO_GATEWAY_WORKERS="1") as many:
        many.stop()
        asyncio.run(_fill(many))
        many.start()
        many.cli("run", str(processes.CONTRACT))
        straight, outside, via, via_many, token, token_many = _rates(none, many)
    yield Row(
        "anonymous call in a platform / outside of one", paired(operator.truediv, straight, outside), "ratio", 0.95
    )
    yield Row("call with a token / anonymous, through api", paired(operator.truediv, token, via), "ratio", 0.85)
    for name, with_many, with_none in (("anonymous", via_many, via), ("with a token", token_many, token)):
        ratio = paired(operator.truediv, with_many, with_none)
        yield Row(f"{name} through api, {MANY:,} accounts and rules / none", ratio, "ratio", 0.9)


def _check() -> float:
    """Microseconds that the guard takes for a token it has seen."""
    signer, verifier, now = JwtSigner(), JwtVerifier(), time.time()
    key = signer.generate(now)
    public = signer.public(key)
    policy = Policy(verifier)
    policy.apply(pb.PolicyWatchResponse(action=pb.PolicyWatchResponse.Action.RESET, issuer="bench"))
    policy.apply(
        pb.PolicyWatchResponse(
            action=pb.PolicyWatchResponse.Action.KEYS, keys=[pb.Key(kid=public.kid, x=public.x, y=public.y)]
        )
    )
    policy.apply(pb.PolicyWatchResponse(action=pb.PolicyWatchResponse.Action.SYNCED))
    claims = Claims(Account("ann", "micro", "Ann"), "bench", Audience.SERVICES, "token", "session", now, now + 900)
    headers = {b"authorization": b"Bearer " + signer.sign(claims, key).encode()}
    guard = RuleGuard("helloworld", "micro", policy)
    endpoint = processes.echo_method()
    count = 100_000
    began = 0.0
    for turn in range(count + 1):
        if turn == 1:  # the first one learns it
            began = time.perf_counter()
        guard.admit(Context(endpoint, {"headers": []}, None), headers)
    return (time.perf_counter() - began) / count * 1e6


def _login(platform: processes.Platform, account: str, *secret: str) -> float:
    """Median milliseconds of an exchange of id and secret for tokens, one connection for all. A secret that is given
    is hashed at the full cost, since people choose poor ones."""
    made = json.loads(platform.cli("auth", "create", "account", account, *secret, "-o", "json"))
    script = processes.PROGRAMS / "login.py"
    return float(platform.python(script, made["id"], made.get("secret") or secret[-1]))


def _rates(none: processes.Platform, many: processes.Platform) -> list[list[float]]:
    """Requests a second, round by round: straight to the service of the first platform, to one outside of any, through
    the api of the first and of the second platform, and the same with a token."""
    own, other = machine.cores()
    for platform in (none, many):
        pids = platform.pids()
        pin({name: pid for name, pid in pids.items() if name == "api"}, other)
        pin({name: pid for name, pid in pids.items() if name != "api"}, own)
    _address(many)  # it is there
    with processes.asgi("main:app", folder=processes.CONTRACT) as outside:
        targets = [(_address(none), ""), (outside, ""), (none.api, ""), (many.api, "")]
        targets += [(none.api, _token(none)), (many.api, _token(many))]
        rates: list[list[float]] = [[] for _ in targets]
        for number in range(_ROUNDS):
            for (where, token), into in zip(targets, rates, strict=True):
                run = load.run(
                    f"http://{where}/helloworld/call",
                    b'{"name":"Ann"}',
                    content_type="application/json",
                    count=6_000,
                    core=other,
                    token=token,
                )
                if run.failed:
                    raise SystemExit(f"bench: {run.failed} requests failed")
                if number:  # the first round warms up
                    into.append(run.rate)
    return rates


def _token(platform: processes.Platform) -> str:
    return platform.cli("user", "token").strip()


def _address(platform: processes.Platform) -> str:
    """Where the service listens, once it is there."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for service in json.loads(platform.cli("services", "-o", "json")):
            if service["name"] == "helloworld":
                return str(service["nodes"][0]["address"])
    raise SystemExit("bench: helloworld did not come")


async def _fill(platform: processes.Platform) -> None:
    """Many accounts and rules, put where auth finds them when it starts. Their secrets are none: nobody logs in."""
    store = catalog.identity(settings.read({"MICRO_HOME": str(platform.home)}), Layout(platform.home))

    async def create(number: int) -> None:
        await store.create_account(Account(f"user-{number}", "micro", f"User {number}"), "")
        about = Resource("service", f"service-{number}", "*")
        await store.create_rule(Rule(f"rule-{number}", "micro", "staff", about, Access.GRANTED, number % 100))

    async with AsyncExitStack() as stack:
        await store.start(stack)
        for first in range(0, MANY, _TOGETHER):
            await asyncio.gather(*map(create, range(first, first + _TOGETHER)))
