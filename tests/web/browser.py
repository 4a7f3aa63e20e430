"""What a person does on the page, by what is written on it."""

import base64
import contextlib
import time
from pathlib import Path
from typing import Any, Self

import pytest

from tests.web.server import chromium, wait_until

pytest.importorskip("selenium", reason="needs Selenium, of the extra dev")
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

SETTLE = 1.0
"""Seconds until nothing moves any more."""
MOST_TABS = 60


class Browser:
    """A browser that looks at one page."""

    def __init__(self, address: str) -> None:
        """Open it."""
        self.driver = chromium()
        self.address = address
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        """Nothing to set up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.driver.quit()

    def size(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Look through a window of this size; as who likes it dark, perhaps."""
        self._window = (width, height)
        self._fit(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}  # colours change at once, too
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, motion]})

    def _fit(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, tab: str) -> None:
        """Open the page at a tab, anew."""
        self.driver.get(f"{self.address.split('?')[0]}?tab={tab}")
        wait_until(lambda: self.texts(".panels:not([inert]) .part"))

    def go(self, title: str) -> None:
        """Choose a tab."""
        self.click(title, ".q-tab")

    def texts(self, selector: str) -> list[str]:
        """Return the texts of what is on the page, and visible."""
        found: list[str] = self.driver.execute_script(
            "const all = [...document.querySelectorAll(arguments[0])];"
            "return all.filter(e => e.checkVisibility()).map(e => e.innerText)",
            selector,
        )
        return found

    def has(self, text: str) -> bool:
        """Return whether this is written on the page."""
        return text in "".join(self.texts("body"))

    def wait_for(self, text: str) -> None:
        """Wait until this is written on the page."""
        wait_until(lambda: self.has(text))

    def click(self, title: str, selector: str = "button") -> None:
        """Press a button, when it is there."""
        find = (
            "return [...document.querySelectorAll(arguments[0])].find(e => e.checkVisibility() && !e.disabled"
            " && e.innerText.trim().endsWith(arguments[1]))"
        )

        def press() -> bool:
            button = self.driver.execute_script(find, selector, title)
            with contextlib.suppress(WebDriverException):  # something moves, or is in the way for a moment
                if button:
                    button.click()
                    return True
            return False

        wait_until(press)

    def field(self, label: str) -> Any:
        """Return a field by its label."""
        return wait_until(
            lambda: next(iter(self.driver.find_elements("css selector", f'[aria-label="{label}"]')), None)
        )

    def type(self, label: str, text: str) -> None:
        """Put a text into a field, in the place of what is there."""
        field = self.field(label)
        field.send_keys("\ue009", "a")  # Ctrl
        field.send_keys("\ue009")
        field.send_keys(text or "\ue003")  # Backspace
        wait_until(lambda: self.field(label).get_attribute("value") == text)

    def choose(self, label: str, option: str) -> None:
        """Choose one of what a field offers, and leave the others."""
        field = self.field(label)
        self.driver.execute_script("arguments[0].focus()", field)
        field.send_keys("\ue015")  # down
        self.click(option, '[role="option"]')
        field.send_keys("\ue00c")  # Escape
        wait_until(lambda: not self.texts('[role="option"]'))

    def press(self, *keys: str) -> None:
        """Press keys, one after another, wherever the keyboard is."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def tab_to(self, name: str) -> None:
        """Go from control to control until the keyboard is at the one of this name; each must show that it is there."""
        names: list[str] = []
        for _ in range(MOST_TABS):
            self.press("\ue004")  # Tab
            own, is_seen = self.driver.execute_script(
                "const e = document.activeElement, field = e.closest('.q-field--focused'), style = getComputedStyle(e);"
                "const words = e.getAttribute('aria-label') || e.innerText.split('\\n').at(-1).trim();"
                "return [words, Boolean(field) || style.outlineStyle != 'none' || style.boxShadow != 'none']"
            )
            if self.driver.switch_to.active_element.tag_name == "body":
                continue  # behind the last control comes the first
            assert own, names
            assert is_seen, own
            names.append(own)
            if own == name:
                return
        raise AssertionError(f"{name} is not among {names}")

    def upload(self, path: Path) -> None:
        """Give a file to the uploader."""
        self.driver.find_element("css selector", 'input[type="file"]').send_keys(str(path))

    def figure(self, name: str) -> str:
        """Return the number above this name, nothing while there is none."""
        figures = (text.split("\n") for text in self.texts(".figure"))
        return next((figure[0] for figure in figures if figure[-1] == name), "")

    def step(self) -> int:
        """Return at which step the run is that is watched."""
        words = self.figure("step").split()
        return int(words[0].replace(",", "")) if len(words) == 3 else 0

    def n_points(self) -> int:
        """Return how many points of the loss are drawn."""
        return int(self._of_chart("series.reduce((n, s) => n + s.data.length, 0)") or 0)

    def shown_steps(self) -> float:
        """Return how many steps the first chart is wide."""
        start, end = self._of_chart("dataZoom.map(z => [z.startValue, z.endValue])[0]")
        return float(end - start)

    def zoom_into(self, selector: str, notches: int) -> None:
        """Turn the wheel above a chart, with Ctrl."""
        chart = ScrollOrigin.from_element(self.driver.find_element("css selector", selector))
        chain = ActionChains(self.driver).key_down("\ue009")
        for _ in range(notches):
            chain.scroll_from_origin(chart, 0, -120).pause(0.15)  # a chart takes ten a second
        chain.key_up("\ue009").perform()

    def hover(self, selector: str, x: int, y: int) -> None:
        """Move the mouse over an element, this far from its middle."""
        element = self.driver.find_element("css selector", selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element_with_offset(element, x, y).perform()

    def drag(self, selector: str, start: int, end: int) -> None:
        """Drag the mouse across an element, from so far beside its middle to so far."""
        self.hover(selector, start, 0)
        chain = ActionChains(self.driver).click_and_hold()
        for _ in range(2):
            chain.move_by_offset((end - start) // 2, 0)
        chain.release().perform()

    def colour_of_chart(self) -> str:
        """Return the colour of the numbers at the first chart, nothing while there is none."""
        return str(self._of_chart("xAxis[0].axisLabel.color") or "")

    def _of_chart(self, option: str) -> Any:
        """Return what the first chart has as an option, None while there is no chart."""
        return self.of_chart(".chart", f"getOption().{option}")

    def of_chart(self, selector: str, question: str) -> Any:
        """Return what ECharts answers about a chart, None while nothing is drawn."""
        ask = (
            "const [selector, done] = arguments; import('nicegui-echart').then(({echarts}) => "
            f"echarts.getInstanceByDom(document.querySelector(selector)).{question}).then(done, () => done(null))"
        )
        return self.driver.execute_async_script(ask, selector)

    def picture(self, path: Path) -> None:
        """Take a picture of the whole page, as wide as the window."""
        time.sleep(SETTLE)
        height = self.driver.execute_script(
            "const parts = [...document.querySelectorAll('.part, .start-bar')];"
            "const ends = parts.map(e => e.getBoundingClientRect().bottom);"
            "return Math.ceil(Math.max(...ends) + scrollY + 20)"
        )
        self._fit(self._window[0], height)  # to capture beyond the window would lay out the page at other widths
        time.sleep(SETTLE)
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {})
        path.write_bytes(base64.b64decode(shot["data"]))
        self._fit(*self._window)

    def complaints(self) -> list[str]:
        """Return what the browser's console has heard of errors since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
