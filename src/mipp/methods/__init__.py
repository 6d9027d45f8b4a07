"""Pruning methods: each ranks the units of a model; graph, costs and surgery are shared.

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
from mipp.methods.layerwise import LAYERWISE, Layerwise, SparseGPT, Wanda
from mipp.methods.leave_one_out import LeaveOneOut, Solo
from mipp.methods.magnitude import L1, L2
from mipp.methods.method import (
    NOT_MEASURED,
    Budgeted,
    Choice,
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
    WeightChoice,
    WeightMethod,
    WeightTarget,
)
from mipp.methods.mipp import Mipp
from mipp.methods.obs import OBS
from mipp.methods.oto import OTO
from mipp.methods.prospr import ProsPr
from mipp.methods.random import Random
from mipp.methods.shared.aggregate import Aggregation, Normalisation, aggregate
from mipp.methods.shared.gradients import prunable_weights
from mipp.methods.shared.iterative import curves_of_scores
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
        LeaveOneOut, Mipp, OBS, OTO, ProsPr, Random, SNIP, SOSP, Solo, SynFlow, Taylor, ThiNet,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """A row of the table of methods.

    Attributes:
        name: As in `Method`.
        summary: As in `Method`.
        source: As in `Method`.
        needs: As in `Method`.
        at_init: As in `Method`.
        ranking: As in `Method`.
        rounds: The default of the method.
    """

    name: str
    summary: str
    source: str
    needs: Needs
    at_init: bool
    ranking: Ranking
    rounds: int


def names() -> list[str]:
    """Names that ``mipp.plan(method=...)`` takes, ``"mipp"`` first."""
    return [Mipp.name, *sorted(name for name in _ALL if name != Mipp.name)]


def weight_names() -> list[str]:
    """Names that ``method=`` takes for single weights, ``"mipp"`` first."""
    scoring = [name for name in names()[1:] if get(name).chooses_weights]
    return [Mipp.name, *sorted(LAYERWISE), *scoring]


def get(name: str) -> Method:
    """The method of that name, with its defaults.

    Raises:
        InputError: with the known names.
    """
    if name not in _ALL:
        raise InputError(f"method={name!r} is not known; expected one of {', '.join(names())}.")
    return _ALL[name]()


def facts() -> list[Facts]:
    """A row for each of `names`, in that order."""
    return [
        Facts(m.name, m.summary, m.source, m.needs, m.at_init, m.ranking, m.rounds)
        for m in map(get, names())
    ]


__all__ = [
    "CHIP",
    "DHSPG",
    "FLAP",
    "FPGM",
    "IMP",
    "L1",
    "L2",
    "LAYERWISE",
    "NOT_MEASURED",
    "OBS",
    "OTO",
    "SNIP",
    "SOSP",
    "Aggregation",
    "BNScale",
    "Budgeted",
    "Choice",
    "Choose",
    "Facts",
    "GraSP",
    "HRank",
    "IterGraSP",
    "IterSNIP",
    "Layerwise",
    "LeaveOneOut",
    "Method",
    "Mipp",
    "Normalisation",
    "ProsPr",
    "Question",
    "Random",
    "Scores",
    "ScoresWeights",
    "ScoringMethod",
    "Solo",
    "SparseGPT",
    "Spend",
    "SynFlow",
    "Taylor",
    "ThiNet",
    "Trained",
    "Training",
    "TrainingCost",
    "TrainingMethod",
    "Wanda",
    "WeightChoice",
    "WeightMethod",
    "WeightTarget",
    "aggregate",
    "curves_of_scores",
    "facts",
    "get",
    "names",
    "prunable_weights",
    "scratch",
    "weight_masks",
    "weight_names",
]
