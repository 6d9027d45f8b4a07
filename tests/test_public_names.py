"""The public names: these and no others, each documented; old ones say where they are now."""

import importlib
import inspect
import subprocess
import sys

import pytest

import mipp
from mipp._api import MOVED

NAMES = {
    # the way to a smaller model
    "plan", "plans", "prune", "tune", "Plan", "BlockPlan", "WeightPlan", "Options",
    "BlockOptions", "WeightOptions", "Tuned",
    "save", "load", "original_indices", "inspect_file", "FileInfo",
    # what options hold
    "Budget", "CaptureConfig", "Confidence", "Gaussian", "Latency", "Masked", "Mlp", "Refit",
    "Share", "Training", "Tune",
    # information on its own
    "FeatureSelection", "FeatureSelector", "KeptInformation", "information_kept",
    "mutual_information", "select_features", "terc",
    "MippError",
}  # fmt: skip
MODULES = {
    "data", "errors", "export", "methods", "models", "prepare", "presets", "retrain",
}  # fmt: skip


def test_these_are_the_public_names():
    assert set(mipp.__all__) == NAMES | MODULES


@pytest.mark.parametrize("name", sorted(NAMES | MODULES))
def test_each_has_a_docstring(name):
    assert inspect.getdoc(getattr(mipp, name))


@pytest.mark.parametrize("name", sorted(MOVED))
def test_an_old_name_is_an_error_that_says_the_new_one(name):
    with pytest.raises(
        mipp.errors.MovedError, match=rf"mipp\.{name} has moved: use (mipp\.|python -m lab)"
    ):
        getattr(mipp, name)
    where = MOVED[name].split(",")[0]
    module, _, new = where.rpartition(".")
    if name != "bench":
        assert getattr(importlib.import_module(module), new) is not None


def test_an_import_of_an_old_name_says_so_too():
    with pytest.raises(mipp.errors.MovedError, match=r"use mipp\.prepare\.folded"):
        from mipp import folded  # noqa: F401


def test_all_of_them_can_be_imported_at_once():
    code = "from mipp import *; plan, errors.InputError, MippError"
    subprocess.run([sys.executable, "-c", code], check=True)
