"""What the net before pruning gave at some rows of each layer."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor, nn

from mipp.surgery.refit.reached import Piece, WalkedLayer
from mipp.tracing.calls import Call, CallHooks, NormCall, token_mask
from mipp.tracing.lockstep import Held, Pause
from mipp.tracing.notes import Notes, Place
from mipp.tracing.sampling import consumer_seed, sampled_positions, weight_seed


@dataclass(frozen=True)
class Draw:
    """Which rows of the original are noted.

    Attributes:
        rows_per_feature: rows (examples x positions) at each layer, per feature of its input.
        min_rows: rows at each layer at least.
        n_samples: examples that the rows are drawn from, over all processes.
        seed: of the draw.
    """

    rows_per_feature: float
    min_rows: int
    n_samples: int
    seed: int = 0

    def wanted(self, layer: WalkedLayer) -> float:
        """Rows of all examples."""
        return max(self.rows_per_feature * layer.features, self.min_rows)

    def pick(
        self, layer: WalkedLayer, call: Call, number: int, mask: Tensor | None
    ) -> Int[Tensor, " rows"]:
        """Positions of a call in batch ``number``, in rising order."""
        seed = (
            weight_seed(self.seed, number, layer.index, call.call)
            if layer.call is None
            else consumer_seed(self.seed, number, layer.index)
        )
        pick = sampled_positions(call, mask, self.wanted(layer), self.n_samples, seed)
        return pick.sort().values


class Original:
    """The net that says what layers should give, run on all batches.

    Padding that a keyword ``attention_mask`` marks does not count.

    Args:
        model: the net.
        layers: where to look.
        pieces: the batches.
        draw: which rows are noted.
        squares: whether the variances of norms are wanted.
        guard: a context for the run on each batch, by its number.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[WalkedLayer],
        pieces: Sequence[Piece],
        draw: Draw,
        *,
        squares: bool = False,
        guard: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self.model, self._pieces, self._draw, self._guard = model, pieces, draw, guard
        self._layers = {layer.key: layer for layer in layers}
        self._starts = [0, *itertools.accumulate(piece.size for piece in pieces)]
        self.notes = Notes(squares=squares)
        self._noted: list[set[Place]] = [set() for _ in pieces]

    def run(self, number: int, pause: Pause[Place] | None = None) -> None:
        """Runs one batch, and waits at each layer and norm after it has been noted.

        A batch that waits may be run again from the start; what it has noted is not noted again.
        """
        piece, notes, held, noted = self._pieces[number], self.notes, Held(), self._noted[number]
        mask = token_mask(piece.inputs[1])
        known = sum(isinstance(place, int) for place in noted)
        add_norm = notes.norm_hook(piece.size / self._draw.n_samples, known)

        def note(call: Call, output: Tensor) -> Tensor:
            layer = self._layers.get(call.key) or self._layers.get((call.name, None))
            if layer is None:
                return output
            if pause is not None and layer.key in noted:
                notes.come_by(layer.key)
            else:
                pick, seen = self._draw.pick(layer, call, piece.number, mask), self._starts[number]
                notes.add(layer.key, number, call, output, pick, seen, inputs=layer.note_inputs)
                noted.add(layer.key)
            if pause is not None:
                pause(layer.key, holds=held.at(output))
            return output

        def on_norm(call: NormCall) -> None:
            place = add_norm(call)
            noted.add(place)
            if pause is not None:
                pause(place, holds=held.at(call.input))

        hooks = CallHooks(self.model, after=note, on_norm=on_norm, grouped=True)
        with self._guard(piece.number), hooks:
            args, kwargs = piece.inputs
            self.model(*args, **dict(kwargs))

    def run_all(self) -> Notes:
        """Runs all batches, one after the other."""
        for number in range(len(self._pieces)):
            self.run(number)
        return self.notes

    def n_bytes(self) -> float:
        """Bytes of the rows of all layers, about."""
        return sum(4 * self._draw.wanted(l) * self._outputs(l) for l in self._layers.values())

    def _outputs(self, layer: WalkedLayer) -> int:
        return max(self.model.get_parameter(layer.weight).shape[:2])
