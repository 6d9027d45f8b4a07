"""Competing methods: each ranks the units of a model; graph, costs and surgery are shared.

A method is a frozen record of its options, one of the classes here. `mipp.plan` takes its name or
the record: ``method="synflow"``, ``method=mipp.methods.SynFlow(rounds=20)``.
"""

from dataclasses import dataclass

from mipp.errors import InputError
from mipp.methods import scratch
from mipp.methods.bnscale import BNScale
from mipp.methods.chip import CHIP
from mipp.methods.dhspg import DHSPG
from mipp.methods.flap import FLAP
from mipp.methods.fpgm import FPGM
from mipp.methods.grasp import GraSP, IterGraSP
from mipp.methods.hrank import HRank
from mipp.methods.imp import IMP
from mipp.methods.leave_one_out import LeaveOneOut, Solo
from mipp.methods.magnitude import L1, L2
from mipp.methods.method import (
    Method,
    Needs,
    Question,
    Ranking,
    Scores,
    ScoringMethod,
    Spend,
    Trained,
    Training,
    TrainingCost,
    TrainingMethod,
    WeightMethod,
)
from mipp.methods.obs import OBS
from mipp.methods.oto import OTO
from mipp.methods.prospr import ProsPr
from mipp.methods.random import Random
from mipp.methods.shared.aggregate import Aggregation, Normalisation, aggregate
from mipp.methods.shared.gradients import prunable_weights
from mipp.methods.shared.iterative import ask, curves, in_rounds, trained
from mipp.methods.shared.unstructured import Choose, ScoresWeights, weight_masks
from mipp.methods.snip import SNIP, IterSNIP
from mipp.methods.sosp import SOSP
from mipp.methods.synflow import SynFlow
from mipp.methods.taylor import Taylor
from mipp.methods.thinet import ThiNet

_ALL: dict[str, type[Method]] = {
    method.name: method
    for method in (
        BNScale, CHIP, DHSPG, FLAP, FPGM, GraSP, HRank, IMP, IterGraSP, IterSNIP, L1, L2,
        LeaveOneOut, OBS, OTO, ProsPr, Random, SNIP, SOSP, Solo, SynFlow, Taylor, ThiNet,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What one method is, see `Method`."""

    name: str
    summary: str
    source: str
    needs: Needs
    at_init: bool
    ranking: Ranking
    rounds: int


_MIPP = Facts(
    "mipp", "mutual information with what the next layer gives", "Westphal et al. 2024, "
    "arXiv 2411.00147", "data", True, "global", 1,
)  # fmt: skip


def names() -> list[str]:
    """Names that ``mipp.plan(method=...)`` takes, ``"mipp"`` first."""
    return ["mipp", *sorted(_ALL)]


def get(name: str) -> Method:
    """The method of that name, with its defaults.

    Raises:
        InputError: with the known names; also for ``"mipp"``, whose settings are `mipp.Options`.
    """
    if name == _MIPP.name:
        raise InputError(
            "method='mipp' is the package's own; its settings are those of mipp.Options, and it "
            "has no record here."
        )
    if name not in _ALL:
        raise InputError(f"method={name!r} is not known; expected one of {', '.join(names())}.")
    return _ALL[name]()


def facts() -> list[Facts]:
    """A row for each of `names`, in that order."""
    methods = [get(name) for name in names()[1:]]
    return [_MIPP] + [
        Facts(m.name, m.summary, m.source, m.needs, m.at_init, m.ranking, m.rounds) for m in methods
    ]


__all__ = [
    "CHIP",
    "DHSPG",
    "FLAP",
    "FPGM",
    "IMP",
    "L1",
    "L2",
    "OBS",
    "OTO",
    "SNIP",
    "SOSP",
    "Aggregation",
    "BNScale",
    "Choose",
    "Facts",
    "GraSP",
    "HRank",
    "IterGraSP",
    "IterSNIP",
    "LeaveOneOut",
    "Method",
    "Normalisation",
    "ProsPr",
    "Question",
    "Random",
    "Scores",
    "ScoresWeights",
    "ScoringMethod",
    "Solo",
    "Spend",
    "SynFlow",
    "Taylor",
    "ThiNet",
    "Trained",
    "Training",
    "TrainingCost",
    "TrainingMethod",
    "WeightMethod",
    "aggregate",
    "ask",
    "curves",
    "facts",
    "get",
    "in_rounds",
    "names",
    "prunable_weights",
    "scratch",
    "trained",
    "weight_masks",
]
