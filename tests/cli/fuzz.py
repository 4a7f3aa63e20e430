"""Cases for the command line that no one wrote by hand, and what must hold for each of them.

A case is a number: the number decides the files, their names, the options, the input and the moment of a signal. The
commands and options come from click, so a new one takes part by itself. Each case runs in a process of its own, forked
from a server that has imported the package already.
"""

import contextlib
import gzip
import hashlib
import importlib
import json
import lzma
import multiprocessing
import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
import zipfile
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import click

from scratchgpt.__main__ import main
from scratchgpt.cli import cli
from tests.interchange import rusted
from tests.world import TEXT, scratchgpt

PRELOADED = (
    "numpy",
    "pyarrow.parquet",
    "rich.console",
    "rich.progress",
    "rich.table",
    "scratchgpt.data.prepare",
    "scratchgpt.generation.text",
    "scratchgpt.inspection.page",
    "scratchgpt.interchange.gguf",
    "scratchgpt.interchange.onnx",
    "scratchgpt.training.trainer",
    "scratchgpt.backend.cpu",
)
"""What most cases import."""
ROOT = Path(__file__).resolve().parents[2]
CODES = {0, 1, 2, 130, 143}
HANGS = -1
AGAIN, MOST_SIGNALS = 30.0, 5
"""Seconds after which a signal is sent again, as a person would: Python loses one that comes in a destructor. A process
that survives five of them hangs."""
MEMORY = 4 * 2**30
"""Bytes of address space that a case may take; a longer life must end in a sentence, not in an allocation."""
FILE_SIZE = 2**28
"""Bytes of a file that a case may write."""
LONGEST_MESSAGE = 1000
"""Characters of a failure's message, without the names and values that it repeats."""
FAULTS = re.compile(r"Traceback \(most|Exception ignored|Exception in|\w+Warning: |Fatal Python error|core dumped")
"""What a person must never see."""
DEFAULT = re.compile(r"attention[^/]*\.png|curves\.png|surprise\.html")
"""Files that commands write where no option says so."""
UNFINISHED = re.compile(r"\.new$|(^|/)\.(unfinished|stdin|tmp)")
"""Files that are there only while a command works."""
KEPT = re.compile(r"\.lock$|\.partial/")
"""Files that one call leaves for the next, which may change or remove them."""
NOTES = "notes.txt"
"""A file in many folders that no command may touch."""

SMALL = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --eval-windows 4"
TRAIN = f"--device cpu --lanes 1 --no-tune --steps 3 {SMALL}"
LINES = {
    "prepare": (
        "prepare fox.txt --out out",
        "prepare fox.txt",
        "prepare fox.txt lines.jsonl rows.parquet --out out",
        "prepare texts --out out",
        "prepare packed.txt.gz --out out",
        "prepare fox.txt --bpe --vocab-size 270 --out out",
        "prepare fox.txt --tokenizer bpe --out out",
        "prepare lines.jsonl --field text --tokenizer data/fox/tokenizer.json --out out",
        "prepare - --out out",
        "prepare fox.txt --check",
        "prepare fox.txt table.csv --val fox.txt --out out",
        "prepare fox.txt --out data/fox",
    ),
    "config": ("config --config recipe.toml", "config --init runs/a --data data/fox", "config --set n_layer=2"),
    "train": (
        f"train --data data/fox --run out {TRAIN}",
        f"train --data data/fox {TRAIN} --json",
        f"train --data data/fox --config recipe.toml --run out {TRAIN} --log csv,tensorboard",
        f"train --data data/fox --init runs/a --run out {TRAIN}",
        "train --resume runs/a --steps 6",
        "train --resume runs/a/checkpoints/step-000002 --steps 3 --force",
        "train --resume runs/a/checkpoints/best --steps 6 --plain",
    ),
    "web": ("web --port 0 --no-open",),
    "evaluate": ("evaluate runs/a", "evaluate runs/a --split train --json", "evaluate runs/a --data data/fox"),
    "generate": (
        "generate runs/a --tokens 5",
        "generate runs/a --tokens 5 --prompt the --json",
        "generate runs/a --tokens 5 --prompt-file prompt.txt --logprobs",
        "generate runs/a --tokens 5 --interactive",
        "generate hf --tokens 5 --samples 2",
    ),
    "info": (
        "info runs/a --tensors",
        "info runs/a",
        "info data/fox",
        "info data/bpe --json",
        "info hf",
        "info fox.txt",
    ),
    "attention": ("attention the --model runs/a -o out.png",),
    "surprise": ("surprise prompt.txt --model runs/a -o out.html", "surprise prompt.txt --model hf"),
    "serve": ("serve runs/a --port 0",),
    "runs": ("runs", "runs runs --json"),
    "plot": ("plot runs/a", "plot runs/a -o out.svg", "plot runs/a runs/a/log.jsonl"),
    "logs export": ("logs export runs/a --to csv", "logs export runs/a --to tensorboard -o out"),
    "encode": ("encode --tokenizer data/fox", "encode --tokenizer bpe --json", "encode --tokenizer words"),
    "decode": ("decode --tokenizer data/fox", "decode --tokenizer bpe --json", "decode --tokenizer words"),
    "bench": (f"bench --steps 1 --rounds 1 --lanes 1 --device cpu {SMALL.replace('--eval-windows 4', '')}",),
    "import": (
        "import --rusted rusted/model --vocab rusted/data/vocab.json -o out",
        "import --rusted rusted/model",
        "import --rusted-data rusted/data -o out",
    ),
    "export": ("export runs/a --gguf out.gguf", "export runs/a --onnx out.onnx"),
}
"""For each command lines that succeed in the world below. A command without a line gets random options only."""

WORDS = {
    "device": ("cpu", "auto", "gpu", "gpu:1", "gpu:-1"),
    "precision": ("fp32", "fp16"),
    "lanes": ("0", "1", "2", "auto"),
    "kinds": ("csv", "tensorboard", "csv,csv"),
    "preset": ("shakespeare-cpu", "gpt-nano", "gpt2", "rusted"),
    "activation": ("gelu", "relu"),
    "order": ("random", "sequential"),
    "on_nan": ("stop", "back"),
    "changes": ("n_layer=1", "n_embd=16", "steps=2", "dropout=nan", "=", "vocab_size=3", "seed="),
    "freeze": ("*", "transformer.wte.weight", "h.0.*", "["),
    "host": ("127.0.0.1", "", "::1", "localhost"),
    "vs": ("", "torch,", "tensorflow"),
    "mix": ("fox=1", "fox=0", "lines=nan", "a=1"),
    "stop_token": ("<|endoftext|>", "e"),
    "port": ("0",),
    "token": ("0123456789abcdef", "short"),
}
"""Values that some options with a text for a value understand, or nearly."""
LEFT_OUT = {"--tui", "--attach", "--gpt2", "--open"}
"""Options that draw in a whole terminal, download, or open a browser."""
INPUTS = {
    (False, False): (TEXT[:300].encode(), TEXT[:300].encode(), b"", b"\n\nthe\n"),
    (True, False): (b'{"text": "the fox"}\n{"text": "over"}\n', b'{"event": "pause"}\n{"text": ""}\n'),
    (False, True): (b"1 2 3\n4 5", b"0"),
    (True, True): (b'{"ids": [1, 2]}\n\n{"ids": []}\n',),
}
"""Standard input: with --json or without, for `decode` or another command."""
ODD_NAMES = (
    b"with space",
    b"-dash",
    b"--force",
    b"caf\xe9",
    b"\xff\xfe",
    b"caf\xe9",
    b"[/b]",
    b"[/b]",
    b"[bold]",
    b"new\nline",
    b"tab\t",
    b"\x1b[31mred",
    b"x" * 200,
    "ünïcödé 日本".encode(),
    b"..dots..",
    b"25_weight",
    b"%s{0}$HOME",
    b"'quote\"",
    b"$x$",
    b"CON",
    b"\xed\xa0\x80",
)
NUMBERS = ("0", "1", "2", "3", "8", "16", "-1", "65", "1000000000", "9" * 25, "1e3", "", " 1", "many", "１", "0x10")
FRACTIONS = ("0", "0.5", "1", "1.0", "-1", "nan", "inf", "1e-30", "1e308", "1e400", "half", "", "3")
MAGIC = (
    b"\x1f\x8b\x08",
    b"PK\x03\x04",
    b"\xfd7zXZ\x00",
    b"PAR1",
    b"\x28\xb5\x2f\xfd",
    b"GGUF",
    b"\x7fELF",
    b"%PDF-1.7",
)
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0", b"\r\n", b"\x1a", b"\xed\xa0\x80", b"<|endoftext|>")
JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**70,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x1b[2J[/b]",
    "../../etc/passwd",
    [],
    {},
    [[]],
    ["a", 1],
    {"": None},
    "y" * 10_000,
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["__main__", __name__, *PRELOADED])


class Case(NamedTuple):
    """One call of the command line, twice where that shows what the first has left behind."""

    name: str
    arguments: list[str]
    standard_input: bytes
    in_terminal: bool
    anew: bool  # started by Python as a user starts it, not forked
    signal: int
    after: float  # seconds
    n_times: int
    changed: list[str]  # files that are no longer as the world has them


class Outcome(NamedTuple):
    """What a call has done."""

    code: int
    output: str
    errors: str  # in a terminal: with the output
    was_signalled: bool


def make_world(folder: Path) -> None:
    """Write valid files of every kind that a command takes into an empty folder."""
    pyarrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    for name in ("texts", "texts/10_one", "texts/30_two", "data", "rusted", "words", "bpe"):
        (folder / name).mkdir()
    text = TEXT[:1500]
    for name in ("fox.txt", "texts/10_one/a.txt", "texts/30_two/b.txt"):
        (folder / name).write_text(text, encoding="utf-8", newline="")
    (folder / "prompt.txt").write_text("the fox", encoding="utf-8")
    lines = "".join(json.dumps({"text": text[n : n + 50], "id": n}) + "\n" for n in range(0, 1500, 50))
    (folder / "lines.jsonl").write_text(lines, encoding="utf-8")
    (folder / "table.csv").write_text("text,id\n" + 'a quick fox,1\n"the, dog",2\n' * 20, encoding="utf-8")
    parquet.write_table(pyarrow.table({"text": [text[:100]] * 5, "n": [1] * 5}), folder / "rows.parquet")
    (folder / "packed.txt.gz").write_bytes(gzip.compress(text.encode("utf-8")))
    (folder / "packed.txt.xz").write_bytes(lzma.compress(text.encode("utf-8")))
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.write(folder / "fox.txt", "fox.txt")
    with tarfile.open(folder / "packed.tar", "w") as tar:
        tar.add(folder / "fox.txt", "fox.txt")
    recipe = '[model]\nn_layer = 1\nn_head = 2\nn_embd = 16\nblock_size = 16\n\n[train]\nsteps = 3\norder = "random"\n'
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    called(folder, "prepare", "fox.txt")
    called(folder, "prepare", "fox.txt", "--bpe", "--vocab-size", "265", "--out", "data/bpe")
    called(folder, "train", "--data", "data/fox", "--run", "runs/a", "--log", "csv", *TRAIN.split(), "--steps", "2")
    rusted.write_data(folder / "rusted" / "data", [1, 2, 3] * 20, [2, 3] * 20)
    rusted.write_model(folder / "rusted" / "model")
    shutil.copy(folder / "data" / "bpe" / "tokenizer.json", folder / "bpe")
    model = json.loads((folder / "bpe" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "words" / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    (folder / "words" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    checkpoint = folder / "runs" / "a" / "checkpoints" / "step-000002"
    shutil.copytree(checkpoint, folder / "hf", ignore=lambda _, names: [n for n in names if "tr" in n])
    for name in (".", "data", "data/fox", "runs", "runs/a", "runs/a/checkpoints", "texts", "rusted", "hf", "words"):
        (folder / name / NOTES).write_text("mine", encoding="utf-8")


def called(folder: Path, *arguments: str) -> None:
    """Run a command that must succeed."""
    done = scratchgpt(*arguments, cwd=folder)
    assert not done.returncode, done.stderr


def commands() -> dict[str, click.Command]:
    """Return every command by its words, such as `logs export`."""

    def walk(group: click.Group, before: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
        ctx = click.Context(group)
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            words = (*before, name)
            if isinstance(command, click.Group):
                yield from walk(command, words)
            else:
                yield " ".join(words), command

    assert isinstance(cli, click.Group)
    return dict(walk(cli, ()))


def make_case(seed: int, number: int, folder: Path) -> Case:
    """Return a case, whose files it has changed in `folder`, a copy of the world."""
    chance = random.Random(f"{seed} {number}")  # noqa: S311 - nothing secret
    every = commands()
    name = chance.choice([*every, "prepare", "train", "generate"])  # these read the most kinds of files
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NOTES)
    names = sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*")})
    line = chance.choice(LINES.get(name, (name,))) if chance.random() < 0.9 else name
    arguments = line.split()
    changed = []
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        near = [path for path in files if any(is_of(path.relative_to(folder).as_posix(), word) for word in arguments)]
        path = chance.choice(near if near and chance.random() < 0.8 else files)
        path.write_bytes(spoilt(path.read_bytes(), chance))
        changed.append(path.relative_to(folder).as_posix())
    if chance.random() < 0.5:
        arguments = renamed(arguments, folder, chance)
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 4))):
        arguments = with_option(arguments, every[name], names, chance)
    given = chance.choice(INPUTS["--json" in arguments, name == "decode"])
    is_anew = chance.random() < 0.04
    early = chance.uniform(0.02, 0.3)
    return Case(
        name,
        arguments,
        spoilt(given, chance) if chance.random() < 0.4 else given,
        in_terminal=chance.random() < 0.2,
        anew=is_anew,
        signal=chance.choice(SIGNALS),
        after=3.0 if is_anew else chance.choice((early, 3.0, 3.0, 3.0)),  # not while Python itself starts
        n_times=chance.choice((1, 1, 2)),
        changed=changed,
    )


def is_of(path: str, word: str) -> bool:
    """Whether a path is a word, or below it."""
    return path == word or path.startswith(f"{word}/")


def renamed(arguments: list[str], folder: Path, chance: random.Random) -> list[str]:
    """Give a file or folder that is named, or one to be written, an odd name."""
    places = [n for n, word in enumerate(arguments) if (folder / word).exists() or word.startswith("out")]
    if not places:
        return arguments
    place = chance.choice(places)
    old = arguments[place]
    odd = os.fsdecode(chance.choice(ODD_NAMES))
    new = str(Path(old).parent / (odd + chance.choice(("", "", Path(old).suffix))))
    if (folder / old).exists():
        with contextlib.suppress(OSError):  # a file system may refuse the name
            (folder / new).parent.mkdir(exist_ok=True)
            (folder / old).rename(folder / new)
    return [*arguments[:place], new, *arguments[place + 1 :]]


def with_option(arguments: list[str], command: click.Command, names: list[str], chance: random.Random) -> list[str]:
    """Add a random option or argument of a command at a random place, or take a word away."""
    if chance.random() < 0.1 and len(arguments) > 1:
        place = chance.randrange(1, len(arguments))
        return arguments[:place] + arguments[place + 1 :]
    parameter = chance.choice([parameter for parameter in command.params if not LEFT_OUT & set(parameter.opts)])
    value = [] if getattr(parameter, "is_flag", False) else [value_of(parameter, names, chance)]
    if isinstance(parameter, click.Argument):
        words = value
    else:
        words = [chance.choice([*parameter.opts, *parameter.secondary_opts]), *value]
        if chance.random() < 0.3:
            words = ["=".join(words)]
    place = len(arguments) if chance.random() < 0.7 else chance.randrange(1, len(arguments) + 1)
    return arguments[:place] + words + arguments[place:]


def value_of(parameter: click.Parameter, names: list[str], chance: random.Random) -> str:
    """Return a value for a parameter, which may be valid."""
    known = WORDS.get(parameter.name or "", ())
    if known and chance.random() < 0.8:
        return chance.choice(known)
    kind = parameter.type
    if isinstance(kind, click.Choice) and chance.random() < 0.8:
        return str(
            chance.choice([choice for choice in kind.choices if choice != "wandb"])
        )  # it leaves files of its own
    if isinstance(kind, (click.types.IntParamType, click.IntRange)):
        return chance.choice(NUMBERS)
    if isinstance(kind, (click.types.FloatParamType, click.FloatRange)):
        return chance.choice(FRACTIONS)
    if isinstance(kind, (click.Path, click.File)):
        odd = *map(os.fsdecode, ODD_NAMES), "-", "", ".", "..", "out", "nowhere/out", "fox.txt/x"
        return chance.choice([*names, *names, *odd])
    return chance.choice([*map(os.fsdecode, ODD_NAMES), *NUMBERS, *FRACTIONS, "", "the", "z" * 5000])


def spoilt(content: bytes, chance: random.Random) -> bytes:
    """Return something else in the place of a file's content, often nearly the same."""
    ways = _json, _json, _json, _line, _flipped, _cut, _marked, _doubled, _noise, _other
    return chance.choice(ways)(content, chance)


def _json(content: bytes, chance: random.Random) -> bytes:
    """Put junk in one place of a JSON document, or of one of its lines; flip bits where there is none."""
    lines = [content] if b"\n{" not in content.rstrip() or content.count(b"}\n{") == 0 else content.split(b"\n")
    place = chance.randrange(len(lines))
    try:
        document = json.loads(lines[place])
    except (ValueError, RecursionError):
        return _safetensors(content, chance)
    lines[place] = json.dumps(_junk_in(document, chance)).encode("utf-8")
    return b"\n".join(lines)


def _safetensors(content: bytes, chance: random.Random) -> bytes:
    """Put junk in the header of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
    except (ValueError, RecursionError):
        return _flipped(content, chance)
    new = json.dumps(_junk_in(header, chance)).encode("utf-8")
    return len(new).to_bytes(8, "little") + new + content[8 + size :]


def _junk_in(document: Any, chance: random.Random) -> Any:
    """Replace, remove or add something at a random depth."""
    if isinstance(document, dict) and document and chance.random() < 0.9:
        key = chance.choice(list(document))
        if chance.random() < 0.15:
            return {other: value for other, value in document.items() if other != key}
        if chance.random() < 0.1:
            return document | {chance.choice(("", "extra", "\ud800")): chance.choice(JUNK)}
        return document | {key: _junk_in(document[key], chance)}
    if isinstance(document, list) and document and chance.random() < 0.9:
        place = chance.randrange(len(document))
        return [*document[:place], _junk_in(document[place], chance), *document[place + chance.choice((1, 1, 1, 0)) :]]
    return chance.choice(JUNK)


def _line(content: bytes, chance: random.Random) -> bytes:
    """Remove, repeat or exchange lines, or change a value after = or a comma."""
    lines = content.split(b"\n")
    place, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    kind = chance.randrange(4)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(place, lines[other])
    elif kind == 2:
        lines[place], lines[other] = lines[other], lines[place]
    else:
        value = chance.choice((b"-1", b'"x"', b"nan", b"[1]", b"{}", b"9" * 30, b"", b"true", b"1979-05-27"))
        lines[place] = re.sub(rb"(?<=[=,]).*", lambda _: value, lines[place], count=1)
    return b"\n".join(lines)


def _flipped(content: bytes, chance: random.Random) -> bytes:
    flipped = bytearray(content or b"\0")
    for _ in range(chance.choice((1, 1, 4, 64))):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.choice((0, 1, 7, len(content) // 2, len(content) - 1))]


def _marked(content: bytes, chance: random.Random) -> bytes:
    mark = chance.choice(MARKS)
    place = chance.choice((0, 0, len(content), chance.randrange(len(content) + 1)))
    return content[:place] + mark + content[place:]


def _doubled(content: bytes, chance: random.Random) -> bytes:
    return content * chance.choice((2, 3))


def _noise(content: bytes, chance: random.Random) -> bytes:
    del content
    return chance.randbytes(chance.choice((1, 8, 100, 5000)))


def _other(content: bytes, chance: random.Random) -> bytes:
    """Make it another kind of file: by its first bytes, or whole."""
    text = content.decode("utf-8", "replace")
    deep = b"[" * 100_000 + b"]" * 100_000
    return chance.choice(
        (
            chance.choice(MAGIC) + content,
            text.encode("utf-16"),
            text.encode("utf-8").replace(b"\n", b"\r"),
            gzip.compress(content),
            lzma.compress(content),
            deep,
            b"\0" * 4096,
            b'{"a": ' + deep + b"}",
        )
    )


def hashes(folder: Path) -> dict[str, str]:
    """Return a hash for each file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(case: Case, folder: Path) -> Outcome:
    """Run a case once in `folder`/world, and end it by its signal if it lasts longer than it may."""
    paths = [folder / name for name in ("input", "output", "errors")]
    paths[0].write_bytes(case.standard_input)
    with contextlib.ExitStack() as stack:
        if case.in_terminal:
            ours, theirs = map(stack.enter_context, map(_descriptor, pty.openpty()))
            os.set_blocking(ours, False)
            paths[1:] = [Path(os.ttyname(theirs))] * 2
        shown = bytearray()
        process = (started_anew if case.anew else forked)(case, folder, paths)
        end = time.monotonic() + case.after
        n_signals = 0
        while not process.has_ended(0.005):
            if case.in_terminal:
                shown += _read(ours)
            if time.monotonic() > end:
                if n_signals == MOST_SIGNALS:
                    process.signal(signal.SIGKILL)
                    return Outcome(HANGS, "", "", was_signalled=True)
                n_signals += process.signal(case.signal)
                end = time.monotonic() + AGAIN
        output, errors = [bytes(shown + _read(ours))] * 2 if case.in_terminal else map(Path.read_bytes, paths[1:])
    return Outcome(process.code(), output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"), n_signals > 0)


@contextlib.contextmanager
def _descriptor(number: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield number
    finally:
        os.close(number)


def _read(descriptor: int) -> bytes:
    """Return what a terminal shows by now."""
    found = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(descriptor, 2**16):
            found += part
    return found


class Running(NamedTuple):
    """A process, forked or started anew."""

    process: BaseProcess | subprocess.Popen[bytes]

    def has_ended(self, seconds: float) -> bool:
        """Wait for the end, but not longer than this."""
        if isinstance(self.process, BaseProcess):
            self.process.join(seconds)
            return self.process.exitcode is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.returncode is not None

    def signal(self, number: int) -> bool:
        """Send a signal, SIGINT to its own processes too, as a terminal does; return whether it was still there."""
        assert self.process.pid is not None
        try:
            (os.killpg if number == signal.SIGINT else os.kill)(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def code(self) -> int:
        """Return the exit code as a shell has it."""
        code = self.process.exitcode if isinstance(self.process, BaseProcess) else self.process.returncode
        assert code is not None
        return code if code >= 0 else 128 - code


def environment(folder: Path) -> dict[str, str]:
    """Keep a case from the network, a browser, and the user's folders."""
    places = {name: str(folder / "user") for name in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # where no one listens
    return {"TMPDIR": str(folder / "temporary"), "BROWSER": "true", "WANDB_MODE": "offline"} | places | proxies


def started_anew(case: Case, folder: Path, paths: list[Path]) -> Running:
    """Start a case as a user does."""
    with paths[0].open("rb") as given, paths[1].open("wb") as output, paths[2].open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "scratchgpt", *case.arguments],
            cwd=folder / "world",
            env=os.environ | environment(folder) | {"PYTHONPATH": str(ROOT)},
            stdin=given,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    return Running(process)


def forked(case: Case, folder: Path, paths: list[Path]) -> Running:
    """Start a case as a fork of a process that has imported the package."""
    is_there, tell = SERVER.Pipe(duplex=False)
    with is_there, tell:
        process = SERVER.Process(target=_live, args=[case.arguments, folder, paths, tell])
        process.start()
        is_there.recv()
    return Running(process)


def _live(arguments: list[str], folder: Path, paths: list[Path], tell: Any) -> None:
    """Be the program."""
    os.setsid()
    for descriptor, (path, mode) in enumerate(zip(paths, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2), strict=True)):
        os.dup2(os.open(path, mode | os.O_NOCTTY), descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - they stay open
        for descriptor, mode in enumerate("rww")
    )
    os.chdir(folder / "world")
    os.environ |= environment(folder)
    sys.argv = ["scratchgpt", *arguments]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        tell.send("here")
        tell.close()
        main()
    except KeyboardInterrupt as error:
        if any(frame.f_code is main.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise
        sys.exit(128 + signal.SIGINT)  # it came before the program began


def complaints_about_words(case: Case, outcome: Outcome) -> Iterator[str]:
    """Yield what is wrong with the end of a call, and with its words."""
    code, output, errors, was_signalled = outcome
    if code == HANGS:
        yield f"It does not end after {MOST_SIGNALS} signals {case.signal}."
        return
    if code not in CODES and not (was_signalled and code == 128 + case.signal):
        yield f"Exit code {code}."
    # Python's own helper tells what a SIGKILL leaves to the system; its call itself can say nothing more.
    words = re.sub(r".*resource_tracker: There appear.*\n", "", output + errors) if code == 137 else output + errors
    if found := FAULTS.search(words):
        yield f"It shows {found.group()!r}."
    is_help = errors.startswith("Usage: ") and "  Show this message and exit." in errors  # what `logs` alone shows
    if code in (1, 2) and not was_signalled and not is_help:
        _, _, message = errors.rpartition("Error: ")
        message = message.replace("\r\n", "\n").strip()
        if "Error: " not in errors or not message:
            yield "It fails without a message."
        if len(message) > LONGEST_MESSAGE + sum(map(len, case.arguments)):
            yield f"The message has {len(message):,} characters."
        if "\n\n" in message:
            yield "The message has more than one paragraph."


def complaints_about_files(
    case: Case, outcome: Outcome, before: dict[str, str], after: dict[str, str]
) -> Iterator[str]:
    """Yield what a call did to files; `before` and `after` are the hashes of its folder."""
    has_ended = outcome.code in CODES - {128 + signal.SIGTERM}
    named = {
        os.path.normpath(part) for word in case.arguments for part in (word, word[2:], word.rpartition("=")[2]) if part
    }
    hidden = {str(Path(name).with_name(f".{Path(name).name}")) for name in named if Path(name).name}
    roots = tuple(f"{name}{end}" for name in named | hidden | {"data", "runs"} for end in "/.")
    may_replace = any(word.startswith(("--force", "--resume")) for word in case.arguments)

    def is_named(path: str) -> bool:
        return path in named or path.startswith(roots) or "." in named

    for path in after.keys() - before.keys():
        is_unfinished = UNFINISHED.search(path)
        if has_ended and is_unfinished:
            yield f"It has left the unfinished {path!r}."
        if not (is_named(path) or is_unfinished or DEFAULT.fullmatch(path)):
            yield f"It has left {path!r}."
    for path in [path for path in before if before[path] != after.get(path)]:
        is_ours = path in named or Path(path).name != NOTES
        if not (is_ours and is_named(path) and (may_replace or KEPT.search(path))):
            yield f"It has {'changed' if path in after else 'removed'} {path!r}."


def try_case(seed: int, number: int, world: Path, folder: Path) -> tuple[Case, list[Outcome], list[str]]:
    """Make a case in an empty folder, run it, and return its outcomes and all complaints."""
    shutil.copytree(world, folder / "world")
    for name in ("user", "temporary"):
        (folder / name).mkdir()
    case = make_case(seed, number, folder / "world")
    outcomes, found = list[Outcome](), list[str]()
    for _ in range(case.n_times):
        before = hashes(folder / "world")
        outcomes.append(run(case, folder))
        found += complaints_about_words(case, outcomes[-1])
        found += complaints_about_files(case, outcomes[-1], before, hashes(folder / "world"))
        if outcomes[-1].code in CODES and list((folder / "temporary").iterdir()):
            found.append("It has left temporary files.")
    return case, outcomes, found
