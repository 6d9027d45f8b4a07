"""One model of `packages.py`, planned and checked in a process of its own.

    python -m lab.experiments.packages_check PACKAGE MODEL FOLDER SECONDS

Writes what it finds to ``found.jsonl`` in that folder, a line for each stage: what ran out of time
leaves what it had found, and the stage it was in.
"""

import copy
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

import mipp
from lab.experiments.packages_models import MODELS, Draw, load_torchvision
from mipp.statistics import Batch, read_batch

BUDGET = "units=50%"
MEMORY = 8 * 2**30
"""Bytes that the process may hold: beyond them an allocation fails, and no other work is harmed."""
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""How far masked and sliced may be apart, relative to the largest output."""
DISTRIBUTIONS = {"segmentation_models_pytorch": "segmentation-models-pytorch"}


class WrongError(Exception):
    """The small model is not what the plan says."""


def call(model: nn.Module, batch: Batch) -> Any:
    """The model on a batch, without gradients."""
    with torch.no_grad():
        return model(*batch.args, **batch.kwargs)


def tensors(made: Any) -> list[Tensor]:
    """All tensors of an output."""
    return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]


def as_double(batch: Batch) -> Batch:
    """The batch with its floating-point tensors in float64."""
    cast = pytree.tree_map_only(
        Tensor, lambda t: t.double() if t.is_floating_point() else t, (batch.args, batch.kwargs)
    )
    return Batch(*cast)


@torch.no_grad()
def unlike(model: nn.Module, batch: Batch) -> nn.Module:
    """The model itself, with weights and statistics that differ in every channel, and no zeros.

    Many models start with zeros or ones (the last norm of a branch, all running statistics), which
    would hide that the wrong channels were kept; and without statistics of their own the signal
    can die on the way, so that the output is constant and any two models agree.
    """
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return with_statistics(model, batch)


@torch.no_grad()
def with_statistics(model: nn.Module, batch: Batch) -> nn.Module:
    """The model itself, whose batch norms have the statistics of this batch."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train().momentum = 1.0
    call(model, batch)
    for norm in norms:
        norm.eval()
    return model


def apart(one: Any, other: Any) -> float:
    """The largest difference of two outputs, relative to the largest number of each tensor."""
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    for a, b in pairs:
        if a.shape != b.shape:
            raise WrongError(f"an output is {tuple(a.shape)} sliced and {tuple(b.shape)} masked")
    far = [
        float(((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).double())
        for a, b in pairs
        if a.numel() and a.is_floating_point()
    ]
    return math.nan if any(map(math.isnan, far)) else max(far)


def other_values(tensor: Tensor) -> Tensor:
    """Another input of the same shape and range."""
    return tensor.flatten().flip(0).view(tensor.shape)


def same(one: Any, other: Any) -> bool:
    """Whether two outputs are close to equal."""
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, 1e-6, 0) for a, b in pairs)


def compare(twin: nn.Module, plan: "mipp.Plan[nn.Module]", draw: Draw) -> dict[str, Any]:
    """Masked and sliced copies of the twin by the plan, on new data, in float64 where it runs."""
    masked = plan.mask()
    # with half of its units away the signal can die too: the statistics are those of what is left
    buffers = dict(with_statistics(copy.deepcopy(masked), read_batch(draw())).named_buffers())
    for name, buffer in twin.named_buffers():
        buffer.copy_(buffers[name])
    masked, sliced = plan.mask(), plan.apply(refit=False)
    batch, dtype = as_double(read_batch(draw())), torch.float64
    try:
        call(copy.deepcopy(twin).double(), batch)
    except RuntimeError:  # numbers of float32 written into the code
        batch, dtype = read_batch(draw()), torch.float32
    expected = call(masked.to(dtype), batch)
    others = pytree.tree_map_only(Tensor, other_values, (batch.args, batch.kwargs))
    if same(expected, call(masked, Batch(*others))):
        raise RuntimeError("the outputs are the same for all inputs, so that any models agree")
    far = apart(call(sliced.to(dtype), batch), expected)
    if not far < TOLERANCE[dtype]:
        raise WrongError(f"sliced and masked differ by {far:.1e}, in {dtype}")
    n_parameters = sum(p.numel() for p in sliced.parameters())
    if n_parameters != plan.after.params:
        raise WrongError(f"{n_parameters} parameters, and the plan says {plan.after.params}")
    return {"apart": far, "dtype": str(dtype).removeprefix("torch.")}


class Check:
    """The stages, in their order; each gives what is to be recorded."""

    def __init__(self, package: str, name: str, folder: Path) -> None:
        self.package, self.name, self.folder = package, name, folder
        self.model: nn.Module
        self.draw: Draw
        self.plan: mipp.Plan[nn.Module]
        self.small: nn.Module

    def build(self) -> dict[str, Any]:
        """The model, and the versions of its package."""
        load_torchvision()  # most of the packages import it
        torch.manual_seed(0)
        model, self.draw = MODELS[self.package][self.name]()
        self.model = model.eval().requires_grad_()
        distribution = DISTRIBUTIONS.get(self.package, self.package)
        return {
            "version": metadata.version(distribution),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def forward(self) -> dict[str, Any]:
        """A pass over the calibration batch, after a first that loads what it needs."""
        self.batch = self.draw()
        read = read_batch(self.batch)
        call(self.model, read)
        started, passes = time.process_time(), 0
        while time.process_time() < started + 0.2:  # the clock can be as coarse as 0.01 s
            call(self.model, read)
            passes += 1
        return {"forward": (time.process_time() - started) / passes}

    def planning(self) -> dict[str, Any]:
        """Plan and small model, refit and all: processor seconds, and memory beyond the start."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        try:
            self.plan = mipp.plan(self.model, [self.batch], BUDGET)
            self.small = self.plan.apply()
        finally:
            found = {
                "seconds": time.process_time() - started,
                "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
            }
            self.write(found)
        after, whole = self.plan.after, self.plan.before
        return {
            "macs_left": after.macs / whole.macs if whole.macs else None,
            "params_left": after.params / whole.params,
            "units": [whole.units, after.units],
            "groups": len(self.plan.summary),
            "refused": len(self.plan.refused),
        }

    def numbers(self) -> dict[str, Any]:
        """Nats of all groups and on the way, and the outputs of the small model."""
        nats = [n for row in self.plan.summary for n in (row.nats_before, row.nats_after)]
        nats += [value for trail in self.plan.record.trails for value in trail.values]
        if not all(map(math.isfinite, nats)):
            raise ArithmeticError("nats that are not finite")
        whole = tensors(call(self.model, read_batch(self.batch)))
        small = tensors(call(self.small, read_batch(self.batch)))
        for one, other in zip(whole, small, strict=True):
            if one.isfinite().all() and not other.isfinite().all():
                raise ArithmeticError("outputs of the small model that are not finite")
        return {}

    def report(self) -> dict[str, Any]:
        """The page of the plan."""
        self.plan.report(self.folder / "plan.html")
        return {}

    def sliced(self) -> dict[str, Any]:
        """Masked model = sliced model, by the plan written as text and read again for a copy."""
        twin = unlike(copy.deepcopy(self.model), read_batch(self.batch))
        read: mipp.Plan[nn.Module] = mipp.Plan.from_json(self.plan.to_json(), twin, [self.batch])
        if read.keep != self.plan.keep:
            raise WrongError("a plan that reads differently from how it was written")
        return compare(twin, read, self.draw)

    def files(self) -> dict[str, Any]:
        """The small model, saved and loaded into a new one of the full size."""
        path = self.folder / "small.safetensors"
        mipp.save(self.small, path)
        fresh = MODELS[self.package][self.name]()[0].eval()
        batch = read_batch(self.batch)
        far = apart(call(mipp.load(fresh, path), batch), call(self.small, batch))
        if far:
            raise WrongError(f"loaded and saved models differ by {far:.1e}")
        return {}

    def write(self, found: dict[str, Any]) -> None:
        """Adds a line to the file."""
        with (self.folder / "found.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")

    def run(self) -> None:
        """All stages, up to the first that fails."""
        stages: Sequence[Callable[[], dict[str, Any]]] = (
            self.build, self.forward, self.planning,
            self.numbers, self.report, self.sliced, self.files,
        )  # fmt: skip
        for stage in stages:
            self.write({"stage": stage.__name__})
            try:
                self.write(stage())
            except Exception as error:  # noqa: BLE001 - whatever it is, is what was to be found out
                self.write({"outcome": outcome(stage.__name__, error), "note": first_line(error)})
                return
        self.write({"outcome": "planned", "note": ""})


def outcome(stage: str, error: Exception) -> str:
    """What an error in this stage means."""
    if isinstance(error, WrongError):
        return "wrong"
    # a plan that was made has to be of use: what refuses it later is a fault
    return "refused" if isinstance(error, mipp.MippError) and stage == "planning" else "error"


def first_line(error: Exception) -> str:
    """Its kind, and the first line of its text; the second, too, where the first leads to it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    kind = "" if isinstance(error, WrongError) else f"{type(error).__name__}: "
    return kind + (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])


def main() -> None:
    """The check, within its limits of time and memory."""
    package, name, folder, seconds = sys.argv[1:]
    # at the first limit SIGXCPU, which says what it was; at the second SIGKILL
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 10))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    Check(package, name, Path(folder)).run()


if __name__ == "__main__":
    main()
