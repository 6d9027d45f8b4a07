"""Plans of the zoo as they were, on file: ``python -m tests.contract.golden`` writes them anew.

Write them anew only with a change that is meant to change plans.
"""

import json
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import mipp

from .zoo import ZOO, Entry
from .zoo.entry import N_EXAMPLES

FOLDER = Path(__file__).parent / "golden"
N_BATCHES = 4

UNITS = {"budget": "units=60%"}
WEIGHTS = {"budget": "information=90%", "granularity": "weight"}

VARIANTS: dict[str, dict[str, Any]] = {
    "macs": {"budget": "macs=50%"},
    "params and macs": {"budget": "params=60%,macs=70%"},
    "information": {"budget": "information=95%"},
    "relative noise": {"budget": "units=50%", "noise": 0.1},
    "parts": {"budget": {"*": "units=50%"}},
    "tolerance": {"budget": "macs=60%", "allocation": "tolerance"},
    "uniform": {"budget": "macs=60%", "allocation": "uniform"},
    "global": {"budget": "macs=60%", "allocation": "global"},
    "round_to": {"budget": "units=60%", "round_to": 2, "min_units": 2},
    "passes": {"budget": "macs=60%", "passes": 2},
    "rounds": {"budget": "macs=60%", "rounds": 3},
    "rounds of an information budget": {"budget": "information=90%", "rounds": 2, "refit": False},
    "ordered": {"budget": "macs=60%", "order": "ordered"},
    "ordered information, pruned": {
        "budget": "information=90%", "order": "ordered", "next_layer": "pruned",
    },
    "confidence": {"confidence": 0.9},
    "share": {"stop": mipp.Share(0.9), "order": "ordered"},
    "masked": {"budget": "units=60%", "estimator": mipp.Masked(hidden=(8,), epochs=2)},
    "mlp": {
        "budget": "units=60%", "order": "ordered",
        "estimator": mipp.Mlp(hidden=(8,), epochs=2, retrain_epochs=1),
    },
    "target outputs": {"budget": "units=60%", "target": "outputs"},
    "little memory": {"budget": "units=60%", "memory": 20_000},
    "empty": {"budget": "units=10%", "min_units": 0},
    "2:4": {"granularity": "2:4"},
    "weights, rows": {"budget": "params=50%", "granularity": "weight", "allocation": "rows"},
    "weights, uniform": {"budget": "params=50%", "granularity": "weight", "allocation": "uniform"},
    "weights, relative noise": {"budget": "params=50%", "granularity": "weight", "noise": 0.1},
    "weights, little memory": {"budget": "params=50%", "granularity": "weight", "memory": 20_000},
    **{
        f"weights, {name}": {"budget": "params=50%", "granularity": "weight", "method": name}
        for name in ("wanda", "sparsegpt", "l2", "snip", "grasp", "synflow")
    },
    **{
        method: {"budget": "macs=60%", "method": method}
        for method in mipp.methods.names()
        if method not in ("mipp", "dhspg", "imp", "oto", "prospr")
    },
}  # fmt: skip
"""Options that change the way to a plan; methods that train are left to their own tests."""

OF_VARIANTS = "VGG", "ViT, fused projection"
"""Entries that are planned with each of the variants, on labelled batches."""


def batches(entry: Entry) -> list[Any]:
    """Calibration batches: a few, or enough to learn from, with labels of two classes."""
    if entry.name not in OF_VARIANTS:
        drawn = [entry.arguments(seed) for seed in range(1, 1 + N_BATCHES)]
        return [kwargs or (args, None) for args, kwargs in drawn]
    torch.manual_seed(1)
    return [
        (*entry.arguments(seed)[0], torch.randint(0, 2, (N_EXAMPLES,)))
        for seed in range(1, 1 + 6 * N_BATCHES)
    ]


def planned(entry: Entry, options: dict[str, Any]) -> dict[str, Any]:
    """The plan as plain data, or the error; then with what the refitted model computes."""
    model = entry.built()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = mipp.plan(model, batches(entry), **options)
            small = plan.apply()
    except mipp.MippError as error:
        return {"error": f"{type(error).__name__}: {str(error)[:60]}"}
    found = json.loads(plan.to_json())
    for name in ("digest", "mipp_version", "trails"):
        found.pop(name, None)
    for refusal in found["refused"]:
        refusal["reason"] = re.sub(r"\S+\.py:\d+", "", refusal["reason"])
    # one number for the refit: how large its outputs are, whatever their order
    args, kwargs = entry.arguments(5)
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(small(*args, **kwargs))
    sizes = [t.double().abs() for t in leaves if type(t) is torch.Tensor and t.is_floating_point()]
    finite = [t[t.isfinite()] for t in sizes]
    return found | {"refitted": sum(float(t.sum()) for t in finite)}


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where two plans differ: numbers with a fraction by more than a millionth, others at all."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{where}.{name}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{where}[{number}]")
    elif isinstance(old, float) and isinstance(new, float):
        if not math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-9):
            yield f"{where}: {old} is now {new}"
    elif old != new:
        yield f"{where}: {str(old)[:200]} is now {str(new)[:200]}"


def stored(name: str) -> dict[str, Any]:
    """What was found when the plans were last written: ``units``, ``weights`` or ``variants``."""
    lines = (FOLDER / f"{name}.jsonl").read_text().splitlines()
    return dict(json.loads(line) for line in lines)


def write() -> None:
    """Writes all three files."""
    FOLDER.mkdir(exist_ok=True)
    tables = {
        "units": {name: planned(entry, UNITS) for name, entry in ZOO.items()},
        "weights": {name: planned(entry, WEIGHTS) for name, entry in ZOO.items()},
        "variants": {
            f"{variant}: {name}": planned(ZOO[name], options)
            for name in OF_VARIANTS
            for variant, options in VARIANTS.items()
        },
    }
    for name, table in tables.items():
        text = "".join(f"{json.dumps(item)}\n" for item in table.items())
        (FOLDER / f"{name}.jsonl").write_text(text)


if __name__ == "__main__":
    write()
