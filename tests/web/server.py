"""A page that is served for tests, from a process of its own; and a browser that looks at it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0
"""Seconds to wait for something on a busy machine."""


class Server:
    """`scratchgpt web` in a folder."""

    def __init__(self, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it, and wait until it says where it is."""
        self.folder = folder
        settings = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scratchgpt", "web", "--no-open", *options],
            cwd=folder,
            env={**os.environ, **settings, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert self.said.startswith("http://"), self.said + self.process.stdout.read()
        self.address = self.said.split()[0]

    @property
    def port(self) -> int:
        """Return where it listens."""
        return int(self.address.split(":")[2].split("/")[0])

    def stop(self) -> str:
        """Have it end; return what it has said besides where it is."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=PATIENCE)[0]


@contextlib.contextmanager
def served(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve a folder's page on a free port; it must not complain."""
    server = Server(folder, "--port", "0", *options, environment=environment)
    try:
        yield server
    finally:
        said = server.stop()
    complaints = [line for line in said.splitlines() if not line.startswith("The training saves and ends")]
    assert not complaints, said


def wait_until(is_so: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return what becomes true, in the end."""
    end = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.1)
    return found


def chromium() -> Any:
    """Return a headless Chromium; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium, of the extra dev")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its chromedriver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
