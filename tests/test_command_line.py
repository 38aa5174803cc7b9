"""`leanrec --help`: every command says what it does, and the ways in come first."""

from collections.abc import Iterator

import pytest
from typer.main import get_command

from leanrec.cli import app


def commands() -> Iterator[tuple[str, str]]:
    """Names and help texts of all commands, those of a group as `group command`."""
    for name, command in get_command(app).commands.items():
        yield name, command.help or ""
        for inner, child in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", child.help or ""


@pytest.mark.parametrize(("name", "text"), sorted(commands()))
def test_every_command_says_what_it_does_in_a_sentence_for_people(name: str, text: str) -> None:
    assert text.strip().endswith("."), f"{name} has no help"
    assert "Error" not in text


def test_the_help_begins_with_the_way_in_and_every_command_has_its_place() -> None:
    group = get_command(app)
    listed = group.list_commands(None)
    assert sorted(listed) == sorted(group.commands)
    assert listed[:3] == ["doctor", "run", "report"]
    releases = group.commands["release"].list_commands(None)
    assert releases[0] == "status"
    assert releases.index("publish") < releases.index("rollout") < releases.index("abort")
