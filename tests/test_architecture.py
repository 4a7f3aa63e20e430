"""The rules of the house, read off the syntax trees: who may import whom, and what nobody may use."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scratchgpt

PACKAGE = Path(scratchgpt.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each may import what stands before it, and itself.
LAYERS = [
    {
        "errors",
        "extras",
        "kinds",
        "files",
        "download",
        "lock",
        "machine",
        "processes",
        "wording",
        "reports",
        "config",
        "chance",
        "tokenizer",
        "ops",
    },
    {"data", "backend"},
    {"model"},
    {"engine"},
    {"training", "generation", "interchange", "bench", "inspection"},
    {"serving"},
    {"cli", "web"},
    {"__main__", "__init__"},
]

FOREIGN = {
    "click": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"cli"},
    "textual": {"cli"},
    "textual_plotext": {"cli"},
    "fastapi": {"serving", "web"},
    "h11": {"serving"},
    "nicegui": {"web"},
    "prometheus_client": {"serving"},
    "pydantic": {"serving"},
    "pydantic_core": {"serving"},
    "starlette": {"serving", "web"},
    "uvicorn": {"serving"},
    "cupy": {"backend"},
    "safetensors": {"model"},
    "threadpoolctl": {"backend", "bench", "engine", "generation"},
    "torch": {"bench"},
    "transformers": {"bench"},
    "jax": {"bench"},
    "gguf": {"interchange"},
    "onnx": {"interchange"},
    "regex": {"tokenizer"},
    "numpy": {
        "backend",
        "bench",
        "chance",
        "data",
        "engine",
        "generation",
        "inspection",
        "interchange",
        "model",
        "ops",
        "serving",
        "tokenizer",
        "training",
        "web",
    },
}

MOST_LINES = 400
"""Of a module. Kernels are no modules."""
LONGEST_FUNCTION = 60
"""Lines, from `def` on."""
CLEARER_WHOLE = {
    "backend/cpu/attention.py:backward": "a derivation in the order of its steps",
    "bench/jax_peer.py:build": "a whole GPT-2, as its framework would have it",
    "bench/torch_peer.py:build": "a whole GPT-2, as its framework would have it",
    "cli/bench.py:command": "two benchmarks, whose options exclude each other",
}
"""Longer functions, and why."""


def place(path: Path) -> str:
    """Return the part of the package that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for name in imports(path):
        if name.startswith("scratchgpt.") and name != "scratchgpt.__version__":
            target = name.split(".")[1]
            assert rank[target] <= rank[place(path)], f"{place(path)} must not import {name}"
        elif (top := name.partition(".")[0]) in FOREIGN:
            assert place(path) in FOREIGN[top], f"{place(path)} must not import {top}"
        else:
            assert top in sys.stdlib_module_names | {"scratchgpt"}, f"{name} is no dependency of the core"


def test_the_page_and_the_command_line_share_what_is_below_both() -> None:
    """The command `web` starts the page; else neither knows the other."""
    crossings = [
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in MODULES
        for name in imports(path)
        if {place(path), *name.split(".")[1:2]} == {"cli", "web"}
    ]
    assert {path for path, _ in crossings} == {"cli/web.py"}, crossings


def test_a_file_is_one_sitting() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {path: n for path, n in lines.items() if n > MOST_LINES}, "split these by subject"


def test_a_function_is_one_screen() -> None:
    functions = [
        (f"{path.relative_to(PACKAGE).as_posix()}:{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [(name, n) for name, n in functions if n > LONGEST_FUNCTION and name not in CLEARER_WHOLE]
    assert not long, "divide these"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unsafe_is_used(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}
    assert not {name.partition(".")[0] for name in imports(path)} & {"pickle", "marshal", "shelve", "dill", "joblib"}


def loaded_by(program: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter loads for a program."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    output = subprocess.check_output([sys.executable, "-c", f"{program}\n{report}"], encoding="utf-8")
    return set(output.splitlines()[-1].split())


def test_starting_is_cheap() -> None:
    """What is heavy is loaded when it is needed, so that imports and --help are quick."""
    assert not loaded_by("import scratchgpt") & {"numpy", "click", "rich", "safetensors", "regex"}
    show_help = "from scratchgpt.cli import cli; cli(['--help'], standalone_mode=False)"
    assert not loaded_by(show_help) & {"numpy", "rich", "safetensors", "regex"}
    assert "rich" not in loaded_by("import scratchgpt; scratchgpt.Trainer; scratchgpt.generate")


def test_the_page_computes_without_the_command_line() -> None:
    """What draws is another matter: NiceGUI brings uvicorn, and that click."""
    modules = ("address", "desk", "history", "jobs", "recipe")
    program = "; ".join(f"import scratchgpt.web.{module}" for module in modules)
    assert not loaded_by(program) & {"click", "rich", "nicegui"}


def test_the_page_loads_no_rich() -> None:
    pytest.importorskip("nicegui")
    assert "rich" not in loaded_by("import scratchgpt.web.app")


def test_public_names_are_all_there_and_typed() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    names = set(dir(scratchgpt)) - {"__version__"}
    assert names == typed - {None}
    assert all(getattr(scratchgpt, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = scratchgpt.nonsense
