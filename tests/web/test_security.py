"""Who may use the page, and what an upload may do."""

import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.web.server import Server, served, wait_until
from tests.world import scratchgpt

pytest.importorskip("nicegui")
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
