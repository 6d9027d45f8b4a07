"""Which positions of a call are looked at: never padding, and the same ones on every device."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mipp.tracing.calls import LINEAR, Call, counted, n_positions


def sampled_positions(
    call: Call,
    mask: Bool[Tensor, "batch length"] | None,
    wanted: float | int,
    n_samples: int,
    seed: int,
    examples: int | None = None,
) -> Int[Tensor, " rows"]:
    """Positions of a call, drawn at random and in the order of the draw.

    Args:
        call: the call.
        mask: the tokens that are no padding, see `mipp.tracing.calls.token_mask`.
        wanted: rows wanted from all examples together; this call gives its share, at least one row.
        n_samples: how many examples there are, over all batches and processes.
        seed: of the draw, see `consumer_seed` and `weight_seed`.
        examples: how many there are in this batch; with None what the first dimension of the
            call's input counts.

    Returns:
        Indices out of `n_positions`, on the CPU. All of them, in rising order, where no more are
        wanted than there are; none where only padding is left.
    """
    real = counted(call, mask)
    total = n_positions(call) if real is None else len(real)
    if total == 0:
        return torch.arange(0)
    examples = examples or n_examples(call)
    n_rows = max(1, round(min(1.0, wanted * examples / (n_samples * total)) * total))
    if n_rows >= total:
        return torch.arange(total) if real is None else real
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randperm(total, generator=generator)[:n_rows]
    return pick if real is None else real[pick]


def n_examples(call: Call) -> int:
    """What the first dimension of a call's input counts; 1 for a single row."""
    return call.input.shape[0] if call.input.dim() > 1 else 1


def n_features(call: Call) -> int:
    """Features of one row of a call's input, in each block of a grouped convolution.

    Inputs times kernel cells; of a transposed convolution the inputs alone.
    """
    if call.kind in LINEAR:
        return call.input.shape[-1]
    if call.kind == "conv_transpose":
        return call.weight.shape[0] // call.groups
    return call.weight[0].numel()


def consumer_seed(seed: int, batch: int, index: int) -> int:
    """Seeds the draw for a consumer of units, by its index.

    Another mixture than `weight_seed`: either one changes the plans that a seed gives.
    """
    return (seed * 1_000_003 + batch * 10_007 + index) % 2**63


def weight_seed(seed: int, batch: int, index: int, call: int) -> int:
    """Seeds the draw for one call of a weight whose entries are pruned one by one."""
    mixed = 0
    for number in (seed, batch, index, call):
        mixed = (mixed * 1_000_003 + number) % 2**63
    return mixed
