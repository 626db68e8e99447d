"""An S3 server to test against: a process of its own, whose state is gone with it. Needs the package moto."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from micro.ports.free_address import free_address

START_SECONDS = 60.0


@dataclass(frozen=True)
class S3Child:
    """A server that runs.

    Attributes:
        address: HOST:PORT.
        credentials: what its clients need in their environment.
    """

    address: str
    credentials: dict[str, str] = field(
        default_factory=lambda: {"AWS_ACCESS_KEY_ID": "micro", "AWS_SECRET_ACCESS_KEY": "micro"}
    )

    def url(self, bucket: str, prefix: str = "") -> str:
        """What names a bucket there, as MICRO_BLOBS has it."""
        return f"s3://{bucket}/{prefix}?endpoint=http://{self.address}&region=us-east-1"

    def make(self, bucket: str) -> None:
        """Make a bucket."""
        self._ask("PUT", f"/{bucket}")

    def objects(self, bucket: str) -> str:
        """What is in a bucket, as the server's XML tells it."""
        return self._ask("GET", f"/{bucket}?list-type=2")

    def uploads(self, bucket: str) -> str:
        """The uploads that have not ended, as the server's XML tells them."""
        return self._ask("GET", f"/{bucket}?uploads")

    def _ask(self, method: str, path: str) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read().decode()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {body}")
            return body


@contextlib.contextmanager
def s3_child(folder: Path) -> Iterator[S3Child]:
    """Run a server as long as the block lasts; its log is in the folder."""
    address = free_address("127.0.0.1")
    with (folder / "s3.log").open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-p", address.rpartition(":")[2]]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        child = S3Child(address)
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                child._ask("GET", "/moto-api/")
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the S3 server did not start:\n{(folder / 's3.log').read_text()}") from None
                time.sleep(0.05)
            else:
                break
        yield child
    finally:
        process.kill()
        process.wait()
