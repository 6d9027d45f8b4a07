"""Scores of single weights beside those of the authors' own code, on the same net and examples.

    git clone https://github.com/ganguli-lab/Synaptic-Flow   # and the other three
    python -m lab run authors --set synaptic_flow=Synaptic-Flow --set grasp=GraSP \
        --set prospr=prospr --set force=force

VGG11 of a quarter width as it is initialised, and the same with trained weights, on CIFAR-10. For
each method the mode of norms, the examples and the batches are made equal (GraSP takes the examples
in two batches, which its authors split by class; it is compared in evaluation mode, where the split
does not matter). What is compared are masks: the share of weights that both keep. In many rounds
small differences grow, so that masks are also compared with those that the same code finds for the
same examples in another order.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import VGG11, build, parent
from lab.tables import TextTable
from mipp import data, methods
from mipp.errors import InputError

DENSITIES = (0.1, 0.01)
Masks = Callable[[nn.Module, Tensor, Tensor, float], list[Tensor]]
"""Model, examples, labels, share to keep -> the authors' masks or scores, in order of modules."""


def layers(model: nn.Module) -> list[Any]:
    """Convolutions and linear layers in order."""
    return [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def synaptic_flow(name: str) -> Masks:
    """Their SNIP, GraSP, magnitude and SynFlow, by the loop of their ``prune_loop``."""

    def masks(model: nn.Module, x: Tensor, y: Tensor, density: float) -> list[Tensor]:
        pruners = importlib.import_module("Pruners.pruners")
        theirs = importlib.import_module("Layers.layers")
        pairs = []
        for module in layers(model):
            module.register_buffer("weight_mask", torch.ones_like(module.weight))
            if module.bias is not None:
                module.register_buffer("bias_mask", torch.ones_like(module.bias))
            module.__class__ = theirs.Linear if isinstance(module, nn.Linear) else theirs.Conv2d
            pairs.append((module.weight_mask, module.weight))
        pruner = getattr(pruners, name)(pairs)
        rounds = 100 if name == "SynFlow" else 1
        for number in range(rounds):
            pruner.score(model, nn.CrossEntropyLoss(), [(x, y)], torch.device("cpu"))
            # they cut fractions of a weight off, and weight_masks rounds them
            n_weights = sum(mask.numel() for mask, _ in pairs)
            n_kept = round(n_weights * density ** ((number + 1) / rounds))
            pruner.mask((n_kept - 0.5) / n_weights, "global")
        return [mask for mask, _ in pairs]

    return masks


def grasp(model: nn.Module, x: Tensor, y: Tensor, density: float) -> list[Tensor]:
    """The GraSP authors' masks."""
    # they stop when they have seen one example too many of every class
    twice = [(x, y), (x, y)]
    found = importlib.import_module("pruner.GraSP").GraSP(
        model, 1 - density, twice, torch.device("cpu"), 10, 10, reinit=False
    )
    return list(found.values())


def prospr(method: str) -> Masks:
    """The ProsPr authors' scores, one batch for all steps."""

    def masks(model: nn.Module, x: Tensor, y: Tensor, density: float) -> list[Tensor]:
        module = importlib.import_module("prospr.prospr")
        scores = module.prune(
            model, 1 - density, [(x, y)], lambda m: isinstance(m, (nn.Conv2d, nn.Linear)),
            3, 0.1, 0.0, method=method, new_data_in_inner=False, return_scores=True,
        )  # fmt: skip
        flat = torch.cat([score.flatten() for score in scores])
        kept = torch.zeros_like(flat, dtype=torch.bool)
        kept[flat.topk(round(density * len(flat))).indices] = True
        parts = kept.split([score.numel() for score in scores])
        return [part.view_as(score) for part, score in zip(parts, scores, strict=True)]

    return masks


def force(number: int, rounds: int) -> Masks:
    """SNIP-it (1) and GraSP-it (2) of the FORCE authors; their loss wants log-probabilities."""

    def masks(model: nn.Module, x: Tensor, y: Tensor, density: float) -> list[Tensor]:
        algorithms = importlib.import_module("pruning.pruning_algos")
        net = nn.Sequential(model, nn.LogSoftmax(1))
        return list(
            algorithms.iterative_pruning(
                net, [(x, y)], torch.device("cpu"), density, number, rounds, num_batches=1
            )
        )

    return masks


ALL: Any = {"examples": None, "batch_size": 10**6}
FLAT: Any = {"per_class": None, "examples": None, "reading": "gradient", "temperature": 1}
FLAT["norms"] = "eval"  # two halves of the examples here, one batch there
CASES: dict[str, tuple[str, str, Masks, methods.Method, bool]] = {
    # theirs, repository, how, ours, BatchNorm in training mode
    "magnitude": ("Mag", "synaptic_flow", synaptic_flow("Mag"), methods.L1(), False),
    "snip": (
        "SNIP", "synaptic_flow", synaptic_flow("SNIP"),
        methods.SNIP(norms="eval", **ALL), False,
    ),
    "grasp": (
        "GraSP", "synaptic_flow", synaptic_flow("GraSP"),
        methods.GraSP(per_class=None, examples=None, norms="eval"), False,
    ),
    "synflow": ("SynFlow", "synaptic_flow", synaptic_flow("SynFlow"), methods.SynFlow(
        norms="absolute", bias=True), False),
    "grasp (its authors)": (
        "GraSP", "grasp", grasp, methods.GraSP(per_class=None, examples=None, norms="eval"), False,
    ),
    "prospr": (
        "full", "prospr", prospr("full"), methods.ProsPr(new_data=False), True,
    ),
    "prospr, first order": (
        "first_order", "prospr", prospr("first_order"),
        methods.ProsPr(new_data=False, second_order=False), True,
    ),
    "itersnip, 3 rounds": (
        "1", "force", force(1, 3), methods.IterSNIP(rounds=3, **ALL), True,
    ),
    "itersnip, 60 rounds": ("1", "force", force(1, 60), methods.IterSNIP(**ALL), True),
    "itergrasp, gradient, 3 rounds": (
        "2", "force", force(2, 3), methods.IterGraSP(rounds=3, **FLAT), False,
    ),
    "itergrasp, gradient, 60 rounds": (
        "2", "force", force(2, 60), methods.IterGraSP(**FLAT), False,
    ),
}  # fmt: skip


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Overlap of the masks at each density."""
    state, repository = key["state"], key["repository"]
    if not settings[repository]:
        raise InputError(f"--set {repository}=FOLDER is missing; expected a clone of its authors.")
    path = Path(settings[repository]).resolve()
    _, _, theirs, ours, training = CASES[key["method"]]
    x, y = examples()
    found: dict[str, Any] = {"commit": commit(path)}
    sys.path.insert(0, str(path))
    try:
        for density in DENSITIES:
            model = parent(VGG11, 0) if state == "trained" else build(VGG11, 0)
            # dropout there is none; of BatchNorm the mode is what counts
            own = methods.weight_masks(ours, model, [(x, y)], density)
            want = theirs(model.train(training), x, y, density)
            found[f"{density:g}"] = overlap(list(own.values()), want)
            turned = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
            model = parent(VGG11, 0) if state == "trained" else build(VGG11, 0)
            again = methods.weight_masks(ours, model, [(x[turned], y[turned])], density)
            found[f"{density:g} again"] = overlap(list(own.values()), list(again.values()))
    finally:
        sys.path.remove(str(path))
    return found


def overlap(one: list[Tensor], other: list[Tensor]) -> float:
    """Entries that both masks keep, as a share of those that the first keeps."""
    mine, theirs = (torch.cat([mask.flatten().bool() for mask in masks]) for masks in (one, other))
    return int((mine & theirs).sum()) / int(mine.sum())


def examples() -> tuple[Tensor, Tensor]:
    """Ten of each class, sorted by class as GraSP's authors have them."""
    batches = list(data.calibration(data.load(VGG11.data, "train"), 1000, 1000, 0))
    x, y = batches[0]
    chosen = torch.cat([torch.nonzero(y == label).flatten()[:10] for label in range(10)])
    return x[chosen], y[chosen]


def commit(path: Path) -> str:
    """Of the clone."""
    return subprocess.run(  # noqa: S603
        ["git", "-C", str(path), "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def tables(rows: Rows) -> list[TextTable]:
    """Overlaps by method."""
    lines = []
    for name in CASES:
        line = [name]
        for state in ("init", "trained"):
            for row in rows:
                if row["method"] == name and row["state"] == state:
                    line += [
                        f"{100 * row[f'{d:g}']:.2f} ({100 * row[f'{d:g} again']:.2f})"
                        for d in DENSITIES
                    ]
                    where = f"{row['repository']} {row['commit']}"
        lines.append([*line, where])
    header = [f"{s}, {100 * d:g} % kept" for s in ("init", "trained") for d in DENSITIES]
    title = (
        "weights that both keep, % of those that one keeps"
        " (in brackets: here, with the examples in another order)"
    )
    return [TextTable(title, ["method", *header, "authors' code"], lines)]


def items(_settings: Settings) -> Iterator[Key]:
    """Each case on both nets."""
    for name, (_, repository, *_) in CASES.items():
        for state in ("init", "trained"):
            yield {"method": name, "state": state, "repository": repository}


EXPERIMENT = Experiment(
    name="authors",
    title="Scores of single weights beside those of the authors' own code",
    items=items,
    measure=measure,
    tables=tables,
    settings={"synaptic_flow": "", "grasp": "", "prospr": "", "force": ""},
)
