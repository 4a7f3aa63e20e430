"""What a running trainer can be told: lines are understood or refused, and no command changes the run's numbers."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scratchgpt.errors import UsageError
from scratchgpt.training import checkpoint
from scratchgpt.training.commands import NAMES, Command, Evaluate, Pause, Resume, Sample, Save, Stop, parse
from scratchgpt.training.events import Ended, Evaluated, Event, Noted, Paused, Resumed, Sampled, Saved, StepDone
from scratchgpt.training.locate import locate
from scratchgpt.training.trainer import Trainer
from tests.training.test_trainer import assert_same_state, losses
from tests.world import make_dataset, make_snapshot, make_trainer


def told(trainer: Trainer, commands: dict[int, list[Command]]) -> Iterator[Event]:
    """Yield the run's events; after these steps, tell it these commands."""
    for event in trainer.events():
        yield event
        if isinstance(event, StepDone):
            for command in commands.get(event.step, []):
                trainer.tell(command)


@pytest.mark.parametrize("lanes", [1, 2])
def test_commands_change_no_number(lanes: int, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    snapshot = make_snapshot(dataset)
    snapshot = snapshot._replace(plan=snapshot.plan._replace(lanes=lanes))
    expected = losses(list(Trainer(snapshot, dataset, tmp_path / "undisturbed" / "run").events()))
    commands: dict[int, list[Command]] = {
        1: [Sample(n_tokens=20), Evaluate()],
        7: [Pause(), Sample(prompt="the ", n_tokens=3), Save(), Evaluate(), Resume()],
        8: [Evaluate(), Save(), Save()],
        20: [Sample(n_tokens=5), Evaluate()],
    }
    got = list(told(Trainer(snapshot, dataset, tmp_path / "told" / "run"), commands))
    assert losses(got) == expected
    one, other = (locate(tmp_path / name / "run") for name in ("undisturbed", "told"))
    assert_same_state(one, other)
    assert checkpoint.read(one).best_loss == checkpoint.read(other).best_loss
    assert [event.step for event in got if isinstance(event, Sampled) and event.is_last] == [1, 7, 20]
    evaluated = [event.step for event in got if isinstance(event, Evaluated) and not event.is_whole]
    assert evaluated == [0, 1, 7, 8, 8, 16, 20, 20]
    assert [event for event in got if isinstance(event, Paused | Resumed)] == [Paused(7), Resumed(7)]
    assert [event for event in got if isinstance(event, Noted)].count(Noted("step 8: it is saved already")) >= 1


def test_samples_are_text_of_the_present_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=60, learning_rate=2e-2, dropout=0.0, sample_every=30)
    samples = {30: "", 60: ""}
    for event in trainer.events():
        if isinstance(event, Sampled):
            samples[event.step] += event.text
    assert [len(text) for text in samples.values()] == [201, 201]
    assert samples[30] != samples[60]
    assert set("".join(samples.values())) <= set("the quick brown fox jumps over the lazy dog,\nand sleeps on.\n")


@pytest.mark.parametrize("prompt", ["", "ж"])
def test_a_prompt_that_cannot_be_continued_is_a_note(prompt: str, tmp_path: Path) -> None:
    events = list(told(make_trainer(tmp_path, steps=2), {1: [Sample(prompt=prompt)]}))
    (note,) = [event.message for event in events if isinstance(event, Noted)]
    assert note.startswith("step 1: no sample: ")
    assert isinstance(events[-1], Ended)
    assert events[-1].is_finished


def test_a_paused_trainer_waits_without_computing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    events = told(trainer, {3: [Pause()]})
    assert any(isinstance(event, Paused) for event in events)
    computing, waiting = time.thread_time(), time.perf_counter()  # of this thread: others do not count
    threading.Timer(0.7, trainer.tell, [Resume()]).start()
    assert next(events) == Resumed(3)
    assert time.perf_counter() - waiting >= 0.6
    assert time.thread_time() - computing <= 0.1


@pytest.mark.parametrize("paused", [True, False])
def test_stop_ends_at_once_what_goes_on(paused: bool, tmp_path: Path) -> None:  # noqa: FBT001
    trainer = make_trainer(tmp_path)
    first: list[Command] = [Pause()] if paused else [Sample(n_tokens=10**9)]
    seen: list[Event] = []
    for event in told(trainer, {3: first}):
        seen.append(event)
        if isinstance(event, Sampled | Paused) and len(seen) < 100:
            threading.Thread(target=trainer.tell, args=[Stop()]).start()
    assert seen[-2:] == [Saved(3, tmp_path / "run" / "checkpoints" / "step-000003"), Ended(3, is_finished=False)]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("save\n", Save()),
        ("  pause ", Pause()),
        ("evaluate {}", Evaluate()),
        ("sample", Sample()),
        (
            'sample {"prompt": "To be", "n_tokens": 7, "temperature": 1}',
            Sample(prompt="To be", n_tokens=7, temperature=1),
        ),
    ],
)
def test_lines_say_commands(line: str, command: Command) -> None:
    assert parse(line) == command


def test_every_command_has_a_name() -> None:
    assert {type(parse(name)) for name in NAMES} == set(NAMES.values())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "no command ''"),
        ("sav", "no command 'sav' .did you mean 'save'"),
        ("\x00\xff" * 50, "no command"),
        ("save now", "must be a JSON object"),
        ("save []", "must be a JSON object"),
        ("sample " + "[" * 10**5, "must be a JSON object"),
        ('save {"step": 3}', "'save' has no field 'step'"),
        ('sample {"promt": "x"}', "no field 'promt' .did you mean 'prompt'"),
        ('sample {"prompt": 3}', "'prompt' of the command 'sample' cannot be 3"),
        ('sample {"n_tokens": true}', "'n_tokens' of the command 'sample' cannot be True"),
        ('sample {"n_tokens": 0}', "n_tokens must be at least 1"),
        ('sample {"temperature": NaN}', "temperature must be 0 or more"),
        ('sample {"top_k": 0}', "top-k must be at least 1"),
    ],
)
def test_lines_that_say_none_are_refused(line: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse(line)
