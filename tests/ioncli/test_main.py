"""The two command groups and the help of their commands."""

import click
import pytest
from click.testing import CliRunner

from ioncli.main import ionmodel, ionstore

GROUPS = [ionstore, ionmodel]
COMMANDS = [
    pytest.param(group, name, id=f"{group.name} {name}")
    for group in GROUPS
    for name in group.commands
]


def help_of(group: click.Group, *names: str) -> str:
    result = CliRunner().invoke(group, [*names, "--help"], terminal_width=80)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_a_group_lists_each_command_with_a_whole_sentence(group: click.Group) -> None:
    listed = help_of(group).partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == sorted(group.commands)
    for line in listed:
        assert line.endswith(".")
        assert not line.endswith("..")


@pytest.mark.parametrize(("group", "name"), COMMANDS)
def test_the_help_of_a_command_has_an_example(group: click.Group, name: str) -> None:
    _, found, examples = help_of(group, name).partition("\n  Example")
    assert found
    assert f"{group.name} {name}" in examples
