"""Errors say what to do: at the command line by its options, on the page by its fields and buttons."""

import ast
import pickle
import re
from pathlib import Path

import pytest

import scratchgpt
from scratchgpt.errors import DataError, MemoryShortageError, did_you_mean, for_page

PACKAGE = Path(scratchgpt.__file__).parent
NEVER_ON_THE_PAGE = {
    *("bench", "interchange", "serving"),
    *("cli/__init__.py", "cli/attention.py", "cli/bench.py", "cli/bench_generation.py", "cli/config.py"),
    *("cli/decode.py", "cli/encode.py", "cli/export.py", "cli/import_.py", "cli/info.py", "cli/plot.py", "cli/runs.py"),
    *("cli/serve.py", "cli/web.py"),
}
"""Packages and modules that the page does not use, or whose options it never combines wrongly."""
NEVER_ASKED = (
    *("Give the prompt one way", "--stop is empty", "--lanes must be", "Lanes are a CPU's", "Name one vocabulary"),
    *(" is set by ", "--control goes", "--longest is", "--val is", "--char, --bpe", "--vocab-size is", "--resume goes"),
    *(
        "There are several texts",
        " has later checkpoints",
        "--tui needs",
        "--set takes",
        "--attach ",
        "There is no run ",
        "--mix",
        "--field is",
    ),
    *("--errors is", "--strict is", " is there already", " already holds ", " is not one token"),
)
"""How errors begin that are about options which the page never gives; their values are left out."""
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+|`scratchgpt \w|pip install")


def errors_with_options() -> list[tuple[str, str, bool]]:
    """Return where errors name options or commands, what they say, and whether they say another thing to the page."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in NEVER_ON_THE_PAGE or name.partition("/")[0] in NEVER_ON_THE_PAGE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
                words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
                said = "".join(word for word in words if isinstance(word, str))
                if OPTION.search(said):
                    is_told = any(keyword.arg == "page" for keyword in node.keywords)
                    found.append((f"{name}:{node.lineno}", said, is_told))
    return found


def test_no_error_names_options_on_the_page() -> None:
    found = errors_with_options()
    assert len([where for where, _, is_told in found if is_told]) > 20
    left = [(where, said) for where, said, is_told in found if not is_told and not said.startswith(NEVER_ASKED)]
    assert not left


@pytest.mark.parametrize("kind", [DataError, MemoryShortageError])
def test_an_error_has_advice_for_both(kind: type[DataError]) -> None:
    error = kind("It failed.", advice="Use --force.", page="Press Again.")
    for each in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - between our own processes
        assert str(each) == "It failed. Use --force."
        assert for_page(each) == "It failed. Press Again."
    assert for_page(kind("It failed.")) == "It failed."
    assert for_page(OSError(2, "No such file", "a")) == "No such file: a"


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("stepz", ("steps", "batch_size"), " (did you mean 'steps'?)"),
        ("gelu", ("gelu_new", "relu"), " (did you mean 'gelu_new'?)"),  # more letters of it are in `relu`
        ("gpt", ("gpt2", "gpt-nano"), " (did you mean 'gpt2'?)"),
        ("swish", ("gelu_new", "relu"), ""),
        ("", ("a",), ""),
    ],
)
def test_the_nearest_name(name: str, known: tuple[str, ...], hint: str) -> None:
    assert did_you_mean(name, known) == hint
