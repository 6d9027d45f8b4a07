"""What the whole model gives, and how far what the small one gives is from it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mipp import processes
from mipp.errors import CalibrationError, InputError
from mipp.retrain.divergence import divergence
from mipp.statistics import Batch, blaming
from mipp.statistics.loss import answer_tensors, class_scores, counting, settle
from mipp.tuning.examples import Examples, Parts
from mipp.tuning.settings import Tune, Unit


class Teacher:
    """The whole model: its answers, and the distance of others from them.

    Answers that fit into the memory are computed once. All ranks of `torch.distributed` have to
    make one at the same time.

    Args:
        whole: the model, in evaluation mode.
        examples: that it answers for.
        settings: of tuning.
        memory: bytes that its answers may take.
        device: where the small model is.

    Raises:
        CalibrationError: an output that is not finite, or no floating-point output.
    """

    def __init__(
        self,
        whole: nn.Module,
        examples: Examples,
        settings: Tune,
        memory: float,
        device: torch.device,
    ) -> None:
        self._whole, self._examples, self.device = whole, examples, device
        self._own = next((p.device for p in whole.parameters()), device)
        self._kept: dict[int, list[Tensor]] = {}
        first = examples.batches[0]
        self._dim: int | None = None
        with torch.no_grad(), blaming(0):
            some = first.part(0, examples.batch_size).to(self._own)
            output = whole(*some.args, **some.kwargs)
            kind, _ = settle(settings.loss, output, some.target)
            if kind == "categorical":
                found = class_scores(output, some.target)
                assert found is not None
                self._dim = found[1]
        self.unit: Unit = "nats" if self._dim is not None else "of the variance"
        self.scales = [1.0] * len(answer_tensors(output))
        answers = answer_tensors(output)
        n_bytes = sum(t.nbytes for t in answers) / max(len(some), 1)
        n_bytes *= sum(map(len, examples.batches))
        self._look(keep=settings.augment is None and n_bytes <= memory and self._by_example(some))

    def _by_example(self, batch: Batch) -> bool:
        """Whether dimension 0 counts the examples in all outputs, so that they can be picked."""
        if not batch.divisible:
            return True  # never taken apart
        one = self._run(batch.part(0, 1))
        return all(t.dim() > 0 and len(t) == 1 for t in one) and all(
            len(t) == len(batch) for t in self._run(batch)
        )

    def _look(self, *, keep: bool) -> None:
        """Runs the model on all examples once: are outputs finite, how much do they vary."""
        sums: list[Tensor] = []
        for number, batch in enumerate(self._examples.batches):
            made = []
            with blaming(number):
                made = [self._run(part) for part in batch.parts(self._examples.batch_size)]
            for answers in made:
                _check_finite(answers, number)
                if self._dim is None:
                    sums = _added(sums, answers)
            if keep:
                self._kept[number] = [torch.cat(list(parts)) for parts in zip(*made, strict=True)]
        if self._dim is None:
            self.scales = _variances(sums)

    def _run(self, batch: Batch) -> list[Tensor]:
        with torch.no_grad():
            moved = batch.to(self._own)
            found = answer_tensors(self._whole(*moved.args, **moved.kwargs))
        return [tensor.detach().to(self.device) for tensor in found]

    def answers(self, parts: Parts, batch: Batch, *, changed: bool = False) -> list[Tensor]:
        """What the whole model gives.

        Args:
            parts: the examples.
            batch: the same as the model takes them.
            changed: whether the batch is no longer what was given.
        """
        if changed or not self._kept:
            return self._run(batch)
        picked = [
            [tensor[examples.to(tensor.device)] for tensor in self._kept[number]]
            if self._examples.batches[number].divisible
            else self._kept[number]
            for number, examples in parts
        ]
        return [torch.cat(list(tensors)) for tensors in zip(*picked, strict=True)]

    def apart(
        self, found: Sequence[Tensor], answers: Sequence[Tensor], batch: Batch, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Sums of the distances over all places that count, and their number, for each output.

        Raises:
            InputError: outputs of other shapes than the answers.
        """
        shapes, wanted = ([tuple(t.shape) for t in ts] for ts in (found, answers))
        if shapes != wanted:
            raise InputError(
                f"the small model gives outputs of shapes {shapes}, and the whole one {wanted}; "
                "expected the same. Give the model that it was pruned from, or outputs= to pick "
                "what can be compared."
            )
        sums, counts = [], []
        for own, answer, scale in zip(found, answers, self.scales, strict=True):
            if self._dim is not None:
                own_scores, scores = (t.movedim(self._dim, -1) for t in (own, answer))
                distance = divergence(own_scores, scores, temperature)
            else:
                distance = (own.float() - answer.float()) ** 2 / scale
            mask = _counting(batch, distance.shape)
            distance = distance if mask is None else distance[mask.to(distance.device)]
            sums.append(distance.sum())
            counts.append(torch.tensor(float(distance.numel()), device=distance.device))
        return torch.stack(sums), torch.stack(counts)


def _counting(batch: Batch, shape: torch.Size) -> Tensor | None:
    """Where a distance counts: each of its places, or each token, which may have several."""
    mask = counting(batch, shape)
    return counting(batch, shape[:2]) if mask is None else mask


def _check_finite(answers: Sequence[Tensor], number: int) -> None:
    if not all(bool(torch.isfinite(t).all()) for t in answers):
        raise CalibrationError(
            f"The whole model gives NaN or infinite outputs on batch {number}; expected finite "
            "ones, which the small model can learn. Leave that batch out, or check the model."
        )


def _added(sums: list[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
    """Number, sum and sum of squares of the entries of each output, with those of more answers."""
    own = [torch.stack([torch.tensor(float(t.numel()), dtype=torch.float64, device=t.device),
                        t.double().sum(), (t.double() ** 2).sum()]) for t in answers]  # fmt: skip
    return own if not sums else [a + b for a, b in zip(sums, own, strict=True)]


def _variances(sums: list[Tensor]) -> list[float]:
    """Of all entries of each output; 1 for one that is the same everywhere."""
    every = torch.stack(sums)
    processes.all_reduce("the variance of the outputs", every)
    found = [float(square / n - (total / n) ** 2) for n, total, square in every]
    return [v if v > 0 and math.isfinite(v) else 1.0 for v in found]
