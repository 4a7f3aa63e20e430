"""Curves that are compared, and the map of where a head looks, as a browser draws them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser import Browser
from tests.web.server import Server, served, wait_until
from tests.world import TEXT, make_dataset, small_run

pytest.importorskip("nicegui")

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path) as server:
        yield server


@pytest.fixture
def browser(server: Server) -> Iterator[Browser]:
    with Browser(server.address) as browser:
        browser.size(1280, 900)
        yield browser


def loss(step: float, slope: float) -> float:
    """Return a loss that falls evenly."""
    return 5 - slope * step / 1e4


def write_run(folder: Path, name: str, n_steps: int, slope: float, *, n_tokens: int = 100) -> None:
    """Write the log and the settings of a run whose steps take 10 ms."""
    rows: list[dict[str, Any]] = []
    for step in range(1, n_steps + 1):
        numbers = {"loss": loss(step, slope), "lr": 1e-3, "step_ms": 10.0, "tokens": n_tokens}
        rows.append({"step": step, "time": float(step), **numbers, "tokens_per_s": 1e4, "resident_mb": 84.6})
        if step % (n_steps // 10) == 0:
            rows.append({"step": step, "time": float(step), "val_loss": loss(step, slope) + 1, "val_whole": False})
    run = folder / "runs" / name
    run.mkdir(parents=True)
    (run / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    about = {"model": {"n_embd": 8}, "train": {"steps": n_steps, "learning_rate": slope / 1e3}}
    (run / "run.json").write_text(json.dumps(about), encoding="utf-8")


def tooltip(browser: Browser, x: int = 0) -> list[list[str]]:
    """Return the rows of the tooltip above the first chart: names and values."""
    browser.hover(".chart", x, 20)
    rows = wait_until(lambda: "".join(browser.texts(".tip")).strip().split("\n"))
    return [row.strip().rsplit("\t", 1) for row in rows if row.strip()]


def test_without_a_run_there_is_nothing_to_press(browser: Browser) -> None:
    browser.open("train")
    for _ in range(2):  # before and after the first look
        browser.wait_for("Prepare a text in the tab Data")
        assert not browser.texts(".panel button, .panel .chart, .panel .chip, .panel .figure")
        browser.wait_for("There is no run yet")
    assert not browser.complaints()


def test_a_tooltip_has_the_values_of_all_runs(server: Server, browser: Browser) -> None:
    runs = {"first": (30_000, 1.0), "second": (20_000, 2.0), "a-third-name-that-is-long" * 2: (7_000, 0.5)}
    for name, (n_steps, slope) in runs.items():
        write_run(server.folder, name, n_steps, slope)
    browser.open("train")
    wait_until(browser.n_points)
    watched = browser.field("Watch").get_attribute("value")
    for name in runs.keys() - {watched}:
        browser.choose("Compare with", name)
    wait_until(lambda: len(browser.texts(".table tr")) == 4)
    rows = tooltip(browser)
    step = float(browser.texts(".tip-at")[0].removeprefix("step ").replace(",", ""))
    assert 0 < step < 20_000
    found = {name: float(value) for name, value in rows}
    assert [*found.values()] == sorted(found.values(), reverse=True)
    assert len(found) == 6
    for name, (n_steps, slope) in runs.items():
        at = min(step, n_steps)
        (training,) = (value for key, value in found.items() if key.startswith(f"{name}, training"))
        (validation,) = (value for key, value in found.items() if key.startswith(f"{name}, validation"))
        assert abs(training - loss(at, slope)) <= 0.2  # a mean over a fiftieth of the run
        assert abs(validation - loss(at, slope) - 1) <= slope * n_steps / 1e5  # of the nearest evaluation
    (table,) = browser.texts(".table")
    assert all(name in table for name in runs)
    assert "learning_rate 0.002" in table
    assert "n_embd" not in table
    dashes = browser.driver.execute_script(
        "return [...document.querySelectorAll('.tip line')].map(line => line.hasAttribute('stroke-dasharray'))"
    )
    assert dashes == ["validation" in name for name, _ in rows]
    assert not browser.complaints()


def test_curves_are_drawn_as_one_chooses(server: Server, browser: Browser) -> None:
    write_run(server.folder, "run", 1000, 20.0)
    browser.open("train")
    wait_until(browser.n_points)
    assert browser.shown_steps() == 1000
    browser.drag(".chart", -100, 100)
    wait_until(lambda: browser.shown_steps() < 300)
    wait_until(lambda: browser.of_chart(".chart.small", "getOption().dataZoom[0].end") < 90)  # they go together
    browser.click("Show the whole run")
    wait_until(lambda: browser.shown_steps() == 1000)
    browser.choose("Part", "the last tenth")
    wait_until(lambda: abs(browser.shown_steps() - 100) <= 1)
    browser.choose("Part", "the whole run")
    browser.choose("Over", "tokens")
    wait_until(lambda: browser.shown_steps() == 100_000)
    browser.choose("Over", "training time")
    wait_until(lambda: abs(browser.shown_steps() - 10) <= 0.1)
    assert browser.of_chart(".chart", "getOption().xAxis[0].name") == "training time, s"
    browser.choose("Loss axis", "logarithmic")
    wait_until(lambda: browser.of_chart(".chart", "getOption().yAxis[0].max") < 1)
    n_points = browser.n_points()
    browser.choose("Smoothing", "none")
    wait_until(lambda: browser.n_points() < n_points)
    assert not browser.complaints()


def test_how_curves_are_drawn_is_remembered(server: Server, browser: Browser) -> None:
    write_run(server.folder, "run", 1000, 20.0)
    browser.open("train")
    wait_until(browser.n_points)
    browser.choose("Over", "tokens")
    browser.choose("Loss axis", "logarithmic")
    browser.open("train")
    wait_until(lambda: browser.n_points() and browser.shown_steps() == 100_000)
    assert browser.of_chart(".chart", "getOption().yAxis[0].max") < 1
    assert not browser.complaints()


def test_noise_is_not_magnified_and_pictures_have_words(server: Server, browser: Browser) -> None:
    write_run(server.folder, "run", 100, 20.0)
    browser.open("train")
    wait_until(browser.n_points)
    charts = browser.driver.find_elements("css selector", ".chart.small")
    memory = browser.driver.execute_async_script(
        "const [chart, done] = arguments; import('nicegui-echart').then(({echarts}) => "
        "done(echarts.getInstanceByDom(chart).getModel().getComponent('yAxis').axis.scale.getExtent()))",
        charts[-1],
    )
    assert memory[0] <= 84.6 <= memory[1]
    assert memory[1] - memory[0] >= 0.05 * 84.6
    words = browser.driver.find_element("css selector", ".chart").get_attribute("aria-label")
    assert re.search(r"training: starts at 4\.99\d*, ends at 4\.8\d*, lowest 4\.8", words)
    assert re.search(r"validation: starts at 5\.98, ends at 5\.8", words)


@pytest.fixture(scope="module")
def looked_into(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("inside")
    make_dataset(folder / "data", TEXT * 10)
    small_run(folder, "run", block_size=64, n_layer=2, n_head=2)
    with served(folder) as server, Browser(server.address) as browser:
        browser.size(1280, 900)
        browser.open("inside")
        yield browser


def test_the_example_is_looked_at_before_anything_is_typed(looked_into: Browser) -> None:
    wait_until(lambda: "'F'" in "".join(looked_into.texts(".bad")))  # a letter that the vocabulary does not have


def test_a_map_names_all_tokens_and_follows_the_window(looked_into: Browser) -> None:
    browser = looked_into
    text = TEXT[:64].replace("\n", " ")
    browser.type("Text", text)
    wait_until(lambda: len(browser.texts(".surprise")) == 64)
    labels = [letter if letter != " " else "␣" for letter in text]
    for width in (1280, 360):
        browser.size(width, 800)
        shown = "return document.querySelector('.chart').offsetWidth"
        wait_until(lambda: browser.of_chart(".chart", "getWidth()") == browser.driver.execute_script(shown))  # noqa: B023
        for axis in ("xAxis", "yAxis"):
            drawn = f"getModel().getComponent('{axis}').axis"
            assert browser.of_chart(".chart", f"{drawn}.getViewLabels().map(l => l.formattedLabel)") == labels
            assert browser.of_chart(".chart", f"{drawn}.getLabelModel().get('rotate')") in (0, None)
        corner = browser.of_chart(".chart", "convertToPixel({seriesIndex: 0}, [63, 63])")
        size = browser.of_chart(".chart", "getWidth()")
        assert size - 20 <= corner[0] <= size
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
    browser.size(1280, 1600)
    browser.choose("Head", "1, the last")
    x, y = wait_until(lambda: browser.of_chart(".chart", "convertToPixel({seriesIndex: 0}, [10, 30])"))
    size = browser.of_chart(".chart", "getWidth()")
    browser.hover(".chart", round(x - size / 2), round(y - size / 2))
    wait_until(lambda: re.search(rf"{labels[30]} looks at {labels[10]}: \d+\.\d%", browser.texts("body")[0]))
    words = browser.driver.find_element("css selector", ".chart").get_attribute("aria-label")
    assert words.startswith("Layer 0, head 1. The strongest: ")
    assert not browser.complaints()


def test_no_picture_of_another_text_stays(looked_into: Browser) -> None:
    browser = looked_into
    backspace = "\ue003"
    for keys, words in (("§", "vocabulary"), (backspace * 7, "Type a text to see")):
        browser.type("Text", "the fox")
        wait_until(lambda: len(browser.texts(".surprise")) == 7)
        browser.field("Text").send_keys(keys)
        browser.wait_for(words)
        assert not browser.texts(".surprise, .bar-row, .chart")
