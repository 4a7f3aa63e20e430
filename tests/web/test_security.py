"""Who may use the page, and what an upload may do."""

import contextlib
import gzip
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.bench.processes import cpu_seconds
from tests.web.server import Server, served, wait_until
from tests.world import scratchgpt

nicegui = pytest.importorskip("nicegui")
TOKEN = "a-token-of-tests"  # noqa: S105
EVERYWHERE = "0.0.0.0"  # noqa: S104 - with a token
SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("work") / "a" / "b" / "c"
    folder.mkdir(parents=True)
    with served(folder) as server:
        yield server


def ask(
    server: Server, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", body: Any = None
) -> tuple[int, str, Mapping[str, str]]:
    """Return the answer to a request: status, text and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body=body, headers={"Host": f"127.0.0.1:{server.port}", **(headers or {})})
        answer = connection.getresponse()
        text = "" if answer.status == http.HTTPStatus.SWITCHING_PROTOCOLS else answer.read().decode("utf-8")
        return answer.status, text, dict(answer.headers)
    finally:
        connection.close()


def test_everything_comes_from_here(server: Server) -> None:
    status, page, _ = ask(server, "/")
    assert status == 200
    elsewhere = {address for address in re.findall(r"https?://[\w.-]+", page) if "w3.org" not in address}
    assert not elsewhere


def test_nothing_can_be_typed_before_the_page_is_connected(server: Server) -> None:
    assert '"inert":true' in ask(server, "/")[1].replace("&quot;", '"')


def test_other_sites_are_refused(server: Server) -> None:
    here = f"http://127.0.0.1:{server.port}"
    assert ask(server, "/", {"Host": "evil.example"})[0] == 403
    assert ask(server, "/", {"Origin": "http://evil.example"})[0] == 403
    assert ask(server, "/", {"Origin": here})[0] == 200
    assert ask(server, SOCKET, UPGRADE | {"Origin": here})[0] == 101
    assert ask(server, SOCKET, UPGRADE | {"Origin": "http://evil.example"})[0] == 403
    assert ask(server, SOCKET, UPGRADE | {"Host": "evil.example"})[0] == 403
    assert "Access-Control-Allow-Origin" not in ask(server, SOCKET.replace("websocket", "polling"))[2]


def test_the_end_comes_in_time_whatever_connections_do(tmp_path: Path) -> None:
    with served(tmp_path) as server, contextlib.ExitStack() as stack:
        host = f"Host: 127.0.0.1:{server.port}"
        socket_head = "\r\n".join([f"GET {SOCKET} HTTP/1.1", host, *(f"{k}: {v}" for k, v in UPGRADE.items()), "", ""])
        upload_head = f"POST {upload_path(server)} HTTP/1.1\r\n{host}\r\nContent-Length: 1000\r\n\r\nx"
        for opening in ("", "GET / HT", socket_head, upload_head, f"GET / HTTP/1.1\r\n{host}\r\n\r\n" * 5):
            for _ in range(4):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
                connection.sendall(opening.encode("ascii"))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


NICEGUI = "/_nicegui"
STRANGE = [
    ("GET", "/%1b]0;x%07%1b[2J"),
    ("GET", "/train"),
    ("GET", "/docs"),
    ("GET", "/login"),
    ("GET", "//evil.example"),
    ("GET", f"{NICEGUI}/x/static/nicegui.js"),
    ("GET", f"{NICEGUI}/{nicegui.__version__}/libraries/nope"),
    ("GET", f"{NICEGUI}/{nicegui.__version__}/components/%1b[2J"),
    ("GET", f"{NICEGUI}/{nicegui.__version__}/static/../../nicegui.py"),
    ("GET", f"{NICEGUI}/{nicegui.__version__}/static/%2e%2e/nicegui.py"),
    ("GET", f"{NICEGUI}/{nicegui.__version__}/dynamic_resources/x"),
    ("GET", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"),
    ("POST", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"),
    ("POST", "/"),
    ("PUT", "/"),
    ("OPTIONS", "/"),
    ("BREW", "/"),
    ("POST", f"{NICEGUI}/client/x/upload/1"),
]


@pytest.mark.parametrize(("method", "path"), STRANGE)
@pytest.mark.parametrize("accept", ["text/html", "*/*"])
def test_what_the_page_does_not_need_is_not_there(server: Server, method: str, path: str, accept: str) -> None:
    status, text, headers = ask(server, path, {"Accept": accept}, method=method)
    assert status == 404
    assert "There is nothing at this address." in text
    assert ('href="/"' in text) == (accept == "text/html")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_is_secured_as_far_as_nicegui_allows(server: Server) -> None:
    _, page, headers = ask(server, "/")
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == policy["form-action"] == "'self'"
    scripts = policy["script-src"].split()
    assert "'unsafe-inline'" not in scripts
    assert len([source for source in scripts if source.startswith("'sha256-")]) == len(
        re.findall("<script[^>]*>.", page)
    )
    assert {"x-frame-options", "referrer-policy", "cross-origin-opener-policy"} <= set(headers)
    assert headers["cache-control"] == "no-store"
    assert ask(server, "/", method="HEAD")[:2] == (200, "")


def frame(code: int, data: bytes, *, flags: int = 0x80, is_masked: bool = True, length: int | None = None) -> bytes:
    """Return a frame of a WebSocket, with whatever is wrong with it."""
    n = len(data) if length is None else length
    size = bytes([n]) if n < 126 else b"\x7e" + n.to_bytes(2, "big") if n < 2**16 else b"\x7f" + n.to_bytes(8, "big")
    size = bytes([size[0] | (0x80 if is_masked else 0)]) + size[1:]
    return bytes([flags | code]) + size + (bytes(4) + data if is_masked else data)  # zeros mask nothing


ESCAPE = r"\u001b]0;x\u0007\u001b[2J"
FRAMES = [
    [frame(1, b"\xff\xfe\x1b[31m")],
    [frame(2, b"\x00\x1b[2J")],
    [frame(1, b"hi", is_masked=False)],
    [frame(1, b"hi", flags=0xC0)],
    [frame(3, b"hi")],
    [frame(1, b"hi", length=2**40)],
    [frame(8, b"\x00")],
    [frame(9, b"x" * 200)],
    [frame(0, b"x")],
]
WORDS = (
    '"CLIENT"',
    '{"client_id":[]}',
    '{"client_id":"CLIENT","id":"%s","listener_id":1,"args":["%s"],"request_id":[]}',
    '{"client_id":"CLIENT","tab_id":{},"document_id":[],"next_message_id":"%s"}',
    '{"client_id":"CLIENT","level":"error","message":"%s"}',
    "[" * 50_000 + "]" * 50_000,
)
EVENTS = ("event", "handshake", "javascript_response", "ack", "log", "nope")
MESSAGES = [
    *(
        "",
        "5",
        "0{}",
        "3probe",
        "41",
        "42[]",
        "42{}",
        '42{"a":1}',
        "42" + "9" * 50,
        '42/nope,["event"]',
        '45999-["event"]',
    ),
    *(
        "9\x1b[2J",
        "x\x1b[2J",
        "4z\x1b[2J",
        "40/\x1b[2J,",
        '42["event",{\x1b[2J',
        '451-["ack",{"_placeholder":true,"num":0}]',
    ),
    *(f'42["{event}"{words}]' for event in EVENTS for words in ("", ",null", ",{}", ",1,2,3")),
    *(f'42["{event}",{words}]' for event in EVENTS for words in WORDS),
    '42["event","' + "x" * 1_500_000 + '"]',
]


def test_nonsense_on_a_websocket_leaves_no_trace(tmp_path: Path) -> None:
    with served(tmp_path) as server:  # which must write nothing
        found = re.search(r"[\w-]{36}", ask(server, "/?tab=data")[1].partition("client_id")[2])
        assert found
        joined = f"&implicit_handshake=true&client_id={found[0]}&tab_id=%1b&document_id=d&next_message_id=%1b"
        texts = [message.replace("CLIENT", found[0]).replace("%s", ESCAPE).encode("utf-8") for message in MESSAGES]
        for frames in FRAMES + [[frame(1, b"40"), frame(1, text)] for text in texts]:
            for query in ("", joined):
                with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                    head = {"Host": f"127.0.0.1:{server.port}"} | UPGRADE
                    lines = [
                        f"GET {SOCKET}{query} HTTP/1.1",
                        *(f"{name}: {value}" for name, value in head.items()),
                        "",
                        "",
                    ]
                    connection.sendall("\r\n".join(lines).encode("ascii"))
                    assert b" 101 " in connection.recv(100)
                    with contextlib.suppress(OSError):  # it was closed
                        connection.sendall(b"".join(frames))
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(2**16):
                            pass
        assert ask(server, "/")[0] == 200


def test_another_host_needs_a_token(tmp_path: Path) -> None:
    process = scratchgpt("web", "--host", EVERYWHERE, "--no-open", cwd=tmp_path)
    assert process.returncode == 2
    assert "needs a token" in process.stderr
    with served(tmp_path, "--host", EVERYWHERE, environment={"SCRATCHGPT_TOKEN": TOKEN}) as server:
        assert ask(server, "/")[0] == 401
        assert ask(server, SOCKET, UPGRADE)[0] == 401
        form = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
        assert ask(server, "/login", form, method="POST", body="token=wrong")[0] == 401
        status, _, headers = ask(server, "/login?tab=model", form, method="POST", body=f"token={TOKEN}")
        assert (status, headers["location"]) == (303, "/?tab=model")
        cookie = {"Cookie": headers["set-cookie"].partition(";")[0]}
        assert TOKEN not in cookie["Cookie"]
        assert ask(server, "/", cookie)[0] == 200
        assert ask(server, SOCKET, UPGRADE | cookie)[0] == 101


def upload_path(server: Server) -> str:
    """Return where a new page takes uploads."""
    found = re.search(r"/_nicegui/client/[\w-]+/upload/\d+", ask(server, "/?tab=data")[1])
    assert found
    return found[0]


def upload(server: Server, name: str, content: bytes) -> int:
    """Upload a file as a browser does; return the status."""
    boundary = b"----boundary"
    disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'.encode()
    body = b"\r\n".join([b"--" + boundary, disposition, b"", content, b"--" + boundary + b"--", b""])
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
    return ask(server, upload_path(server), headers, method="POST", body=body)[0]


def test_uploads_stay_in_the_data_folder(server: Server) -> None:
    for name, kept in (("../../../up.txt", "up.txt"), ("..%2f..%2fx.txt", "2fx.txt"), (".bashrc", "bashrc.txt")):
        assert upload(server, name, b"a text\n" * 100) == 200
        wait_until(lambda: [path for path in (server.folder / "data").iterdir() if path.name.endswith(kept)])  # noqa: B023
    assert upload(server, "up.txt", b"another text\n") == 200
    wait_until((server.folder / "data" / "up-2.txt").exists)
    top = server.folder.parents[2]
    outside = [path for path in top.rglob("*") if path.is_file() and server.folder / "data" not in path.parents]
    assert not outside


def test_an_upload_that_unpacks_to_gigabytes_disturbs_nobody(tmp_path: Path) -> None:
    packed = gzip.compress(b"a" * 2**20, 1) * 1000  # a gigabyte in which no word ends
    line = gzip.compress(b'{"text": "') + gzip.compress(b"a" * 2**20, 1) * 255
    for name, content in (("a.txt.gz", packed), ("a.jsonl.gz", line)):
        with served(tmp_path) as server:
            computed = cpu_seconds(server.process.pid)
            assert upload(server, name, content) == 200
            for _ in range(5):
                assert ask(server, "/")[0] == 200
            assert cpu_seconds(server.process.pid) - computed <= 20  # it does not unpack all of it


def test_uploads_are_limited(server: Server) -> None:
    path = upload_path(server)
    status, text, _ = ask(server, path, {"Content-Length": str(10**10)}, method="POST")
    assert status == 413
    assert "too large" in json.loads(text)["error"]["message"]


def test_a_browser_that_goes_in_the_middle_leaves_nothing(server: Server) -> None:
    before = sorted((server.folder / "data").glob("*")) if (server.folder / "data").exists() else []
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(
            f"POST {upload_path(server)} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 100000\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            'Content-Disposition: form-data; name="file"; filename="half.txt"\r\n\r\nhalf a text'.encode()
        )
    assert ask(server, "/")[0] == 200
    assert (sorted((server.folder / "data").glob("*")) if (server.folder / "data").exists() else []) == before


def test_a_port_in_use_is_told_with_one_that_is_free(server: Server, tmp_path: Path) -> None:
    process = scratchgpt("web", "--no-open", "--port", str(server.port), cwd=tmp_path)
    assert process.returncode == 2
    assert re.search(r"\d+ is free: --port \d+", process.stderr)


def test_without_the_extra_one_sentence_says_so(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['nicegui'] = None; from scratchgpt.__main__ import main; main()"
    (tmp_path / "hide.py").write_text(hide, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "hide.py", "web", "--no-open"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert process.returncode == 2
    assert "pip install 'scratchgpt[web]'" in process.stderr
