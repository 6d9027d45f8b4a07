"""Calibration batches: any iterable of what the model takes, read once and checked."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mipp import processes
from mipp.errors import CalibrationError
from mipp.tracing.calls import of_one_length

IGNORED = -100
"""Target of a position that does not count, as in `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: what the model is called with, and the target if one came along.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        target: what the model should answer, or None.
        whole: whether its examples belong together, as the nodes of a graph do, so that the model
            cannot take a part of them.
        shifted: whether the target, ``(batch, length)``, stands one position behind the output that
            is to give it, as the labels of causal language models do.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None
    whole: bool = False
    shifted: bool = False

    @property
    def aligned(self) -> Any:
        """The target in the place of the output that is to give it."""
        return earlier(self.target) if self.shifted else self.target

    def tensors(self) -> list[Tensor]:
        """The tensors among the inputs, in the order of the call."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def __len__(self) -> int:
        tensors = [tensor for tensor in self.tensors() if tensor.dim() > 0]
        # what has length 1 beside longer ones is broadcast
        return max(map(len, tensors)) if of_one_length(tensors) else len(tensors[0])

    @property
    def divisible(self) -> bool:
        """Whether dimension 0 counts the examples in all inputs (`calls.of_one_length`)."""
        return not self.whole and of_one_length(self.tensors())

    def part(self, start: int, stop: int) -> "Batch":
        """Examples ``start`` to ``stop``; all of them where the batch is not divisible."""
        if not self.divisible:
            return self
        size = len(self)

        def cut(tensor: Tensor) -> Tensor:
            batched = tensor.dim() > 0 and tensor.shape[0] == size
            return tensor[start:stop] if batched else tensor

        return self.mapped(cut)

    def at(self, examples: Tensor) -> "Batch":
        """The examples of these numbers; all of them where the batch is not divisible."""
        if not self.divisible:
            return self
        size = len(self)

        def pick(tensor: Tensor) -> Tensor:
            batched = tensor.dim() > 0 and tensor.shape[0] == size
            return tensor[examples.to(tensor.device)] if batched else tensor

        return self.mapped(pick)

    def parts(self, size: int) -> list["Batch"]:
        """Batches of at most ``size`` examples; the whole one where it is not divisible."""
        if not self.divisible:
            return [self]
        return [self.part(start, start + size) for start in range(0, len(self), size)]

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``."""
        return self.mapped(lambda tensor: tensor.to(device))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same with all tensors of inputs and target changed."""
        args, kwargs, target = pytree.tree_map_only(
            Tensor, change, (self.args, dict(self.kwargs), self.target)
        )
        return replace(self, args=args, kwargs=kwargs, target=target)


def labelled(labels: Int[Tensor, "*places"]) -> Bool[Tensor, "*places"]:
    """Which labels count."""
    return labels != IGNORED


def earlier(labels: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Labels one position to the left; none counts at the end."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def read_batch(item: Any) -> Batch:
    """Reads a tensor, an ``(input, target)`` pair or a dict of keyword arguments as a `Batch`.

    The input of a pair may itself be a tuple (positional arguments) or a dict (keywords); a dict's
    ``labels`` are its target and still passed to the model.

    Raises:
        CalibrationError: it is something else, or has no tensor with a batch dimension.
    """
    if isinstance(item, Batch):
        return _plain(item)
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
    if all(tensor.dim() == 0 for tensor in batch.tensors()):
        raise CalibrationError(
            "A batch holds no tensor with a batch dimension. Give tensors of shape (batch, ...)."
        )
    return _plain(batch)


def _plain(batch: Batch) -> Batch:
    """The batch with tensors that gradients can be taken with, and that have none of their own."""

    def plain(tensor: Tensor) -> Tensor:
        # what was made under torch.inference_mode cannot be saved for a backward pass
        return tensor.clone() if tensor.is_inference() else tensor.detach()

    leaves = pytree.tree_leaves((batch.args, dict(batch.kwargs), batch.target))
    if not any(isinstance(t, Tensor) and (t.is_inference() or t.requires_grad) for t in leaves):
        return batch
    return batch.mapped(plain)


def read_batches(batches: Any, samples: int | None = None) -> list[Batch]:
    """Reads the first examples of an iterable of batches, and checks them.

    Batches with a keyword ``attention_mask`` of shape (batch, length) may differ in length: what
    has that shape, and maybe more dimensions behind it, is padded at its end to the longest, with
    zeros (``labels`` and targets with -100, which does not count).

    Args:
        batches: anything that `read_batch` takes, one after another; or one such tensor, pair or
            dict.
        samples: how many examples to read at most; all with None.

    Raises:
        CalibrationError: there are none, shapes or dtypes change between batches, or an input has
            NaN or infinite values.
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
    return _padded(read)


def agreed(model: nn.Module, batches: list[Batch]) -> list[Batch]:
    """The batches, once all ranks are found to have the same model and the same kind of batches.

    Texts are padded to the longest of all ranks, so that all trace the same sizes.

    Raises:
        InputError: they have not.
    """
    if processes.rank_and_size()[1] == 1:
        return batches
    inputs = _shapes(batches[0])
    processes.agree("the inputs of one example", [_spell([each]) for each in inputs])
    processes.agree("whether batches can be divided", [str(all(b.divisible for b in batches))])
    processes.same_model(model)
    longest = max((n for n in map(_length, batches) if n is not None), default=0)
    return _padded(batches, processes.largest("the length of the texts", longest))


def _padded(batches: list[Batch], longest: int | None = None) -> list[Batch]:
    """All batches in the length of the longest, where they have a mask of tokens."""
    lengths = [_length(batch) for batch in batches]
    if len({*lengths, longest} - {None, 0}) < 2:
        return batches
    longest = longest or max(length for length in lengths if length is not None)

    def filled(batch: Batch, length: int | None, leaf: Any, value: int) -> Any:
        if length is None or not isinstance(leaf, Tensor) or leaf.shape[:2] != (len(batch), length):
            return leaf
        behind = [0, 0] * (leaf.dim() - 2) + [0, longest - length]
        return torch.nn.functional.pad(leaf, behind, value=value)

    return [
        replace(
            b,
            args=pytree.tree_map(lambda t, b=b, n=n: filled(b, n, t, 0), b.args),
            kwargs={
                name: filled(b, n, value, IGNORED if name == "labels" else 0)
                for name, value in b.kwargs.items()
            },
            target=filled(b, n, b.target, IGNORED),
        )
        for b, n in zip(batches, lengths, strict=True)
    ]


def _length(batch: Batch) -> int | None:
    """How many tokens the examples of the batch have, or None where no mask says."""
    mask = batch.kwargs.get("attention_mask")
    return int(mask.shape[1]) if isinstance(mask, Tensor) and mask.dim() == 2 else None


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
        numbers = (
            tensor if tensor.layout is torch.strided else tensor.to_sparse().coalesce().values()
        )
        if tensor.is_floating_point() and not bool(torch.isfinite(numbers).all()):
            raise CalibrationError(
                f"Batch {number} has NaN or infinite values in an input of shape "
                f"{tuple(tensor.shape)}. Clean the data, or leave that batch out."
            )
    if not read:
        return
    first, mine = _shapes(read[0]), _shapes(batch)
    if mine != first:
        raise CalibrationError(
            f"Batch {number} has inputs {_spell(mine)} an example, the first batch "
            f"{_spell(first)}. All calibration batches need one shape and dtype: resize or pad "
            "images to one size (torch.nn.functional.interpolate, torch.nn.functional.pad) "
            "(texts may differ in length if an attention_mask of shape (batch, length) is given)."
        )


Shapes = list[tuple[tuple[int | str, ...], torch.dtype]]


def _shapes(batch: Batch) -> Shapes:
    """Of one example of each input; the number of tokens as ``length`` where a mask says it.

    What does not have the examples in dimension 0 may have other sizes in another batch, as the
    edges of a graph have.
    """
    length, found = _length(batch), Shapes()
    for tensor in batch.tensors():
        shape: tuple[int | str, ...] = tuple(tensor.shape[1:])
        if tensor.dim() > 0 and len(tensor) != len(batch):
            shape = ("any",) * tensor.dim()
        elif length is not None and tensor.shape[:2] == (len(batch), length):
            shape = ("length", *shape[1:])
        found.append((shape, tensor.dtype))
    return found


def _spell(inputs: Shapes) -> str:
    return ", ".join(f"{shape} {str(dtype).removeprefix('torch.')}" for shape, dtype in inputs)
