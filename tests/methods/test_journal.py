"""A killed elimination continues where it stopped, and gives the same plan."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import FileError, InputError
from mipp.information.learned import mlp
from mipp.methods import journal

ESTIMATORS = {
    "mlp": mipp.Mlp(hidden=(4,), epochs=3, retrain_epochs=2, noise=0.1),
    "masked": mipp.Masked(hidden=(4,), epochs=3, noise=0.1),
    "gaussian": mipp.Gaussian(noise=0.1),
}
STEPS = 7
"""Of 12: five units of the first group, and two or more of the second."""


def planned(name, folder=None, progress=None, **changed):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2)
    ).eval()
    options = {"estimator": ESTIMATORS[name], "stop": mipp.Confidence(0.6), "order": "ordered",
               "next_layer": "pruned", "resume": folder, "seed": 1} | changed  # fmt: skip
    batches = options.pop("batches", [torch.randn(120, 3)])
    return mipp.plan(options.pop("model", net), batches, progress=progress, **options)


def killed(name, folder):
    """Run in a process of its own: the process is killed with some units decided."""
    journal.SECONDS = 0.0

    def at_last(stage, done, _total):
        if stage == "score" and done >= STEPS:
            os.kill(os.getpid(), signal.SIGKILL)

    planned(name, folder, at_last)


def kill(name, folder):
    code = f"from tests.methods.test_journal import killed; killed({name!r}, {str(folder)!r})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL


def same(first, second):
    one, other = first.record, second.record
    return (one.keep, one.summary, one.trails) == (other.keep, other.summary, other.trails)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_after_a_kill_the_plan_is_that_of_an_uninterrupted_run(name, tmp_path, monkeypatch):
    trainings = []
    train = mlp.train
    monkeypatch.setattr(mlp, "train", lambda *a: trainings.append(1) or train(*a))
    whole = planned(name)
    all_of_them = len(trainings)
    kill(name, tmp_path / "state")
    trainings.clear()
    seen = []
    resumed = planned(name, tmp_path / "state", lambda _stage, done, total: seen.append(done))
    assert same(resumed, whole)
    assert seen[-1] == 12
    assert len(trainings) <= 0.5 * all_of_them
    trainings.clear()
    assert same(planned(name, tmp_path / "state"), whole)
    assert not trainings


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"seed": 2}, "seed 1 in place of 2"),
        ({"stop": mipp.Confidence(0.9)}, r"stop Confidence\(level=0.6\) in place of"),
        ({"batches": [torch.ones(120, 3)]}, "batches [0-9a-f]+ in place of"),
        ({"model": nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))}, "model [0-9a-f]+"),
    ],
)
def test_the_state_of_another_elimination_is_refused(changed, text, tmp_path):
    planned("gaussian", tmp_path)
    with pytest.raises(InputError, match=f"(?s){text}.*name another folder in resume="):
        planned("gaussian", tmp_path, **changed)


def test_a_damaged_file_and_a_call_that_has_no_state_are_errors(tmp_path):
    with pytest.raises(InputError, match="only the elimination of method='mipp' can be continued"):
        planned("gaussian", tmp_path, method="l2", stop=None, widths={})
    with pytest.raises(InputError, match=r"rounds=2.*expected one round in one process"):
        planned("gaussian", tmp_path, rounds=2)
    (tmp_path / journal.FILE).write_text("half")
    with pytest.raises(FileError, match=r"elimination\.safetensors"):
        planned("gaussian", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot be written: .*takes a folder"):
        planned("gaussian", tmp_path / "file" / "folder")
