"""The one place that makes a console, and what is known of the terminal."""

import os

from rich.console import Console


def terminal(*, stderr: bool = False) -> Console:
    """Return a console that shows text as it is: a name may hold what rich takes for markup or for an emoji."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def table_terminal() -> Console:
    """Return a console for tables; where there is no terminal, it has 120 columns."""
    console = terminal()
    console.width = console.width if console.is_terminal else 120
    return console


def has_unicode() -> bool:
    """Tell whether the terminal shows UTF-8, by what the locale says of it, if that says anything."""
    named = next((os.environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "utf")
    return "utf" in named.lower()
