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
