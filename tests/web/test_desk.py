"""What needs no browser: names and paths, recipes as they are typed, curves of a log that grows, commands."""

import asyncio
import gzip
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from scratchgpt.engine import plan
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import safe_name
from scratchgpt.machine import amount
from scratchgpt.training.journal import Journal
from tests import clock
from tests.web.server import wait_until
from tests.world import TEXT, make_dataset

pytest.importorskip("nicegui")
from scratchgpt.web import curves, data_tab, inside_tab, measure_tab, recipe
from scratchgpt.web.desk import Desk, new_text
from scratchgpt.web.history import LARGE, History
from scratchgpt.web.jobs import Task, Training
from scratchgpt.web.model_tab import passes

RUN = ("--set", "n_layer=1", "--set", "n_embd=16", "--set", "block_size=8", "--set", "batch_size=4", "--lanes", "1")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data")  # in data/data
    desk = Desk()
    yield desk
    desk.close()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("shakes.txt", "shakes.txt"),
        ("../../etc/passwd", "passwd"),
        (r"C:\texts\a b.txt", "a-b.txt"),
        (".hidden", "hidden"),
        ("..", "text"),
        ("", "text"),
        ("<img src=x>.txt", "img-src-x-.txt"),
        ("-rf", "rf"),
        ("a\0b\n.txt", "a-b-.txt"),
        ("ß中.txt", "ß中.txt"),
        ("x" * 500, "x" * 60),
        ("x" * 59 + ".y", "x" * 59),
        ("a. . ", "a"),
        ("CON", "text-CON"),
        ("nul.txt", "text-nul.txt"),
        ("com1.tar.gz", "text-com1.tar.gz"),
        ("Lpt²", "text-Lpt²"),
        ("console", "console"),
    ],
)
def test_names_become_harmless(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a.JSONL", "a.jsonl"),
        ("x" * 500 + ".parquet", "x" * 60 + ".parquet"),
        ("\U00020000" * 500 + ".txt", "\U00020000" * 60 + ".txt"),
        ("../../.bashrc", "bashrc.txt"),
        ("", "text.txt"),
        ("con.txt", "text-con.txt"),
        ("table.CSV", "table.csv"),
        ("a.docx", "a.docx.txt"),
    ],
)
def test_uploaded_texts_keep_their_kind(tmp_path: Path, name: str, kept: str) -> None:
    folder = tmp_path / "data"
    assert new_text(folder, name) == folder / kept
    assert new_text(folder, name) == folder / f"{kept.rpartition('.')[0]}-2.{kept.rpartition('.')[2]}"


def test_names_that_differ_in_case_are_one(tmp_path: Path) -> None:
    assert new_text(tmp_path, "Fox.txt") == tmp_path / "Fox.txt"
    assert new_text(tmp_path, "fOX.txt") == tmp_path / "fOX-2.txt"


def test_no_path_leads_out_of_the_folder(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path.parent)
    for path in ("..", "../x", "/etc/passwd", "data/../../x", "out/x", "a\0b"):
        with pytest.raises(UsageError, match="not inside the working folder"):
            desk.inside(path)
    assert desk.inside("data/data") == Path("data/data")
    assert desk.inside(tmp_path / "x.txt") == Path("x.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse these names")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff", "€".encode()[:2], b"a\xed\xb2\x80", b"\xc0\xafx"])
def test_names_that_a_browser_cannot_be_sent_are_not_offered(desk: Desk, tmp_path: Path, name: bytes) -> None:
    odd = os.fsdecode(name)
    (tmp_path / f"{odd}.txt").write_text(TEXT, encoding="utf-8")
    for folder in ("data", "runs"):
        shutil.copytree(tmp_path / "data" / "data", tmp_path / folder / odd)
    (tmp_path / "runs" / odd / "log.jsonl").touch()
    assert (desk.texts(), desk.data(), desk.runs(), desk.models()) == (["data/source.txt"], ["data"], [], {})


def test_typed_recipes_become_options_or_problems() -> None:
    texts = recipe.preset_texts("shakespeare-cpu")
    assert not recipe.problems(texts)
    assert recipe.changes("shakespeare-cpu", texts) == []
    assert recipe.changes("shakespeare-cpu", texts | {"steps": " 7 ", "freeze": "['a.*']", "bias": "true"}) == [
        *("--set", "bias=true", "--set", "steps=7", "--set", "freeze=['a.*']"),
    ]
    wrong = recipe.problems(texts | {"n_head": "3", "steps": "0", "order": "other"})
    assert wrong.keys() == {"n_embd", "order"}
    assert recipe.problems(texts | {"steps": "0"}).keys() == {"steps"}
    assert recipe.problems(texts | {"dropout": ""}).keys() == {"dropout"}


def test_sizes_of_weights_are_typed_as_they_are() -> None:
    model, _ = recipe.configs(recipe.preset_texts("shakespeare-cpu") | {"n_layer": "7", "bias": "true"}, 65)
    sizes = recipe.size_texts(model)
    assert (sizes["n_layer"], sizes["bias"]) == ("7", "true")
    assert sizes.keys() < recipe.FIELDS.keys() - {"dropout"}


def test_a_cost_grows_with_the_work() -> None:
    texts = recipe.preset_texts("shakespeare-cpu")
    small, large = (
        recipe.cost(*recipe.configs(texts | {"steps": steps}, 65), device="cpu", precision="fp32", lanes=1, rate=1e9)
        for steps in ("10", "20")
    )
    assert small.n_parameters == large.n_parameters == 804_096
    assert small.seconds is not None
    assert large.seconds == pytest.approx(2 * small.seconds)
    assert large.n_tokens == 2 * small.n_tokens
    assert recipe.matrix_rate() > 1e7


def test_a_model_that_memory_cannot_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def shortage() -> str:
        texts = recipe.preset_texts("shakespeare-cpu")
        return recipe.cost(*recipe.configs(texts, 65), device="cpu", precision="fp32", lanes=1, rate=1e9).shortage

    monkeypatch.setattr(plan, "available_memory", lambda: 1e9)
    assert not shortage()
    monkeypatch.setattr(plan, "available_memory", lambda: 4e7)
    assert re.search(r"takes \d\d MB of memory, and 40 MB are available\. A smaller n_embd", shortage())


@pytest.mark.parametrize("n_embd", ["128", "16384"])
def test_the_memory_that_is_shown_is_the_one_that_is_required(monkeypatch: pytest.MonkeyPatch, n_embd: str) -> None:
    texts = recipe.preset_texts("shakespeare-cpu") | {"n_embd": n_embd}

    def cost() -> recipe.Cost:
        return recipe.cost(*recipe.configs(texts, 65), device="cpu", precision="fp32", lanes=2, rate=1e9)

    needed = cost().n_bytes
    monkeypatch.setattr(plan, "available_memory", lambda: needed)
    assert not cost().shortage
    monkeypatch.setattr(plan, "available_memory", lambda: needed - 1)
    assert amount(needed) in cost().shortage


def test_figures_are_as_people_say_them() -> None:
    assert [passes(n) for n in (0.0123, 2.46, 82.44, 2_012_345.0)] == ["0.012", "2.5", "82", "2,010,000"]
    assert [amount(n) for n in (41_900, 4.2e8, 4.73e10, 1.2e12)] == ["42 kB", "420 MB", "47.3 GB", "1,200 GB"]


def row(step: int, loss: float = 1.0) -> str:
    return (
        json.dumps({"step": step, "time": 0.0, "loss": loss, "lr": 1e-3, "grad_norm": None, "tokens_per_s": 9}) + "\n"
    )


def test_curves_follow_a_log(tmp_path: Path) -> None:
    log, history = tmp_path / "log.jsonl", History(tmp_path)
    with pytest.raises(DataError, match="was removed"):
        history.refresh()
    log.write_text(row(1, 3.0) + row(2, 2.0) + row(3)[:9], encoding="utf-8")
    history.refresh()
    assert (history.step, history.last("loss")) == (2, 2.0)
    assert math.isnan(history.last("grad_norm"))
    assert history.points("loss").tolist() == [[1, 3], [2, 2]]
    version = history.version
    history.refresh()
    assert history.version == version
    validation = {"step": 3, "val_loss": 1.5, "val_whole": False}
    log.write_text(row(1, 3.0) + row(2, 2.0) + row(3) + json.dumps(validation) + "\n", encoding="utf-8")
    history.refresh()
    assert history.version > version
    assert history.points("validation").tolist() == [[3, 1.5]]
    assert history.last_validation == 1.5
    other = tmp_path / "other"
    other.write_text(row(1, 3.0) + row(2, 7.0), encoding="utf-8")
    other.replace(log)  # as a run does that goes on from an earlier step
    history.refresh()
    assert history.points("loss").tolist() == [[1, 3], [2, 7]]
    log.unlink()
    with pytest.raises(DataError, match="was removed"):
        history.refresh()
    assert history.points("loss").tolist() == []


def test_a_run_in_the_place_of_a_removed_one_is_another(tmp_path: Path) -> None:
    log, history = tmp_path / "log.jsonl", History(tmp_path)
    log.write_text(row(1, 3.0), encoding="utf-8")
    history.refresh()
    log.write_text(row(1, 4.0).replace("0.0", "9.0") + row(2, 2.0), encoding="utf-8")  # its inode may be the same
    history.refresh()
    assert history.points("loss").tolist() == [[1, 4], [2, 2]]


def test_odd_numbers_do_not_break_curves(tmp_path: Path) -> None:
    odd = [row(1, 1e140), row(2), '{"step": 3, "event": "saved", "loss": "x"}', '{"step": 3, "event": "note"}']
    fast = '{"step": 4, "loss": 1, "step_ms": 1e145, "tokens_per_s": 1e145}'
    lines = [*odd, fast, '{"step": 5, "event": "note", "message": "m", "val_loss": ""}']
    (tmp_path / "log.jsonl").write_text("".join(f"{line.strip()}\n" for line in lines), encoding="utf-8")
    history = History(tmp_path)
    history.refresh()
    for axis in ("step", "tokens", "time"):
        for column in ("loss", "mean loss", "validation"):
            history.points(column, axis=axis)
    assert history.points("loss").tolist()[1] == [2.0, 1.0]


def test_curves_are_drawn_while_the_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(row(1), encoding="utf-8")
    history = History(tmp_path)
    history.refresh()
    with history._reading:  # noqa: SLF001 - as a thread that reads a long log holds it
        assert history.width("step") == 1
        assert history.points("loss").tolist() == [[1.0, 1.0]]


def test_a_long_log_is_thinned(tmp_path: Path) -> None:
    lines = [row(step, 9.0 if step == 7_777 else 2.0) for step in range(1, 20_001)]
    (tmp_path / "log.jsonl").write_text("".join(lines), encoding="utf-8")
    history = History(tmp_path)
    history.refresh()
    points = history.points("loss")
    assert len(points) == len(history.points("mean loss")) == 2 * LARGE
    assert points[:, 1].max() == 9
    near = history.points("loss", (100, 200))
    assert [step for step, _ in near.tolist() if 100 <= step < 200] == [*range(100, 200)]
    assert len(near) <= 6 * LARGE
    assert near[:, 1].max() == 9
    version = history.version
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(row(20_001))
    history.refresh()
    assert history.version == version  # one would not see it


def test_curves_are_placed_by_steps_tokens_or_time(tmp_path: Path) -> None:
    rows: list[dict[str, float | None]] = [
        {"step": 1, "loss": 4.0, "step_ms": 500.0, "tokens": 10},
        {"step": 2, "loss": 2.0, "step_ms": 1500.0, "tokens_per_s": 20.0},  # as older versions log it
        {"step": 2, "val_loss": 3.0},
        {"step": 3, "loss": 3.0, "step_ms": None, "tokens": 30},
        {"step": 3, "val_loss": 2.5},
        {"step": 4, "val_loss": 2.7},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row | {"time": 0.0}) + "\n" for row in rows))
    history = History(tmp_path)
    history.refresh()
    assert history.points("loss", axis="tokens").tolist() == [[10, 4], [40, 2], [70, 3]]
    assert history.points("loss", axis="time").tolist() == [[0.5, 4], [2, 2], [2, 3]]
    assert history.points("validation")[:, 0].tolist() == [2, 3, 4]
    assert history.points("validation", axis="tokens")[:, 0].tolist() == [40, 70, 70]
    assert (history.width("step"), history.width("tokens"), history.width("time")) == (3, 70, 2)
    assert history.best_validation == (3, 2.5)
    assert history.points("mean loss", smoothing=1).tolist() == [[1, 3], [2, 3], [3, 2.5]]
    assert [curves.axis_title("time", seconds) for seconds in (300, 301, 18_001)] == [
        ("training time, s", 1),
        ("training time, min", 60),
        ("training time, h", 3600),
    ]


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    histories = []
    for name, train in (("a", {"steps": 5, "bias": True}), ("b", {"steps": 5, "bias": False}), ("c", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(row(1), encoding="utf-8")
        about = json.dumps({"model": {"n_embd": 8}, "train": train})
        (tmp_path / name / "run.json").write_text(about if train else "{}", encoding="utf-8")
        histories.append(History(tmp_path / name))
        histories[-1].refresh()
    assert curves.differences(histories[:2]) == ["bias true", "bias false"]
    assert curves.differences(histories)[2] == ""
    assert [history.steps for history in histories] == [5, 5, 0]


def test_uploads_are_checked_to_their_end(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    cases = [
        (b"", "is empty"),
        (b"good\n" * 10**5 + b"\xff", "is not UTF-8"),
        (b"\xff\xfe\0\0", "is empty"),
        (b"text\0text", "has NUL bytes"),
        (b"%PDF-1.7\n", "is a PDF document"),
        (b"PK\x03\x04" + bytes(100), "is damaged"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
        (gzip.compress(b"text")[:-9], "is damaged"),
        (b"<!doctype html><title>", "is a web page"),
    ]
    for content, sentence in cases:
        path.write_bytes(content)
        task = desk.check(path)
        wait_until(lambda: task.is_over)  # noqa: B023
        assert sentence in task.failure
        assert "--" not in task.failure
        assert not path.exists()
    path.write_text(TEXT, encoding="utf-8")
    task = desk.check(path)
    wait_until(lambda: task.is_over)
    assert not task.failure
    assert path.exists()


def test_a_check_can_be_stopped_and_has_limits(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a" * 2**28, 1))  # no word ends in it
    task = desk.check(path)
    others = [desk.check(tmp_path / name) for name in "bcd"]
    with pytest.raises(UsageError, match="4 uploads are being checked"):
        desk.check(tmp_path / "e")
    task.stop()
    wait_until(lambda: task.is_over and all(other.is_over for other in others), seconds=10)
    assert not path.exists()
    path.write_bytes(gzip.compress(b"a" * 2**20, 1))
    monkeypatch.setattr("scratchgpt.web.desk.LONGEST_TEXT", 2**20 - 1)
    task = desk.check(path)
    wait_until(lambda: task.is_over)
    assert "more than 1,048,575 characters" in task.failure
    assert not path.exists()


def test_tokens_can_be_looked_at(desk: Desk) -> None:
    data = desk.inside("data/data")
    tokens = data_tab.some_tokens(data, "train")
    assert len(tokens) == data_tab.SHOWN_TOKENS
    assert all(token.piece.isprintable() for token in tokens)
    batches, per_second = data_tab.loading_speed(data, batch_size=2, block_size=8)
    assert per_second == pytest.approx(16 * batches)
    with pytest.raises(UsageError, match="no prepared data"):
        data_tab.some_tokens(Path("data/nothing"), "train")


def test_commands_tell_progress_output_and_failures(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    task = desk.start("prepare", "prepare", "--out", "data/fox", "--", "fox.txt")
    wait_until(lambda: task.is_over)
    assert "data/fox is ready" in task.output
    assert (task.failure, task.done, task.stage) == ("", 1.0, "Encoding")
    assert "fox" in desk.data()
    assert desk.texts() == ["data/source.txt", "fox.txt"]
    failing = Task("prepare", "--", "nothing.txt")
    wait_until(lambda: failing.is_over)
    assert "nothing.txt" in failing.failure


def test_a_second_command_or_training_is_refused(desk: Desk) -> None:
    training = desk.train("--data", "data/data", "--run", "runs/one", "--set", "steps=100000", *RUN)
    with pytest.raises(UsageError, match="stop it first"):
        desk.train("--data", "data/data")
    wait_until(lambda: training.last)
    training.tell("pause")
    wait_until(lambda: training.state == "paused")
    training.tell('sample {"n_tokens": 5}')
    wait_until(lambda: [len(text) for _, text in journal(desk).texts] == [6])  # with the prompt
    training.tell("resume")
    wait_until(lambda: training.state == "training")
    desk.close()
    assert training.is_over
    assert training.state == "saved"
    assert not training.failure
    assert desk.training_of("one") is training
    assert desk.training_of("two") is None
    wait_until(lambda: desk.runs() == ["one"])


def journal(desk: Desk) -> Journal:
    history = desk.history("one")
    history.refresh()
    return history.journal


def test_a_text_goes_on_for_the_whole_time_of_each_absence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scratchgpt.web.desk.RETURN_WITHIN", 0.6)

    async def come_and_go() -> None:
        desk.generate("window", "", "--", "runs/none")
        desk.arrive("window")
        desk.leave("window")
        await asyncio.sleep(0.4)
        desk.arrive("window")
        desk.leave("window")
        await asyncio.sleep(0.4)
        assert desk.generation("window")
        await asyncio.sleep(0.4)
        assert desk.generation("window") is None

    clock.run(come_and_go())


@pytest.mark.usefixtures("desk")
def test_a_training_says_why_it_cannot_begin() -> None:
    training = Training("--data", "data/nothing", "--run", "runs/one")
    wait_until(lambda: training.is_over)
    assert training.failure.startswith("There is no prepared data in")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_what_was_killed_is_said_to_be(desk: Desk) -> None:
    training = desk.train("--data", "data/data", "--run", "runs/one", "--set", "steps=1000000", *RUN)
    wait_until(lambda: training.last)
    training._child._process.kill()  # noqa: SLF001 - as the system does it
    wait_until(lambda: training.is_over)
    assert training.failure == "It was killed, perhaps for want of memory."


def test_results_and_logs_are_exported(desk: Desk) -> None:
    steps = ("--set", "steps=6", "--set", "eval_every=3", "--set", "warmup_steps=0")
    training = desk.train("--data", "data/data", "--run", "runs/one", *steps, *RUN)
    wait_until(lambda: training.is_over)
    content = json.loads(measure_tab.as_json(Path("runs/one")))
    assert content.keys() == {"init", "logs"}
    assert content["init"].keys() == {"config", "date"}
    trained = [logged for logged in content["logs"] if "train/loss" in logged]
    assert [logged["iter"] for logged in trained] == [1, 2, 3, 4, 5, 6]
    assert {"dt_ms", "time_s", "mem"} <= trained[0].keys()
    assert any({"val/loss", "val/perplexity", "val/acc"} <= logged.keys() for logged in content["logs"])
    then = partial(measure_tab.keep, "one", "evaluation")
    task = desk.start("measure", "evaluate", "--json", "--", "runs/one", then=then)
    wait_until(lambda: task.is_over)
    assert not task.failure
    with measure_tab.KEPT.open("a", encoding="utf-8") as file:
        file.write("damaged\n")
    (result,) = measure_tab.kept()
    assert measure_tab.summary(result).startswith("loss ")
    assert "--n-embd=16" in measure_tab.sizes(Path("runs/one"))


def test_a_result_that_cannot_be_kept_is_told(desk: Desk) -> None:
    measure_tab.KEPT.mkdir(parents=True)  # as little to be written as on a full disk
    then = partial(measure_tab.keep, "one", "evaluation")
    task = desk.start("measure", "bench", "--json", "--rounds=1", "--n-layer=1", "--n-embd=16", then=then)
    wait_until(lambda: task.is_over)
    assert re.fullmatch(r"The result cannot be kept: .*: runs.measured\.jsonl; it is .* a second.*", task.failure)


def test_a_model_can_be_looked_into(desk: Desk) -> None:
    training = desk.train("--data", "data/data", "--run", "runs/one", "--set", "steps=2", *RUN)
    wait_until(lambda: training.is_over)
    seen = inside_tab.look(Path("runs/one"), "the quick\nfox")
    assert seen.labels == [*"the", "␣", *"quick", "↵", *"fox"]
    assert seen.losses.shape == (12,)
    assert len(seen.following) == inside_tab.N_NEXT
    assert seen.maps.shape == (1, 4, 8, 8)
    assert np.isfinite(seen.maps[0, 0]).sum() == 36  # what is on and below the diagonal
    with pytest.raises(UsageError, match="vocabulary"):
        inside_tab.look(Path("runs/one"), "§")
    shutil.rmtree("runs/one")
    training = desk.train("--data", "data/data", "--run", "runs/one", "--set", "steps=2", *RUN, "--set", "n_head=2")
    wait_until(lambda: training.is_over)
    assert inside_tab.look(Path("runs/one"), "the").maps.shape == (1, 2, 3, 3)  # of the new model
