"""What the documentation says of the command line is so."""

import re
from pathlib import Path

import click
import pytest

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


ROOT = Path(__file__).parent.parent
PAGES = [path for folder in (".", "docs", "data") for path in sorted((ROOT / folder).glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)]*))?\)")
TYPED = re.compile(r"(?:^|\| )scratchgpt (\S+)((?: [^|#\n]*)?)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, heading in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        assert (page.parent / target).exists(), target
        if heading:
            text = (page.parent / target).read_text(encoding="utf-8")
            titles = re.findall(r"(?m)^#+ (.*)$", text)
            assert heading in {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_to_be_typed_exists(page: Path) -> None:
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```", page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            for command, rest in TYPED.findall(line):
                known = options(command) if command != "logs" else {"--to", "--force"}
                assert set(re.findall(r"(?<= )--?[a-z][\w-]*", rest)) <= known | {"--help"}, line
