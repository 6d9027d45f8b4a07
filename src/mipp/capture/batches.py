"""Calibration batches: any iterable of what the model takes, read once and checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mipp.errors import CalibrationError


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: what the model is called with, and the target if one came along."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None

    def tensors(self) -> list[Tensor]:
        """The tensors among the inputs, in the order of the call."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def __len__(self) -> int:
        return self.tensors()[0].shape[0]

    def part(self, start: int, stop: int) -> "Batch":
        """Examples ``start`` to ``stop``; tensors that have no batch dimension stay whole."""
        size = len(self)

        def cut(leaf: Any) -> Any:
            batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == size
            return leaf[start:stop] if batched else leaf

        return Batch(*pytree.tree_map(cut, (self.args, dict(self.kwargs), self.target)))

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``."""
        move = pytree.tree_map_only(
            Tensor, lambda t: t.to(device), (self.args, dict(self.kwargs), self.target)
        )
        return Batch(*move)


def read_batch(item: Any) -> Batch:
    """A tensor, an ``(input, target)`` pair or a dict of keyword arguments as a `Batch`.

    The input of a pair may itself be a tuple (positional arguments) or a dict (keywords); a dict's
    ``labels`` are its target and still handed to the model.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        batch = Batch((item,))
    elif isinstance(item, Mapping):
        batch = Batch((), dict(item), item.get("labels"))
    elif isinstance(item, (list, tuple)) and len(item) in (1, 2):
        inputs, target = item[0], item[1] if len(item) == 2 else None
        if isinstance(inputs, Mapping):
            batch = Batch((), dict(inputs), target)
        else:
            batch = Batch(
                tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,), {}, target
            )
    else:
        raise CalibrationError(
            f"A batch is a {type(item).__name__}"
            + (f" of {len(item)}" if isinstance(item, (list, tuple)) else "")
            + "; expected a tensor, an (input, target) pair or a dict of keyword arguments. "
            "For several inputs give ((first, second), target) or a dict."
        )
    if not batch.tensors() or batch.tensors()[0].dim() == 0:
        raise CalibrationError(
            "A batch holds no tensor with a batch dimension. Give tensors of shape (batch, ...)."
        )
    return batch


def read_batches(batches: Any, samples: int | None = None) -> list[Batch]:
    """The first ``samples`` examples (all if None) of an iterable of batches, checked.

    Raises:
        CalibrationError: when there are none, when shapes or dtypes change between batches, or when
            an input has NaN or infinite values.
    """
    if isinstance(batches, (Tensor, Mapping)):
        batches = [batches]
    if (
        isinstance(batches, tuple)
        and len(batches) == 2
        and all(isinstance(item, Tensor) for item in batches)
    ):
        batches = [batches]  # one (input, target) pair, given without a list around it
    read: list[Batch] = []
    count = 0
    for item in _iterate(batches):
        batch = read_batch(item)
        if len(batch) == 0:
            continue
        if samples is not None and count + len(batch) > samples:
            batch = batch.part(0, samples - count)
        _check_alike(batch, read, len(read))
        read.append(batch)
        count += len(batch)
        if samples is not None and count >= samples:
            break
    if not read:
        raise CalibrationError(
            "The batches are empty: not one example came out of them. An iterator that was already "
            "used up gives nothing; hand over a list or a DataLoader."
        )
    return read


def _iterate(batches: Any) -> Iterator[Any]:
    try:
        return iter(batches)
    except TypeError:
        raise CalibrationError(
            f"batches is a {type(batches).__name__}; expected an iterable of batches, such as a "
            "DataLoader or a list of tensors."
        ) from None


def _check_alike(batch: Batch, read: list[Batch], number: int) -> None:
    for tensor in batch.tensors():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CalibrationError(
                f"Batch {number} has NaN or infinite values in an input of shape "
                f"{tuple(tensor.shape)}. Clean the data, or leave that batch out."
            )
    if not read:
        return
    first = [(tuple(t.shape[1:]), t.dtype) for t in read[0].tensors()]
    mine = [(tuple(t.shape[1:]), t.dtype) for t in batch.tensors()]
    if mine != first:
        raise CalibrationError(
            f"Batch {number} has inputs {_spell(mine)} an example, the first batch "
            f"{_spell(first)}. All calibration batches need one shape and dtype: resize or pad."
        )


def _spell(inputs: list[tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(f"{shape} {str(dtype).removeprefix('torch.')}" for shape, dtype in inputs)
