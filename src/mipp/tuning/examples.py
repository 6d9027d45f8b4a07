"""Calibration examples for tuning: which are held out, and those of each step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mipp.data.image_batches import flip_and_shift
from mipp.errors import InputError
from mipp.statistics import Batch, joined
from mipp.tuning.settings import Augment

Part = tuple[int, Tensor]
"""Number of a batch, and the numbers of some of its examples."""
Parts = list[Part]


@dataclass(frozen=True, eq=False)
class Examples:
    """The calibration examples in two parts.

    Attributes:
        batches: as they were given.
        trained: examples that are trained on.
        held_out: examples that decide.
        batch_size: examples that are run at once.
    """

    batches: Sequence[Batch]
    trained: Parts
    held_out: Parts
    batch_size: int

    @classmethod
    def of(
        cls, batches: Sequence[Batch], held_out: float, batch_size: int | None, seed: int
    ) -> "Examples":
        """Holds out the same share of every batch, as far as they have examples enough.

        A batch that cannot be divided is held out as a whole.

        Raises:
            InputError: there is nothing left to hold out, or nothing to train on.
        """
        generator = torch.Generator().manual_seed(seed)
        total = sum(units(batch) for batch in batches)
        out = min(max(round(held_out * total), 1), total - 1)
        if total < 2:
            raise InputError(
                f"tuning was given {total} example that the model can take by itself; expected one "
                "to train on, and one to decide. Give more batches, or leave tuning out."
            )
        kept, apart, passed = Parts(), Parts(), 0
        for number, batch in enumerate(batches):
            size = units(batch)
            # so many of all units up to here, rounded, less those of the batches before
            first, last = ((2 * out * n + total) // (2 * total) for n in (passed, passed + size))
            order = torch.randperm(size, generator=generator)
            apart.append((number, order[: last - first].sort().values))
            kept.append((number, order[last - first :]))
            passed += size
        size = batch_size or max(map(len, batches))
        return cls(batches, _filled(kept), _filled(apart), size)

    def counts(self) -> tuple[int, int]:
        """Examples that are trained on, and those that are held out."""
        trained, held_out = (
            sum(len(t) if self.batches[n].divisible else len(self.batches[n]) for n, t in parts)
            for parts in (self.trained, self.held_out)
        )
        return trained, held_out

    def n_steps(self) -> int:
        """How many steps a pass has; a batch that cannot be divided has one of its own."""
        divisible = sum(len(t) for n, t in self.trained if self.batches[n].divisible)
        whole = sum(not self.batches[n].divisible for n, _ in self.trained)
        return whole + -(-divisible // self.batch_size)

    def steps(self) -> list[Parts]:
        """The examples of each step of a pass, drawn from torch's global generator."""
        whole = [[part] for part in self.trained if not self.batches[part[0]].divisible]
        rest = [part for part in self.trained if self.batches[part[0]].divisible]
        of = torch.cat([torch.full((len(t),), n) for n, t in rest] or [torch.zeros(0)]).long()
        own = torch.cat([t for _, t in rest] or [torch.zeros(0)]).long()
        made = [
            [(int(n), own[pick[of[pick] == n]]) for n in of[pick].unique()]
            for pick in torch.randperm(len(of)).split(self.batch_size)
            if len(pick)
        ] + whole
        return [made[k] for k in torch.randperm(len(made))] if whole else made

    def pieces(self, parts: Parts) -> Iterator[Parts]:
        """Parts of at most ``batch_size`` examples, in order."""
        for number, examples in parts:
            for some in examples.split(self.batch_size):
                yield [(number, some)]

    def batch(self, parts: Parts) -> Batch:
        """The examples of these parts in one batch."""
        picked = [self.batches[number].at(examples) for number, examples in parts]
        targets = [batch.target for batch in picked]
        if len(picked) > 1 and all(isinstance(target, Tensor) for target in targets):
            target, shifted = torch.cat(targets), picked[0].shifted
            return replace(joined(picked), target=target, shifted=shifted)
        return joined(picked)


def units(batch: Batch) -> int:
    """How many parts the batch can be divided into."""
    return len(batch) if batch.divisible else 1


def _filled(parts: Parts) -> Parts:
    return [(number, examples) for number, examples in parts if len(examples)]


def augmented(batch: Batch, augment: Augment) -> Batch:
    """The batch with its first floating-point input changed.

    Raises:
        InputError: there is none, it is no image, or it comes back in another shape.
    """
    values: dict[Any, Any] = {**dict(enumerate(batch.args)), **batch.kwargs}
    found = (k for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point())
    name = next(found, None)
    if name is None:
        raise InputError(
            f"augment={augment!r} was given for batches without a floating-point input. Leave "
            "augment out."
        )
    given = values[name]
    change: Any = _flipped_and_shifted if augment == "flip-shift" else augment
    changed = change(given)
    if not isinstance(changed, Tensor) or changed.shape != given.shape:
        shape = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise InputError(
            f"augment made {shape} of an input of shape {tuple(given.shape)}; expected a tensor of "
            "the same shape."
        )
    values[name] = changed
    args = tuple(values[k] for k in range(len(batch.args)))
    return replace(batch, args=args, kwargs={k: values[k] for k in batch.kwargs})


def _flipped_and_shifted(images: Tensor) -> Tensor:
    """Half of the images mirrored, each shifted over a border that repeats its edge."""
    if images.dim() != 4:
        raise InputError(
            f"augment='flip-shift' was given for inputs of shape {tuple(images.shape)}; expected "
            "images, (n, channels, height, width). Leave augment out, or give a function."
        )
    margin = max(min(images.shape[2:]) // 8, 1)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    padded = F.pad(images, (margin,) * 4, mode="replicate")
    return flip_and_shift(padded, generator, margin).contiguous()
