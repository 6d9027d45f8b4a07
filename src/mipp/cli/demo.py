"""``mipp demo``: train, prune, retrain, save and read back, on data that need no download."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mipp.cli import arguments as arg
from mipp.cli.output import (
    FAILED,
    Guard,
    Output,
    check_folder,
    open_output,
    readable_errors,
    write_text,
)
from mipp.errors import FileError

if TYPE_CHECKING:
    from torch import nn

    from mipp.cli.outcome import Outcome

MODEL, DATA = "digits_cnn", "digits"
BUDGET, SHARE = "macs=25%", 0.25
RETRAINING = 3
"""Epochs; training from scratch takes 20."""


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER", rich_help_panel="Output",
            show_default="a new temporary folder", help="Write the files here.",
        ),
    ] = None,
    seed: arg.Seed = 0,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:  # fmt: skip
    """Train a small network on digits, prune it to 25 % of its MACs, retrain, save and check it.

    Needs no downloads and takes less than two minutes on two cores.
    """
    from mipp import surgery

    with readable_errors(debug) as guard:
        guard.arguments_read()
        output = open_output(json)
        folder = Path(tempfile.mkdtemp(prefix="mipp-demo-")) if out is None else out
        if out is not None:
            _make(folder)
        check_folder(folder, "--out")
        with _one_thread():
            model, small, outcome = _work(output, guard, seed)
        surgery.save(model, folder / "full.safetensors")
        surgery.save(small, folder / "small.safetensors")
        write_text(folder / "plan.json", outcome.plan.to_json())
        outcome.show(output)
        outcome.show_totals(output)

        output.say("Reading it back in a new process.")
        checks = _checks(outcome, _evaluated(folder / "small.safetensors", seed))
        for what, holds in checks.items():
            output.say(f"{'  ok   ' if holds else 'FAILED '} {what}")
        output.say(f"full.safetensors, small.safetensors and plan.json are in {folder}")
        _advise(output, folder)
        output.result(outcome.content() | {"checks": checks, "out": str(folder)})
        if not all(checks.values()):
            raise typer.Exit(FAILED)


def _work(output: Output, guard: Guard, seed: int) -> "tuple[nn.Module, nn.Module, Outcome]":
    """The trained model, the pruned one, and the numbers before and after."""
    import torch

    from mipp import retrain, selection
    from mipp.cli.datasets import DataOptions
    from mipp.cli.model_loading import Wanted, open_model
    from mipp.cli.model_names import find_network
    from mipp.cli.opening import find_subject
    from mipp.cli.pruning import Task, fine_tuning, run

    torch.manual_seed(seed)
    network = find_network(MODEL)
    subject = find_subject(network, DATA, DataOptions(seed=seed), None, None)
    source = subject.source
    model = open_model(network, Wanted(None, None, None, "cpu", seed), source)
    recipe = network.recipe
    output.say(f"Training {MODEL} on {DATA} for {recipe.epochs} epochs.")
    batches = source.train(recipe.batch_size, seed, recipe.augment)
    with output.followed() as progress:
        retrain.train(model, batches, recipe, seed=seed, progress=progress)
    output.say(f"Pruning it to {BUDGET}, then retraining it for {RETRAINING} epochs.")
    retrain_by = fine_tuning(recipe, RETRAINING)
    task = Task(selection.parse_budget(BUDGET), {}, retrain_by, seed)
    small, outcome = run(task, subject, model, output, guard)
    return model, small, outcome


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: these tensors are so small that a second would only wait."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"--out: the folder {folder} cannot be made: {error}.") from error


def _evaluated(path: Path, seed: int) -> Mapping[str, Any]:
    """What ``mipp eval --json`` prints about the file in a new process."""
    command = [sys.executable, "-m", "mipp", "eval", "--model", MODEL, "--data", DATA]
    command += ["--weights", str(path), "--seed", str(seed), "--json"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # sums in the same order as here
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603 - this very program
    if done.returncode:
        raise FileError(f"{path} could not be evaluated in a new process: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _checks(outcome: "Outcome", reloaded: Mapping[str, Any]) -> dict[str, bool]:
    from mipp.planning import Plan

    assert outcome.scores is not None
    plan, (before, after) = outcome.plan, outcome.scores
    assert outcome.retrained is not None
    assert isinstance(plan, Plan)
    return {
        "the full network has at least 97 % of the test images right": before >= 0.97,
        "at most 25 % of the MACs are left": plan.after.macs <= SHARE * plan.before.macs,
        "without retraining, at most 3 points are lost": after >= before - 0.03,
        "with retraining, at most 1 point is lost": outcome.retrained >= before - 0.01,
        "read back, it has the same accuracy": reloaded["accuracy"] == outcome.retrained,
        "read back, it has the MACs and parameters that the plan says": (
            reloaded["macs"] == plan.after.macs and reloaded["params"] == plan.after.params
        ),
    }


def _advise(output: Output, folder: Path) -> None:
    output.say(
        f"Next: mipp inspect --model {MODEL}, or a tighter budget:\n"
        f"mipp prune --model {MODEL} --weights {folder / 'full.safetensors'} --budget macs=10%"
    )
