"""`scratchgpt generate`: text from a trained model."""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from scratchgpt.cli import say
from scratchgpt.cli.options import device_option, encoded, read_text, resolved
from scratchgpt.errors import UsageError

if TYPE_CHECKING:  # imported when the command runs
    from scratchgpt.generation import Stop, Text
    from scratchgpt.model.gpt import GPT
    from scratchgpt.tokenizer import Tokenizer

AT_ONCE = 16
"""Texts that are made together: more would need more memory and not be faster."""


@click.command("generate", short_help="Make text with a trained model.")
@click.argument("model", required=False, metavar="[RUN]", type=click.Path(path_type=Path))
@click.option("--prompt", metavar="TEXT", help="What the text begins with; by default a newline.")
@click.option("--prompt-file", metavar="FILE", type=click.File("rb"), help="The same from a file; -: standard input.")
@click.option("--interactive", is_flag=True, help="Ask for prompts, a line each.")
@click.option("--skip-unknown", is_flag=True, help="Leave out of prompts what the vocabulary does not have.")
@click.option("--special", is_flag=True, help="Read names of special tokens, such as <|endoftext|>, as these tokens.")
@click.option(
    "--tokens", "n_tokens", type=click.IntRange(min=1), default=200, show_default=True, help="How many to make."
)
@click.option("--stop", "stop_strings", metavar="TEXT", multiple=True, help="End before this; may be given repeatedly.")
@click.option("--stop-token", metavar="TOKEN", help="End where this token is made, such as <|endoftext|>.")
@click.option("--ignore-eos", is_flag=True, help="Go on past the token that ends a text by the model's config.json.")
@click.option(
    "--temperature", type=float, default=0.8, show_default=True, help="0: always the likeliest; 1: as learnt."
)
@click.option("--top-k", type=int, help="Choose among the k likeliest only.")
@click.option("--top-p", type=float, help="Choose among the fewest likeliest that add up to probability p.")
@click.option("--min-p", type=float, help="Choose among those at least p times as likely as the likeliest.")
@click.option(
    "--repetition-penalty", type=float, default=1.0, help="Above 1: tokens that the text has are less likely."
)
@click.option(
    "--frequency-penalty", type=float, default=0.0, help="Above 0: the same, the more often the text has them."
)
@click.option(
    "--presence-penalty", type=float, default=0.0, help="Above 0: tokens that the text has are less likely, once."
)
@click.option("--seed", type=int, default=1337, show_default=True, help="The same seed gives the same text.")
@click.option(
    "--samples", "n_samples", type=click.IntRange(min=1), default=1, show_default=True, help="How many texts."
)
@click.option("--logprobs", is_flag=True, help="Tell how likely each token was to the model: a natural logarithm.")
@click.option("--json", "is_json", is_flag=True, help="Write an object a line for each text.")
@device_option
def command(
    *,
    model: Path | None,
    prompt: str | None,
    prompt_file: BinaryIO | None,
    interactive: bool,
    skip_unknown: bool,
    special: bool,
    n_tokens: int,
    stop_strings: tuple[str, ...],
    stop_token: str | None,
    ignore_eos: bool,
    n_samples: int,
    logprobs: bool,
    is_json: bool,
    device: str | None,
    **how: Any,
) -> None:
    """Continue a prompt with a model, by default that of the newest run in runs/.

    RUN is a run, a checkpoint, or a folder of a GPT-2 that `transformers` has saved.
    """
    from scratchgpt.generation import Sampling, Text, default_prompt, draws, grow, suitable_threads

    sampling = Sampling(**how)
    if (prompt is not None) + (prompt_file is not None) + interactive > 1:
        raise UsageError("Give the prompt one way: --prompt, --prompt-file or --interactive.")
    gpt, vocabulary, stop = _opened(model, device, stop_strings, stop_token, ignore_eos=ignore_eos)
    write = partial(_write_json, logprobs=logprobs) if is_json else _write_tokens if logprobs else _write_text

    def answer(prompt: str, first: int) -> None:
        """Write the texts that go on from a prompt: the samples of the seed from number `first` on."""
        prompt, ids = encoded(prompt, vocabulary, skip_unknown=skip_unknown, special=special)
        if len(ids) > gpt.config.block_size:
            seen = f"the model sees the last {gpt.config.block_size:,} of them"
            say(f"The prompt has {len(ids):,} tokens; {seen}.", err=True)
        for start in range(0, n_samples, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, n_samples))
            texts = [Text(vocabulary, stop) for _ in numbers]
            drawn = draws(
                gpt,
                ids,
                n_tokens,
                sampling,
                samples=[first + number for number in numbers],
                unused=vocabulary.unused,
                has_ended=partial(_has_ended, texts),
            )
            with suitable_threads(gpt):
                write(prompt, dict(zip(numbers, texts, strict=True)), grow(texts, drawn, log_probabilities=logprobs))

    try:
        if interactive:
            _converse(answer, n_samples)
        elif prompt_file is not None:
            answer(read_text(prompt_file, "prompt"), 0)
        else:
            answer(default_prompt(vocabulary) if prompt is None else prompt, 0)
    except BrokenPipeError:  # the reader has all that it wanted: `| head` is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed


def _opened(
    model: Path | None, device: str | None, stop_strings: tuple[str, ...], stop_token: str | None, *, ignore_eos: bool
) -> tuple["GPT", "Tokenizer", "Stop"]:
    """Return the model that was named, its vocabulary, and what ends its texts."""
    from scratchgpt import backend
    from scratchgpt.generation import Stop, token_named
    from scratchgpt.model.folder import end_tokens
    from scratchgpt.model.gpt import GPT
    from scratchgpt.training import checkpoint
    from scratchgpt.training.locate import locate

    if "" in stop_strings:
        raise UsageError("--stop is empty; give at least one character.")
    folder = locate(model)
    config, params, vocabulary = checkpoint.open_model(folder)
    ends = set() if ignore_eos else set(end_tokens(folder, config.vocab_size))
    if stop_token is not None:
        ends.add(token_named(stop_token, vocabulary))
    return GPT(config, backend.select(resolved(device or "auto")), *params), vocabulary, Stop(stop_strings, ends)


def _has_ended(texts: "Sequence[Text]", place: int) -> bool:
    return texts[place].end is not None


def _converse(answer: Callable[[str, int], None], n_samples: int) -> None:
    """Answer each line that is typed, with samples that no line before has had."""
    first = 0
    question = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
    while True:
        try:
            line = input(question).removeprefix("\ufeff")  # which a file that is piped may begin with
        except EOFError:
            if question:
                click.echo()  # what comes next has a line of its own
            return
        try:
            answer(line, first)
        except UsageError as error:
            say(f"Error: {error}", err=True)
        first += n_samples


def _write_text(prompt: str, texts: "dict[int, Text]", growing: Iterator[list[str]]) -> None:
    """Write texts after their prompt: the first as it grows, the others when they have ended."""
    for number, text in texts.items():
        _separate(number)
        _show(prompt)
        _show(text.shown)
        for shown, *_ in growing:  # only for the first of them is there anything left
            _show(shown)
        click.echo()


def _show(text: str) -> None:
    """Write a piece of a text as it is, but to a terminal without what would do something there."""
    from scratchgpt.inspection.labels import harmless

    is_seen = sys.stdout is not None and sys.stdout.isatty()
    click.echo(harmless(text) if is_seen else text, nl=False, color=True)  # None: click would leave out colours' codes


def _write_tokens(prompt: str, texts: "dict[int, Text]", growing: Iterator[list[str]]) -> None:
    """Write a line for each token: how likely it was, and its text."""
    del prompt
    deque(growing, maxlen=0)
    for number, text in texts.items():
        _separate(number)
        for token, log_probability in zip(text.tokens, text.log_probabilities, strict=True):
            click.echo(f"{log_probability:9.4f}  {text.text_of(token)!r}")


def _write_json(prompt: str, texts: "dict[int, Text]", growing: Iterator[list[str]], *, logprobs: bool) -> None:
    """Write a line for each text."""
    deque(growing, maxlen=0)
    for number, text in texts.items():
        record = {"sample": number, "prompt": prompt, "text": text.shown, "tokens": text.tokens, "end": text.end}
        likely = {"logprobs": text.log_probabilities} if logprobs else {}
        click.echo(json.dumps(record | likely))


def _separate(number: int) -> None:
    """Write a line between texts."""
    if number:
        click.echo("-" * 80)
