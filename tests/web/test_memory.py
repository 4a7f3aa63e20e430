"""What a person typed or saw is there after a reload, back, a restart of the server and beside a second window."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.browser import Browser
from tests.web.server import Server, served, wait_until
from tests.world import TEXT, make_dataset

pytest.importorskip("nicegui")
from scratchgpt.web.address import Address

pytestmark = pytest.mark.slow

SIZES = {"block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 16, "batch_size": 4, "steps": 3, "warmup_steps": 0}
TABS = ("data", "model", "train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, data and two runs."""
    folder = tmp_path_factory.mktemp("work")
    make_dataset(folder / "data", TEXT * 10)
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8")
    settings = [word for name, value in SIZES.items() for word in ("--set", f"{name}={value}")]
    for run in ("runs/one", "runs/two, a"):
        command = [sys.executable, "-m", "scratchgpt", "train", "--data", "data/data", "--lanes", "1", "--run", run]
        subprocess.run([*command, *settings], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with served(folder) as server:
        yield server


@pytest.fixture
def browser(server: Server) -> Iterator[Browser]:
    with Browser(server.address) as browser:
        browser.size(1280, 900)
        yield browser


def values(browser: Browser, *labels: str) -> list[str]:
    """Return what stands in fields."""
    return [browser.field(label).get_attribute("value") for label in labels]


def is_ready(browser: Browser) -> bool:
    """Whether one can type."""
    return bool(browser.texts(".panels:not([inert]) .part"))


def reload(browser: Browser) -> None:
    browser.driver.refresh()
    wait_until(lambda: is_ready(browser))


def in_turn(browser: Browser, tabs: dict[str, Callable[[], Any]]) -> list[Any]:
    """Return what each tab has to say, in turn."""
    found = []
    for tab, ask in tabs.items():
        browser.go(tab)
        wait_until(lambda: is_ready(browser))
        found.append(ask())
    return found


def test_fields_survive_a_reload(browser: Browser) -> None:
    browser.open("data")
    browser.choose("Text (a file or folder)", "fox.txt")
    wait_until(lambda: values(browser, "Name") == ["fox"])
    browser.click("Byte pairs, learnt")
    browser.type("Tokens to learn", "300")
    browser.go("Model")
    browser.choose("Preset", "baby-gpt")
    wait_until(lambda: values(browser, "n_layer") == ["6"])
    browser.type("n_layer", "3")
    browser.type("Name of the run", "mine")
    browser.go("Inside")
    browser.choose("Model", "two, a, last")
    browser.type("Text", "over the dog")
    wait_until(lambda: values(browser, "Head") == ["0, the first"])
    browser.choose("Head", "1, the last")
    browser.go("Generate")
    browser.type("Prompt", "the <quick>\n")
    browser.type("temperature", "0.5")
    browser.type("seed", "")
    browser.go("Measure")
    browser.choose("Run", "one")
    browser.choose("Part", "Training")

    reload(browser)
    assert values(browser, "Run", "Part") == ["one", "Training"]
    asked: dict[str, Callable[[], Any]] = {
        "Data": lambda: [*values(browser, "Text (a file or folder)", "Name", "Tokens to learn")],
        "Model": lambda: values(browser, "Preset", "n_layer", "n_embd", "Name of the run"),
        "Inside": lambda: (
            wait_until(lambda: values(browser, "Head") == ["1, the last"]) and values(browser, "Model", "Text")
        ),
        "Generate": lambda: values(browser, "Prompt", "temperature", "seed"),
    }
    assert in_turn(browser, asked) == [
        ["fox.txt", "fox", "300"],
        ["baby-gpt", "3", "384", "mine"],
        ["two, a, last", "over the dog"],
        ["the <quick>\n", "0.5", ""],
    ]
    assert not browser.complaints()


def test_back_and_forward_stay_in_the_page(browser: Browser) -> None:
    browser.open("generate")
    browser.go("Train")
    wait_until(lambda: values(browser, "Watch") == ["two, a"])
    browser.choose("Watch", "one")
    browser.choose("Compare with", "two, a")
    wait_until(lambda: "compare=" in browser.driver.current_url)
    link = browser.driver.current_url
    browser.go("Model")
    wait_until(lambda: "tab=model" in browser.driver.current_url)

    browser.driver.back()
    wait_until(lambda: browser.texts(".chip") and values(browser, "Watch") == ["one"])
    browser.driver.back()
    wait_until(lambda: values(browser, "Watch") == ["two, a"])
    browser.driver.back()
    browser.wait_for("How to choose")
    for _ in range(2):
        browser.driver.forward()
    wait_until(lambda: browser.texts(".chip") and values(browser, "Watch") == ["one"])
    assert browser.driver.current_url == link

    browser.driver.switch_to.new_window("window")  # which gets the link
    browser.driver.get(link)
    wait_until(lambda: is_ready(browser) and values(browser, "Watch") == ["one"])
    wait_until(lambda: any("two, a" in text for text in browser.texts(".q-chip")))
    assert browser.driver.current_url == link
    assert not browser.complaints()


def test_a_run_that_the_page_chooses_by_itself_is_no_step_back(browser: Browser, folder: Path) -> None:
    gone = folder / "runs" / "gone"
    shutil.copytree(folder / "runs" / "one", gone)

    def is_watched() -> bool:  # once the server has looked which runs there are
        browser.driver.get(f"{browser.address}?tab=train&run=gone")
        wait_until(lambda: is_ready(browser))
        return values(browser, "Watch") == ["gone"]

    try:
        wait_until(is_watched)
        n_steps = browser.driver.execute_script("return history.length")
    finally:
        shutil.rmtree(gone)
    wait_until(lambda: "run=gone" not in browser.driver.current_url)
    assert browser.driver.execute_script("return history.length") == n_steps


def test_a_run_is_not_compared_with_itself(browser: Browser) -> None:
    browser.driver.get(f"{browser.address}?tab=train&run=one&compare=one&compare=two%2C+a")
    wait_until(lambda: is_ready(browser) and "compare=one" not in browser.driver.current_url)
    wait_until(lambda: any("two, a" in text for text in browser.texts(".q-chip")))
    browser.choose("Watch", "two, a")
    wait_until(lambda: "compare=" not in browser.driver.current_url)
    browser.field("Compare with").send_keys("\ue015")  # down
    wait_until(lambda: browser.texts('[role="option"]') == ["one"])
    assert not browser.complaints()


def test_sizes_of_weights_are_not_those_of_the_last_time(browser: Browser) -> None:
    browser.open("model")
    stored = {"model.weights": "runs/one", "model.n_layer": "7", "model.steps": "9"}
    put = (
        "for (const [k, v] of Object.entries(arguments[0])) localStorage.setItem('scratchgpt.' + k, JSON.stringify(v))"
    )
    browser.driver.execute_script("sessionStorage.clear();" + put, stored)
    reload(browser)
    wait_until(lambda: values(browser, "n_layer", "steps") == ["1", "9"])
    assert not browser.field("n_layer").is_enabled()
    browser.choose("Weights", "new random weights")


def test_an_address_may_say_anything() -> None:
    assert Address.read("tab=train&run=a%26b&compare=x&compare=y", TABS) == ("train", "a&b", ("x", "y"))
    assert Address.read("?tab=%ff&run=&x=1", TABS) == ("data", "", ())
    assert Address.read("&".join(f"compare={'x' * 256}" for _ in range(9)), TABS) == ("data", "", ())
    address = Address("train", "a&b=c, ü", ("x,y", "<z>"))
    assert Address.read(str(address).removeprefix("/"), TABS) == address


def test_two_windows_do_not_change_each_other(browser: Browser) -> None:
    browser.open("generate")
    browser.type("Prompt", "first")
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("window")
    browser.open("generate")
    assert values(browser, "Prompt") == ["first"]  # as the last window left it
    browser.type("Prompt", "second")
    browser.driver.switch_to.window(first)
    assert values(browser, "Prompt") == ["first"]
    reload(browser)
    assert values(browser, "Prompt") == ["first"]


def text_of(browser: Browser) -> str:
    return "".join(browser.texts(".output"))


def test_a_text_is_written_on_while_the_page_is_loaded_again(browser: Browser) -> None:
    browser.open("generate")
    browser.type("Prompt", "the ")
    browser.type("tokens", "900000")
    browser.click("Generate")
    before = wait_until(lambda: len(text_of(browser)) > 50 and text_of(browser))
    reload(browser)
    wait_until(lambda: text_of(browser).startswith(before) and len(text_of(browser)) > len(before))
    browser.click("Stop")
    browser.wait_for("Use again")
    wait_until(lambda: not any(text.endswith("Stop") for text in browser.texts("button")))
    whole = text_of(browser)
    reload(browser)
    wait_until(lambda: text_of(browser) == whole)
    browser.type("Prompt", r"a\ud83d")  # which is not half a character
    reload(browser)
    assert values(browser, "Prompt") == [r"a\ud83d"]
    browser.click("Use again")
    wait_until(lambda: values(browser, "Prompt") == ["the "])
    assert not browser.complaints()


def test_a_restart_of_the_server_loses_nothing(folder: Path) -> None:
    server = Server(folder, "--port", "0")
    with contextlib.ExitStack() as stack:
        try:
            browser = stack.enter_context(Browser(server.address))  # without Chromium, it skips the test
            browser.size(1280, 900)
            browser.open("generate")
            browser.type("Prompt", "the ")
            browser.type("tokens", "40")
            browser.click("Generate")
            browser.wait_for("Use again")
            whole = text_of(browser)
            browser.type("tokens", "900000")
            browser.click("Generate")
            wait_until(lambda: text_of(browser) != whole and len(text_of(browser)) > 50)
        finally:
            server.stop()
        browser.wait_for("Connection lost")
        seen = text_of(browser)
        browser.type("Prompt", "typed while there was no server")
        with served(folder, "--port", str(server.port)):
            wait_until(lambda: not browser.has("Connection lost") and is_ready(browser))
            wait_until(lambda: text_of(browser) == seen)
            assert values(browser, "Prompt") == ["typed while there was no server"]
            browser.wait_for("The server ended")
            assert browser.has(whole)  # among the earlier ones
            reload(browser)
            wait_until(lambda: text_of(browser) == seen)


def test_what_does_not_fit_is_dropped(browser: Browser) -> None:
    browser.open("generate")
    wrong = {
        "generate.prompt": "x" * 100_001,
        "generate.temperature": "1e999",
        "generate.top_k": {"a": 1},
        "generate.skip": "yes",
        "generate.model": "runs/nothing",
        "generate.earlier": [{"prompt": 1}, "x", {"prompt": "a", "text": "kept", "settings": {"seed": [], "skip": 1}}],
        "generate.text": ["x"],
        "model.preset": ["x"],
        "model.steps": 7,
        "dark": "black",
        "inside.text": "\ud800",
    }
    put = "for (const [k, v] of Object.entries(arguments[0])) localStorage.setItem('scratchgpt.' + k, v)"
    browser.driver.execute_script(
        "sessionStorage.clear();" + put,
        {key: json.dumps(value) for key, value in wrong.items()} | {"model.n_head": "{"},
    )
    reload(browser)
    assert values(browser, "Prompt", "temperature", "top k") == ["", "0.8", ""]
    browser.wait_for("kept")
    browser.click("Use again")
    wait_until(lambda: values(browser, "Prompt", "seed") == ["a", "1337"])
    browser.go("Model")
    assert values(browser, "Preset", "steps", "n_head") == ["shakespeare-cpu", "2000", "4"]
    browser.go("Inside")
    assert values(browser, "Text")[0].startswith("First Citizen")
    assert not browser.complaints()


WATCH_COLOURS = """
window.colours = [];
const look = () => {
  if (document.body) colours.push(getComputedStyle(document.body).backgroundColor);
  requestAnimationFrame(look);
};
look();
"""


def test_colours_are_remembered_without_a_flash(browser: Browser) -> None:
    browser.open("generate")
    browser.driver.find_element("css selector", '[aria-label="Light or dark"]').click()
    wait_until(lambda: browser.driver.execute_script("return document.body.classList.contains('body--dark')"))
    browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH_COLOURS})
    reload(browser)
    assert set(browser.driver.execute_script("return colours")) == {"rgb(15, 17, 23)"}


def test_a_phone_shows_the_start_at_once(browser: Browser) -> None:
    browser.size(360, 780)
    browser.open("model")
    where = "return document.querySelector('.start-bar button').getBoundingClientRect().bottom"
    assert 0 < browser.driver.execute_script(where) <= 780
