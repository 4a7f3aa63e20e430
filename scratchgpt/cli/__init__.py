"""The command line: one module a command, imported when it is used."""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

import click

from scratchgpt import __version__, reports
from scratchgpt.errors import ScratchGPTError, did_you_mean, for_page, reason
from scratchgpt.wording import shown

COMMANDS = (
    "prepare",
    "config",
    "train",
    "web",
    "evaluate",
    "generate",
    "info",
    "attention",
    "surprise",
    "serve",
    "runs",
    "plot",
    "logs",
    "encode",
    "decode",
    "bench",
    "import",
    "export",
)
LONGEST_MESSAGE = 1000
"""Characters of a message: it may quote a file or a path."""
GPU_LIBRARIES = ("cupy", "cupy_backends")
"""Whose errors are about a GPU: one that hangs, or is taken away, or a compiler that is too old."""


def say(sentence: str, *, err: bool = False) -> None:
    """Print a sentence on one line, whatever the names in it."""
    click.echo(shown(sentence), err=err)


def _readable(message: str) -> str:
    """Return a message on one line; of one that is too long to read, the beginning and the end."""
    message = shown(message)
    return message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE // 2]} ... {message[-200:]}"


class _Failure(click.ClickException):
    """A failure as click shows it: one sentence on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int, *, page: str = "") -> None:
        super().__init__(_readable(message))
        vars(self)["exit_code"] = exit_code  # click has it as a class variable
        self._page = page or message

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence; for a program that asks for reports, the one for a page as well."""
        if reports.are_asked_for():
            click.echo(reports.failure(self.message, self._page), file or sys.stderr)
        else:
            super().show(file)


class _CLI(click.Group):
    """A group whose commands are modules beside this one; failures end in a sentence, not in a traceback."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        # A stream that is closed is None, and the next file that is opened gets its number.
        if sys.stdin is None:
            sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - it stays open
        if sys.stderr is None:
            sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it stays open
        # Bytes that are not UTF-8 come in as lone surrogates; the readers of texts refuse them.
        for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "replace")):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", errors=errors)
        if sys.stdout is None:
            _Failure("Standard output is closed; send it to a file, or to /dev/null.", 1).show()
            sys.exit(1)
        try:
            try:
                return super().main(*arguments, **settings)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output has gone: end quietly, as click does
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for what is still to be flushed
        except OSError as error:  # help, for one, is written before any command runs
            _Failure(f"Cannot write to standard output: {reason(error)}.", 1).show()
        sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in COMMANDS:
            ctx.fail(f"There is no command {name!r}{did_you_mean(name, COMMANDS)}.")
        module = "import_" if name == "import" else name  # a keyword can be no module's name
        command: click.Command = importlib.import_module(f"scratchgpt.cli.{module}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            say("Interrupted.", err=True)
            raise click.exceptions.Exit(128 + signal.SIGINT) from error
        except click.exceptions.NoArgsIsHelpError:
            raise  # its message is the help
        except click.ClickException as error:
            vars(error)["message"] = _readable(error.message)  # click has it as final
            raise
        except ScratchGPTError as error:
            raise _Failure(str(error), error.exit_code, page=for_page(error)) from error
        except MemoryError as error:
            fact, less = "Not enough memory for this; a smaller model, batch", "needs less."
            advice, on_page = f"{fact} or --micro-batch {less}", f"{fact} or micro_batch {less}"
            page = f"{on_page} {for_page(error)}".strip()
            raise _Failure(f"{advice} {error}".strip(), 1, page=page) from error
        except BrokenPipeError:
            raise  # the reader of our output has gone: click ends quietly
        except OSError as error:
            raise _Failure(reason(error), 1) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in GPU_LIBRARIES:
                raise  # a bug of ours, which a traceback helps to find
            first_line = str(error).partition("\n")[0]
            fact = f"The GPU failed: {type(error).__name__}: {first_line}"
            raise _Failure(f"{fact}; see --device cpu.", 1, page=f"{fact}; choose the device cpu.") from error


@click.command(cls=_CLI, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Train and run small GPTs with no framework under them.

    \b
    scratchgpt prepare data/shakes.txt --char
    scratchgpt train
    scratchgpt generate --tokens 1000
    """  # noqa: D301 - \b is click's mark for lines that are not to be wrapped
