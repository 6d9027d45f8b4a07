"""Outputs of models: finding the tensors in them, and comparing these."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class Comparison:
    """Whether two models agree.

    Attributes:
        ok: Whether all differences are within the tolerance.
        difference: The largest one, relative to the largest entry of that output of the first
            model; infinite where they cannot be compared.
        message: What differs; empty if ok.
    """

    ok: bool
    difference: float
    message: str


def tensors_in(value: object) -> Iterator[Shaped[Tensor, "..."]]:
    """Every tensor in tuples, lists, dicts and dataclasses, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


def compare(
    expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float | None
) -> Comparison:
    """Compares all tensors that two models return, in order.

    Args:
        expected: Outputs of the first model.
        found: Outputs of the second model.
        tolerance: Largest difference allowed, relative to the largest entry; ``None`` means the
            square root of the machine precision. Whole numbers must agree.
    """
    shapes, others = [tuple(t.shape) for t in expected], [tuple(t.shape) for t in found]
    if shapes != others:
        message = f"outputs have shapes {others} instead of {shapes}"
        return Comparison(ok=False, difference=float("inf"), message=message)
    largest = 0.0
    for one, other in zip(expected, found, strict=True):
        difference = _difference(one, other)
        largest = max(largest, difference)
        exact = not (one.is_floating_point() or one.is_complex())
        default = 0.0 if exact else torch.finfo(one.dtype).eps ** 0.5
        allowed = default if tolerance is None or exact else tolerance
        if difference > allowed:
            message = f"outputs differ by {difference:.2g} of the largest (allowed: {allowed:.2g})"
            return Comparison(ok=False, difference=difference, message=message)
    return Comparison(ok=True, difference=largest, message="")


def _difference(one: Shaped[Tensor, "*shape"], other: Shaped[Tensor, "*shape"]) -> float:
    """Largest difference relative to the largest entry of ``one``; equal NaN and inf agree."""
    if torch.equal(one, other) or not one.numel():
        return 0.0
    wide = torch.complex128 if one.is_complex() else torch.float64
    one, other = one.cpu().to(wide), other.cpu().to(wide)
    same = (one == other) | (one.isnan() & other.isnan())
    one, other = one[~same], other[~same]
    if not len(one):
        return 0.0
    # not below the smallest normal number, so that two almost-zero outputs can be compared
    scale = max(one.abs().max().item(), torch.finfo(torch.float32).tiny)
    difference = ((one - other).abs().max() / scale).item()
    return difference if np.isfinite(difference) else float("inf")


def batches_like(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[Sequence[Any], Mapping[str, Any]]]:
    """The example, then the same with another batch size: half, or twice if that is odd.

    The first dimension of the first tensor is the batch, and so is that of every other tensor that
    has the same length. Whole numbers of another length may be indices, such as the edges of a
    graph, that would point at what was cut off: such an example stays as it is.
    """
    yield args, kwargs
    tensors = [t for t in tensors_in([args, kwargs]) if t.ndim and t.shape[0]]
    sizes = [t.shape[0] for t in tensors]
    if not sizes or any(len(t) != sizes[0] and not t.is_floating_point() for t in tensors):
        return

    def resized(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        if not tensor.ndim or tensor.shape[0] != sizes[0]:
            return tensor
        return torch.cat([tensor, tensor]) if sizes[0] % 2 else tensor[: sizes[0] // 2]

    yield map_tensors((list(args), dict(kwargs)), resized)


def map_tensors(value: Value, change: Callable[[Tensor], Tensor]) -> Value:
    """The same tuples, lists and dicts, with every tensor in them changed."""

    def mapped(item: Any) -> Any:
        if isinstance(item, Tensor):
            return change(item)
        if isinstance(item, dict):
            return {key: mapped(one) for key, one in item.items()}
        if type(item) in (tuple, list):
            return type(item)(mapped(one) for one in item)
        return item

    return mapped(value)
