"""How a refit is done: its settings, and what to say where it cannot be done."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mipp.checks import check_fields
from mipp.errors import InputError, SurgeryError

_CHOICES = {
    "mode": ("sequential", "closed", "norm"),
    "fits": ("weights", "scale", "bias"),
    "toward": ("old", "zero"),
    "norm": ("mean", "full", "keep"),
}
LESS_MEMORY = (
    "Call apply(refit=False), or fit less: apply(refit='norm'), a smaller "
    "mipp.Refit(rows_per_feature=, min_rows=), or a plan with fewer samples=, as memory= is that "
    "of planning alone. A method that needs no refit is method='l2' with refit=False."
)
"""What to do where memory runs out in a refit."""


@dataclass(frozen=True)
class Refit:
    """How the weights that stay take over what the removed ones did.

    Attributes:
        mode: ``sequential`` fits from inputs to outputs on what the pruned net really puts in,
            ``closed`` on what the original puts in, ``norm`` only corrects BatchNorm statistics.
        fits: all ``weights`` of a layer, one factor for each channel that it reads (``scale``,
            biases stay), or its ``bias`` alone; the last two are special cases of the first.
        ridge: pull towards ``toward``, as a share of each feature's variance.
        toward: the ``old`` weights, or ``zero``.
        norm: BatchNorm statistics follow the ``mean``, mean and variance (``full``), or nothing
            (``keep``).
        rows_per_feature: rows (examples x positions) used for a fit, per feature of the layer's
            input.
        min_rows: rows used for a fit at least.
        few_rows: rows for each feature below which all ``weights`` of a layer are fitted with a
            ridge, up to 1,000 times as strong, that held-out rows choose, or not at all where no
            fit is better; 0 for never.
    """

    mode: str = "sequential"
    fits: str = "weights"
    ridge: float = 1e-3
    toward: str = "old"
    norm: str = "mean"
    rows_per_feature: float = 24.0
    min_rows: int = 8192
    few_rows: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"Refit has {name}={getattr(self, name)!r}; expected one of "
                    f"{', '.join(map(repr, choices))}."
                )
        if not 0 < self.ridge < math.inf:
            raise InputError(f"Refit has ridge={self.ridge}; expected a number above 0.")
        if not 0 <= self.few_rows < math.inf:
            raise InputError(f"Refit has few_rows={self.few_rows}; expected a number from 0 up.")
        if not 0 < self.rows_per_feature < math.inf or self.min_rows < 1:
            raise InputError(
                f"Refit has rows_per_feature={self.rows_per_feature} and min_rows={self.min_rows}; "
                "expected a number above 0, such as 24, and at least one row."
            )


def finite(new: Float[Tensor, "*shape"] | None, layer: str) -> Float[Tensor, "*shape"]:
    """The fitted weights of a layer; None where the equations could not be solved.

    Raises:
        SurgeryError: there are none, or they are not finite.
    """
    if new is None or not bool(torch.isfinite(new).all()):
        raise SurgeryError(
            f"The refit of {layer} gave weights that are not finite. Check the "
            "activations for infinite values, raise the ridge (mipp.Refit(ridge=0.01)), or "
            "apply the plan with refit=False."
        )
    return new
