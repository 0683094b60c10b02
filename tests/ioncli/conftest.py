"""What starts the processes of commands."""

from collections.abc import Iterator

import pytest

from tests.support.forked_commands import CommandServer, command_server


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    with command_server(tmp_path_factory.mktemp("commands")) as server:
        yield server
