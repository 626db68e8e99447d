"""Keys: two are valid at a time, and everybody may see their public halves."""

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import jwt
import pytest
from auth_world import ADMIN, SHOPKEEPER, World, refused, running

from micro.domain.errors import Kind
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with running() as world:
        yield world


def kid(token: str) -> str:
    found: str = jwt.get_unverified_header(token)["kid"]
    return found


async def rotate(world: World) -> str:
    made: str = (await world.call("Keys/Rotate", pb.KeysRotateRequest(), ADMIN)).kid
    return made


async def test_what_the_last_key_signed_holds_and_what_the_one_before_signed_does_not(world: World) -> None:
    secret = await world.generate("ann")
    first = await world.login("ann", secret)
    new = await rotate(world)
    world.wall.seconds += 2
    second = await world.login("ann", secret)
    assert kid(second.access_token) == new
    assert world.whose(first.access_token).id == world.whose(second.access_token).id == "ann"
    await rotate(world)
    with pytest.raises(Exception, match="not known any more"):
        world.whose(first.access_token)
    assert world.whose(second.access_token).id == "ann"
    assert (await world.refresh(first.refresh_token)).access_token, "sessions do not hang on keys"


async def test_a_new_key_signs_as_soon_as_every_service_was_told_of_it(world: World) -> None:
    secret = await world.generate("ann")
    old = kid((await world.login("ann", secret)).access_token)
    new = await rotate(world)
    assert kid((await world.login("ann", secret)).access_token) == old
    world.wall.seconds += 2
    assert kid((await world.login("ann", secret)).access_token) == new
    third = [await rotate(world), await rotate(world)]
    assert kid((await world.login("ann", secret)).access_token) == third[0], "or at once, when there is no other"


async def test_keys_outlive_the_process(world: World) -> None:
    session = await world.login("ann", await world.generate("ann"))
    async with running(world.store) as restarted:
        assert restarted.whose(session.access_token).id == "ann"
        assert len(await world.store.keys()) == 1


async def test_only_an_admin_of_micro_rotates_and_it_is_in_the_audit_log(world: World) -> None:
    assert await refused(world.call("Keys/Rotate", pb.KeysRotateRequest(), SHOPKEEPER)) is Kind.PERMISSION_DENIED
    new = await rotate(world)
    assert (await world.audit())[-1] == ("micro/admin", "key.rotate", new, "ok")


async def get(world: World, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await world.service.jwks({"type": "http", "method": method, "path": "/.well-known/jwks.json"}, None, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def test_anybodys_library_can_check_a_token_by_the_key_set(world: World) -> None:
    await rotate(world)
    session = await world.login("ann", await world.generate("ann"))
    status, headers, body = await get(world)
    assert (status, headers[b"content-type"], headers[b"cache-control"]) == (200, b"application/json", b"max-age=60")
    assert int(headers[b"content-length"]) == len(body)
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(json.loads(body)).keys}
    issuer = await world.store.issuer()
    said = jwt.decode(
        session.access_token,
        keys[kid(session.access_token)],
        ["ES256"],
        audience=issuer,
        issuer=issuer,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert (said["sub"], said["ns"]) == ("ann", "micro")
    assert not any("d" in key for key in json.loads(body)["keys"]), "no private half"


async def test_the_key_set_is_only_read(world: World) -> None:
    status, headers, body = await get(world, "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers[b"content-length"]) > 100
    assert (await get(world, "POST"))[0] == 405


async def test_the_list_says_the_same_as_the_key_set(world: World) -> None:
    listed = (await world.call("Keys/List", pb.KeysListRequest())).keys
    (served,) = json.loads((await get(world))[2])["keys"]
    (key,) = listed
    assert {name: getattr(key, name) for name in served} == served
    assert len(base64.urlsafe_b64decode(key.x + "=")) == 32
    assert key.created.startswith("2027-01-15T08:00:00")
