"""Callers of core services, as a guard leaves them in the context of a call."""

from micro.domain.account import Account, Type
from micro.rpc.context import Context
from micro.services import _auth_core as core

ROOT = Account("admin", "micro", "admin", scopes=frozenset({"admin"}))
CORE = core.account("auth")


def calling(account: Account | None = ROOT, namespace: str = "") -> Context:
    """The context of a call by that account, about a namespace where one is named."""
    headers = [(b"micro-namespace", namespace.encode())] if namespace else []
    ctx = Context(None, {"headers": headers}, None)  # type: ignore[arg-type]
    ctx.account = account
    return ctx


def user(name: str, namespace: str = "shop") -> Account:
    return Account(name, namespace, name)


def admin(name: str, namespace: str = "shop") -> Account:
    return Account(name, namespace, name, scopes=frozenset({"admin"}))


def robot(service: str, namespace: str = "shop", version: str = "latest") -> Account:
    """The account of a service that the runtime started."""
    pairs = {"service": service, "version": version}
    return Account(f"{service}@{version}", namespace, service, Type.SERVICE, metadata=pairs)
