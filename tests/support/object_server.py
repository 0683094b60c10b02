"""A server that speaks S3, in a process of its own."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ionstore.storage.s3 import ObjectPath

_START_S = 30.0


@contextmanager
def running_object_server() -> Iterator[str]:
    """Start a server on a free port of this machine; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    address = f"http://127.0.0.1:{port}"
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
        try:
            _wait_for(address, server)
            yield address
        finally:
            server.kill()


def environment(address: str) -> dict[str, str]:
    """The variables by which a user says where the server is and who asks."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "student",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


def make_bucket(address: str, name: str) -> None:
    _request(f"{address}/{name}", "PUT")


@contextmanager
def refused_credentials(address: str) -> Iterator[None]:
    """Let the server look at credentials, none of which it knows."""
    _request(f"{address}/moto-api/reset-auth", "POST", b"0")
    try:
        yield
    finally:
        _request(f"{address}/moto-api/reset-auth", "POST", b"inf")


def upload(folder: Path, place: ObjectPath) -> None:
    """Put all files of a folder below a key."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place.joinpath(*path.relative_to(folder).parts).write_bytes(path.read_bytes())


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            _request(f"{address}/moto-api/data.json", "GET")
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def _request(url: str, method: str, content: bytes | None = None) -> None:
    headers = {"Content-Type": "text/plain"} if content else {}
    request = urllib.request.Request(url, content, headers, method=method)
    with urllib.request.urlopen(request, timeout=_START_S):
        pass
