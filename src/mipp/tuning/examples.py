"""Calibration examples for tuning: which are held out, and those of each step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mipp.data.image_batches import flip_and_shift
from mipp.errors import InputError
from mipp.statistics import Batch, joined, same_constants
from mipp.tracing.guards import mixed_seed
from mipp.tuning.settings import Augment, Tune

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

    def with_all(self) -> "Examples":
        """The same examples, of which those that are held out are trained on, too."""
        parts: dict[int, list[Tensor]] = {}
        for number, some in sorted([*self.trained, *self.held_out], key=lambda part: part[0]):
            parts.setdefault(number, []).append(some)
        trained = [(number, torch.cat(some).sort().values) for number, some in parts.items()]
        return replace(self, trained=trained)

    def trained_batches(self) -> list[Batch]:
        """What is left of the batches without the examples that are held out."""
        return [self.batch([part]) for part in self.trained]

    def counts(self) -> tuple[int, int]:
        """Examples that are trained on, and those that are held out."""
        trained, held_out = (
            sum(len(t) if self.batches[n].divisible else len(self.batches[n]) for n, t in parts)
            for parts in (self.trained, self.held_out)
        )
        return trained, held_out

    @cached_property
    def _groups(self) -> list[Parts]:
        """Parts of which a step may have several.

        Batches that cannot be divided stand alone. So do those with other inputs beside the
        examples, such as a number that holds for a whole batch.
        """
        found: list[Parts] = []
        for part in self.trained:
            mine = self.batches[part[0]]
            others = (
                group for group in found if mine.divisible
                and self.batches[group[0][0]].divisible
                and same_constants([self.batches[group[0][0]], mine])
            )  # fmt: skip
            group = next(others, None)
            if group is None:
                found.append([part])
            else:
                group.append(part)
        return found

    def n_steps(self) -> int:
        """How many steps a pass has."""
        sizes = [sum(len(t) for _, t in group) for group in self._groups]
        return sum(-(-size // self.batch_size) for size in sizes)

    def steps(self) -> list[Parts]:
        """The examples of each step of a pass, drawn from torch's global generator."""
        made: list[Parts] = []
        for group in self._groups:
            of = torch.cat([torch.full((len(t),), n) for n, t in group])
            own = torch.cat([t for _, t in group])
            made += [
                [(int(n), own[pick[of[pick] == n]]) for n in of[pick].unique()]
                for pick in torch.randperm(len(of)).split(self.batch_size)
            ]
        several = len(self._groups) > 1
        return [made[k] for k in torch.randperm(len(made))] if several else made

    def pieces(self, parts: Parts, least: int = 1) -> Iterator[Parts]:
        """Parts of at most ``batch_size`` examples, in order; ``least`` of them if possible."""
        each = -(-sum(len(examples) for _, examples in parts) // least)
        for number, examples in parts:
            for some in examples.split(max(1, min(self.batch_size, each))):
                yield [(number, some)]

    def batch(self, parts: Parts) -> Batch:
        """The examples of these parts in one batch."""
        picked = [self.batches[number].at(examples) for number, examples in parts]
        if len(picked) == 1:
            return picked[0]
        targets = [batch.target for batch in picked if _by_example(batch)]
        if len(targets) < len(picked) or len({target.shape[1:] for target in targets}) > 1:
            return joined(picked)  # which has none: they do not say what counts
        return replace(joined(picked), target=torch.cat(targets), shifted=picked[0].shifted)


def examples_of(batches: Sequence[Batch], settings: Tune, seed: int) -> Examples:
    """What `tune` trains on with this seed, and what it holds out.

    Raises:
        InputError: there are fewer than two examples.
    """
    return Examples.of(batches, settings.held_out, settings.batch_size, mixed_seed(seed, 0))


def _by_example(batch: Batch) -> bool:
    """Whether the batch has one target for each example."""
    target = batch.target
    return isinstance(target, Tensor) and target.dim() > 0 and len(target) == len(batch)


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
