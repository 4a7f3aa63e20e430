"""How a server runs: connections lock nobody out, nonsense never reaches the terminal, and the end comes in time."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scratchgpt.serving import tokens
from scratchgpt.tokenizer import CharTokenizer
from tests.serving.world import address_of, begin, serving, write_model

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has neither these signals nor limits on files")
JSON = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BEGUN = JSON + "Content-Length: {}\r\n\r\n"
STREAM = '{"model": "model", "prompt": "A", "max_tokens": 1000000000, "stream": true}'
OPENINGS = {
    "silent": "",
    "half a header": "GET / HT",
    "half a body": BEGUN.format(1000) + "{",
    "idle": "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model(folder, CharTokenizer("ABC"))
    return folder


@contextlib.contextmanager
def connections(address: str, number: int, opening: str) -> Iterator[list[socket.socket]]:
    """Open connections that begin like this, and read nothing."""
    port = int(address.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.settimeout(10)
            connection.connect(("127.0.0.1", port))
            with contextlib.suppress(OSError):  # it was closed already, in favour of another
                connection.sendall(opening.encode("ascii"))
            opened.append(connection)
        yield opened


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux shows that a client has left, at once")
def test_requests_of_clients_that_have_left_are_not_begun(folder: Path) -> None:
    n_clients = 100
    with begin(folder) as process:
        try:
            address = address_of(process)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            with connections(address, n_clients, BEGUN.format(len(STREAM)) + STREAM):
                pass
            process.send_signal(signal.SIGCONT)
            metrics = httpx.get(f"{address}/metrics").text
            assert f'scratchgpt_requests_total{{status="408"}} {n_clients}.0\n' in metrics
            assert "scratchgpt_prompt_tokens_total 0.0\n" in metrics
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


@posix
@pytest.mark.parametrize("opening", OPENINGS)
def test_many_connections_lock_nobody_out(folder: Path, opening: str) -> None:
    import resource  # noqa: PLC0415 - Windows has none

    with begin(folder) as process:
        try:
            address = address_of(process)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (256, 256))
            with connections(address, 400, OPENINGS[opening]):
                for _ in range(20):
                    with httpx.Client(timeout=60) as client:
                        assert client.get(f"{address}/health").status_code == 200
            process.terminate()
            assert process.wait(60) == 0
            assert process.stderr
            assert process.stderr.read() == ""
        finally:
            process.kill()


@posix
@pytest.mark.parametrize("opening", [*OPENINGS.values(), BEGUN.format(len(STREAM)) + STREAM])
def test_the_end_comes_whatever_connections_do(folder: Path, opening: str) -> None:
    with begin(folder, "--max-tokens", "1000000000", "--timeout", "1000") as process:
        try:
            address = address_of(process)
            with connections(address, 8, opening):
                assert httpx.get(f"{address}/health").status_code == 200
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            assert process.stderr
            assert process.stderr.read() == ""
        finally:
            process.kill()


HANGS = """
import asyncio, sys, time
from scratchgpt.serving.listening import address, listen
from scratchgpt.serving.server import run

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print("ready", flush=True)
    await receive()
    await asyncio.to_thread(time.sleep, 600)

with listen("127.0.0.1", 0) as listener:
    print(address(listener), flush=True)
    run(app, listener, is_saving=lambda: "saving" in sys.argv)
"""


@posix
@pytest.mark.parametrize(("arguments", "n_signals", "least"), [([], 1, 8), (["saving"], 2, 0)])
def test_nothing_that_hangs_keeps_the_process(arguments: list[str], n_signals: int, least: float) -> None:
    """It would hang for ten minutes."""
    with subprocess.Popen([sys.executable, "-c", HANGS, *arguments], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            assert process.stdout.readline() == b"ready\n"
            start = time.monotonic()
            for _ in range(n_signals):
                process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            assert process.wait(120) == 1
            assert time.monotonic() - start >= least
        finally:
            process.kill()


TO_HERE = b" HTTP/1.1\r\nHost: localhost\r\n"
TWO_LENGTHS = JSON.encode("ascii") + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
UPGRADE = TO_HERE + b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
NONSENSE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    b"GET /\x1b[2J" + TO_HERE + b"\r\n",
    b"GET /%1b[2J%00%ff" + TO_HERE + b"\r\n",
    b"GET /v1/models/%1b[2J%ff" + TO_HERE + b"\r\n",
    b"GET /" + TO_HERE + b"\r\nNONSENSE\r\n\r\n",
    b"GET /" + b"a" * 30_000 + TO_HERE + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: \x1b[2J\r\n\r\n",
    b"\x1b[2J /" + TO_HERE + b"\r\n",
    b"PUT /health" + TO_HERE + b"\r\n",
    b"POST /v1/completions" + TO_HERE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    TWO_LENGTHS,
    BEGUN.format(4).encode("ascii") + b"\x1b[2J",
    b"GET /health" + TO_HERE + b"Connection: upgrade\r\nUpgrade: \x1b\r\n\r\n",
    b"GET /health" + UPGRADE + b"\r\n",
    b"POST /health" + UPGRADE + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"GET /health" + UPGRADE + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"GET /health" + UPGRADE + b"Sec-WebSocket-Key: \x1b[2J\r\n\r\n",
]


def test_nonsense_is_answered_with_our_headers_and_leaves_no_trace(folder: Path) -> None:
    with serving(folder) as address:  # which must write nothing
        for nonsense in NONSENSE:
            with connections(address, 1, "") as (connection,):
                connection.sendall(nonsense)
                answer = connection.recv(2**16).lower()
                assert answer.startswith((b"http/1.1 4", b"http/1.1 200")), nonsense
                assert b"frame-ancestors 'none'" in answer, nonsense
                assert b"\x1b" not in answer


def test_no_client_chooses_the_address_that_it_guesses_from(folder: Path) -> None:
    """With X-Forwarded-For, as if it were a proxy."""
    asked = [
        b"GET /version" + TO_HERE + b"Authorization: Bearer wrong\r\nX-Forwarded-For: 10.0.0.%d\r\n\r\n" % number
        for number in range(8)
    ]
    with serving(folder, "--token", "a-token-of-tests") as address, connections(address, 8, "") as opened:
        start = time.monotonic()
        for connection, request in zip(opened, asked, strict=True):
            connection.sendall(request)
        for connection in opened:
            assert connection.recv(2**16).startswith(b"HTTP/1.1 401")
        assert time.monotonic() - start >= 7 * tokens.PAUSE


def test_requests_with_two_lengths_end_their_connection(folder: Path) -> None:
    with serving(folder) as address, connections(address, 1, "") as (connection,):
        connection.sendall(TWO_LENGTHS + b"GET /health" + TO_HERE + b"\r\n")
        answer = b""
        while more := connection.recv(2**16):
            answer += more
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 400")
