"""SynFlow: the part of a flow of ones through the net of absolute weights that passes each weight.

Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic
flow" (arXiv 2006.05467).
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from mipp.methods.method import Question, WeightMethod
from mipp.statistics import floating_outputs


@dataclass(frozen=True, kw_only=True)
class SynFlow(WeightMethod):
    """|w dR/dw| with R the summed outputs of the net of absolute weights for an input of ones.

    Computed in double precision: R grows with depth beyond the range of float32.

    Attributes:
        rounds: 100, as in the paper; with one round whole layers are removed.
        norms: How norms change the flow. With ``"scale"`` they multiply by |gamma| / sqrt(running
            variance + eps), or by |gamma| where there are no running statistics, and shift nothing,
            so that all flow stays positive and is conserved on trained nets, too. ``"absolute"`` is
            the authors' code, which takes absolute values of all parameters and buffers, means
            among them; the same at initialisation. It goes together with ``bias=True``.
        bias: Whether absolute biases flow, too (the authors' code). Without them what flows into a
            unit flows out of it.
    """

    name = "synflow"
    summary = "flow of ones through the net of absolute weights"
    source = "Tanaka et al. 2020, arXiv 2006.05467"
    needs = "nothing"
    at_init = True
    ranking = "global"

    rounds: int = 100
    norms: Literal["scale", "absolute"] = "scale"
    bias: bool = False

    def terms(self, question: Question) -> dict[str, Tensor]:
        """|w| dR/d|w|, none of which is negative with ``norms="scale"``."""
        _, terms = self.flow(question)
        return terms

    def flow(self, question: Question) -> tuple[Tensor, dict[str, Tensor]]:
        """R, and the part of it that passes each entry of each parameter."""
        model = question.model.double()
        named = question.parameters()
        with torch.no_grad():
            for tensor in [*named.values(), *model.buffers()]:
                if tensor.is_floating_point():
                    tensor.abs_()
            if not self.bias:
                read = {consumer.bias for consumer in question.graph.consumers}
                for name, parameter in named.items():
                    if name in read or "bias" in name.rpartition(".")[2]:
                        parameter.zero_()
        device = next(model.parameters()).device
        batch = question.batches[0].part(0, 1).to(device)
        args, kwargs = pytree.tree_map_only(Tensor, _ones, (batch.args, dict(batch.kwargs)))
        with _PositiveNorms() if self.norms == "scale" else nullcontext():
            outputs = floating_outputs(model(*args, **kwargs))
        total = torch.stack([output.sum() for output in outputs]).sum()
        parts = torch.autograd.grad(total, list(named.values()), materialize_grads=True)
        terms = {n: p.detach() * g for (n, p), g in zip(named.items(), parts, strict=True)}
        return total.detach(), terms


def _ones(tensor: Tensor) -> Tensor:
    """Ones in place of floating-point numbers; token ids and masks stay."""
    return torch.ones_like(tensor, dtype=torch.float64) if tensor.is_floating_point() else tensor


_NORMS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: (
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
    ),
    F.instance_norm: (
        "input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum",
        "eps",
    ),
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
}  # fmt: skip


class _PositiveNorms(TorchFunctionMode):
    """Norms only multiply, by positive factors."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """A product in place of each norm; every other function unchanged."""
        names = _NORMS.get(func)
        if names is None:
            return func(*args, **(kwargs or {}))
        given = dict(zip(names, args, strict=False)) | dict(kwargs or {})
        values, weight, variance = given["input"], given.get("weight"), given.get("running_var")
        by_channel = func not in (F.layer_norm, F.rms_norm)
        shape = [1, -1, *[1] * (values.dim() - 2)]
        if weight is not None:
            values = values * (weight.abs().view(shape) if by_channel else weight.abs())
        if variance is not None:
            values = values / (variance.abs() + given.get("eps", 1e-5)).sqrt().view(shape)
        return values
