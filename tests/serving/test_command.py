"""`scratchgpt serve`: how it begins, whom it lets in, and how it ends."""

import asyncio
import contextlib
import http.client
import os
import re
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from scratchgpt.errors import UsageError
from scratchgpt.serving import server
from scratchgpt.serving.answers import Message, Receive, Send
from scratchgpt.serving.listening import address, listen, require_token
from scratchgpt.serving.server import run
from scratchgpt.tokenizer import CharTokenizer
from tests.serving.world import address_of, begin, serving, write_model
from tests.world import scratchgpt

TOKEN = "a-token-of-tests"  # noqa: S105


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model(folder, CharTokenizer("ABC"))
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such signals")
def test_what_runs_is_finished_when_the_server_is_told_to_end(folder: Path, number: signal.Signals) -> None:
    with begin(folder) as process:
        client = OpenAI(base_url=f"{address_of(process)}/v1", api_key="none", max_retries=0)
        pieces = iter(client.completions.create(model="model", prompt="A", max_tokens=1000, stream=True))
        text = next(pieces).choices[0].text
        process.send_signal(number)
        text += "".join(piece.choices[0].text for piece in pieces)
        assert len(text) == 1000
        assert process.wait(30) == 0
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
        assert process.stderr
        assert not process.stderr.read()


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such signals")
def test_told_twice_the_server_ends_at_once_and_says_so(folder: Path) -> None:
    with begin(folder, "--max-tokens", "1000000000", "--batch", "1") as process, ThreadPoolExecutor() as pool:
        client = OpenAI(base_url=f"{address_of(process)}/v1", api_key="none", max_retries=0)
        endless: dict[str, Any] = {"model": "model", "prompt": "A", "max_tokens": 10**9}
        pieces = iter(client.completions.create(**endless, stream=True))
        next(pieces)
        whole = pool.submit(lambda: client.completions.create(**endless))
        while "scratchgpt_queue_length 1.0" not in httpx.get(f"{client.base_url}../metrics").text:
            pass
        process.send_signal(signal.SIGINT)
        next(pieces)
        process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(pieces)
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            whole.result()
        assert process.wait(30) == 0
        assert process.stderr
        assert not process.stderr.read()


def test_a_token_lets_in(folder: Path) -> None:
    with serving(folder, "--token", TOKEN) as place:
        assert OpenAI(base_url=f"{place}/v1", api_key=TOKEN).models.list().data[0].id == "model"
        with pytest.raises(openai.AuthenticationError, match="needs its token"):
            OpenAI(base_url=f"{place}/v1", api_key="another").models.list()
        assert httpx.get(f"{place}/health").status_code == 200
        assert httpx.get(f"{place}/metrics").status_code == 401
        assert httpx.get(f"{place}/openapi.json").status_code == 401


def test_the_token_of_the_environment(folder: Path) -> None:
    with begin(folder, "--host", "0.0.0.0", environment=os.environ | {"SCRATCHGPT_TOKEN": TOKEN}) as process:  # noqa: S104
        try:
            place = address_of(process)
            assert place.startswith("http://127.0.0.1:")
            headers = {"Authorization": f"Bearer {TOKEN}", "Host": "box.example"}
            assert httpx.get(f"{place}/v1/models", headers=headers).status_code == 200
            assert httpx.get(f"{place}/v1/models").status_code == 401
        finally:
            process.kill()


def test_others_are_let_in_with_a_token_only(folder: Path, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.7", "box.example"):  # noqa: S104
        with pytest.raises(UsageError, match="needs a token: set SCRATCHGPT_TOKEN"):
            require_token(host, None)
        require_token(host, TOKEN)
    require_token("localhost", None)
    result = scratchgpt("serve", folder, "--host", "0.0.0.0", cwd=tmp_path)  # noqa: S104
    assert (result.returncode, result.stdout) == (2, "")
    assert "needs a token" in result.stderr


def test_a_port_in_use_is_named_and_a_free_one_offered(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = scratchgpt("serve", folder, "--port", str(port), cwd=tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        offered = re.search(rf"Port {port} is not available .*; (\d+) is free: --port \1", result.stderr)
        assert offered, result.stderr
        with listen("127.0.0.1", int(offered[1])) as listener:
            assert address(listener) == f"http://127.0.0.1:{offered[1]}"


@pytest.mark.parametrize("host", ["::1", "[::1]", "localhost", "127.0.0.1"])
def test_own_addresses_need_no_token_and_are_printed_as_browsers_want_them(folder: Path, host: str) -> None:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        with serving(folder, "--host", host) as place:
            name = host if host.startswith("[") else f"[{host}]" if ":" in host else "127.0.0.1"
            assert re.fullmatch(rf"http://{re.escape(name)}:\d+", place)
            assert httpx.get(f"{place}/health", headers={"Origin": place}).status_code == 200
            assert "curl" in httpx.get(f"{place}/").text
        return
    pytest.skip("there is no IPv6 here")


def test_options_that_cannot_be_meant(folder: Path, tmp_path: Path) -> None:
    for options, words in {
        ("--token", "short"): "at least 16; a random one is",
        ("--token", ""): "has 0 characters",
        ("--allow-origin", "*"): "is not an origin",
        ("--allow-origin", "null"): "is not an origin",
        ("--host", "0"): "needs a token",
    }.items():
        result = scratchgpt("serve", folder, "--port", "0", *options, cwd=tmp_path)
        assert (result.returncode, result.stdout) == (2, ""), options
        assert words in " ".join(result.stderr.split()), options


NO_NAMES = ("\udced\udca0", "a" * 70 + ".com", "..", "ü" * 64, "[bold]", "::::")
"""Of hosts: not UTF-8, too long, without a label, too long once encoded, with brackets, without a number."""


@pytest.mark.parametrize("host", ["203.0.113.9", "nonsense.invalid", *NO_NAMES])
def test_hosts_that_are_not_there(host: str) -> None:
    with pytest.raises(UsageError, match=f"This machine has no address {re.escape(host)}"):
        listen(host, 0)


def test_who_asks_nothing_for_long_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 1.5)

    async def slow(scope: Message, _: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(3)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    def trickle(connection: socket.socket) -> None:
        for _ in range(100):
            connection.sendall(b"G")
            time.sleep(0.1)

    def talk(place: tuple[str, int]) -> None:
        try:
            with socket.create_connection(place, timeout=30) as silent:
                assert silent.recv(1) == b""
            with socket.create_connection(place, timeout=30) as trickling:
                trickling.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = http.client.HTTPResponse(trickling)
                answer.begin()
                assert answer.read() == b"ok"
                with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
                    trickle(trickling)
        finally:
            signal.raise_signal(signal.SIGINT)

    with listen("127.0.0.1", 0) as listener, ThreadPoolExecutor() as pool:
        told = pool.submit(talk, listener.getsockname())
        run(slow, listener)
        told.result()


def test_without_the_extra_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    result = scratchgpt("serve", folder, cwd=tmp_path, environment=environment)
    assert result.returncode == 2
    assert "pip install 'scratchgpt[web]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_models_that_are_not_there(tmp_path: Path) -> None:
    result = scratchgpt("serve", cwd=tmp_path)
    assert (result.returncode, "no trained model" in result.stderr) == (2, True)
    result = scratchgpt("serve", "nothing", cwd=tmp_path)
    assert (result.returncode, "no run or checkpoint nothing" in result.stderr) == (2, True)
