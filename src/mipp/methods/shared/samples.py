"""The examples that a method looks at, drawn from the caller's batches."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mipp.methods.method import Method, Question
from mipp.records import IntArray
from mipp.statistics import Batch

MOST_TOGETHER = 128
"""Examples in a batch at most, where the method does not say how many."""


@dataclass(frozen=True, kw_only=True)
class ExampleMethod(Method):
    """A method that looks at some of the examples, other ones in every round.

    Attributes:
        examples: Number of examples, drawn from the batches; None for all.
        batch_size: Of the batches that these are put in; None for that of the caller's batches, at
            most 128.
    """

    examples: int | None = 128
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse to look at nothing."""
        super().__post_init__()
        self._at_least(1, "examples", "batch_size")

    def drawn(self, question: Question) -> list[Batch]:
        """The examples of this round, see `drawn`."""
        size = self.batch_size or min(MOST_TOGETHER, max(map(len, question.batches)))
        return drawn(question, self.examples, size)


def drawn(
    question: Question, examples: int | None, batch_size: int, per_class: int | None = None
) -> list[Batch]:
    """Examples drawn without replacement, on the model's device, other ones in every round.

    Batches that are not divisible stay as they are; they are taken as long as they are needed.

    Args:
        question: Its batches, its seed and its round.
        examples: Number of examples, None for all.
        batch_size: Of the batches returned; their sizes differ by one at most.
        per_class: In place of ``examples``, the number of examples of each class, where the targets
            are one class number an example.
    """
    generator = np.random.default_rng([question.seed, question.round])
    device = next((p.device for p in question.model.parameters()), torch.device("cpu"))
    sizes = [len(batch) for batch in question.batches]
    if not all(batch.divisible for batch in question.batches):
        places = generator.permutation(len(sizes))
        before = np.cumsum([0, *(sizes[place] for place in places[:-1])])
        needed = places[before < examples] if examples is not None else places
        return [question.batches[place].to(device) for place in needed]
    order = generator.permutation(sum(sizes))
    labels = _labels(question)
    if per_class is not None and labels is not None:
        ranked = labels[order]
        place = np.empty(len(order), dtype=np.int64)
        for label in np.unique(ranked):
            mine = np.flatnonzero(ranked == label)
            place[mine] = np.arange(len(mine))
        order = order[place < per_class]
    elif examples is not None:
        order = order[:examples]
    pieces = np.array_split(order, -(-len(order) // batch_size))
    return [_picked(question, sizes, piece).to(device) for piece in pieces]


def _labels(question: Question) -> IntArray | None:
    targets = [batch.target for batch in question.batches]
    for target in targets:
        whole = isinstance(target, Tensor) and not target.is_floating_point()
        if not (whole and target.dim() == 1):
            return None
    return np.concatenate([target.cpu().numpy() for target in targets]).astype(np.int64)


def _picked(question: Question, sizes: list[int], chosen: IntArray) -> Batch:
    """The chosen examples, counted through all batches, as one batch."""
    parts, batched = [], []
    start, spec = 0, None
    for batch, size in zip(question.batches, sizes, strict=True):
        mine = torch.from_numpy(chosen[(chosen >= start) & (chosen < start + size)] - start)
        start += size
        if not len(mine):
            continue
        whole = (batch.args, dict(batch.kwargs), batch.target)
        leaves, spec = pytree.tree_flatten(whole)
        batched = [isinstance(t, Tensor) and t.dim() > 0 and len(t) == size for t in leaves]
        parts.append([t[mine] if b else t for t, b in zip(leaves, batched, strict=True)])
    assert spec is not None
    joined = [
        torch.cat(leaves) if b else leaves[0]
        for leaves, b in zip(zip(*parts, strict=True), batched, strict=True)
    ]
    args, kwargs, target = pytree.tree_unflatten(joined, spec)
    return replace(question.batches[0], args=args, kwargs=kwargs, target=target)
