"""Pages of other sites in a real browser: what they try, and what of it reaches a server; and how a person logs in."""

import asyncio
import contextlib
import http.client
import http.server
import logging
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nicegui import background_tasks

from scratchgpt.serving.log import one_line_log
from scratchgpt.tokenizer import CharTokenizer
from scratchgpt.web.front import ignore_slow_end
from tests import clock
from tests.serving.world import serving, write_model
from tests.web.server import Server, chromium, served, wait_until

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-tests"  # noqa: S105

RECORDER = """
from scratchgpt.serving.guard import Guard
from scratchgpt.serving.listening import address, listen
from scratchgpt.serving.server import run

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    print(scope["path"], flush=True)
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    content = [(b"content-type", b"text/html"), (b"content-security-policy", b""),
               (b"referrer-policy", b"same-origin")]
    await send({"type": "http.response.start", "status": 200, "headers": content})
    await send({"type": "http.response.body", "body": b"<title>here</title><body>"})

with listen("127.0.0.1", 0) as listener:
    print(address(listener), flush=True)
    run(Guard(app, host="127.0.0.1", largest_body=1000), listener)
"""

TRICKS = """
const to = arguments[0], done = arguments[1], body = document.body;
const add = (tag, more) => body.append(Object.assign(document.createElement(tag), more));
add("img", {src: to + "/image"});
add("script", {src: to + "/script"});
add("link", {rel: "stylesheet", href: to + "/style"});
add("link", {rel: "prefetch", href: to + "/prefetch"});
add("video", {src: to + "/video", preload: "auto"});
add("object", {data: to + "/object"});
add("iframe", {src: to + "/frame"});
add("iframe", {name: "target"});
const form = Object.assign(document.createElement("form"), {method: "post", action: to + "/form", target: "target"});
body.append(form);
form.submit();
const quietly = promise => promise.catch(() => 0);
const all = [
  quietly(fetch(to + "/fetch")),
  quietly(fetch(to + "/no-cors", {method: "POST", mode: "no-cors", body: "x"})),
  quietly(fetch(to + "/preflight", {method: "POST", headers: {"content-type": "application/json"}, body: "{}"})),
  new Promise(r => { const s = new WebSocket(to.replace("http", "ws") + "/socket"); s.onopen = s.onerror = r; }),
];
navigator.sendBeacon(to + "/beacon", "x");
Promise.all(all).then(() => setTimeout(done, 1000));
"""
TRIED = {"image", "script", "style", "prefetch", "video", "object", "frame", "form", "fetch", "no-cors", "preflight"}
TRIED |= {"socket", "beacon"}


class Blank(http.server.BaseHTTPRequestHandler):
    """Answers every request with an empty page."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title><body>")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    driver = chromium()
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


def test_pages_of_other_sites_can_only_link(driver: Any, other_port: int) -> None:
    command = [sys.executable, "-u", "-c", RECORDER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8") as process:
        try:
            assert process.stdout
            here = process.stdout.readline().strip()
            for other in (f"http://localhost:{other_port}", f"http://127.0.0.1:{other_port}"):  # cross-site, same-site
                driver.get(other)
                driver.execute_async_script(TRICKS, here)
                driver.execute_script(f"location.href = '{here}/link-{other.count('localhost')}'")
                wait_until(lambda: driver.title == "here")
            driver.get(f"{here}/own")
            driver.execute_async_script(TRICKS, here)
            process.terminate()
            reached = process.communicate(timeout=30)[0].split()
        finally:
            process.kill()
    reached = [path.strip("/") for path in reached if "favicon" not in path]
    assert reached[:3] == ["link-1", "link-0", "own"]
    assert set(reached[3:]) == TRIED, "the page itself can do all this"


STREAM = """
const [address, done] = arguments;
fetch(address + "/v1/completions", {
  method: "POST", headers: {"content-type": "application/json", "authorization": "Bearer none", "x-any": "1"},
  body: JSON.stringify({model: "model", prompt: "A", max_tokens: 5, stream: true}),
}).then(async answer => {
  const reader = answer.body.getReader(), decoder = new TextDecoder();
  let text = "";
  for (let part; !(part = await reader.read()).done;) text += decoder.decode(part.value);
  done(text);
}).catch(error => done(String(error)));
"""


def test_a_site_that_is_named_streams_a_text(driver: Any, other_port: int, tmp_path: Path) -> None:
    write_model(tmp_path / "model", CharTokenizer("ABC"))
    site = f"http://localhost:{other_port}"
    with serving(tmp_path / "model", "--allow-origin", site, "--allow-origin", "http://a.example") as address:
        driver.get(site)
        text = driver.execute_async_script(STREAM, address)
        assert text.rstrip().endswith("data: [DONE]"), text
        driver.get(f"http://127.0.0.1:{other_port}")
        assert "TypeError" in driver.execute_async_script(STREAM, address)


def log_in(driver: Any, token: str) -> None:
    """Fill in the form."""
    field = driver.find_element("css selector", 'input[type="password"]')
    field.clear()
    field.send_keys(token)
    driver.find_element("css selector", "button").click()


def test_a_person_logs_in_and_stays_so(driver: Any, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python, of the extra dev")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    check = f"{source}; const done = arguments[0]; axe.run().then(found => done(found.violations.map(v => v.id)))"
    driver.get_log("browser")  # of other tests
    with served(tmp_path, environment={"SCRATCHGPT_TOKEN": TOKEN}) as server:
        assert TOKEN not in server.said
        port = str(server.port)
        for width, scheme in ((320, "dark"), (320, "light"), (1280, "dark"), (1280, "light")):
            size = {"width": width, "height": 640, "deviceScaleFactor": 1, "mobile": width < 600}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            driver.get(f"{server.address}?tab=model&x=1")
            assert driver.execute_async_script(check) == []
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        log_in(driver, "a-wrong-token-of-tests")
        wait_until(lambda: driver.find_elements("css selector", '[role="alert"]'))
        assert driver.execute_async_script(check) == []
        log_in(driver, TOKEN)
        wait_until(lambda: driver.find_elements("css selector", ".panels:not([inert]) .part"))
        assert "tab=model" in driver.current_url
        assert [cookie["name"] for cookie in driver.get_cookies()] == [f"scratchgpt-{port}"]
        assert not [entry for entry in driver.get_log("browser") if "401" not in entry["message"]]
    with served(tmp_path, "--port", port, environment={"SCRATCHGPT_TOKEN": TOKEN}) as server:
        driver.get(server.address)
        wait_until(lambda: driver.find_elements("css selector", ".panels:not([inert]) .part"))


@pytest.mark.skipif(os.name == "nt", reason="the browser is a shell script")
def test_a_browser_is_given_a_ticket_and_no_token(driver: Any, tmp_path: Path) -> None:
    script, seen = tmp_path / "browser", tmp_path / "seen"
    script.write_text(f'#!/bin/sh\nprintf "%s" "$*" > {seen}.new && mv {seen}.new {seen}\n', encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    settings = {"SCRATCHGPT_TOKEN": TOKEN, "BROWSER": str(script)}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(served(tmp_path, "--open", environment=settings))
        wait_until(seen.exists)
        address = seen.read_text(encoding="utf-8")
        assert re.fullmatch(rf"{re.escape(server.address)}\?ticket=[\w-]+", address)
        assert TOKEN not in address
        driver.get(address)
        wait_until(lambda: driver.find_elements("css selector", ".panels:not([inert]) .part"))
        assert "ticket" not in driver.current_url
        driver.delete_all_cookies()
        driver.get(address)
        wait_until(lambda: driver.find_elements("css selector", 'input[type="password"]'))
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                assert TOKEN.encode("ascii") not in (folder / "cmdline").read_bytes()


def test_pages_without_a_reader_take_no_more_memory(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux's /proc")

    def memory(server: Server) -> int:
        text = (status.parents[1] / str(server.process.pid) / "status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found
        return int(found[1])

    def ask_many(server: Server) -> None:
        for number in range(40):
            for method in ("HEAD", "GET"):
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                connection.request(method, f"/?tab={'model' if number % 2 else 'train'}")
                assert connection.getresponse().status == 200
                connection.close()

    with served(tmp_path) as server:
        used = []
        for _ in range(2):
            ask_many(server)
            used.append(memory(server))
        assert used[1] - used[0] <= 10_000, "40 more pages would take 25 MB"


def test_tasks_that_end_slowly_are_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10)

    async def end() -> None:
        task = asyncio.create_task(stubborn())
        background_tasks.running_tasks.add(task)
        task.add_done_callback(background_tasks.running_tasks.discard)
        await asyncio.sleep(0)
        await background_tasks.teardown()

    logger = logging.getLogger("nicegui")
    for is_ignored in (False, True):
        before = logger.filters[:]
        if is_ignored:
            ignore_slow_end()
        with one_line_log():
            clock.run(end())
        logger.filters[:] = before
        assert ("Could not cancel" in capsys.readouterr().err) != is_ignored
