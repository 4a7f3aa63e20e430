"""Where the page is, as the browser's address says it: links can be shared, and back leads to where one was."""

from collections.abc import Iterable
from typing import NamedTuple, Self
from urllib.parse import parse_qs, urlencode

MOST_COMPARED = 20
LONGEST_NAME = 255


class Address(NamedTuple):
    """A tab, and which runs the tab Train shows."""

    tab: str
    run: str = ""
    compare: tuple[str, ...] = ()

    @classmethod
    def read(cls, query: str, tabs: Iterable[str]) -> Self:
        """Read the part of an address after the question mark; anything unknown becomes the first tab, or nothing."""
        asked = parse_qs(query.removeprefix("?"), errors="replace")
        first, *others = tabs
        tab, run = (asked.get(name, [""])[0] for name in ("tab", "run"))
        compare = [name for name in asked.get("compare", []) if len(name) <= LONGEST_NAME][:MOST_COMPARED]
        return cls(tab if tab in others else first, run[:LONGEST_NAME], tuple(compare))

    def __str__(self) -> str:
        """Return the path and query."""
        names = [("tab", self.tab), *(("run", self.run) for _ in [0] if self.run)]
        return "/?" + urlencode([*names, *(("compare", name) for name in self.compare)])
