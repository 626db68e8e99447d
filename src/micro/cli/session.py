"""What a command is given: its streams, its environment and its way to the server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from micro.cli import failures
from micro.cli.output import Console, Progress

if TYPE_CHECKING:
    from micro.cli.environment import Environment, Environments
    from micro.cli.identity import Identity
    from micro.cli.platform import Platform
    from micro.cli.transport import Transport


class Session:
    """One run of the command line.

    Args:
        stdin: what the command reads.
        stdout: where results go.
        stderr: where errors and progress go.
        environ: the process's environment variables.
        environment: name given with --env; empty leaves it to MICRO_ENV and the current one.
        namespace: given with --namespace; empty leaves it to MICRO_NAMESPACE, else to what was chosen or logged in to.

    Attributes:
        hurried: whether somebody waits for each letter: tokens are then used as long as they hold and not renewed.
    """

    hurried = False

    def __init__(
        self,
        stdin: TextIO,
        stdout: TextIO,
        stderr: TextIO,
        environ: Mapping[str, str],
        environment: str = "",
        namespace: str = "",
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.out = Console(stdout, environ)
        self.err = Console(stderr, environ)
        self.environ = environ
        self._environment = environment
        self._namespace = namespace

    def choose(self, environment: str = "", namespace: str = "") -> None:
        """Take over what was given after the command's name; nothing given changes nothing."""
        self._environment = environment or self._environment
        self._namespace = namespace or self._namespace

    def elsewhere(self, environment: str = "", namespace: str = "") -> Session:
        """The same run against another environment or namespace; nothing given keeps its own."""
        other = Session(
            self.stdin,
            self.stdout,
            self.stderr,
            self.environ,
            environment or self._environment,
            namespace or self._namespace,
        )
        other.hurried = self.hurried
        return other

    @property
    def micro(self) -> str:
        """What a person types for `micro` to mean the same environment and namespace as in this run."""
        chosen = [f"--env {self._environment}"] if self._environment else []
        chosen += [f"--namespace {self._namespace}"] if self._namespace else []
        return " ".join(["micro", *chosen])

    @property
    def micro_there(self) -> str:
        """What a person types for `micro` to mean the same environment as in this run."""
        return f"micro --env {self._environment}" if self._environment else "micro"

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that only goes forward."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait between two looks at something that another process changes."""
        time.sleep(seconds)

    @property
    def progress(self) -> Progress:
        return Progress(self.err)

    @cached_property
    def home(self) -> Path:
        """The folder of all state."""
        from micro.cli import environment

        return environment.home(self.environ)

    @property
    def shown_home(self) -> str:
        """The folder of all state as people write it: "~/.micro"."""
        user = self.environ.get("HOME", "")
        below = user and self.home.is_relative_to(user)
        return f"~/{self.home.relative_to(user)}" if below else str(self.home)

    @cached_property
    def environments(self) -> Environments:
        from micro.cli.environment import Environments

        return Environments(self.home, self.environ)

    @property
    def environment_name(self) -> str:
        """The name of the environment that this run talks to."""
        return self._environment or self.environ.get("MICRO_ENV") or self.environments.current()

    @property
    def environment(self) -> Environment:
        """The environment that this run talks to; read anew each time, as `micro health --wait` may see it appear."""
        return self.environments.get(self.environment_name)

    @property
    def identity(self) -> Identity:
        """Who this run is in its environment."""
        from micro.cli.identity import Identity
        from micro.ports.sessions import Sessions

        way = self._entrusted
        return Identity(self.environment_name, Sessions(self.home), way, self.micro_there, renew=not self.hurried)

    @property
    def chosen_namespace(self) -> str:
        """The namespace that the run was given, by flag or variable; empty for none."""
        return self._namespace or self.environ.get("MICRO_NAMESPACE", "")

    @cached_property
    def namespace(self) -> str:
        """The namespace that this run works in: the given one, else the current one of its environment."""
        from micro.domain import names

        return names.namespace(self.chosen_namespace or self.identity.namespace)

    def transport(self, namespace: str = "") -> Transport:
        """The way to the server as whoever is logged in, in a namespace (default: the run's)."""
        return self._transport(namespace or self.namespace, self.identity_to_show)

    @property
    def identity_to_show(self) -> Identity | None:
        """Who this run is, for the environment's server; None where it is not known whether that is what listens."""
        return self.identity if self.environment.trusted else None

    def _entrusted(self, namespace: str) -> Transport:
        """The way for secrets and tokens. Raises UnreachableError where it is not known who would get them."""
        if not self.environment.trusted:
            raise failures.UnreachableError("no server of this home is running: start one with: micro server")
        return self.anonymous(namespace)

    def anonymous(self, namespace: str = "") -> Transport:
        """The way to the server without an account."""
        return self._transport(namespace or self.namespace, None)

    def _transport(self, namespace: str, identity: Identity | None) -> Transport:
        from micro.cli.transport import Transport

        environment = self.environment
        hint = ": start one with: micro server"
        if environment.name != "local":
            hint = f" (environment {environment.name}){hint} there, or choose another: micro env"
        elif not environment.trusted:  # the address is only where one is expected
            hint = f" (none of home {self.shown_home} is running){hint}"
        return Transport(
            environment.address, namespace, hint, tls=environment.tls, setup=environment.setup, identity=identity
        )

    @property
    def platform(self) -> Platform:
        """The server's core services."""
        from micro.cli.platform import Platform

        return Platform(self.transport(), self.namespace, self.anonymous())
