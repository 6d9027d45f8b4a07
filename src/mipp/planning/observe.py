"""Rows of observations of a group's consumers, for estimators that need more than moments."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mipp import information, processes, statistics
from mipp.errors import InputError
from mipp.planning.options import Options
from mipp.records import AxisKey, ChannelGraph, Group, Keep


class Observer:
    """Collects rows for some groups at a time, and shows each consumer as its group sees it."""

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        batches: Sequence[statistics.Batch],
        options: Options,
    ) -> None:
        if processes.rank_and_size()[1] > 1:
            raise InputError(
                "Rows of observations are not merged over processes. Use estimator='gaussian' "
                "without stop= and target=, or plan in one process."
            )
        self.model, self.graph, self.batches, self.options = model, graph, batches, options
        wants_maps = options.target != "activations"
        self.shape: information.RowShape = "maps" if wants_maps else options.estimator.row_shape
        self._answers: Tensor | None = None
        if options.target in ("outputs", "labels"):
            self._answers = statistics.answers(model, batches, options.target)

    def rows(self, wanted: Sequence[int]) -> dict[int, statistics.Rows]:
        """The rows of these consumers, in one pass over the batches."""
        return statistics.collect_rows(
            self.model,
            {c: self.graph.consumers[c] for c in wanted},
            self.batches,
            shape=self.shape,
            config=self.options.calibration,
            seed=self.options.seed,
        )

    def bytes(self, consumer: int) -> int:
        """What the rows of one consumer take, about."""
        found = self.graph.consumers[consumer]
        shape = self.graph.shapes[found.weight]
        n_samples = sum(len(batch) for batch in self.batches)
        if self.shape == "maps":
            # inputs have about as many positions as outputs
            width = shape[found.in_dim] + shape[found.out_dim]
            return int(4 * n_samples * found.uses * width)
        features = int(np.prod(shape)) // shape[found.out_dim]
        config = self.options.calibration
        rows = min(max(config.rows_per_feature * features, config.min_rows), n_samples * found.uses)
        return 4 * int(rows) * (features + shape[found.out_dim])

    def view(
        self,
        group: Group,
        index: int,
        rows: Mapping[int, statistics.Rows],
        fisher: Float[Tensor, "m m"] | None,
        keep: Keep,
    ) -> information.Observations:
        """One consumer of the group: kept inputs, and what is to be told from them."""
        consumer, seen = self.graph.consumers[index], rows[index]
        in_axis = self.graph.axes[consumer.in_axis]
        per_input = seen.inputs.shape[1] // in_axis.size
        mine = in_axis.group == group.index
        unit = np.repeat(np.where(mine, in_axis.unit, -1), per_input)
        columns = np.flatnonzero(np.repeat(mine | in_axis.kept(keep), per_input))
        device = seen.inputs.device
        targets, noise = self._targets(index, seen, fisher, keep)
        return information.Observations(
            inputs=seen.inputs[:, torch.as_tensor(columns, device=device)],
            targets=targets,
            unit=torch.as_tensor(unit[columns], device=device),
            uses=consumer.uses if self.shape == "positions" else 1,
            noise=noise,
            example=seen.example.to(device),
        )

    def _targets(
        self, index: int, seen: statistics.Rows, fisher: Float[Tensor, "m m"] | None, keep: Keep
    ) -> tuple[Tensor, float]:
        """What is to be told, in units of its noise; and the variance of that noise."""
        consumer = self.graph.consumers[index]
        noise = self.options.estimator.noise
        if self._answers is not None:
            answers = self._answers.to(seen.inputs.device)
            if not answers.is_floating_point():
                return answers, 0.0
            share = 0.1 if noise == "fisher" else noise
            return information.in_units_of_noise(answers, float(share)), 1.0
        n_channels = self.graph.shapes[consumer.weight][consumer.out_dim]
        per_output = seen.outputs.shape[1] // n_channels
        axis = self.graph.axes.get(AxisKey(consumer.weight, consumer.out_dim))
        kept = np.arange(n_channels) if axis is None else np.flatnonzero(axis.kept(keep))
        chosen = torch.as_tensor(kept, device=seen.outputs.device)
        y = seen.outputs.view(len(seen.outputs), n_channels, per_output)[:, chosen]
        if fisher is not None and len(fisher) == n_channels:
            # the same Fisher matrix at every position of a map
            white = information.fisher_whitening(fisher[chosen][:, chosen])
            return torch.einsum("rc,ncp->nrp", white.to(y.dtype), y).flatten(1), 1.0
        flat = y.flatten(1)
        if fisher is not None and self.shape == "maps":
            raise InputError(
                f"{consumer.name} is a transposed convolution, whose Fisher matrix is that of one "
                "input position. Give the estimator row_shape='positions', or noise=0.1."
            )
        if fisher is not None:
            # of a transposed convolution: the window of outputs of each input position
            window = (chosen.unsqueeze(1) * per_output + torch.arange(per_output)).flatten()
            white = information.fisher_whitening(fisher[window][:, window])
            return flat @ white.T.to(flat.dtype), 1.0
        return information.in_units_of_noise(flat, float(noise)), 1.0
