"""What each consumer takes in and gives, row by row, for estimators that learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp.errors import CalibrationError, InputError
from mipp.records import Consumer
from mipp.statistics.batches import Batch
from mipp.statistics.calling import blaming
from mipp.statistics.loss import floating_outputs
from mipp.statistics.recorder import OF_ROWS, CaptureConfig
from mipp.tracing.calls import (
    LINEAR,
    Call,
    CallHooks,
    input_rows,
    n_positions,
    output_rows,
    token_mask,
    weight_matrix,
)
from mipp.tracing.guards import measuring
from mipp.tracing.sampling import consumer_seed, sampled_positions


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one consumer.

    Features are channel first; each channel has as many of them as there are positions in its map,
    cells in a kernel, or one.

    Attributes:
        inputs: ``X``.
        outputs: ``Y``.
        example: number of the example that each row is from.
    """

    inputs: Float[Tensor, "rows d"]
    outputs: Float[Tensor, "rows m"]
    example: Int[Tensor, " rows"]


@dataclass(eq=False)
class _Parts:
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    example: list[Tensor] = field(default_factory=list)


def collect_rows(
    model: nn.Module,
    consumers: Mapping[int, Consumer],
    batches: Sequence[Batch],
    *,
    shape: Literal["maps", "positions"],
    config: CaptureConfig | None = None,
    seed: int = 0,
) -> dict[int, Rows]:
    """Collects the rows of every consumer, in one pass over the batches.

    Args:
        model: the model, which is left as it was.
        consumers: index -> consumer, as the graph lists them.
        batches: the examples.
        shape: ``"maps"`` for one row an example, with all its positions; ``"positions"`` for one
            row a position (the patch under the kernel), as many as ``config`` says, drawn at
            random.
        config: how many rows are drawn.
        seed: of the draw.

    Returns:
        The rows by consumer index.

    Raises:
        CalibrationError: a consumer never ran, or its values are not finite.
    """
    config = config or CaptureConfig()
    by_key = {(c.weight, c.call): index for index, c in consumers.items()}
    found = {index: _Parts() for index in consumers}
    n_samples = sum(len(batch) for batch in batches)
    seen = 0
    with torch.no_grad(), measuring(model):
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        for number, whole in enumerate(batches):
            batch = whole.to(device)
            mask = token_mask(batch.kwargs)

            def after(
                call: Call, output: Tensor, number: int = number, seen: int = seen,
                size: int = len(batch), mask: Tensor | None = mask,
            ) -> Tensor:  # fmt: skip
                index = by_key.get(call.key)
                if index is not None:
                    parts = found[index]
                    if shape == "maps":
                        x, y = _maps(call, call.input, size), _maps(call, output, size)
                        example = torch.arange(size)
                    else:
                        draw = consumer_seed(seed, number, index)
                        x, y, example = _positions(
                            call, output, size, n_samples, config, draw, mask
                        )
                    parts.inputs.append(x)
                    parts.outputs.append(y)
                    parts.example.append(example + seen)
                return output

            with blaming(number), CallHooks(model, after=after):
                model(*batch.args, **batch.kwargs)
            seen += len(batch)
    return {index: _joined(consumer, found[index]) for index, consumer in consumers.items()}


def _joined(consumer: Consumer, parts: _Parts) -> Rows:
    if not parts.inputs:
        raise CalibrationError(
            f"{consumer.name} was traced but never ran on the calibration batches. If the model "
            "takes another path in evaluation mode, trace it with such a batch."
        )
    x, y = torch.cat(parts.inputs), torch.cat(parts.outputs)
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise CalibrationError(
            f"{consumer.name} takes in or gives NaN or infinite values. Check the model in "
            "evaluation mode (half precision overflows above 65504: use bfloat16 or float32)."
        )
    return Rows(x, y, torch.cat(parts.example))


def _maps(call: Call, values: Tensor, size: int) -> Float[Tensor, "n features"]:
    """All positions of each channel, one row an example."""
    if len(values) != size:
        raise CalibrationError(
            f"{call.name.removesuffix('.weight')} runs on {len(values)} rows for a batch of {size} "
            "examples; whole maps need one row an example. Use an estimator with "
            "row_shape='positions'."
        )
    channel_dim = -1 if call.kind in LINEAR else 1
    values = values.movedim(channel_dim, 1).reshape(size, -1)
    return values.float() if values.dtype not in (torch.float32, torch.float64) else values.clone()


def _positions(
    call: Call,
    output: Tensor,
    size: int,
    n_samples: int,
    config: CaptureConfig,
    seed: int,
    mask: Tensor | None,
) -> tuple[Float[Tensor, "rows d"], Float[Tensor, "rows m"], Int[Tensor, " rows"]]:
    if call.input.dim() > 1 and call.input.shape[0] % size:
        raise CalibrationError(
            f"{call.name.removesuffix('.weight')} takes in {tuple(call.input.shape)} for a batch "
            f"of {size} examples; rows need the examples in the first dimension. Give batch_first "
            "inputs, or use estimator='gaussian' without confidence."
        )
    matrix = weight_matrix(call.kind, call.weight)
    wanted = config.rows(matrix.shape[1], OF_ROWS)
    pick = sampled_positions(call, mask, wanted, n_samples, seed, size).sort().values
    on_device = pick.to(output.device)
    x = input_rows(call, on_device)
    if call.kind == "conv_transpose":
        y = x @ matrix.T.to(x.dtype)  # outputs overlap: what each input position adds to them
    else:
        y = output_rows(call, output, on_device)
    return x, y, pick * size // n_positions(call)


def answers(
    model: nn.Module, batches: Sequence[Batch], target: Literal["outputs", "labels"]
) -> Float[Tensor, "n m"] | Int[Tensor, " n"]:
    """The model's output for each example, or the labels that came with the batches.

    Args:
        model: the model, which is left as it was.
        batches: the examples.
        target: ``"outputs"``, each example's as one row, or ``"labels"``.

    Raises:
        InputError: labels are requested, and a batch has no class indices of shape (batch,).
    """
    if target == "labels":
        labels = [batch.target for batch in batches]
        for label, batch in zip(labels, batches, strict=True):
            if (
                not isinstance(label, Tensor)
                or label.is_floating_point()
                or label.shape != (len(batch),)
            ):
                raise InputError(
                    "target='labels' needs class indices of shape (batch,) with every batch; give "
                    "(input, target) pairs, or use target='outputs'."
                )
        joined = torch.cat(labels).long()
        if int(joined.min()) < 0:
            raise InputError(
                f"target='labels' was given the label {int(joined.min())}; class indices count "
                "from 0. Leave out examples without a label."
            )
        return joined
    found = []
    with torch.no_grad(), measuring(model):
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        for number, whole in enumerate(batches):
            batch = whole.to(device)
            with blaming(number):
                output = model(*batch.args, **batch.kwargs)
            parts = [tensor.reshape(len(batch), -1) for tensor in floating_outputs(output)]
            found.append(torch.cat(parts, 1).float())
    return torch.cat(found)
