"""What the documentation says of the command line is so."""

import re
from pathlib import Path

import click

from scratchgpt.cli import COMMANDS, cli

PAGE = Path(__file__).parent.parent / "docs" / "coming-from.md"
SPAN = re.compile(rf"`({'|'.join(COMMANDS)})((?: [^`]*)?)`")


def options(command: str) -> set[str]:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return {name for param in found.params for name in (*param.opts, *param.secondary_opts)}


def test_every_option_that_others_are_compared_with_exists() -> None:
    """In the second column of each table stand commands with their options, or that there are none, and why."""
    page = PAGE.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[1] != "here"]
    assert len(rows) > 60
    for _, ours, reason in rows:
        assert SPAN.search(ours) or (ours.startswith("none") and reason), ours
    named = [(command, option) for command, rest in SPAN.findall(page) for option in re.findall(r"--[\w-]+", rest)]
    assert [pair for pair in named if pair[1] not in options(pair[0])] == []
