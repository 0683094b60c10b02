"""A server that speaks S3, for the tests of stores in object stores."""

from collections.abc import Iterator

import pytest

from tests.object_server import environment, make_bucket, running_object_server


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of a server with the bucket ``box``; the environment leads to it."""
    with running_object_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(address).items():
            patch.setenv(name, value)
        make_bucket(address, "box")
        yield address
