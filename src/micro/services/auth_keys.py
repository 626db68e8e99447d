"""The keys that tokens are signed with, and their public halves for everybody."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from micro.domain.token import Claims
from micro.ports.identity import IdentityStore, SigningKey
from micro.ports.tokens import PublicKey, Signer, Verifier
from micro.rpc.gen.micro.auth.v1 import auth_pb as pb
from micro.rpc.gen.micro.auth.v1.auth_connect import Keys
from micro.services import _auth_caller as caller
from micro.services import _auth_messages as messages
from micro.services._auth_changes import Changes, Moments
from micro.services.auth_policy import Feed

VALID = 2
"""Keys that are valid at a time: the one that signs, and the one before, for what it has signed."""

TOLD_SECONDS = 1.0
"""A new key signs when it is as old as this: until then not every service may know it."""

_SUBJECT = "keys"


class Keyring:
    """The keys that are valid, the newest first."""

    def __init__(
        self, store: IdentityStore, signer: Signer, verifier: Verifier, feed: Feed, changes: Changes, moments: Moments
    ) -> None:
        self._store = store
        self._signer = signer
        self._verifier = verifier
        self._feed = feed
        self._changes = changes
        self._moments = moments
        self._keys: list[SigningKey] = []

    async def start(self) -> None:
        """Read the keys; make the first where there is none. The feed has been loaded."""
        self._take(await self._store.keys())
        if not self._keys:
            await self._store.add_key(self._signer.generate(self._moments.next()), VALID)
            self._take(await self._store.keys())

    async def rotate(self, ctx: Any) -> SigningKey:
        """Make a new key, and forget the one before the last."""

        async def change() -> SigningKey:
            now = self._moments.next()
            key = self._signer.generate(now)
            entry = caller.entry(ctx, now, "key.rotate", key.kid, ctx.account.namespace)
            await self._store.add_key(key, VALID, entry)
            self._take(await self._store.keys())
            self._changes.announce(entry)
            return key

        return await self._changes.run(_SUBJECT, change)

    def sign(self, claims: Claims) -> str:
        """The token. Raises FAILED_PRECONDITION when it would be too long."""
        told = self._moments.now() - TOLD_SECONDS
        key = next((key for key in self._keys if key.created <= told), self._keys[-1])
        return self._signer.sign(claims, key)

    def verify(self, token: str) -> Claims:
        """What a token says, whomever it is for. Raises UNAUTHENTICATED when it does not hold; revocations are not
        looked at."""
        return self._verifier.verify(token, self._moments.now(), None)

    def public(self) -> list[PublicKey]:
        return self._feed.keys

    def _take(self, keys: list[SigningKey]) -> None:
        self._keys = keys
        public = [dataclasses.replace(self._signer.public(key), created=messages.rfc3339(key.created)) for key in keys]
        self._verifier.replace(public, self._feed.issuer)
        self._feed.set_keys(public)


class KeysHandler(Keys):
    """The handler of `micro.auth.v1.Keys`, and of the JSON Web Key Set."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def rotate(self, request: pb.KeysRotateRequest, ctx: Any) -> pb.KeysRotateResponse:
        return pb.KeysRotateResponse(kid=(await self._keyring.rotate(ctx)).kid)

    async def list(self, request: pb.KeysListRequest, ctx: Any) -> pb.KeysListResponse:
        return pb.KeysListResponse(keys=[messages.to_key(key) for key in self._keyring.public()])

    async def jwks(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a GET as ASGI asks it (RFC 7517, 5)."""
        keys = [
            {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": key.kid, "x": key.x, "y": key.y}
            for key in self._keyring.public()
        ]
        allowed = scope["method"] in ("GET", "HEAD")
        body = json.dumps({"keys": keys}).encode() if allowed else b""
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"max-age=60"),
            (b"content-length", b"%d" % len(body)),
        ]
        refusal = [(b"allow", b"GET, HEAD"), (b"content-length", b"0")]
        await send(
            {
                "type": "http.response.start",
                "status": 200 if allowed else 405,
                "headers": headers if allowed else refusal,
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
