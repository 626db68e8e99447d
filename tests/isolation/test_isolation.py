"""Every endpoint of every core service, called by every kind of caller about the things of two tenants, compared with
`table.txt`. An endpoint without a row fails."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from isolation_calls import Reply, outcome
from isolation_requests import CASES, About
from isolation_world import SERVER_SECRET, SHARED, A, B, Forger, World, forged, running

from micro.domain import access
from micro.domain.access import Need
from micro.rpc import gen

TABLE = Path(__file__).with_name("table.txt")
CALLERS: dict[str, tuple[str, str] | None] = {
    "nobody": None,
    "user-a": (f"ann-{A}", A),
    "admin-a": (f"adm-{A}", A),
    "service-a": (f"{SHARED}@latest", A),
    "user-b": (f"ann-{B}", B),
    "admin-b": (f"adm-{B}", B),
    "service-b": (f"{SHARED}@latest", B),
    "user-micro": ("plain", "micro"),
    "admin-micro": ("root", "micro"),
    "core": ("network", "micro"),
    "gateway": None,
    "forged": None,
}
TENANTS = (A, B)
TELLING = {
    "Accounts/List",
    "Rules/List",
    "Tokens/List own",
    "Namespaces/List",
    "Audit/List",
    "Policy/Watch",
    "Registry/GetService",
    "Registry/ListServices",
    "Registry/Watch",
    "Network/Routes",
    "Runtime/Read",
    "Runtime/Logs",
    "Config/Get in clear",
    "Config/Watch in clear",
    "Store/Read",
    "Store/List",
    "Store/Batch",
    "Store/Databases",
    "BlobStore/Read",
    "BlobStore/Stat",
    "BlobStore/List",
    "Backup/Dump",
    "Stream/Consume",
    "Events/Read",
    "DeadLetters/List",
}
"""What answers with things of the tenant's, so that it can be seen that it tells of one and not of the other."""


def table() -> dict[str, dict[str, str]]:
    """By case: what each caller is answered."""
    found: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for line in TABLE.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *cells = (part.strip() for part in line.split("|"))
        if not columns:
            columns = cells
            continue
        assert name not in found, f"two rows about {name}"
        found[name] = dict(zip(columns, cells, strict=True))
    return found


def endpoints() -> set[str]:
    """Every endpoint of every contract that there is code for."""
    found = set()
    for module in pkgutil.walk_packages(gen.__path__, f"{gen.__name__}."):
        if module.name.endswith("_pb"):
            for service in importlib.import_module(module.name).desc().services:
                found |= {f"/{service.type_name}/{method.name}" for method in service.methods}
    return found


def path_of(case: str) -> str:
    return case.partition(" ")[0]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


async def ask(world: World, case: str, caller: str, tenant: str, *, named_by: str, shown: str = "") -> Reply:
    """Call once; the tenant is named by a "field" of the request, by a "header", or by both."""
    how, who = CASES[case], CALLERS[caller]
    field = tenant if "field" in named_by else ""
    requests = await how.make(About(world, tenant, field, who or ()))  # type: ignore[arg-type]
    headers = await world.headers(who) if who else []
    if caller in ("gateway", "forged"):
        headers = [("authorization", shown or f"Bearer {SERVER_SECRET}")]
    if "header" in named_by:
        headers.append(("micro-namespace", tenant))
    return await world.call(path_of(case), requests, headers, of=how.of, enough=how.enough)


async def answered(world: World, case: str, caller: str) -> str:
    """What the table says of a caller: one word, or one about each tenant's things."""
    ways = ("field", "header", "field and header") if CASES[case].fields else ("header",)
    cells = []
    for tenant in TENANTS:
        found = {}
        for named_by in ways:
            reply = await ask(world, case, caller, tenant, named_by=named_by)
            found[named_by] = outcome(reply.error)
            check_no_leak(case, caller, tenant, reply)
        assert len(set(found.values())) == 1, f"{case} as {caller} about {tenant}: {found}"
        cells.append(found[ways[0]])
        if (who := CALLERS[caller]) is not None and who[1] == tenant and CASES[case].fields:
            reply = await ask(world, case, caller, tenant, named_by="")
            assert outcome(reply.error) == found[ways[0]], f"{case} as {caller}, about no namespace in particular"
            check_no_leak(case, caller, tenant, reply)
    return cells[0] if cells[0] == cells[1] else "/".join(cells)


def check_no_leak(case: str, caller: str, tenant: str, reply: Reply) -> None:
    """Nothing of the other tenant is told, in answers nor in refusals, but what the caller said itself."""
    who = CALLERS[caller]
    if who is None or who[1] != tenant:
        return
    other = next(name for name in TENANTS if name != tenant)
    assert other.encode() not in reply.raw, f"{case} tells {caller} of {other}: {reply.messages}"
    if reply.error is not None:
        assert other not in reply.error.message, f"{case} tells {caller} of {other}: {reply.error}"
    elif case.rpartition(".")[2] in TELLING:
        assert tenant.encode() in reply.raw, f"{case} tells {caller} nothing: {reply.messages}"


@pytest.mark.parametrize("case", CASES)
async def test_everybody_is_answered_as_the_table_says(world: World, case: str) -> None:
    tokens = await forged(world)
    refusals = {
        kind: outcome((await ask(world, case, "forged", A, named_by="header", shown=shown)).error)
        for kind, shown in tokens.items()
    }
    words = set(refusals.values())
    found = {caller: await answered(world, case, caller) for caller in CALLERS if caller != "forged"}
    found["forged"] = words.pop() if len(words) == 1 else f"differs: {refusals}"
    if out := os.environ.get("MICRO_WRITE_ISOLATION_TABLE"):
        with Path(out).open("a") as file:
            file.write(" | ".join([case, *(found[caller] for caller in CALLERS)]) + "\n")
        return
    assert found == table()[case]


async def test_the_token_that_forgeries_are_made_from_holds(world: World) -> None:
    good = Forger(world, await world.key(), await world.store.issuer())
    for token in (good.good, good.signed(), good.saying()):
        reply = await ask(world, "/micro.network.v1.Network/Proxies", "forged", A, named_by="", shown=f"Bearer {token}")
        assert reply.error is None


def test_the_table_has_a_row_for_every_endpoint() -> None:
    rows = {path_of(case) for case in table()}
    assert sorted(endpoints() - rows) == [], "say in table.txt who is answered what"
    assert sorted(rows - endpoints()) == [], "rows about endpoints that there are none of"
    assert set(table()) == set(CASES), "each row needs a request, and each request a row"
    assert all(set(row) == set(CALLERS) for row in table().values())


def test_the_table_keeps_what_must_hold_of_every_row() -> None:
    for case, row in table().items():
        need = access.NEEDS[path_of(case)]
        is_open = need is Need.OPEN
        health = path_of(case).startswith("/grpc.health.")
        assert row["nobody"] == ("ok" if is_open else "401"), case
        assert row["forged"] == ("ok" if health else "401"), case
        if is_open:
            continue
        for one, other in (("user-a", "user-b"), ("admin-a", "admin-b"), ("service-a", "service-b")):
            about_a, _, about_b = row[one].partition("/")
            assert row[other] in (row[one], f"{about_b}/{about_a}"), f"{case}: {one} and {other} are not alike"
            if row[one] != "403":
                assert (about_b or about_a) == "403", f"{case}: {one} may do something to the other tenant"
        assert row["user-micro"] == "403", f"{case}: an account of micro without the admin scope is one like others"
