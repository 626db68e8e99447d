"""A server that asks for an account: it rotates refresh tokens, ends what is used twice, and counts."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from fake_platform import FakePlatform, Refusal

from micro.domain import names

LIFE = 900.0


class FakeAuth(FakePlatform):
    """The fake platform behind accounts: "admin" of micro and "ann" of acme, each with the secret "ID-secret"."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts = {
            ("micro", "admin"): {
                "id": "admin",
                "name": "admin",
                "type": "user",
                "namespace": "micro",
                "scopes": ["admin"],
            },
            ("acme", "ann"): {"id": "ann", "name": "Ann", "type": "user", "namespace": "acme", "scopes": ["shop"]},
        }
        self.secrets = {("micro", "admin"): "admin-secret", ("acme", "ann"): "ann-secret"}
        self.rules: dict[str, Any] = {}
        self.namespaces: dict[str, Any] = {
            name: {"name": name, "quota": {"services": 200, "instances": 500, "upload": str(256 * 2**20)}}
            for name in ("micro", "acme")
        }
        self.life = LIFE
        self.audited = 3
        self.refused: set[str] = set()
        self.refresh: dict[str, str] = {}
        self.used: set[str] = set()
        self.sessions: dict[str, tuple[str, str]] = {}
        self.access: dict[str, str] = {}
        self.refreshed = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def unary(self, path: str, request: dict[str, Any], headers: dict[str, str]) -> Any:
        endpoint = path.removeprefix("/micro.auth.v1.")
        if endpoint == "Auth/Token":
            with self._lock:
                return self._token(request)
        if path.startswith("/grpc.health"):
            assert "authorization" not in headers
            return super().unary(path, request, headers)
        account = self._who(headers)
        core = headers["micro-service"] in names.CORE_SERVICES
        if headers["authorization"].endswith(".platform") is not core:
            raise Refusal("unauthenticated", "the token is for other services", 401)
        if endpoint == path:
            return super().unary(path, request, headers)
        answer = getattr(self, "auth_" + endpoint.replace("/", "_").lower())
        return answer(request, account)

    def stream(self, path: str, messages: Any) -> Any:
        self._who(self.calls[-1].headers)
        return super().stream(path, messages)

    def end(self) -> None:
        """End every session."""
        self.refresh.clear()
        self.refused |= set(self.access)

    def _who(self, headers: dict[str, str]) -> dict[str, Any]:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not scheme:
            raise Refusal("unauthenticated", "this needs an account: log in with `micro login`", 401)
        if scheme != "Bearer" or token not in self.access or token in self.refused:
            raise Refusal("unauthenticated", "the token has been revoked", 401)
        return self.accounts[self.sessions[self.access[token]]]

    def _token(self, request: dict[str, Any]) -> Any:
        if used := request.get("refreshToken"):
            session = self.refresh.pop(used, "")
            if not session:
                if used in self.used:
                    self.end()
                raise Refusal("unauthenticated", "the refresh token is not known", 401)
            self.refreshed += 1
            self.used.add(used)
        else:
            key = next(
                (
                    key
                    for key, one in self.accounts.items()
                    if key[0] == request["namespace"] and request["id"] in (one["id"], one["name"])
                ),
                ("", ""),
            )
            if self.secrets.get(key, "") != request["secret"]:
                raise Refusal("unauthenticated", "account and secret do not fit", 401)
            session = f"session-{next(self._numbers)}"
            self.sessions[session] = key
        number = next(self._numbers)
        claims = base64.urlsafe_b64encode(json.dumps({"sid": session, "n": number}).encode()).decode().rstrip("=")
        access, service, refresh = f"header.{claims}.platform", f"header.{claims}.services", f"refresh-{number}"
        self.access[access] = self.access[service] = session
        self.refresh[refresh] = session
        made = datetime.now(UTC) - timedelta(hours=7)  # its clock is not the client's
        return {
            "accessToken": access,
            "serviceToken": service,
            "refreshToken": refresh,
            "created": made.isoformat().replace("+00:00", "Z"),
            "expires": (made + timedelta(seconds=self.life)).isoformat().replace("+00:00", "Z"),
            "account": self.accounts[self.sessions[session]],
        }

    def auth_auth_inspect(self, request: Any, account: Any) -> Any:
        if request["token"] in self.refused or request["token"] not in self.access:
            raise Refusal("unauthenticated", "the token has been revoked", 401)
        return {"account": account}

    def auth_accounts_read(self, request: Any, _: Any) -> Any:
        return {"account": self.accounts[request["namespace"], request["id"]]}

    def auth_accounts_list(self, request: Any, _: Any) -> Any:
        found = sorted(
            (one for key, one in self.accounts.items() if key[0] == request["namespace"]), key=lambda one: one["id"]
        )
        start = int(request.get("cursor") or 0)
        more = {"next": str(start + 2)} if len(found) > start + 2 else {}
        return {"accounts": found[start : start + 2]} | more

    def auth_auth_generate(self, request: Any, _: Any) -> Any:
        key = (request["namespace"], request["id"])
        if key in self.accounts:
            raise Refusal("already_exists", f"account {request['id']!r} is there already", 409)
        self.secrets[key] = request["secret"] or "made-up-secret"
        kept = {name: request[name] for name in ("id", "type", "namespace", "scopes", "metadata")}
        self.accounts[key] = kept | {"name": request["name"] or request["id"]}
        return {"account": self.accounts[key], "secret": self.secrets[key]}

    def auth_accounts_delete(self, request: Any, _: Any) -> Any:
        if self.accounts.pop((request["namespace"], request["id"]), None) is None:
            raise Refusal("not_found", f"account {request['id']!r} not found", 404)
        return {}

    def auth_accounts_updatescopes(self, request: Any, _: Any) -> Any:
        one = self.accounts[request["namespace"], request["id"]]
        one["scopes"] = request["scopes"]
        return {"account": one}

    def auth_accounts_changesecret(self, request: Any, account: Any) -> Any:
        key = (request["namespace"], request["id"])
        if account["id"] == request["id"] and request["oldSecret"] != self.secrets[key]:
            raise Refusal("permission_denied", "the old secret is another", 403)
        self.secrets[key] = request["newSecret"] or "made-up-secret"
        self.end()
        return {} if request["newSecret"] else {"secret": self.secrets[key]}

    def auth_rules_list(self, request: Any, _: Any) -> Any:
        built_in = {"id": "default", "scope": "*", "access": "ACCESS_GRANTED", "priority": -(2**31)}
        built_in |= {"resource": {"type": "*", "name": "*", "endpoint": "*"}, "namespace": request["namespace"]}
        return {"rules": [*self.rules.values(), built_in]}

    def auth_rules_create(self, request: Any, _: Any) -> Any:
        self.rules[request["rule"]["id"]] = request["rule"]
        return {"rule": request["rule"]}

    auth_rules_update = auth_rules_create

    def auth_rules_delete(self, request: Any, _: Any) -> Any:
        if self.rules.pop(request["id"], None) is None:
            raise Refusal("not_found", f"rule {request['id']!r} not found", 404)
        return {}

    def auth_auth_explain(self, request: Any, _: Any) -> Any:
        rule = next(iter(self.rules.values()), None)
        if rule is None:
            return {"reason": "no rule applies"}
        return {"allowed": True, "rule": rule, "reason": f"rule {rule['id']} is about {request['account'] or 'anyone'}"}

    def auth_tokens_list(self, request: Any, account: Any) -> Any:
        wanted = request["account"] or account["id"]
        found = [
            {
                "id": number,
                "account": key[1],
                "namespace": key[0],
                "created": "2026-01-31T08:00:00Z",
                "address": "127.0.0.1",
            }
            for number, key in self.sessions.items()
            if number in self.refresh.values() and wanted in ("*", key[1]) and key[0] == request["namespace"]
        ]
        return {"sessions": found} if found else {}

    def auth_tokens_revoke(self, request: Any, account: Any) -> Any:
        who = request["account"] or account["id"]
        ended = {request["session"]} if request["session"] else {n for n, key in self.sessions.items() if key[1] == who}
        self.refresh = {token: number for token, number in self.refresh.items() if number not in ended}
        self.refused |= {token for token, number in self.access.items() if number in ended}
        return {}

    def auth_namespaces_list(self, _: Any, account: Any) -> Any:
        own = account["namespace"]
        return {"namespaces": [one for name, one in sorted(self.namespaces.items()) if own in (name, "micro")]}

    def auth_namespaces_create(self, request: Any, _: Any) -> Any:
        self.namespaces[request["name"]] = {"name": request["name"]}
        return {"namespace": self.namespaces[request["name"]]}

    def auth_namespaces_delete(self, request: Any, _: Any) -> Any:
        if not request["force"] and any(key[0] == request["name"] for key in self.accounts):
            raise Refusal("failed_precondition", f"namespace {request['name']!r} is not empty: add --force")
        del self.namespaces[request["name"]]
        return {}

    def auth_namespaces_setquota(self, request: Any, _: Any) -> Any:
        self.namespaces[request["name"]]["quota"] = request["quota"]
        return {"namespace": self.namespaces[request["name"]]}

    def auth_keys_list(self, _: Any, __: Any) -> Any:
        return {"keys": [{"kid": "key-2", "alg": "ES256"}, {"kid": "key-1", "alg": "ES256"}]}

    def auth_keys_rotate(self, _: Any, __: Any) -> Any:
        return {"kid": "key-2"}

    def auth_audit_list(self, request: Any, _: Any) -> Any:
        entry = {"time": "2026-01-31T08:00:00Z", "actor": "micro/admin", "action": "login", "outcome": "ok"}
        entry |= {"namespace": "micro", "address": "127.0.0.1"}
        begin = int(request.get("cursor") or 0)
        end = min(begin + request["limit"], self.audited)
        more = {"next": str(end)} if end < self.audited else {}
        return {"entries": [entry | {"target": str(number)} for number in range(begin, end)]} | more
