"""`scratchgpt bench`: how long a training step or a token takes, beside other frameworks and the machine's limit."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scratchgpt.cli import say
from scratchgpt.cli.options import config_options, device_options, lanes_option, require_cpu_for, resolved, typed
from scratchgpt.config import DEFAULT_PRESET, ModelConfig, Preset, load_preset
from scratchgpt.errors import UsageError
from scratchgpt.wording import counted

POSITIVE = click.IntRange(min=1)
CHARACTERS, WORD_PIECES = 65, 50_257
MOST_TOKENS = 2**14
"""In a step that is timed, unless a batch size is asked for: gpt2's own has half a million."""
IDLE_CPU = 0.1
"""Cores that a contender may keep busy while it waits, before the report says so."""


@click.command("bench", short_help="Time a training step or a token, beside other frameworks.")
@click.option("--preset", metavar="NAME", help=f"Preset whose sizes to take; by default {DEFAULT_PRESET}.")
@click.option("--generate", "is_generation", is_flag=True, help="Time the tokens of a text, not training steps.")
@click.option("--model", "folder", metavar="RUN", type=click.Path(path_type=Path), help="With --generate: whose model.")
@click.option(
    "--vs",
    metavar="NAMES",
    default="",
    help="Peers, with commas: torch, torch-compile, torch-bf16, jax; of texts: transformers; of both: ours@FOLDER, "
    "another checkout of scratchgpt.",
)
@click.option(
    "--steps",
    type=POSITIVE,
    help="Steps in each turn, by default as many as take 0.3 s, from 1 to 10; of texts tokens, from 10 to 100.",
)
@click.option("--rounds", type=POSITIVE, default=15, show_default=True, help="Turns of each contender that count.")
@click.option(
    "--starts", type=POSITIVE, default=1, show_default=True, help="Starts of all contenders, each for these rounds."
)
@click.option(
    "--batch-size", type=POSITIVE, help="Sequences in a step, by default the preset's; of texts by default 8."
)
@click.option("--vocab-size", type=int, help="Number of different tokens (V); by default as the preset is used.")
@lanes_option
@click.option("--seed", type=click.IntRange(min=0), default=1337, show_default=True, help="Of weights and tokens.")
@device_options
@click.option("--profile", "is_profile", is_flag=True, help="Show where our time goes, too.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line for each contender, ours last.")
@config_options(ModelConfig)
def command(
    *,
    preset: str | None,
    is_generation: bool,
    folder: Path | None,
    vs: str,
    steps: int | None,
    rounds: int,
    starts: int,
    batch_size: int | None,
    vocab_size: int | None,
    lanes: int | None,
    seed: int,
    device: str | None,
    precision: str | None,
    is_profile: bool,
    is_json: bool,
    **settings: Any,
) -> None:
    """Time whole training steps (forward, backward, clip, AdamW) of a preset's model, by default without dropout.

    With --vs, the very same model in other frameworks takes turns with ours, each in a process of its own; that all
    compute the same losses is checked first. Rounds in which other programs keep the machine busy do not count.

    With --generate, time the tokens of a text instead: one text, several at once, a long prompt, and the beginning.
    """
    from scratchgpt import backend
    from scratchgpt.bench import Workload, measure
    from scratchgpt.cli import bench_generation

    peers = list(dict.fromkeys(name.strip() for name in vs.split(",") if name.strip()))
    if is_generation:
        if lanes or precision or is_profile:
            raise UsageError("--lanes, --precision and --profile are about training; leave them out with --generate.")
        changes = typed(ModelConfig, settings)
        if folder and (preset or changes or vocab_size is not None):
            raise UsageError("The model of --model has its sizes; leave out the options that change them.")
        preset = preset or DEFAULT_PRESET
        records = bench_generation.run(
            folder or ModelConfig.from_mapping(_sizes(load_preset(preset), preset, changes, vocab_size)),
            peers,
            n_tokens=steps,
            n_samples=batch_size or 8,
            rounds=rounds,
            starts=starts,
            seed=seed,
            device=resolved(device or "auto"),
            progress=_progress,
        )
        _report(
            [{"name": str(folder or preset)} | record for record in records], bench_generation.show, is_json=is_json
        )
        return
    if folder:
        raise UsageError("--model goes with --generate; add that, or choose sizes with --preset.")
    preset = preset or DEFAULT_PRESET
    measure.check_peers(peers)
    device = resolved(device or "auto")
    backend.require_precision(device, precision or "fp32")
    require_cpu_for(lanes, device)
    recipe = load_preset(preset)
    model = _sizes(recipe, preset, typed(ModelConfig, settings), vocab_size)
    config = ModelConfig.from_mapping(model)
    workload = Workload(
        model=config,
        batch_size=batch_size or min(recipe.train["batch_size"], max(1, MOST_TOKENS // config.block_size)),
        seed=seed,
        device=device,
        precision=precision or "fp32",
        lanes=lanes or 0,
    )
    if peers and workload.model.dropout:
        raise UsageError("With dropout every framework draws numbers of its own; leave out --dropout or --vs.")

    records = measure.compare(workload, peers, steps=steps, rounds=rounds, starts=starts, progress=_progress)
    parts = {}
    if is_profile:
        _progress("profiling")
        parts = measure.profile(workload, records[-1]["steps"])
    _progress("")
    shared = {"preset": preset, "batch_size": workload.batch_size, "model": model, "machine": measure.machine()}
    records = [shared | record for record in records]
    records[-1] |= {"profile": parts} if parts else {}
    _report(records, _show, is_json=is_json)


def _report(records: list[dict[str, Any]], show: Callable[[list[dict[str, Any]]], None], *, is_json: bool) -> None:
    """Print the records as JSON, or for people with the doubts about them; warn of contenders that were not idle."""
    if is_json:
        for record in records:
            click.echo(json.dumps(record))
    else:
        show(records)
        n_discarded, doubts = (records[-1][name] for name in ("discarded_rounds", "doubts"))
        if n_discarded is None:
            say("Discarded rounds: none, for this system does not report how busy it is.")
        else:
            say(f"Discarded rounds, in which other programs kept the machine busy: {n_discarded}.")
        for doubt in doubts:
            say(f"Not worth quoting: {doubt}")
    for record in records:
        if record["idle_cpu"] > IDLE_CPU:
            say(
                f"Note: {record['contender']} kept {record['idle_cpu']:.1f} cores busy while others had their turn.",
                err=True,
            )


def show_ratio(name: str, ratio: dict[str, float | None], cpu_ratio: dict[str, float | None]) -> None:
    """Print a ratio of times, and that of processor times if it is known, with their intervals."""

    def shown(spread: dict[str, float | None]) -> str:
        low, high = spread["low"], spread["high"]
        interval = "too few rounds for an interval" if low is None else f"95% interval {low:.3f} to {high:.3f}"
        return f"{spread['median']:.3f} ({interval})"

    say(f"{name}: {shown(ratio)}" + (f"; processor time {shown(cpu_ratio)}" if cpu_ratio["median"] else ""))


def _sizes(recipe: Preset, preset: str, changes: dict[str, Any], vocab_size: int | None) -> dict[str, Any]:
    """Return the configuration of a preset's model, without dropout."""
    used_with = WORD_PIECES if preset.startswith("gpt-") else CHARACTERS
    model = {"vocab_size": used_with} | dict(recipe.model) | {"dropout": 0.0} | changes
    return model if vocab_size is None else model | {"vocab_size": vocab_size}


def _progress(message: str) -> None:
    """Show in a terminal what is going on, in place of what was shown before."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{message}", nl=False, err=True)


def _show(records: list[dict[str, Any]]) -> None:
    """Print the tables."""
    from rich import box
    from rich.bar import Bar
    from rich.table import Table

    from scratchgpt.cli.console import terminal

    console = terminal()
    ours = records[-1]
    machine, model = ours["machine"], ours["model"]
    versions = "; ".join(dict.fromkeys(record["version"] for record in reversed(records)))
    console.print(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; {versions}")
    console.print(
        f"{ours['preset']}: V {model['vocab_size']:,}, T {model['block_size']}, C {model['n_embd']}, "
        f"H {model['n_head']}, L {model['n_layer']}, B {ours['batch_size']}; {ours['parameters']:,} parameters; "
        f"{counted(ours['rounds'], 'round')} of {counted(ours['steps'], 'step')}. A large matrix product makes "
        f"{ours['blas_gflops']:,.0f} GFLOP/s, at which a step takes {ours['blas_limit_ms']:,.1f} ms."
    )
    table = Table("contender", box=box.SIMPLE, padding=0, collapse_padding=False)
    for heading in ("ms/step", "min–max", "tokens/s", "GFLOP/s", "of limit", f"MB ({ours['memory_kind']})", "× ours"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        memory = record["peak_memory_mb"]
        table.add_row(
            record["contender"],
            f"{record['step_ms']:,.1f}",
            f"{record['step_ms_min']:,.1f}–{record['step_ms_max']:,.1f}",
            f"{record['tokens_per_s']:,.0f}",
            f"{record['gflops']:,.1f}",
            f"{record['blas_limit_ms'] / record['step_ms']:.0%}",
            f"{memory:,.0f}" if memory else "?",
            f"{record['ratio']:.2f}",
        )
    console.print(table)
    for record in records[:-1]:
        spreads = (
            {"median": record[name], "low": record[f"{name}_low"], "high": record[f"{name}_high"]}
            for name in ("ratio", "cpu_ratio")
        )
        show_ratio(f"{record['contender']} / ours", *spreads)
    parts = ours.get("profile")
    if parts:
        total = sum(parts.values())
        table = Table("part of ours", "ms/step", "share", "", box=box.SIMPLE)
        for name, ms in parts.items():
            table.add_row(name, f"{ms:,.2f}", f"{ms / total:.0%}", Bar(total, 0, max(ms, 0), width=30))
        console.print(table)
