"""Feeds wrong values to every option and public function; prints what came out, as JSON.

A program of its own, since the test suite checks types in every call before mipp can see them.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import mipp

torch.set_num_threads(1)
torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
BATCHES = [torch.randn(64, 4)]
VALUES: list[Any] = [
    None, True, -1, 0.5, float("nan"), "x", [], {}, [None], object(), nn.Linear(1, 1), int, 10**30,
]  # fmt: skip
ENDLESS = ("rounds", "passes", "epochs", "tries")
"""Counts that are taken at their word, however large."""

found: dict[str, Any] = {"refused": 0, "taken": 0, "raw": []}


def feed(label: str, call: Callable[[Any], object], values: list[Any] = VALUES) -> None:
    """Call with each value, and note whether it is taken, refused, or ends in anything else."""
    for value in values:
        if isinstance(value, int) and value == 10**30 and any(word in label for word in ENDLESS):
            continue
        # what the caller's own function raises is the caller's
        if callable(value) and any(word in label for word in ("loss", "progress", "initialise")):
            continue
        try:
            call(value)
            found["taken"] += 1
        except mipp.MippError:
            found["refused"] += 1
        except Exception as error:  # noqa: BLE001 - whatever comes out
            found["raw"].append(f"{label}={value!r}: {type(error).__name__}: {error}"[:300])


def options() -> None:
    """Every option of plans of units and of single weights."""
    for name in [*(one.name for one in fields(mipp.Options)), "noise", "confidence"]:
        quick = {} if name in ("noise", "estimator") else {"noise": 0.1}
        feed(f"plan: {name}", lambda v, n=name, q=quick: _used("units=50%", **q, **{n: v}))
    for one in fields(mipp.WeightOptions):
        given = {"granularity": "weight"}
        feed(
            f"weights: {one.name}", lambda v, n=one.name, g=given: _used("params=50%", **g | {n: v})
        )
    for one in fields(mipp.BlockOptions):
        feed(
            f"blocks: {one.name}",
            lambda v, n=one.name: _blocks(**{"granularity": "block"} | {n: v}),
        )
    feed("plan: budget", lambda v: mipp.plan(NET, BATCHES, v))
    feed("plan: budget of a group", lambda v: mipp.plan(NET, BATCHES, {"0": v}))
    feed("plan: model", lambda v: mipp.plan(v, BATCHES, "units=50%"))
    feed("plan: batches", lambda v: mipp.plan(NET, v, "units=50%"))
    feed("plan: progress", lambda v: mipp.plan(NET, BATCHES, "units=50%", progress=v))
    feed("plans: budgets", lambda v: mipp.plans(NET, BATCHES, v))


def _blocks(**given: Any) -> None:
    net = nn.Sequential(nn.Linear(4, 6), *(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in "ab"))
    plan = mipp.plan(net, BATCHES, "units=50%", **given)
    str(plan)
    plan.to_json()


def _used(budget: str, **given: Any) -> None:
    plan = mipp.plan(NET, BATCHES, budget, **given)
    str(plan)
    plan.to_json()


def records() -> None:
    """Every field of every record that is an option."""
    training = {"batches": [], "recipe": mipp.retrain.Recipe()}
    needed = {mipp.methods.Training: training, mipp.Budget: {"bounds": {}}}
    kinds = [
        mipp.Refit, mipp.Gaussian, mipp.Masked, mipp.Mlp, mipp.CaptureConfig, mipp.Latency,
        mipp.Confidence, mipp.Share, mipp.Budget, mipp.retrain.Recipe, mipp.methods.Training,
        mipp.methods.SparseGPT, *(type(mipp.methods.get(n)) for n in mipp.methods.names()[1:]),
    ]  # fmt: skip
    for kind in kinds:
        for one in fields(kind):
            given = needed.get(kind, {})
            feed(
                f"{kind.__name__}: {one.name}",
                lambda v, k=kind, g=given, n=one.name: k(**g | {n: v}),
            )


def calls() -> None:
    """The arguments of the other public functions."""
    plan = mipp.plan(NET, BATCHES, "units=50%", noise=0.1)
    zeros = mipp.plan(NET, BATCHES, "params=50%", granularity="weight", noise=0.1)
    small, text = plan.apply(), plan.to_json()
    optimizer = torch.optim.SGD(NET.parameters(), 0.1)
    folder = Path(tempfile.mkdtemp())
    path = folder / "small.safetensors"
    mipp.save(small, path)
    table = np.random.default_rng(0).normal(size=(64, 4))
    told = table[:, 0]
    x = BATCHES[0]
    given: dict[str, Callable[[Any], object]] = {
        "Plan.apply: refit": lambda v: plan.apply(refit=v),
        "Plan.from_json: text": mipp.Plan.from_json,
        "Plan.from_json: model": lambda v: mipp.Plan.from_json(text, v),
        "Plan.from_json: batches": lambda v: mipp.Plan.from_json(text, NET, v),
        "Plan.then": plan.then,
        "Plan.remap: optimizer": lambda v: plan.remap(v, small),
        "Plan.remap: small": lambda v: plan.remap(optimizer, v),
        "WeightPlan.apply: refit": lambda v: zeros.apply(refit=v),
        "WeightPlan.from_json: text": mipp.WeightPlan.from_json,
        "WeightPlan.hold": zeros.hold,
        "information_kept: keep": lambda v: mipp.information_kept(NET, BATCHES, v),
        "information_kept: units": lambda v: mipp.information_kept(NET, BATCHES, {"0": v}),
        "information_kept": lambda v: mipp.information_kept(NET, BATCHES, v),
        "scratch: plan": mipp.methods.scratch.same_size,
        "save: model": lambda v: mipp.save(v, folder / "x.safetensors"),
        "save: path": lambda v: mipp.save(small, v),
        "save: extra": lambda v: mipp.save(small, folder / "x.safetensors", v),
        "load: model": lambda v: mipp.load(v, path),
        "load: path": lambda v: mipp.load(NET, v),
        "folded": mipp.prepare.folded,
        "unstacked": mipp.prepare.unstacked,
        "restacked": lambda v: mipp.prepare.restacked(v, NET),
        "original_indices": mipp.original_indices,
        "to_semi_structured": mipp.export.to_semi_structured,
        "export_onnx: model": lambda v: mipp.export.export_onnx(v, x, folder / "x.onnx"),
        "export_onnx: path": lambda v: mipp.export.export_onnx(NET, x, v) if v != "x" else None,
        "terc: X": lambda v: mipp.terc(v, told),
        "terc: Y": lambda v: mipp.terc(table, v),
        "mutual_information: X": lambda v: mipp.mutual_information(v, told),
        "mutual_information: units": lambda v: mipp.mutual_information(table, told, units=v),
    }
    for label, call in given.items():
        feed(label, call)
    for name in ("widths", "seed", "match", "initialise"):
        feed(f"scratch: {name}", lambda v, n=name: mipp.methods.scratch.same_size(plan, **{n: v}))
    both = ("units", "estimator", "order", "stop", "confidence", "share", "keep", "seed")
    for name in both:
        feed(f"terc: {name}", lambda v, n=name: mipp.terc(table, told, **{n: v}))
    for name in (*both, "noise", "loss"):
        feed(f"select_features: {name}", lambda v, n=name: mipp.select_features(x, NET, **{n: v}))
    for name in mipp.FeatureSelector().get_params():
        feed(
            f"FeatureSelector: {name}",
            lambda v, n=name: mipp.FeatureSelector(**{n: v}).fit(table, told),
        )


def texts() -> list[tuple[str, str]]:
    """What each expression of the command line gives: class, and text, of a value or an error."""

    class Own:
        name, reads, row_shape, noise = "own", "moments", "positions", 0.1

        def scorer(self, views: Any, n_units: int, seed: int = 0) -> None:
            """Never called."""

    def plan(**given: Any) -> object:
        return mipp.plan(NET, BATCHES, **{"budget": "units=50%", "noise": 0.1} | given)

    names = {"plan": plan, "Own": Own, "X": np.random.default_rng(0).normal(size=(64, 4))}
    said = []
    for expression in sys.argv[2:]:
        try:
            got = eval(expression, globals() | names)
        except Exception as error:  # noqa: BLE001 - whatever comes out
            got = error
        said.append((type(got).__name__, str(got)))
    return said


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    kinds = {"options": options, "records": records, "calls": calls, "texts": texts}
    print(json.dumps(kinds[sys.argv[1]]() or found))  # noqa: T201
