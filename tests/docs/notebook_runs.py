"""Runs a notebook and compares what it prints and draws with its page."""

import subprocess
import sys
from pathlib import Path

from tests.docs import printed

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import notebooks  # noqa: E402 - the scripts are no package

VARIES = "generate("
"""Cells with this print text that is another on another processor."""


def run(name, folder):
    """Run it in a process of its own, as `make notebooks` does; what went to stderr."""
    command = [sys.executable, str(SCRIPTS / "write_notebooks.py"), name, "--into", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def differences(name, folder, *, numbers=True):
    """What is different between the page in a folder and that in the documents, by cell."""
    script = (notebooks.FOLDER / f"{name}.py").read_text()
    codes = [cell.text for cell in notebooks.cells(script) if cell.is_code]
    mine, theirs = (
        notebooks.stored((place / f"{name}.md").read_text())[0]
        for place in (folder, notebooks.FOLDER)
    )
    found = {}
    for number, (code, one, other) in enumerate(zip(codes, mine, theirs, strict=True)):
        if one.figures != other.figures:
            found[number] = f"draws {one.figures}, stated {other.figures}"
        elif VARIES in code:
            assert one.text
        elif what := printed.difference(one.text, other.text, numbers=numbers):
            found[number] = what
    return found
