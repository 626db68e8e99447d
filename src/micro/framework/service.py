"""A service, as its author writes it: `app = Service("helloworld", Handler())`."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from micro.domain import names
from micro.domain.service import Node, Registration
from micro.framework import client as calls
from micro.framework import consumers
from micro.framework import logging as logs
from micro.framework.guard import RuleGuard
from micro.framework.policy import Policy, PolicyFollower
from micro.framework.registration import Presence, accepting
from micro.rpc import asgi_server, schema
from micro.rpc.app import DEFAULT_TIMEOUT, MAX_MESSAGE, Application
from micro.rpc.client import Client
from micro.rpc.gen.micro.auth.v1.auth_connect import PolicyClient
from micro.rpc.gen.micro.auth.v1.auth_pb import PolicyWatchRequest
from micro.rpc.guard import Guard
from micro.rpc.interceptor import Interceptor
from micro.rpc.method import method
from micro.rpc.receive import Receive
from micro.rpc.registrar import Registrar, RemoteRegistrar
from micro.rpc.send import Send
from micro.rpc.tokens import JwtVerifier

if TYPE_CHECKING:
    from micro.framework.events import Start

__all__ = ["Service", "method"]

_log = logging.getLogger(__name__)

THREADS = 64
"""How many plain `def` handlers run at the same time."""

Hook = Callable[..., Awaitable[None]]
H = TypeVar("H", bound=Hook)
F = TypeVar("F", bound=Callable[..., Any])


class Service(Application):
    """One service: its name, its handlers, and what happens when it starts and stops. An ASGI application.

    Inside the platform it learns who may call, registers itself as soon as it knows and listens, and takes that back
    when it stops. Anywhere else it just serves, whoever calls.

    Args:
        name: up to 63 lower-case letters, digits, hyphens and dots. MICRO_SERVICE_NAME wins over it; without both it
            is the name of the folder.
        handlers: objects of classes that derive from generated ones; none for a service that only consumes.
        version: MICRO_SERVICE_VERSION wins over it; "latest" by default.
        metadata: free pairs that the registry shows.
        timeout: seconds for unary calls that nobody set a deadline for; 0 for none.
        max_message: bytes that one message may have.
        interceptors: around every handler, the first outermost.
        registrar: where to register; by default what the environment says.
        guard: who may call; by default the rules of its namespace inside the platform, and everybody elsewhere.
        policy: what the guard decides by; followed from the start on, and the service is not ready before it is known.

    Attributes:
        consumers: what it does with events and messages.

    Raises:
        TypeError: when a handler is none; at the start, when there are neither handlers nor consumers.
        Error: INVALID_ARGUMENT for a name or a version that is none.
    """

    def __init__(
        self,
        name: str | None = None,
        *handlers: object,
        version: str = "",
        metadata: Mapping[str, str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_message: int = MAX_MESSAGE,
        interceptors: Sequence[Interceptor] = (),
        registrar: Registrar | None = None,
        guard: Guard | None = None,
        policy: PolicyFollower | None = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f'the name comes first, then the handlers: Service("name", {type(name).__name__}())')
        wanted = os.environ.get("MICRO_SERVICE_NAME") or name or Path.cwd().name.lower()
        wanted = names.service(wanted)
        if guard is None and os.environ.get("MICRO_NETWORK"):
            guard, policy = _by_rules(wanted)
        super().__init__(
            wanted, handlers, timeout=timeout, max_message=max_message, interceptors=interceptors, guard=guard
        )
        self._policy = policy
        self.version = names.version(os.environ.get("MICRO_SERVICE_VERSION") or version)
        self.metadata = dict(metadata or {})
        self._registrar = registrar
        self.consumers = consumers.Consumers(wanted)
        self._starting: list[Hook] = []
        self._stopping: list[Hook] = []

    def on_start(self, hook: H) -> H:
        """Run an async function before the first call is taken. One that takes a parameter is given an AsyncExitStack,
        which is closed when the service stops. One that raises keeps the service from starting."""
        self._starting.append(hook)
        return hook

    def on_stop(self, hook: H) -> H:
        """Run an async function when the service stops, the last one given first."""
        self._stopping.append(hook)
        return hook

    def consume(
        self,
        topic: str,
        *,
        group: str | None = None,
        as_type: Any = None,
        concurrency: int = consumers.CONCURRENCY,
        start: Start = "new",
        ack_wait: float | None = None,
        max_deliver: int | None = None,
        backoff: Sequence[float] = (),
        max_in_flight: int | None = None,
    ) -> Callable[[F], F]:
        """Have a function handle the events of a topic: `@service.consume("orders")`.

        The function, async or a plain one that runs in a thread, takes the event's value as the type of its parameter;
        or the event, where that is `events.Event[Order]` or has no type. A second parameter is given a Handling. An
        event is handled when it returns, and tried again when it raises, with the error's text as the reason. Events of
        one key are handled one after the other. An async function is cancelled when it takes longer than `ack_wait`,
        and that try has failed; a plain one cannot be, and its event may come again while it runs. What is not of the
        type that is asked for becomes a dead letter at once.

        Consumers start after the hooks. When the service stops they take nothing new, handlers have three seconds to
        finish, and what is in hand then is given back as if it had never come. While events cannot be reached the
        service goes on to answer calls: what is wrong is told in its log and by `micro services NAME`.

        Args:
            group: whose progress this is; the service's name by default, so that its instances share the events.
            as_type: what the payloads are, where the parameter does not say; see `events`.
            concurrency: calls of the function at a time.
            start: where the group begins when it is new; "new" are events from the first start on.
            ack_wait: as for `events.consume`, like all that follows.

        Raises:
            TypeError: for a declaration that cannot work.
        """
        terms = {
            "start": start, "ack_wait": ack_wait, "max_deliver": max_deliver, "backoff": backoff,
            "max_in_flight": max_in_flight,
        }  # fmt: skip

        def declare(function: F) -> F:
            self.consumers.consume(topic, group, function, as_type, concurrency, **terms)
            return function

        return declare

    def subscribe(
        self, pattern: str, *, queue: str | None = None, as_type: Any = None, concurrency: int = consumers.CONCURRENCY
    ) -> Callable[[F], F]:
        """Have a function handle messages of the broker: `@service.subscribe("orders.*")`. They come at most once.

        The function is as for `consume`; it takes the value, or a `broker.Message[Order]`. When it raises, that is
        logged. When all calls are busy, messages wait a little at the broker; the oldest are dropped there.

        Args:
            pattern: a topic; "*" in it is any one part, ">" at the end for all that follow.
            queue: of those who name the same queue each message goes to one; the service's name by default, so that its
                instances share the messages. Empty for all of them to get everything.
            as_type: what the bodies are, where the parameter does not say.
            concurrency: calls of the function at a time.

        Raises:
            TypeError: for a declaration that cannot work.
        """

        def declare(function: F) -> F:
            self.consumers.subscribe(pattern, queue, function, as_type, concurrency)
            return function

        return declare

    def registration(self) -> Registration:
        """What is announced of this instance, as the environment describes it."""
        address = os.environ.get("MICRO_SERVICE_ADDRESS", "")
        node_id = os.environ.get("MICRO_SERVICE_ID") or f"{self.name}-{secrets.token_hex(6)}"
        return Registration(
            namespace=names.namespace(os.environ.get("MICRO_NAMESPACE", "")),
            name=self.name,
            version=self.version,
            node=Node(id=node_id, address=address),
            endpoints=schema.endpoints(self.methods),
            metadata={**self.metadata, **self.consumers.metadata},
            descriptors=schema.descriptors(self.methods),
        )

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """The server's start and stop, as ASGI tells them."""
        logs.configure()
        asgi_server.disembed()
        async with AsyncExitStack() as stack:
            await receive()
            try:
                await self.start(stack)
            except Exception as error:
                _log.exception("cannot start")
                await send({"type": "lifespan.startup.failed", "message": f"{self.name} cannot start: {error}"})
                raise
            # What is there now stays: looking through it again and again would only stop calls.
            gc.freeze()
            gc.enable()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        if os.environ.get("MICRO_PYTHON"):  # else the event loop is not the server's alone: a test's, for one
            await asgi_server.end_calls()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self, stack: AsyncExitStack) -> None:
        """Run the hooks and begin to register; the stack undoes it. Raises TypeError when there is nothing to do."""
        self._check_purpose()
        # asyncio's own pool has a thread or two more than there are cores: few, for handlers that wait.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="handler"))
        stack.push_async_callback(calls.close)
        stack.push_async_callback(_unfollow)
        if self._policy is not None:
            self.readiness.fail("identity", "it is not known yet who may call")
            self._policy.policy.on_change(lambda: self.readiness.clear("identity"))
            await self._policy.start(stack)
        for hook in self._stopping:
            stack.push_async_callback(hook)
        for hook in self._starting:
            await (hook(stack) if inspect.signature(hook).parameters else hook())
        await self.consumers.start(stack)
        self.aspects.update(self.consumers.health())
        registrar = self._registrar or self._environment_registrar()
        address = os.environ.get("MICRO_SERVICE_ADDRESS")
        if registrar is not None and address:
            presence = Presence(self.registration(), registrar, listening=lambda: self._open(address))
            await presence.start(stack)

    async def _open(self, address: str) -> None:
        """Return once calls are answered, it is known who may make them, and its consumers are connected, if events and
        the broker are there."""
        await accepting(address)
        if self._policy is not None:
            await self._policy.synced()
            gc.freeze()  # thousands of rules are nothing to look through either
        await self.consumers.joined(consumers.JOINING)

    def _check_purpose(self) -> None:
        """What it does may be declared after it was made, so that this is asked when it starts. Raises TypeError."""
        if not self.methods and not self.consumers:
            raise TypeError(
                f'service {self.name} has nothing to do: give it a handler, Service("{self.name}", Handler()), or '
                'declare a consumer, @app.consume("topic")'
            )

    def _environment_registrar(self) -> Registrar | None:
        target = os.environ.get("MICRO_REGISTRY") or os.environ.get("MICRO_NETWORK")
        return RemoteRegistrar(Client(target, pool=calls.pool, identity=calls.identity)) if target else None

    def run(self, address: str | None = None) -> None:
        """Serve until the process is told to stop; this is what `python main.py` does.

        Args:
            address: HOST:PORT; by default MICRO_SERVICE_ADDRESS, else 127.0.0.1 and a free port.

        Raises:
            TypeError: the service has neither handlers nor consumers.
        """
        self._check_purpose()
        from micro.framework.run import run

        main = sys.modules["__main__"]
        run(self, main, address or os.environ.get("MICRO_SERVICE_ADDRESS") or "127.0.0.1:0")


async def _unfollow() -> None:
    """End what follows config, where something does: it makes calls."""
    config = sys.modules.get("micro.framework.config")
    if config is not None:
        await config.close()


def _by_rules(name: str) -> tuple[Guard, PolicyFollower]:
    """What guards a user's service: the rules of its namespace, as auth tells them through the mesh."""
    namespace = names.namespace(os.environ.get("MICRO_NAMESPACE", ""))
    policy = Policy(JwtVerifier(), namespace)
    auth = calls.of(PolicyClient, "auth")
    return RuleGuard(name, namespace, policy), PolicyFollower(policy, lambda: auth.watch(PolicyWatchRequest()))
