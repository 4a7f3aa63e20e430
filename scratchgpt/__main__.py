"""The command line, `scratchgpt` or `python -m scratchgpt`."""

import signal
import sys


def main() -> None:
    """Run the command that was typed and exit with its code."""
    try:
        from scratchgpt.cli import cli  # noqa: PLC0415 - it takes long enough for a Ctrl-C

        cli(prog_name="scratchgpt")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
