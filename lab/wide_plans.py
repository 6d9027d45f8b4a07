"""Plans of the nets at full width by several methods, each from one measurement for all budgets."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mipp
from lab import wide_nets
from lab.wide_nets import NETS

SHARES = ("macs=75%", "macs=50%", "macs=35%", "macs=25%", "macs=15%")
BUDGETS = {
    "resnet20": (*SHARES, "macs=73%"),
    "resnet56": (*SHARES, "macs=47.4%"),
    "vgg16": (*SHARES, "macs=26.6%"),
    "resnet18": SHARES,
    "vgg19": (*SHARES, "macs=11.2%"),
}
"""Of every net what the tables have, and the budget at which somebody published a result."""
METHODS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "mipp, kinds": {"allocation": "kinds"},
    "mipp, uniform": {"allocation": "uniform"},
    "l2": {"method": "l2"},
    "flap": {"method": "flap"},
    "obs": {"method": "obs"},
    "taylor": {"method": "taylor"},
    "random": {"method": "random"},
}

Batches = list[Any]
Plans = dict[str, "mipp.Plan[nn.Module]"]


@dataclass(frozen=True)
class Planned:
    """Plans by budget.

    ``batches``: what they were made from; ``seconds``: of the processor, for all together.
    """

    net: wide_nets.WideNet
    model: nn.Module
    batches: Batches
    plans: Plans
    seconds: float


def batches_for(net: wide_nets.WideNet, method: str, samples: int, draw: int) -> Batches:
    """Calibration images; only Taylor's have labels."""
    pairs = wide_nets.calibration(net, samples, draw)
    return pairs if method == "taylor" else [x for x, _ in pairs]


@lru_cache(maxsize=1)
def planned(name: str, method: str, samples: int, draw: int) -> Planned:
    """Plans of the net's parent for all its budgets."""
    net = NETS[name]
    model = wide_nets.parent(net, 0, progress=False)
    batches, budgets = batches_for(net, method, samples, draw), BUDGETS[name]
    started = time.process_time()
    made = mipp.plans(model, batches, budgets, seed=draw, progress=False, **METHODS[method])
    seconds = time.process_time() - started
    return Planned(net, model, batches, dict(zip(budgets, made, strict=True)), seconds)


def share_of(budget: str) -> float:
    """Of the MACs that a budget such as ``"macs=50%"`` leaves."""
    return float(budget.removeprefix("macs=").removesuffix("%")) / 100


def figures(plan: "mipp.Plan[nn.Module]") -> dict[str, Any]:
    """What a plan leaves, as shares of the whole net, and its widths."""
    return {
        "macs": plan.after.macs / plan.before.macs,
        "params": plan.after.params / plan.before.params,
        "units": plan.after.units / plan.before.units,
        "widths": {name: after for name, (_, after) in plan.widths.items()},
    }


Widths = dict[str, int]


def of_widths(widths: Mapping[str, int]) -> dict[str, str]:
    """The budget that leaves every group so many units."""
    return {name: f"units={n}" for name, n in widths.items()}


class Scaled:
    """Widths of a net scaled by one factor, so that so many of its MACs are left.

    Args:
        model: The whole net.
        x: Some images.
        share: Of its MACs, at most.
    """

    def __init__(self, model: nn.Module, x: Tensor, share: float) -> None:
        self.model, self.x, self.share = model, [x[:2]], share
        whole = self._plan({})
        self.most = {name: before for name, (before, _) in whole.widths.items()}

    def __call__(self, wanted: Mapping[str, float]) -> Widths:
        """The widths, none above the whole net's and none below one."""
        low, high = -4.0, 4.0
        for _ in range(14):
            middle = (low + high) / 2
            if self._macs(self._rounded(wanted, middle)) <= self.share:
                low = middle
            else:
                high = middle
        return self._rounded(wanted, low)

    def _rounded(self, wanted: Mapping[str, float], log_factor: float) -> Widths:
        factor = math.exp(log_factor)
        return {
            name: min(most, max(1, math.floor(wanted[name] * factor)))
            for name, most in self.most.items()
        }

    def _macs(self, widths: Widths) -> float:
        plan = self._plan(of_widths(widths))
        return plan.after.macs / plan.before.macs

    def _plan(self, budget: Mapping[str, str]) -> "mipp.Plan[nn.Module]":
        options: Any = {"method": "l2", "progress": False}
        return mipp.plan(self.model, self.x, budget or "units=100%", **options)


def blended(plans: Sequence["mipp.Plan[nn.Module]"]) -> dict[str, float]:
    """The geometric mean of the plans' widths."""
    logs = [{name: math.log(after) for name, (_, after) in p.widths.items()} for p in plans]
    return {name: math.exp(float(np.mean([log[name] for log in logs]))) for name in logs[0]}


def macs_of(model: nn.Module, x: Tensor) -> int:
    """Multiplications of convolutions and products for one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(x[:1])
    return counter.get_total_flops() // 2


def divergence(model: nn.Module, small: nn.Module, images: Sequence[Tensor]) -> float:
    """Mean KL in nats from the whole net's prediction to the small one's."""
    total, n = 0.0, 0
    with torch.no_grad():
        for x in images:
            whole, mine = model(x).log_softmax(1), small(x).log_softmax(1)
            total += float((whole.exp() * (whole - mine)).sum())
            n += len(x)
    return total / n
