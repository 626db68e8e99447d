"""Every command with a line that says what it does: all that help and completion need, without loading one of them."""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "server": ("Platform", "start the platform on this machine"),
    "health": ("Platform", "show whether every core service is ready"),
    "env": ("Platform", "list, choose, add and remove environments"),
    "login": ("Identity", "log in to an environment"),
    "logout": ("Identity", "end the session"),
    "user": ("Identity", "show who is logged in; change the password, namespace and settings"),
    "auth": ("Identity", "manage accounts, rules, sessions and keys"),
    "namespace": ("Identity", "list, create and delete namespaces, and set their quotas"),
    "version": ("Platform", "print the version"),
    "new": ("Develop", "make a new service"),
    "gen": ("Develop", "generate code from a service's contracts"),
    "run": ("Develop", "take a service live"),
    "update": ("Develop", "replace a running service's code without losing a request"),
    "kill": ("Develop", "stop services"),
    "status": ("Inspect", "show the services that run, and why one does not"),
    "logs": ("Inspect", "show a service's output"),
    "services": ("Inspect", "list the services that can be called"),
    "config": ("State", "get and set settings and secrets, with their history"),
    "store": ("State", "read, write and watch records; copy, back up and restore them"),
    "blob": ("State", "write, read, list and delete files of any size"),
    "events": ("Messaging", "publish, consume and read events; look after topics, groups and dead letters"),
    "broker": ("Messaging", "publish messages to whoever listens, and listen"),
    "call": ("Call", "call an endpoint with JSON"),
    "stream": ("Call", "call an endpoint and print each message as it arrives"),
    "completion": ("Platform", "print the completion script for bash, zsh or fish"),
}
"""Command -> (section of the help, what it does). The module is `micro.cli.commands.<command>`."""

TAKEN = frozenset({*COMMANDS, "help"})
"""What `micro NAME` means something else by than the service of that name: those are called by `micro call NAME`."""

SECTIONS = ("Develop", "Call", "Messaging", "State", "Inspect", "Identity", "Platform")
