"""BatchNorm statistics that follow what pruning does to a norm's input."""

import weakref
from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mipp.covariance import varies
from mipp.surgery.refit.reached import WalkedLayer
from mipp.tracing.calls import LINEAR, Call, NormCall
from mipp.tracing.notes import Key, NormSums


class LastLayer:
    """The layer that ran last in a forward pass, for norms that read just what it gave.

    That is with the layer's outputs as their channels, and nothing changed in place in between.
    """

    def __init__(self) -> None:
        self._key: Key | None = None
        self._first: str | None = None
        self._made: weakref.ref[Tensor] | None = None
        self._version = 0

    def ran(self, call: Call, output: Tensor) -> Tensor:
        """Notes a layer, and gives its output."""
        first = self._key is None and call.groups == 1
        self._first, self._key, self._made = call.name if first else None, call.key, None
        dims = 2 if call.kind in LINEAR else call.weight.dim()
        # of inference tensors changes in place are not to be seen
        if output.dim() == dims and not output.is_inference():
            self._made, self._version = weakref.ref(output), output._version  # noqa: SLF001
        return output

    def key(self, norm: NormCall) -> Key | None:
        """Of the layer, where the norm reads its output as it was."""
        x = norm.input
        if self._made is None or self._made() is not x or x._version != self._version:  # noqa: SLF001
            return None
        return self._key

    def first_weight(self, norm: NormCall) -> str | None:
        """Its weight, where no other layer has run and all of its inputs reach each output."""
        return None if self.key(norm) is None else self._first


@dataclass(frozen=True)
class DirectNorms:
    """Norms whose statistics follow without a look at what all batches put in.

    Attributes:
        fitted: layers with one call, fitted to what they really take in: the mean of what such a
            layer gives is known from the rows of its fit.
        readers: weights that read units or were scaled, and so may give something else than
            before. What the first layer of all gives is as before, but for outputs that are gone,
            if it is none of them and mixes all that it reads: had something in front of it lost
            features, it would read units.
    """

    fitted: Collection[Key]
    readers: Collection[str]

    def unchanged(self, last: LastLayer, norm: NormCall) -> bool:
        """Whether a norm reads what it read before, but for channels that are gone."""
        first = last.first_weight(norm)
        return first is not None and first not in self.readers

    def layer(self, last: LastLayer, norm: NormCall) -> Key | None:
        """The fitted layer whose output a norm reads."""
        key = last.key(norm)
        return key if key in self.fitted else None


def direct_norms(
    layers: Collection[WalkedLayer], readers: Collection[str], norm: str
) -> DirectNorms:
    """Those of a walk along these layers, where norms follow as `mipp.Refit` says."""
    fitted = {layer.key for layer in layers if not layer.note_inputs and layer.factors is None}
    return DirectNorms(fitted if norm == "mean" else set(), readers)


def follow(
    call: NormCall,
    before: NormSums,
    after: NormSums,
    channels: Int[Tensor, " kept"] | None,
    how: str,
) -> None:
    """Shifts the running statistics by what pruning did to the input, on the same examples.

    Args:
        call: of a norm in the changed model, whose statistics are set in place.
        before: of the same norm in the original model.
        after: of this one.
        channels: those of the original that are left, None for all.
        how: ``"mean"``, ``"full"`` (the variance, too) or ``"keep"``.
    """
    if how == "keep":
        return
    chosen = slice(None) if channels is None else channels
    device = call.running_mean.device
    old_mean, new_mean = before.mean.to(device)[chosen], after.mean
    call.running_mean.add_((new_mean - old_mean).to(call.running_mean.dtype))
    if how == "full":
        old_var, new_var = before.variance.to(device)[chosen], after.variance
        # a channel that never varied on these examples says nothing of its variance on others
        varied = varies(old_var, old_mean, call.input.dtype)
        ratio = torch.where(varied, new_var.clamp_min(0) / old_var, 1.0)
        call.running_var.mul_(ratio.to(call.running_var.dtype))
