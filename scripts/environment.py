"""A virtual environment in the project's folder, for the scripts that set everything up themselves."""

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
        if not self._bin.exists():
            venv.create(ROOT / name, with_pip=True)

    def call(self, program: str, *arguments: str) -> None:
        """Show a command and run it in the project's folder; end where it fails."""
        print("$", program, *arguments, flush=True)
        code = subprocess.run([self._bin / program, *arguments], cwd=ROOT, check=False).returncode
        if code:
            sys.exit(code)
