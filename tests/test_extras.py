"""Packages that only some users have: what is said without them, and Ctrl-C while they are imported."""

import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scratchgpt.errors import UsageError
from scratchgpt.extras import imports

PACKAGE = "a_package_that_is_interrupted"


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that is interrupted while it is imported."""
    source = "import signal\nsignal.raise_signal(signal.SIGINT)\nis_whole = True\n"
    (tmp_path / f"{PACKAGE}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    yield PACKAGE
    signal.signal(signal.SIGINT, before)


def test_a_missing_package() -> None:
    with (
        pytest.raises(
            UsageError, match=r"^Reading minds needs one more package \(No module named 'telepathy'\)\. "
        ) as raised,
        imports("Reading minds", "psi"),
    ):
        importlib.import_module("telepathy")
    assert str(raised.value).endswith("Install it: `pip install 'scratchgpt[psi]'`.")
    assert raised.value.page.endswith("can install it in a terminal: `pip install 'scratchgpt[psi]'`.")


def test_an_interrupt_waits_for_the_end_of_an_import(interrupted: str) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), imports("Waiting", "x"):
        importlib.import_module(interrupted)
    assert sys.modules[interrupted].is_whole
    assert signal.getsignal(signal.SIGINT) is handler


def test_without_that_the_import_ends_in_the_middle(interrupted: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module(interrupted)
    assert interrupted not in sys.modules


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_the_handler_of_the_program_decides(handler: object, interrupted: str) -> None:
    before = signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]
    try:
        with imports("Waiting", "x"):
            importlib.import_module(interrupted)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert sys.modules[interrupted].is_whole


def test_another_thread_cannot_handle_signals() -> None:
    found = []

    def load() -> None:
        with imports("Reading", "x"):
            found.append(importlib.import_module("json"))

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert len(found) == 1
