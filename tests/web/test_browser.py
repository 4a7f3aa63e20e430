"""The page in a real browser: from a text to a model that talks, as a person goes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scratchgpt.training.store import Checkpoints, step_of
from tests.web.browser import Browser
from tests.web.server import Server, chromium, served, wait_until
from tests.world import TEXT, make_dataset, scratchgpt

pytest.importorskip("nicegui")
from scratchgpt.web.history import History

pytestmark = pytest.mark.slow

SMALL = {"block_size": "16", "n_layer": "2", "n_head": "2", "n_embd": "16", "batch_size": "4", "eval_every": "20"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work").mkdir()
    with served(tmp_path / "work") as server:
        yield server


@pytest.fixture
def browser(server: Server) -> Iterator[Browser]:
    with Browser(server.address) as browser:
        browser.size(1280, 900)
        yield browser


def start(browser: Browser, steps: str) -> None:
    """Start a training of a small model, from the tab of recipes."""
    browser.go("Model")
    for name, value in ({"steps": steps} | SMALL).items():
        browser.type(name, value)
    browser.wait_for("passes over the data")
    browser.click("Start training")


def generate_and_measure(folder: Path, downloads: Path, browser: Browser) -> None:
    """Make a text with the model, measure it, and export what it has logged."""
    browser.go("Generate")
    wait_until(lambda: browser.has("fox-shakespeare-cpu-1"))
    browser.type("Prompt", "the ")
    browser.type("tokens", "20")
    browser.click("Generate")
    wait_until(lambda: len("".join(browser.texts(".output"))) > 10)

    browser.go("Measure")
    browser.click("Time training")
    browser.click("Stop")
    wait_until(lambda: not any(text.endswith("Stop") for text in browser.texts("button")))
    assert not any(": training," in text for text in browser.texts(".item"))
    browser.click("Evaluate")
    browser.wait_for("perplexity")
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    browser.click("JSON")
    exported = downloads / "fox-shakespeare-cpu-1.json"
    wait_until(exported.exists)
    content = json.loads(exported.read_text(encoding="utf-8"))
    assert content["init"]["config"]["model"]["n_embd"] == 16
    assert {"iter", "train/loss", "dt_ms"} <= content["logs"][-2].keys() | content["logs"][1].keys()
    in_the_way = folder / "runs" / "fox-shakespeare-cpu-1" / "log.csv"
    in_the_way.mkdir()
    browser.click("csv")
    wait_until(lambda: any("Cannot log to csv" in text for text in browser.texts(".result.bad")))
    in_the_way.rmdir()
    browser.click("csv")
    wait_until(in_the_way.is_file)
    wait_until(lambda: not browser.texts(".result.bad"))


def step_now(history: History) -> int:
    """Return the last step of a log."""
    history.refresh()
    return history.step


def test_from_a_text_to_a_model_that_talks(tmp_path: Path, server: Server, browser: Browser) -> None:
    text = tmp_path / "elsewhere" / "fox.txt"
    text.write_text(TEXT * 10, encoding="utf-8")
    browser.open("data")
    browser.upload(text)
    wait_until((server.folder / "data" / "fox.txt").exists)
    wait_until(lambda: browser.field("Name").get_attribute("value") == "fox")
    browser.click("Prepare")
    browser.wait_for("data/fox is ready")
    browser.click("Prepare")
    browser.wait_for("data/fox is there already")
    browser.click("Close")
    browser.click("Show a sample")
    wait_until(lambda: browser.texts(".token"))

    start(browser, "3000")
    browser.wait_for("training")
    wait_until(lambda: browser.step() > 5)
    wait_until(lambda: browser.n_points() > 10)
    browser.click("Pause")
    browser.wait_for("paused")
    before = browser.step()
    browser.driver.refresh()
    browser.wait_for("paused")
    wait_until(lambda: browser.step() >= before)
    browser.click("Resume")
    wait_until(lambda: browser.step() > before + 5)
    browser.click("Sample")
    wait_until(lambda: browser.texts(".texts .text"))

    browser.go("Model")
    browser.click("Start training")
    browser.wait_for("stop it first")
    browser.click("Close")
    browser.go("Train")
    browser.click("Stop")
    wait_until(lambda: "stopped" in browser.texts(".chip"))
    before = browser.step()
    browser.click("Continue from checkpoint")
    wait_until(lambda: browser.step() > before)
    browser.click("Stop")
    wait_until(lambda: "stopped" in browser.texts(".chip"))

    generate_and_measure(server.folder, tmp_path / "elsewhere", browser)
    assert not browser.complaints()


def test_a_training_goes_on_without_a_page_and_saves_when_the_server_ends(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", TEXT * 10)
    checkpoints = Checkpoints(tmp_path / "runs" / "data-shakespeare-cpu-1")
    with served(tmp_path) as server:
        with Browser(server.address) as browser:
            browser.size(1280, 900)
            browser.open("data")
            start(browser, "100000")
            seen = wait_until(lambda: browser.step() > 5 and browser.step())
        history = History(checkpoints.folder.parent)
        wait_until(lambda: step_now(history) > seen + 50)
    last = checkpoints.pointed("last")
    assert last is not None
    assert step_of(last) > seen + 50
    assert step_of(last) == step_now(history)


def test_what_is_no_text_is_refused_in_a_sentence(tmp_path: Path, server: Server, browser: Browser) -> None:
    for name, content, sentence in (("a.txt", b"", "is empty"), ("b.txt", b"\xff\xfa\x01" * 100, "is not UTF-8")):
        path = tmp_path / "elsewhere" / name
        path.write_bytes(content)
        browser.open("data")
        browser.upload(path)
        browser.wait_for(sentence)
        browser.click("Close")
    assert not [*(server.folder / "data").iterdir()]


def test_fields_say_what_is_wrong(server: Server, browser: Browser) -> None:
    make_dataset(server.folder / "data", TEXT * 10)
    browser.open("model")
    browser.type("n_head", "3")
    browser.wait_for("128 is not divisible by 3")
    browser.type("n_head", "4")
    wait_until(lambda: not browser.has("is not divisible"))
    browser.type("learning_rate", "fast")
    browser.wait_for("learning_rate must be of type float")
    browser.type("learning_rate", "1e-3")
    browser.type("n_embd", "65536")
    browser.wait_for("A smaller n_embd")
    assert not browser.driver.find_element("css selector", ".start-bar button").is_enabled()
    browser.type("n_embd", "128")
    browser.type("block_size", "100000")
    browser.wait_for("too few for a block_size of 100,000. Prepare a longer text")
    assert not browser.driver.find_element("css selector", ".start-bar button").is_enabled()
    browser.type("block_size", "64")
    wait_until(lambda: browser.driver.find_element("css selector", ".start-bar button").is_enabled())
    browser.type("Name of the run", "../größer")
    browser.wait_for("runs/größer")
    browser.go("Data")
    browser.choose("Text (a file or folder)", "data/source.txt")
    browser.type("For validation, %", "0")
    browser.click("Prepare")
    browser.wait_for("For validation, % must be at least 0.01")
    assert browser.field("For validation, %").get_attribute("value") == "0"


@pytest.mark.parametrize("is_dark", [False, True])
def test_a_narrow_window_is_enough(browser: Browser, *, is_dark: bool) -> None:
    browser.size(360, 780, is_dark=is_dark)
    for tab in ("data", "model", "train", "inside", "generate", "measure"):
        browser.open(tab)
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 360
    assert not browser.complaints()


def test_a_phone_shows_what_the_training_is_at(server: Server, browser: Browser) -> None:
    make_dataset(server.folder / "data", TEXT * 10)
    browser.open("data")
    start(browser, "100000")
    wait_until(lambda: browser.step() > 5)
    browser.size(320, 640)
    browser.go("Data")
    wait_until(lambda: re.fullmatch(r"training, \d+%", "".join(browser.texts(".bar .chip"))))
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 320


def test_charts_follow_the_system_into_the_dark(server: Server, browser: Browser) -> None:
    run = server.folder / "runs" / "run"
    run.mkdir(parents=True)
    (run / "log.jsonl").write_text('{"step": 1, "time": 0.0, "loss": 1.5}\n', encoding="utf-8")
    browser.open("train")
    light = wait_until(browser.colour_of_chart)
    browser.size(1280, 900, is_dark=True)
    wait_until(lambda: browser.colour_of_chart() != light)


def test_names_are_text_and_never_html(server: Server, browser: Browser) -> None:
    hostile = "<img src=x onerror=window.hacked=1>"
    run = server.folder / "runs" / hostile
    run.mkdir(parents=True)
    row = {"step": 1, "time": 0.0, "loss": 1.5, "lr": 1e-3, "step_ms": 1.0}
    (run / "log.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    data = server.folder / "data" / hostile
    data.mkdir(parents=True)
    (data / "meta.json").write_text(json.dumps({"format": hostile}), encoding="utf-8")
    (server.folder / f"{hostile}.txt").write_text("<script>window.hacked=1</script>", encoding="utf-8")
    for tab in ("data", "model", "train", "inside", "generate", "measure"):
        browser.open(tab)
        if tab == "data":
            browser.wait_for(hostile)
        if tab == "train":
            wait_until(lambda: browser.step() == 1 or browser.figure("loss") == "1.5000")
    assert browser.driver.execute_script("return window.hacked === undefined && !document.querySelector('img')")
    assert not browser.complaints()


def test_a_curve_is_finer_where_one_looks_closer(server: Server, browser: Browser) -> None:
    run = server.folder / "runs" / "long"
    run.mkdir(parents=True)
    rows = ({"step": step, "time": step / 10, "loss": 5 - step / 8e3} for step in range(1, 30_001))
    (run / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    browser.open("train")
    n_points = wait_until(browser.n_points)
    browser.zoom_into(".chart", 20)
    wait_until(lambda: browser.n_points() > n_points)
    assert browser.shown_steps() < 30_000 / 2
    assert not browser.complaints()


def test_a_training_that_cannot_begin_says_why(server: Server, browser: Browser) -> None:
    make_dataset(server.folder / "data", TEXT * 10)
    browser.open("data")
    start(browser, "10")
    wait_until(lambda: browser.step() == 10)
    browser.go("Model")
    (server.folder / "data" / "data" / "train.bin").write_bytes(b"")
    browser.click("Start training")
    browser.wait_for("The new training has not begun: ")
    assert not browser.complaints()


def test_a_run_that_is_removed_while_watched(server: Server, browser: Browser) -> None:
    run = server.folder / "runs" / "gone"
    run.mkdir(parents=True)
    (run / "log.jsonl").write_text('{"step": 1, "time": 0.0, "loss": 1.5}\n', encoding="utf-8")
    browser.open("train")
    wait_until(lambda: browser.figure("loss") == "1.5000")
    shutil.rmtree(run)
    browser.wait_for("The run gone was removed.")


def test_texts_and_notes_survive_the_server_and_come_from_terminals(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", TEXT * 10)
    with served(tmp_path) as server, Browser(server.address) as browser:
        browser.size(1280, 900)
        browser.open("data")
        start(browser, "1000000")
        wait_until(lambda: browser.step() > 5)
        browser.click("Sample")
        (text,) = wait_until(lambda: browser.texts(".texts .text"))
        browser.click("Stop")
        wait_until(lambda: "stopped" in browser.texts(".chip"))
        wait_until(lambda: any(note.endswith(": stopped") for note in browser.texts(".note")))
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    train = [sys.executable, "-m", "scratchgpt", "train", "--data", "data/data", "--lanes", "1", *settings]
    command = [*train, "--run", "runs/terminal", "--set", "steps=1000000", "--set", "sample_every=5", "--json"]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([*command, "--control"], cwd=tmp_path, stdin=pipe, stdout=subprocess.DEVNULL) as process,
        served(tmp_path) as server,
        Browser(server.address) as browser,
    ):
        browser.size(1280, 900)
        browser.open("train")
        browser.choose("Watch", "data-shakespeare-cpu-1")
        wait_until(lambda: browser.texts(".texts .text") == [text])
        assert any(note.endswith(": stopped") for note in browser.texts(".note"))
        browser.choose("Watch", "terminal")
        wait_until(lambda: "training in another program" in browser.texts(".chip"))
        wait_until(lambda: len(browser.texts(".texts .text")) > 1)
        assert process.stdin is not None
        process.stdin.write(b"pause\n")
        process.stdin.flush()
        wait_until(lambda: "paused in another program" in browser.texts(".chip"))
        wait_until(lambda: any(note.endswith(": paused") for note in browser.texts(".note")))
        os.utime(tmp_path / "runs" / "terminal" / "log.jsonl", (0, 0))  # a pause may be long
        time.sleep(5)
        assert "paused in another program" in browser.texts(".chip")
        assert not browser.has("Continue from checkpoint")
        process.kill()
        wait_until(lambda: "stopped" in browser.texts(".chip"))
        browser.wait_for("Continue from checkpoint")
        assert not browser.complaints()


def test_runs_of_a_terminal_are_watched_and_compared(server: Server, browser: Browser) -> None:
    make_dataset(server.folder / "data", TEXT * 10)
    sizes = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    train = [sys.executable, "-m", "scratchgpt", "train", "--data", "data/data", "--lanes", "1", *sizes]
    subprocess.run([*train, "--run", "runs/before", "--set", "steps=40"], cwd=server.folder, check=True)
    browser.open("train")
    wait_until(lambda: browser.step() == 40 and browser.has("finished"))
    command = [*train, "--run", "runs/meanwhile", "--set", "steps=1000000"]
    with subprocess.Popen(command, cwd=server.folder, stdout=subprocess.DEVNULL) as process:
        browser.choose("Watch", "meanwhile")
        browser.wait_for("training in another program")
        first = wait_until(browser.step)
        wait_until(lambda: browser.step() > first)
        assert not {"Pause", "Stop", "Continue from checkpoint"} & {
            text.split("\n")[-1] for text in browser.texts("button")
        }
        process.terminate()
    n_points = wait_until(browser.n_points)
    browser.choose("Compare with", "before")
    wait_until(lambda: browser.n_points() >= n_points + 40)
    browser.open("model")
    start(browser, "30")
    wait_until(lambda: browser.field("Watch").get_attribute("value") == "data-shakespeare-cpu-1")
    wait_until(lambda: browser.step() == 30)

    browser.open("model")
    browser.wait_for("passes over the data")
    browser.type("steps", "20")
    browser.choose("Weights", "before, last")
    wait_until(lambda: browser.field("n_embd").get_attribute("value") == SMALL["n_embd"])
    assert not browser.field("n_embd").is_enabled()
    browser.wait_for("--init runs/before")
    browser.click("Start training")
    wait_until(lambda: browser.field("Watch").get_attribute("value") == "data-shakespeare-cpu-2")
    wait_until(lambda: browser.step() == 20)

    (server.folder / "other.txt").write_text("0123456789" * 1000, encoding="utf-8")
    scratchgpt("prepare", "other.txt", "--char", cwd=server.folder)
    browser.go("Model")
    browser.wait_for("The vocabulary of runs/before/checkpoints")  # other data were chosen as they came
    browser.wait_for("Choose data that were prepared as those of the weights, or new weights.")
    browser.choose("Weights", "new random weights")
    wait_until(lambda: not browser.has("The vocabulary of"))
    assert not browser.complaints()


def test_documents_that_cannot_be_told_apart_are_named_before_the_start(server: Server, browser: Browser) -> None:
    make_dataset(server.folder / "data", TEXT * 10)
    browser.open("model")
    browser.wait_for("passes over the data")
    browser.click("More settings", ".q-expansion-item .q-item__label")

    def is_named() -> bool:  # once the field has stopped moving
        browser.choose("within_documents", "true")
        return browser.has("The vocabulary of data/data has no <|endoftext|>")

    wait_until(is_named)
    browser.choose("within_documents", "false")
    wait_until(lambda: not browser.has("The vocabulary of"))
    assert not browser.complaints()


def test_a_failure_of_the_page_is_on_the_page_and_a_line_in_the_terminal(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", TEXT * 10)
    meta = tmp_path / "data" / "data" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_bytes()) | {"train_tokens": 0}), encoding="utf-8")
    server = Server(tmp_path, "--port", "0")
    try:
        with Browser(server.address) as browser:
            browser.size(1280, 900)
            browser.open("model")
            browser.wait_for("This page has failed: ZeroDivisionError: ")
            assert len(browser.texts(".q-notification")) == 1
    finally:
        lines = {*server.stop().splitlines()}
    assert len(lines) == 1
    assert lines.pop().startswith("The server failed: ZeroDivisionError: ")


def test_a_keyboard_is_enough(server: Server, browser: Browser) -> None:
    (server.folder / "fox.txt").write_text(TEXT * 10, encoding="utf-8")
    enter, right, all_of_it = "\ue007", "\ue014", "\ue009a"
    browser.open("data")
    browser.tab_to("Choose a file")
    browser.driver.execute_script(
        "document.querySelector('input[type=file]').addEventListener('click', e => {e.preventDefault(); asked = 1})"
    )
    browser.press(enter)
    wait_until(lambda: browser.driver.execute_script("return window.asked"))
    browser.tab_to("Text (a file or folder)")
    browser.press("fox.txt", enter)
    browser.tab_to("Prepare")
    browser.press(enter)
    browser.wait_for("data/fox is ready")

    browser.open("data")
    browser.tab_to("Data")
    browser.press(right, enter)
    browser.wait_for("What it takes")
    wait_until(lambda: browser.field("Data").get_attribute("value"))
    for name in ("block_size", "n_layer", "n_head", "n_embd", "batch_size", "eval_every"):
        browser.tab_to(name)
        browser.press(all_of_it, SMALL[name])
    browser.wait_for("passes over the data")
    browser.tab_to("Start training")
    browser.press(enter)
    wait_until(lambda: browser.step() > 5)
    for button, state in (("Pause", "paused"), ("Resume", "training"), ("Stop", "stopped")):
        browser.tab_to(button)
        browser.press(enter)
        wait_until(lambda: state in browser.texts(".part .chip"))  # noqa: B023
    assert not browser.complaints()


def test_pictures_are_drawn(tmp_path: Path) -> None:
    text = tmp_path / "fox.txt"
    text.write_text(TEXT * 10, encoding="utf-8")
    script = Path(__file__).parents[2] / "scripts" / "draw_web"
    chromium().quit()  # or skip
    subprocess.run(
        [sys.executable, script, "--text", text, "--steps", "16", "--out", tmp_path], check=True, timeout=300
    )
    for name in ("web.png", "web-inside.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
