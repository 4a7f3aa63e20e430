"""The panels and keys of the terminal interface, and what of them a screen has room for."""

WIDE, TALL, TALL_WITH_PANEL = 100, 30, 40
"""Columns and rows from which on there are small charts; rows without and with another panel."""

LOW, LOWEST = 18, 9
"""Rows below which a panel takes the place of the chart, and below which there is no chart."""

HELP = """\
p  pause the run, or resume it
g  generate text with the present weights
s  save a checkpoint
e  evaluate on the validation windows
t  show the texts, or hide them
l  logarithmic losses, or linear ones
q  save, then quit; again and again: quit at once
?  this help
Esc  close a panel

Dots are the loss of single steps, the line is their running mean, crosses are losses on the validation windows."""

HELP_ATTACHED = """\
This is only a view of the log of a run, which another program trains or has trained.

t  show the texts, or hide them
l  logarithmic losses, or linear ones
q  quit; the run does not notice
?  this help
Esc  close a panel

Dots are the loss of single steps, the line is their running mean, crosses are losses on the validation windows."""

KEYS = (
    ("p", "Pause", "pause"),
    ("g", "Generate", "generate"),
    ("s", "Save", "tell('save')"),
    ("e", "Evaluate", "tell('evaluate')"),
    ("t", "Texts", "texts"),
    ("l", "Log", "log"),
    ("q", "Quit", "quit"),
    ("?", "Help", "help"),
)


def visible(width: int, height: int, opened: set[str]) -> dict[str, bool]:
    """Return which panels a screen of so many columns and rows shows, if these of help and samples are open."""
    is_low = height < LOW
    return {
        "help": "help" in opened,
        "samples": "samples" in opened and not (is_low and "help" in opened),
        "charts": height >= LOWEST and not (is_low and opened),
        "small": width >= WIDE and height >= (TALL_WITH_PANEL if opened else TALL),
        "progress": height >= LOWEST,
        "log": height >= LOWEST,
        "keys": height >= 3,
    }


def log_rows(height: int) -> int:
    """Return how many rows of a screen the notes get."""
    return 6 if height >= 30 else 4 if height >= 24 else 1 if height < LOW else 2


def key_line(width: int, *, is_commanded: bool) -> str:
    """Return the keys that mean something, as fully as the width allows; each can be clicked.

    A run that is not commanded from here has fewer.
    """
    keys = KEYS if is_commanded else [key for key in KEYS if key[0] in "tlq?"]
    full, short = [f"{key} {label}" for key, label, _ in keys], [key for key, _, _ in keys[:-1]]
    forms = (full, [*short, "? keys"])
    chosen = next((form for form in forms if len("  ".join(form)) <= width), ["? keys"])
    actions = [action for _, _, action in keys][-len(chosen) :]
    return "  ".join(
        f"[@click=app.{action}][b $accent]{text[0]}[/]{text[1:]}[/]"
        for text, action in zip(chosen, actions, strict=True)
    )
