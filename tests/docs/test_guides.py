"""The commands of the guide of the command line, run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.long_runs import with_integrations

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "command-line.md"
SECTION = re.compile(r"^## (?P<title>.*?)$(?P<text>.*?)(?=^## |\Z)", re.M | re.S)
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```", re.M | re.S)
FILE = re.compile(r"save\s+this\s+as\s+`(?P<name>\w+\.py)`", re.I)
NEEDED = {
    "A folder of images": "PIL", "A model of your own": "torch", "A language model": "transformers"
}  # fmt: skip


def sections():
    return {match["title"]: match["text"] for match in SECTION.finditer(GUIDE.read_text())}


@with_integrations
@pytest.mark.slow
@pytest.mark.parametrize("title", NEEDED)
def test_the_commands_run_as_written(title, tmp_path):
    pytest.importorskip(NEEDED[title], reason=f"{NEEDED[title]} is not installed")
    pytest.importorskip("plotly", reason="plotly is not installed")
    text = sections()[title]
    python, shell = BLOCK.findall(text)
    assert (python[0], shell[0]) == ("python", "bash")
    file = tmp_path / FILE.search(text)["name"]
    file.write_text(python[1])
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "mipp").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mipp "$@"\n')
    (folder / "mipp").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "COLUMNS": "80"
    }  # fmt: skip
    if f"python {file.name}" in " ".join(text.split()):
        subprocess.run([sys.executable, file], cwd=tmp_path, env=environment, check=True)
    done = subprocess.run(
        ["sh", "-e", "-c", shell[1]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = [line for line in done.stdout.splitlines() if not line.startswith(("note:", "{"))]
    assert max(map(len, tables)) <= 80
    commands = [line for line in shell[1].splitlines() if line.startswith("mipp")]
    assert done.stdout.count("not pruned") >= sum("eval" not in c for c in commands) - 1
    if title == "A language model":
        before, after = re.findall(r"^perplexity +([\d.]+) of", done.stdout, re.M)
        row = re.search(r"^ perplexity +([\d.]+) +([\d.]+)", done.stdout, re.M)
        assert (row[1], row[2]) == (before, after)
