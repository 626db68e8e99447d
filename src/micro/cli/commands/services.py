"""`micro services`: what can be called."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from micro.cli import failures
from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json is for programs")


def run(args: argparse.Namespace, session: Session) -> int:
    services = session.platform.list_services()
    if args.output == "json":
        session.out.json([record(one) for one in services])
        return failures.OK
    for name in sorted({str(one.get("name", "")) for one in services}):
        session.out.line(name)
    if not services:
        session.err.line("no services yet; make one: micro new greeter && cd greeter && micro run .")
    return failures.OK


def record(service: Mapping[str, Any]) -> dict[str, Any]:
    """One service as `-o json` promises it."""
    return {
        "name": service.get("name", ""),
        "version": service.get("version", ""),
        "nodes": [{"id": node.get("id", ""), "address": node.get("address", "")} for node in service.get("nodes", [])],
        "endpoints": [
            {
                "name": endpoint.get("name", ""),
                "stream": bool(endpoint.get("stream", False)),
                "request": endpoint.get("request", {}),
                "response": endpoint.get("response", {}),
            }
            for endpoint in service.get("endpoints", [])
        ],
    }
