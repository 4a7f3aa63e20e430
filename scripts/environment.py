"""A virtual environment in the project's folder, for the scripts that set everything up themselves."""

import contextlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Environment:
    """A virtual environment, made when it is first asked for."""

    def __init__(self, name: str) -> None:
        """Make the environment in the folder `name`, unless it is there."""
        if sys.version_info < (3, 11):
            sys.exit("Error: scratchgpt needs Python 3.11 or later.")
        self._bin = ROOT / name / ("Scripts" if os.name == "nt" else "bin")
        if not [*self._bin.glob("pip*")]:  # pip comes last: without it the environment is not finished
            try:
                venv.create(ROOT / name, with_pip=True)
            except subprocess.CalledProcessError:
                sys.exit("Error: this Python cannot make a virtual environment; install its venv and ensurepip parts.")

    def call(self, program: str, *arguments: str) -> None:
        """Show a command and run it in the project's folder; end where it fails."""
        print("$", program, *arguments, flush=True)
        with subprocess.Popen([self._bin / program, *arguments], cwd=ROOT) as process:
            while process.poll() is None:
                with contextlib.suppress(KeyboardInterrupt):  # the program has it too, and may want to save
                    process.wait()
        if process.returncode:
            sys.exit(process.returncode)
