"""One measurement of cost in a new process: ``python -m mipp.bench.alone`` with JSON on stdin."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch

from mipp.errors import MippError


def run(item: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The result of the item as plain data.

    Raises:
        MippError: what went wrong there.
    """
    n_threads = torch.get_num_threads()
    question = json.dumps({"item": item, "device": device, "threads": n_threads})
    done = subprocess.run(
        [sys.executable, "-m", "mipp.bench.alone"],
        input=question,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": str(n_threads)},
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise MippError(f"measuring in a new process failed: {last[0]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Reads the question, answers in the last line of stdout."""
    from mipp.bench.kinds import cost  # noqa: PLC0415 - which imports this module
    from mipp.measurements import Item  # noqa: PLC0415

    question = json.load(sys.stdin)
    torch.set_num_threads(question["threads"])
    found = cost.measured(Item.model_validate(question["item"]), question["device"])
    sys.stdout.write("\n" + json.dumps(found.model_dump(mode="json", exclude_none=True)) + "\n")


if __name__ == "__main__":
    main()
