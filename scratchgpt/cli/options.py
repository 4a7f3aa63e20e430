"""Command-line options made from the fields of the configuration: each is declared once, in config.py.

Only vocab_size has none: it is a fact of the data. A whole recipe is a preset, changed by a file, changed by options.
"""

import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from scratchgpt.cli import say
from scratchgpt.config import DEFAULT_PRESET, RECORDS, ModelConfig, Patterns, Setting, TrainConfig, read_setting
from scratchgpt.errors import UsageError

if TYPE_CHECKING:  # imported when a command runs
    from scratchgpt.tokenizer import Tokenizer

Function = Callable[..., Any]

BLOCK = 2**18
"""Bytes of standard input read at once."""


def _fields(record: type[ModelConfig | TrainConfig]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(record) if field.name != "vocab_size"]


def config_options(*records: type[ModelConfig | TrainConfig]) -> Callable[[Function], Function]:
    """Give a command one option for each field; what was not typed is None."""

    def decorate(function: Function) -> Function:
        for record in reversed(records):
            for field in reversed(_fields(record)):
                name = "--" + field.name.replace("_", "-")
                declaration = f"{name}/--no-{name[2:]}" if field.type is bool else name
                kind: dict[str, Any] = {"type": field.type}
                if field.type == Patterns:
                    kind = {"multiple": True, "metavar": "PATTERN"}
                option = click.option(declaration, field.name, default=None, help=field.metadata["help"], **kind)
                function = option(function)
        return function

    return decorate


def typed(record: type[ModelConfig | TrainConfig], settings: dict[str, Any]) -> dict[str, Any]:
    """Return those of a command's arguments that belong to `record` and were typed."""
    names = [field.name for field in _fields(record)]
    return {name: settings[name] for name in names if settings[name] not in (None, ())}


def recipe_options(function: Function) -> Function:
    """Give a command all that makes a recipe: --preset, --config, --set, and an option for each field."""
    preset = click.option("--preset", metavar="NAME", help=f"Recipe to start from; by default {DEFAULT_PRESET}.")
    config = click.option(
        "--config", metavar="FILE", type=click.Path(path_type=Path), help="TOML of a preset's form, which changes it."
    )
    changes = click.option(
        "--set", "changes", metavar="KEY=VALUE", multiple=True, help="The same as KEY's own option; may be repeated."
    )
    return preset(config(changes(config_options(ModelConfig, TrainConfig)(function))))


def asked_for(settings: dict[str, Any], changes: Iterable[str]) -> dict[str, Setting]:
    """Return the fields that were set by their own options, or by --set. Raises UsageError if one was set twice."""
    asked = {
        name: Setting(value, "--" + name.replace("_", "-"))
        for record in RECORDS.values()
        for name, value in typed(record, settings).items()
    }
    for change in changes:
        name, value = read_setting(change)
        if name in asked:
            raise UsageError(f"{name} is set by {asked[name].origin} and again by --set {change}; set it once.")
        asked[name] = Setting(value, "--set")
    return asked


def _lanes(_: click.Context, __: click.Parameter, typed: str | None) -> int | None:
    """Return a number of lanes, None if the choice is left to us. Raises UsageError."""
    from scratchgpt.engine.plan import MOST_LANES, default_lanes

    if typed is None:
        return None
    if typed == "auto":
        return default_lanes()
    if not typed.isascii() or not typed.isdigit() or len(typed) > 2 or int(typed) > MOST_LANES:
        raise UsageError(f"--lanes must be auto or a number from 0 to {MOST_LANES}, not {typed:.20}.")
    return max(int(typed), 1)


def device_options(function: Function) -> Function:
    """Give a command that trains --device and --precision."""
    precision = click.option(
        "--precision", metavar="NAME", help="On a GPU: fp32, tf32 or fp16 (fp32 masters); by default fp32."
    )
    return device_option(precision(function))


device_option = click.option("--device", help="auto, cpu, gpu or gpu:N; by default auto: a GPU if there is one.")


model_option = click.option(
    "--model",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Run, checkpoint or folder; by default the newest run.",
)


def resolved(device: str) -> str:
    """Return cpu or gpu:N; say so if there is a GPU that `auto` cannot use. Raises UsageError."""
    from scratchgpt import backend

    return backend.resolve(device, tell=lambda reason: say(f"Computing on the CPU. {reason}", err=True))


def require_cpu_for(lanes: int | None, device: str) -> None:
    """Raise UsageError if lanes were asked for where there are none."""
    if lanes and device != "cpu":
        raise UsageError("Lanes are a CPU's: use --device cpu with --lanes.")


lanes_option = click.option(
    "--lanes",
    metavar="auto|N",
    callback=_lanes,
    help="Processes that share the work: auto, one for each core; 0 or 1, no others.",
)


VIEWS = {
    "json": "Write every event as a line of JSON.",
    "plain": "Write plain lines, in a terminal too.",
    "quiet": "Write errors and the last line only.",
    "tui": "Watch the run in the whole terminal; press ? there.",
}


def view_options(function: Function) -> Function:
    """Give a command that trains one option for each view, as `view`, and --control, as `is_controlled`."""

    @functools.wraps(function)
    def with_view(*arguments: Any, is_controlled: bool, **settings: Any) -> Any:
        chosen = [name for name in VIEWS if settings.pop(name)]
        if len(chosen) > 1:
            raise UsageError(f"--{chosen[0]} and --{chosen[1]} are two views; choose one.")
        if is_controlled and chosen != ["json"]:
            raise UsageError("--control goes with --json; add that.")
        return function(*arguments, view="".join(chosen), is_controlled=is_controlled, **settings)

    control = click.option(
        "--control", "is_controlled", is_flag=True, help="With --json: read commands from standard input, one a line."
    )
    decorated = control(with_view)
    for name, description in reversed(VIEWS.items()):
        decorated = click.option(f"--{name}", name, is_flag=True, help=description)(decorated)
    return decorated


def vocabulary_options(function: Function) -> Function:
    """Give a command --gpt2 and --tokenizer."""
    given = click.option(
        "--tokenizer",
        "given",
        metavar="FILE",
        type=click.Path(exists=True, path_type=Path),
        help="The vocabulary of a tokenizer.json, or of a folder that has one (data, a run, a checkpoint), or "
        "that has vocab.json and merges.txt.",
    )
    return click.option("--gpt2", is_flag=True, help="GPT-2's vocabulary, of 50,257 tokens.")(given(function))


def vocabulary_of(*, gpt2: bool, given: Path | None) -> "Tokenizer":
    """Return the vocabulary that was named. Raises UsageError and DataError."""
    from scratchgpt import tokenizer
    from scratchgpt.tokenizer import gpt2 as openai

    if gpt2 == (given is not None):
        raise UsageError("Name one vocabulary: --gpt2 or --tokenizer FILE.")
    if given is None:
        return openai.load(tell=lambda what: say(what, err=True))
    from scratchgpt.training.checkpoint import TRAINER, verify
    from scratchgpt.training.locate import is_in_checkpoints, locate

    if (given / "checkpoints").is_dir() or is_in_checkpoints(given):
        given = locate(given)
        if (given / TRAINER).exists():
            verify(given, tokenizer.FILES)
    return tokenizer.load(given) if given.is_dir() else tokenizer.read(given)


def read_text(file: IO[bytes], name: str) -> str:
    """Return the text of a file, which messages call `name`. Raises DataError."""
    return "".join(text_pieces(file, f"The {name}"))


def text_pieces(file: IO[bytes], name: str, *, may_have_nul: bool = False) -> Iterator[str]:
    """Yield the text of a file, which messages call `name`, without its byte order mark. Raises DataError."""
    from scratchgpt.data.plain import text_of
    from scratchgpt.data.unpacking import Contents

    return text_of(Contents(file, name, most=math.inf), "strict", may_have_nul=may_have_nul)


def encoded(text: str, vocabulary: "Tokenizer", *, skip_unknown: bool, special: bool = False) -> tuple[str, list[int]]:
    """Return what of a text the model is to see, and its ids. Raises UsageError.

    With `special`, the names of special tokens are these tokens.
    """
    from scratchgpt.generation import known_part

    if skip_unknown:
        text = known_part(text, vocabulary)
    try:
        return text, vocabulary.encode(text, special=special).tolist()
    except UsageError as error:
        raise UsageError(
            str(error),
            advice="Use --skip-unknown to leave such characters out.",
            page="Change the text, or let Generate leave out unknown characters.",
        ) from error


def standard_input() -> Iterator[bytes]:
    """Yield standard input in blocks, the last of which is empty."""
    while data := sys.stdin.buffer.read(BLOCK):
        yield data
    yield b""


def answer_json_lines(field: str, kind: type, answer: Callable[[list[Any]], Iterable[dict[str, Any]]]) -> None:
    """Write an answer to this field of each line of standard input, as soon as the line is there.

    `answer` gets the fields of several lines where those are there already. Raises UsageError naming the line.
    """

    def answered(lines: Sequence[bytes]) -> str:
        values = [_value(line, field, kind) for line in lines if line.strip()]
        return "".join(json.dumps(content) + "\n" for content in answer(values))

    n_before = 0
    for lines in _lines_at_hand():
        try:
            sys.stdout.write(answered(lines))
        except UsageError:  # of which line? Those before it get their answers
            for number, line in enumerate(lines, n_before + 1):
                try:
                    sys.stdout.write(answered([line]))
                except UsageError as error:
                    raise UsageError(f"Line {number:,} of standard input: {error}") from error
        sys.stdout.flush()
        n_before += len(lines)


def _lines_at_hand() -> Iterator[list[bytes]]:
    """Yield the lines of standard input, always as many as are there without waiting, within limits."""
    held: list[bytes] = []
    while data := os.read(sys.stdin.fileno(), BLOCK):
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            yield b"".join([*held, whole]).split(b"\n")
            held = []
        held.append(rest)
    if any(held):
        yield [b"".join(held)]


def _value(line: bytes, field: str, kind: type) -> Any:
    """Return the field of a line. Raises UsageError."""
    try:
        value = json.loads(line.decode("utf-8-sig"))[field]
    except UnicodeDecodeError as error:
        raise UsageError(f"The byte at offset {error.start:,} is not UTF-8.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"It is no JSON object with a field {field!r}.") from error
    if not isinstance(value, kind):
        raise UsageError(f"Its field {field!r} is of another kind.")
    return value
