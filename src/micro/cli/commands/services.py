"""`micro services [NAME]`: what can be called, and what it listens to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from micro.cli import failures, listening
from micro.cli.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="all that is known of this service")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="json is for programs")


def run(args: argparse.Namespace, session: Session) -> int:
    if args.name:
        return _details(args, session)
    services = session.platform.list_services()
    if args.output == "json":
        session.out.json([record(one) for one in services])
        return failures.OK
    for name in sorted({str(one.get("name", "")) for one in services}):
        session.out.line(name)
    if not services:
        session.err.line("no services yet; make one: micro new greeter && cd greeter && micro run .")
    return failures.OK


def _details(args: argparse.Namespace, session: Session) -> int:
    services = session.platform.get_service(args.name)
    if args.output == "json":
        session.out.json([{**record(one), **listening.checked(one, session.platform)} for one in services])
        return failures.OK
    from micro.cli import schema

    for number, service in enumerate(services):
        if number:
            session.out.line()
        session.out.line(session.out.styled(f"{service.get('name', '')} {service.get('version', '')}", "bold"))
        endpoints = [schema.words(args.name, one.name) for one in schema.endpoints([service])]
        _part(
            "Instances", [f"{one.get('id', '')}  {one.get('address', '')}" for one in service.get("nodes", [])], session
        )
        _part("Endpoints", endpoints, session)
        listening.show(service, session)
    return failures.OK


def _part(label: str, lines: list[str], session: Session) -> None:
    if lines:
        session.out.line()
        session.out.line(f"{label}:")
    for line in lines:
        session.out.line(f"  {line}")


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
        **listening.record(service),
    }
