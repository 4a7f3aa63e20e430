"""The command line, `scratchgpt` or `python -m scratchgpt`."""

from scratchgpt.cli import cli


def main() -> None:
    """Run the command that was typed and exit with its code."""
    cli(prog_name="scratchgpt")


if __name__ == "__main__":
    main()
