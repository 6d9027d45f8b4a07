"""Zero-invariant groups of OTO: for each unit, the entries that make its output zero."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.methods.shared.aggregate import unit_axes
from mipp.records import AxisKey, ChannelGraph, IntArray


class ZeroGroups:
    """Incoming weights, bias, norm parameters and depthwise filter of each unit, as one vector.

    Units of all groups are numbered together, group after group. Where the activation of zero is
    zero, a unit whose vector is zero has zero output, whatever the weights that read it. Vectors
    with one entry for each unit are float64.

    Attributes:
        parameters: The model's parameters with any such entry.
        sizes: Number of entries of each unit.
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module) -> None:
        self._widths = {group.index: group.n_units for group in graph.groups}
        self._first = dict(
            zip(self._widths, np.cumsum([0, *self._widths.values()]).tolist(), strict=False)
        )
        self.n_units = sum(self._widths.values())
        found: dict[AxisKey, IntArray] = {}
        named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        for group in graph.groups:
            for key in unit_axes(graph, group, own=True):
                if key.tensor in named:
                    axis = graph.axes[key]
                    # entries of no unit get a place behind all others
                    place = found.setdefault(key, np.full(axis.size, self.n_units))
                    mine = axis.group == group.index
                    place[mine] = self._first[group.index] + axis.unit[mine]
        names = sorted({key.tensor for key in found})
        self.parameters = [named[name] for name in names]
        self.device = self.parameters[0].device
        self._axes: list[tuple[int, int, Int64[Tensor, " size"]]] = [
            (names.index(key.tensor), key.dim, torch.from_numpy(place).to(self.device))
            for key, place in sorted(found.items())
        ]
        self.sizes = self.sums([torch.ones_like(p) for p in self.parameters])

    def copies(self) -> list[Tensor]:
        """The parameters as they are now."""
        return [parameter.detach().clone() for parameter in self.parameters]

    def sums(self, values: Sequence[Tensor]) -> Float[Tensor, " units"]:
        """Sum over the entries of each unit; ``values`` has one tensor for each parameter."""
        total = torch.zeros(self.n_units + 1, dtype=torch.float64, device=self.device)
        for number, dim, place in self._axes:
            rows = values[number].detach().double().movedim(dim, 0).reshape(len(place), -1).sum(1)
            total.index_add_(0, place, rows)
        return total[:-1]

    @torch.no_grad()
    def multiply(self, factors: Float[Tensor, " units"]) -> None:
        """Multiplies all entries of each unit, in place."""
        for number, dim, place in self._axes:
            parameter = self.parameters[number]
            parameter.mul_(self._along(parameter, dim, place, factors, 1.0))

    @torch.no_grad()
    def subtract(self, values: Sequence[Tensor], factors: Float[Tensor, " units"]) -> None:
        """Subtracts each unit's factor times ``values`` from its entries, in place."""
        for number, dim, place in self._axes:
            parameter = self.parameters[number]
            along = self._along(parameter, dim, place, factors, 0.0)
            parameter.sub_(values[number] * along)

    def by_group(self, units: Shaped[Tensor, " units"]) -> dict[int, NDArray[Any]]:
        """A vector over units as an array for each group, by group index."""
        row = units.cpu().numpy()
        return {g: row[first : first + self._widths[g]].copy() for g, first in self._first.items()}

    def in_one_row(self, by_group: Mapping[int, NDArray[Any]]) -> Shaped[Tensor, " units"]:
        """The inverse of `by_group`."""
        row = np.concatenate([by_group[group] for group in self._first])
        return torch.from_numpy(row).to(self.device)

    def _along(
        self,
        parameter: Tensor,
        dim: int,
        place: Int64[Tensor, " size"],
        factors: Float[Tensor, " units"],
        others: float,
    ) -> Tensor:
        """Factors along one dimension of a parameter, ``others`` for entries of no unit."""
        row = torch.cat([factors, factors.new_full((1,), others)])[place]
        shape = [1] * parameter.dim()
        shape[dim] = -1
        return row.view(shape).to(parameter.dtype)
