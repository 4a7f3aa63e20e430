"""The derivations beside the code: their snippets run, their links lead somewhere, no op lacks a chapter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPS = ROOT / "scratchgpt" / "ops"
BOOK = sorted(OPS.glob("*.md"))
PAGES = [*BOOK, *(ROOT / "scratchgpt" / name for name in ("tokenizer/bpe.md", "generation/cache.md"))]
LINKED = [*PAGES, *ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
NOT_OPS = {"__init__", "array", "cache", "optimizer", "table"}


def _snippets(page: Path) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _links(page: Path) -> list[str]:
    """Return the targets of a page's relative links, without fragments; code and formulas have none."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [target for target in targets if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_hold_what_they_claim(page: Path) -> None:
    """A page's snippets, pasted one after the other as a reader would, run through; each ends in its claim."""
    snippets = _snippets(page)
    assert any(re.search(r"^assert \w+ <= ", snippet, re.MULTILINE) for snippet in snippets)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-"],
        input="\n".join(snippets).encode(),
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()


def test_links_lead_to_files() -> None:
    """Every relative link is one to an existing file."""
    links = [page.parent / link for page in LINKED for link in _links(page)]
    assert len(links) > len(LINKED)
    assert [link for link in links if not link.exists()] == []


def test_every_op_has_its_chapter() -> None:
    """Modules and chapters correspond, and the index names each of both."""
    ops = {path.stem for path in OPS.glob("*.py")} - NOT_OPS
    assert {page.stem for page in BOOK} == ops | {"README"}
    assert set(_links(OPS / "README.md")) >= {f"{op}{suffix}" for op in ops for suffix in (".md", ".py")}
