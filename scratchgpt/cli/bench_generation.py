"""`scratchgpt bench --generate`: how long a token takes, beside `transformers` and the machine's limit."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scratchgpt.bench import generation
from scratchgpt.bench.generation import Workload, measure
from scratchgpt.bench.measure import check_peers, machine
from scratchgpt.cli.bench import show_ratio
from scratchgpt.config import ModelConfig
from scratchgpt.training import checkpoint
from scratchgpt.training.locate import locate


def run(
    model: Path | ModelConfig,
    peers: Sequence[str],
    *,
    n_tokens: int | None,
    n_samples: int,
    rounds: int,
    starts: int,
    seed: int,
    device: str,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Time texts of a run's or checkpoint's model, or of a model of random numbers; return what was found."""
    check_peers(peers, generation.PEERS, generation.SOURCES)
    with contextlib.ExitStack() as stack:
        if isinstance(model, ModelConfig):
            progress("drawing a model")
            folder, config = stack.enter_context(measure.random_model(model, seed)), model
        else:
            folder = locate(model)
            config, _, _ = checkpoint.open_model(folder)
        workload = Workload(
            folder=str(folder.resolve()),
            model=config,
            n_samples=n_samples,
            seed=seed,
            device=device,
        )
        records = measure.compare(workload, peers, n_tokens=n_tokens, rounds=rounds, starts=starts, progress=progress)
    progress("")
    return [{"model": vars(config), "machine": machine()} | record for record in records]


def show(records: list[dict[str, Any]]) -> None:
    """Print the tables."""
    from rich import box
    from rich.table import Table

    from scratchgpt.cli.console import terminal

    console = terminal()
    ours = records[-1]
    system, model = ours["machine"], ours["model"]
    versions = "; ".join(dict.fromkeys(record["version"] for record in reversed(records)))
    console.print(f"{system['cpu']}, {system['cores']} cores, Python {system['python']}; {versions}")
    console.print(
        f"{ours['name']}: V {model['vocab_size']:,}, T {model['block_size']}, C {model['n_embd']}, "
        f"H {model['n_head']}, L {model['n_layer']}; {ours['parameters']:,} parameters; {ours['rounds']} rounds of "
        f"{ours['n_tokens']} tokens after {ours['n_prompt']}. A matrix of {ours['weights_mb']:,.1f} MB, as a token "
        f"needs, is multiplied at {ours['limit_gb_per_s']:,.1f} GB/s (threads: {ours['limit_threads']})."
    )
    table = Table("contender", box=box.SIMPLE, padding=0, collapse_padding=False)
    together, long = f"{ours['n_samples']} at once", f"prefill {ours['n_long_prompt']}"
    for heading in ("ms/token", "tokens/s", together, long, "of limit", f"MB ({ours['memory_kind']})"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in records:
        memory = record["peak_memory_mb"]
        table.add_row(
            record["contender"],
            f"{record['token_ms_mean']:,.3g} ± {record['token_ms_deviation']:,.3g}",
            f"{record['tokens_per_s']:,.0f}",
            f"{record['together_tokens_per_s']:,.0f}",
            f"{record['prefill_tokens_per_s']:,.0f}",
            f"{record['share_of_limit']['median']:.0%}",
            f"{memory:,.0f}" if memory else "?",
        )
    console.print(table)
    table = Table("median over the rounds, least and most", "", box=box.SIMPLE, padding=0, collapse_padding=False)
    kinds = {"alone": "a token", "together": f"a token of {together}", "prefill": long}
    for record in records[:-1]:
        for kind, heading in kinds.items():
            table.add_row(f"{record['contender']} / ours, {heading}", _shown(record["ratio"][kind], "{:.2f}"))
    table.add_row(f"tokens/s of {together} / of one", _shown(ours["gain_together"], "{:.2f}"))
    table.add_row("share of the limit", _shown(ours["share_of_limit"], "{:.0%}"))
    table.add_row("from typing generate to the first character, s", _shown(ours["start_s"], "{:.2f}"))
    console.print(table)
    for record in records[:-1]:
        for kind, heading in kinds.items():
            show_ratio(f"{record['contender']} / ours, {heading}", record["ratio"][kind], record["cpu_ratio"][kind])


def _shown(spread: dict[str, float], form: str) -> str:
    """Return a median with its extremes."""
    median, least, most = (form.format(spread[name]) for name in ("median", "min", "max"))
    return f"{median} ({least} to {most})"
