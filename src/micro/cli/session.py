"""What a command is given: its streams, its environment and its way to the server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from micro.cli.output import Console, Progress

if TYPE_CHECKING:
    from micro.cli.environment import Environment, Environments
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
        namespace: given with --namespace; empty leaves it to MICRO_NAMESPACE, else the default.
    """

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
        return Session(
            self.stdin,
            self.stdout,
            self.stderr,
            self.environ,
            environment or self._environment,
            namespace or self._namespace,
        )

    @property
    def micro(self) -> str:
        """What a person types for `micro` to mean the same environment and namespace as in this run."""
        chosen = [f"--env {self._environment}"] if self._environment else []
        chosen += [f"--namespace {self._namespace}"] if self._namespace else []
        return " ".join(["micro", *chosen])

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

    @cached_property
    def environments(self) -> Environments:
        from micro.cli.environment import Environments

        return Environments(self.home)

    @property
    def environment_name(self) -> str:
        """The name of the environment that this run talks to."""
        return self._environment or self.environ.get("MICRO_ENV") or self.environments.current()

    @property
    def environment(self) -> Environment:
        """The environment that this run talks to; read anew each time, as `micro health --wait` may see it appear."""
        return self.environments.get(self.environment_name)

    @cached_property
    def namespace(self) -> str:
        """The namespace that this run works in."""
        from micro.domain import names

        return names.namespace(self._namespace or self.environ.get("MICRO_NAMESPACE", ""))

    def transport(self, namespace: str = "") -> Transport:
        """The way to the server, in a namespace (default: the run's)."""
        from micro.cli.transport import Transport

        environment = self.environment
        hint = ": start one with: micro server"
        if environment.name != "local":
            hint = f" (environment {environment.name}){hint} there, or choose another: micro env"
        return Transport(environment.address, namespace or self.namespace, hint)

    @property
    def platform(self) -> Platform:
        """The server's core services."""
        from micro.cli.platform import Platform

        return Platform(self.transport(), self.namespace)
