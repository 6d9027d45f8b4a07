"""Measurements in a process of their own, so that nothing else counts in their memory."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mipp.errors import MippError

ROOT = Path(__file__).resolve().parents[1]
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""Settings of glibc under which a process keeps up to a gibibyte that it has freed. By default it
asks the system for each large activation anew, which fills the pages with zeros. That adds
three quarters to a pass of ResNet-50, and less in a process that has freed more before. What the
environment says goes first."""


def call(function: str, arguments: Sequence[Any]) -> Any:
    """What a function gives in a new process; arguments and answer are JSON.

    Args:
        function: Module and name, ``"lab.kinds.cost:measured"``.
        arguments: What it is called with.

    Raises:
        MippError: What went wrong there.
    """
    n_threads = torch.get_num_threads()
    question = {"function": function, "arguments": arguments, "threads": n_threads}
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "lab.isolated"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
        env=ALLOCATOR | os.environ | {"OMP_NUM_THREADS": str(n_threads), "PYTHONPATH": paths},
    )
    if done.returncode == -signal.SIGKILL:
        raise MippError(
            "measuring in a new process failed: it was killed, as the system does when memory runs "
            "out. Measure it again with less beside it."
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise MippError(f"measuring in a new process failed: {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Reads the question, answers in the last line of stdout."""
    question = json.load(sys.stdin)
    torch.set_num_threads(question["threads"])
    module, _, name = question["function"].partition(":")
    answer = getattr(importlib.import_module(module), name)(*question["arguments"])
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
