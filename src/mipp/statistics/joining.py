"""Several batches as one, where the model computes the same from both."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mipp.statistics.batches import Batch
from mipp.statistics.calling import blaming
from mipp.statistics.loss import floating_outputs
from mipp.tracing.guards import measuring


def joined(batches: Sequence[Batch]) -> Batch:
    """All examples in one batch: joined along dimension 0 where that counts the examples."""
    if len(batches) == 1:
        return batches[0]
    sizes = [len(batch) for batch in batches]

    def join(*leaves: Any) -> Any:
        pairs = zip(leaves, sizes, strict=True)
        batched = all(isinstance(x, Tensor) and x.dim() > 0 and len(x) == n for x, n in pairs)
        return torch.cat(leaves) if batched else leaves[0]

    return Batch(*pytree.tree_map(join, *[(b.args, dict(b.kwargs)) for b in batches]))


def in_one(model: nn.Module, batches: Sequence[Batch]) -> tuple[Sequence[Batch], Batch]:
    """The batches on the model's device, as far as they are `joinable`, and all of them in one."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    moved = joinable(model, [batch.to(device) for batch in batches])
    return moved, joined(moved)


def joinable(model: nn.Module, batches: Sequence[Batch]) -> Sequence[Batch]:
    """The batches whose examples the model takes in one batch as well: all, or the largest alone.

    Warns where it is not all. The edges of two graphs, say, cannot be joined without knowing that
    they are indices.
    """
    divisible = all(batch.divisible for batch in batches)
    if len(batches) == 1 or (divisible and same_constants(batches)):
        return batches
    if _same_outputs(model, batches):
        return batches
    largest = max(batches, key=lambda batch: sum(t.numel() for t in batch.tensors()))
    warnings.warn(
        f"The {len(batches)} batches do not have the examples in dimension 0 of all inputs and "
        f"cannot be joined; the refit uses the largest of them alone ({len(largest)} rows). Join "
        "them into one batch, as torch_geometric.data.Batch does with graphs, to use all.",
        stacklevel=2,
    )
    return [largest]


def _same_outputs(model: nn.Module, batches: Sequence[Batch]) -> bool:
    """Whether the outputs of all examples at once are those of the batches."""
    if not same_constants(batches):
        return False
    with torch.no_grad(), measuring(model):
        apart = []
        for number, batch in enumerate(batches):
            with blaming(number):
                apart.append(floating_outputs(model(*batch.args, **batch.kwargs)))
        try:
            whole = joined(batches)
            together = floating_outputs(model(*whole.args, **whole.kwargs))
        except Exception:  # noqa: BLE001 # a user's forward may raise anything
            return False
    if len({len(together), *map(len, apart)}) > 1:
        return False
    return all(_is_joined(one, [outputs[k] for outputs in apart]) for k, one in enumerate(together))


def _is_joined(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether the parts, one after the other along some dimension, are the whole."""
    for dim in range(whole.dim()):
        others = [(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts]
        total = sum(part.shape[dim] if part.dim() == whole.dim() else -1 for part in parts)
        if {*others} != {(*whole.shape[:dim], *whole.shape[dim + 1 :])} or total != len(
            whole.movedim(dim, 0)
        ):
            continue
        cat = torch.cat(list(parts), dim)
        if torch.allclose(whole, cat, rtol=1e-3, atol=1e-5 * float(cat.abs().max())):
            return True
    return False


def same_constants(batches: Sequence[Batch]) -> bool:
    """Whether all batches have the same inputs where dimension 0 does not count the examples."""
    constants = [_constants(batch) for batch in batches]
    return all(
        len(mine) == len(constants[0]) and all(map(_equal, mine, constants[0]))
        for mine in constants[1:]
    )


def _constants(batch: Batch) -> list[Any]:
    size = len(batch)
    leaves = pytree.tree_leaves((batch.args, dict(batch.kwargs)))
    return [x for x in leaves if not (isinstance(x, Tensor) and x.dim() > 0 and len(x) == size)]


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left, right)
    return left is right or (isinstance(left, bool | int | float | str) and left == right)
