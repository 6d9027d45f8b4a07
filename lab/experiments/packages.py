"""Models of the packages that people prune: planned, refused or wrong, and what that takes.

    python -m lab run packages                           # all that is not recorded yet
    python -m lab run packages --only 'package=monai'    # some packages or models
    python -m lab run packages --again                   # what is recorded is measured once more

The packages go into an environment of their own (``--set environment=FOLDER``, by default in the
user's cache), made at first use with torch and all else as ``constraints.txt`` pins it. The models
(`packages_models.py`) are small and have random weights, as the packages build them; each
is planned from one batch, for half of its units and with the default options, in a process of its
own (`packages_check.py`), on one thread. Outcomes:

- *planned*: there is a plan; its page is written; its nats and the outputs of the small model are
  finite; written as text and read for a copy of the model whose weights all differ, it gives a
  sliced model that computes what the masked one computes (in float64 where the model runs in it)
  and has the parameters that the plan says; and the refitted model computes the same once saved
  and loaded.
- *refused*: `mipp.plan` or `Plan.apply` says why not.
- *wrong*: sliced and masked model, the parameters, or what was saved and loaded do not agree.
- *error*: numbers that are not finite, any other exception, or a plan that is refused later; the
  note has stage and text.
- *timeout*: all of this took more than ``--set limit=300`` seconds; the note has the stage.

*Seconds* are of the processor, for plan and small model with its refit, and *forward* for one pass
over the same batch. *Memory* is the most that the process held in that time beyond what it held
after the forward pass; a process may hold 8 GiB. *MACs left*: share of multiply-accumulates.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import parents
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.packages_models import MODELS
from lab.tables import TextTable

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
PATIENCE = 4
"""Seconds on the clock for each second of the processor: other work may run, and waiting ends."""
NOTE = 140
"""Characters of a note that the table shows."""


def pinned(name: str) -> str:
    """The version of a package in ``constraints.txt``."""
    found = re.search(rf"^{name}==(\S+)$", CONSTRAINTS.read_text(), re.M)
    assert found, name
    return found[1]


def steps() -> list[list[str]]:
    """Arguments of `pip install`, one call after the other."""
    major, minor, _ = pinned("torch").split(".")
    # torchvision's minor version is torch's and fifteen; as a wheel it asks for a torch with CUDA.
    # ultralytics asks for an OpenCV with windows, whose libraries a server does not have
    torchvision = f"torchvision==0.{int(minor) + 15}.*" if major == "2" else "torchvision"
    constrained = ["-c", str(CONSTRAINTS)]
    return [
        [*constrained, "-e", f"{ROOT}[report]"],
        ["--no-deps", torchvision, "ultralytics", "ultralytics-thop"],
        [
            *constrained, "timm", "transformers", "peft", "diffusers", "monai", "einops",
            "segmentation-models-pytorch", "torch-geometric",
            "opencv-python-headless", "matplotlib", "pyyaml", "requests", "psutil", "polars",
        ],
    ]  # fmt: skip


def install(folder: Path) -> Path:
    """The Python of an environment with all packages; makes it where it is not there yet."""
    python, done = folder / "bin" / "python", folder / "installed.json"
    wanted = json.dumps(steps())
    if not done.exists() or done.read_text() != wanted:
        print(f"installing into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)  # noqa: S603
        for step in steps():
            subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True)  # noqa: S603
        done.write_text(wanted)
    return python


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """One record, from a process of its own."""
    package, name, limit = key["package"], key["model"], settings["limit"]
    folder = settings["environment"] or parents.cache().parent / "packages"
    python = install(Path(folder).absolute())
    with tempfile.TemporaryDirectory() as folder:
        # ultralytics would write settings into the user's folder and look for a network
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        own |= {"YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true"}
        module = "lab.experiments.packages_check"
        command = [python, "-m", module, package, name, folder, str(limit)]
        try:
            ended = subprocess.run(  # noqa: S603
                command, env=os.environ | own, capture_output=True, text=True, check=False,
                timeout=PATIENCE * limit,
            )  # fmt: skip
            late, killed = ended.returncode == -signal.SIGXCPU, ended.returncode < 0
            said = f"the process ended with {ended.returncode}" if killed else ended.stderr.strip()
        except subprocess.TimeoutExpired:
            late, said = True, ""
        file = Path(folder) / "found.jsonl"
        row: dict[str, Any] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            row |= json.loads(line)
    if "outcome" not in row:
        note = f"more than {limit} s" if late else said.splitlines()[-1]
        row |= {"outcome": "timeout" if late else "error", "note": note}
    row["note"] = re.sub(r"/\S*/", "", row["note"])  # no folders of this machine
    return row


def number(value: float | None, form: str) -> str:
    """A cell, empty where there is nothing."""
    return "" if value is None else format(value, form)


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """One line for each model, in the order of the list."""
    places = {key: place for place, key in enumerate((k["package"], k["model"]) for k in items({}))}
    lines = []
    for row in sorted(rows, key=lambda row: places.get((row["package"], row["model"]), 0)):
        where = f"{row['stage']}: " if row["outcome"] in ("error", "timeout", "wrong") else ""
        note = (where + row["note"]).replace("|", "\\|")
        lines.append(
            [
                f"{row['package']}: {row['model']}", row["outcome"],
                number(row.get("macs_left"), ".0%"), number(row.get("seconds"), ".1f"),
                number(row.get("forward"), ".2f"), number(row.get("mib"), ".0f"),
                note if len(note) <= NOTE else note[: NOTE - 1] + "…",
            ]
        )  # fmt: skip
    header = ("model", "outcome", "MACs left", "seconds", "forward (s)", "memory (MiB)", "note")
    yield TextTable("", header, lines)
    counts = Counter(row["outcome"] for row in rows)
    named = ("planned", "refused", "wrong", "error", "timeout")
    counted = ", ".join(f"{counts[name]} {name}" for name in named)
    used = sorted({f"{row['package']} {row['version']}" for row in rows if "version" in row})
    yield f"{len(rows)} models: {counted}.\nVersions: {', '.join(used)}."


def items(_settings: Settings) -> Iterator[Key]:
    """Package by package."""
    for package, models in MODELS.items():
        yield from ({"package": package, "model": name} for name in models)


EXPERIMENT = Experiment(
    name="packages",
    title="Models of the packages that people prune: planned, refused or wrong",
    items=items,
    measure=measure,
    tables=tables,
    settings={"environment": "", "limit": 300},
)
