"""Who sees little, hears the page, or has only a keyboard or a finger: axe-core, and what it cannot know."""

import re
import shutil
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser import Browser
from tests.web.server import served, wait_until
from tests.world import TEXT, make_dataset, small_run

pytest.importorskip("nicegui")
pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python, of the extra dev")
from scratchgpt.web import charts

pytestmark = pytest.mark.slow

TABS = ("data", "model", "train", "inside", "generate", "measure")
SIZES = ((320, 640), (1280, 800))
AXE = files("axe_playwright_python") / "axe.min.js"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with data, and two runs of which one has a long name."""
    folder = tmp_path_factory.mktemp("full")
    make_dataset(folder / "data", TEXT * 10)
    for name in ("first", "a-long-name-that-somebody-chose-with-care-and-that-does-not-fit"):
        small_run(folder, name)
    return folder


def violations(browser: Browser) -> list[str]:
    """Return what axe-core has against the page."""
    script = "const done = arguments[0]; axe.run().then(found => done(found.violations))"
    found: list[Any] = browser.driver.execute_async_script(script)
    return [f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def is_shown(browser: Browser, *, is_dark: bool) -> bool:
    """Return whether the page has followed the system into light or dark."""
    shown: bool = browser.driver.execute_script("return document.body.classList.contains('body--dark')")
    return shown == is_dark


def fill(browser: Browser, tab: str) -> None:
    """Have a tab show what it can."""
    match tab:
        case "data":
            wait_until(lambda: browser.field("Data").get_attribute("value"))
            browser.click("Show a sample")
            wait_until(lambda: browser.texts(".token"))
        case "train":
            browser.choose("Compare with", "first")
            wait_until(browser.n_points)
        case "inside":
            browser.type("Text", "the fox jumps")
            wait_until(lambda: browser.texts(".surprise"))
        case "generate":
            browser.type("tokens", "20")
            browser.click("Generate")
            wait_until(lambda: len("".join(browser.texts(".output"))) > 10)
        case "measure":
            browser.click("Evaluate")
            browser.wait_for("perplexity")


@pytest.mark.parametrize("is_full", [False, True])
def test_axe_finds_nothing(tmp_path: Path, folder: Path, *, is_full: bool) -> None:
    if is_full:
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with served(tmp_path) as server, Browser(server.address) as browser:
        found: dict[tuple[str, bool, int], list[str]] = {}
        for tab in TABS:
            browser.size(*SIZES[-1])
            browser.open(tab)
            browser.driver.execute_script(AXE.read_text(encoding="utf-8"))
            if is_full:
                fill(browser, tab)
            for is_dark in (False, True):
                for width, height in SIZES:
                    browser.size(width, height, is_dark=is_dark)
                    wait_until(partial(is_shown, browser, is_dark=is_dark))
                    found |= {(tab, is_dark, width): violations(browser)}
        assert {where: wrong for where, wrong in found.items() if wrong} == {}


def contrast(*colours: str) -> float:
    """Return the contrast of two colours, #rrggbb or rgb(r, g, b), as WCAG 2 defines it."""
    luminances = []
    for colour in colours:
        numbers = [int(number, 16) for number in re.findall("[0-9a-f]{2}", colour)] if colour[0] == "#" else []
        channels = [n / 255 for n in numbers or map(int, re.findall(r"\d+", colour)[:3])]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    low, high = sorted(luminances)
    return (high + 0.05) / (low + 0.05)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with served(tmp_path) as server, Browser(server.address) as browser:
        browser.size(1280, 800)
        yield browser


def test_the_button_of_a_notice_can_be_read(browser: Browser) -> None:
    browser.open("generate")
    browser.click("Generate")
    browser.wait_for("no trained model yet")
    text, notice = browser.driver.execute_script(
        "const button = document.querySelector('.q-notification button');"
        "return [button, button.closest('.q-notification')].map(e => getComputedStyle(e))"
        ".map((style, i) => i ? style.backgroundColor : style.color)"
    )
    assert contrast(text, notice) >= 4.5


def test_settings_are_explained_without_a_mouse(browser: Browser) -> None:
    for tab, name, words in (("model", "n_head", "Attention heads"), ("generate", "top k", "Only the k likeliest")):
        browser.open(tab)
        assert not browser.texts(".explained .q-field__bottom")  # nor an empty box
        browser.driver.execute_script("arguments[0].focus()", browser.field(name))
        browser.wait_for(words)
        assert words in browser.field(name).get_attribute("aria-description")


def test_curves_can_be_told_from_their_card() -> None:
    style = Path(charts.__file__).with_name("style.css").read_text(encoding="utf-8")
    for scheme in (style[: style.index("body.body--dark")], style[style.index("body.body--dark") :]):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        curves = [colours[f"curve-{number}"] for number in range(1, charts.N_SHADES + 1)]
        assert len({*curves}) == charts.N_SHADES
        for text in (*curves, colours["ink"], colours["soft"], colours["brand"], colours["bad"], colours["good"]):
            for behind in ("card", "page", "tint"):
                assert contrast(text, colours[behind]) >= (4.5 if text not in curves or behind == "card" else 3)
