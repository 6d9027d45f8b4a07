"""The record of a plan of single weights, as plain data, and the zeros that it makes."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mipp import refusals
from mipp.errors import InputError
from mipp.records import BoolArray, Refusal, Trail
from mipp.surgery.record import few_rows_lines, json_text, read_json
from mipp.surgery.slice import slice_model
from mipp.surgery.tensors import named_tensors

FORMAT = 1
"""Version of the JSON form of a plan of single weights."""
KIND = "weights"

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Nonzeros:
    """Numbers of weights and parameters that are not zero.

    Attributes:
        params: of the whole model.
        weights: of the layers that can be pruned.
    """

    params: int
    weights: int


@dataclass(frozen=True)
class LayerSummary:
    """The change of the weight of one layer.

    Attributes:
        name: Of the parameter.
        shape: Of the parameter.
        weights_before: Weights that are not zero in the model.
        weights_after: Weights that stay.
        empty_rows: Outputs that no longer read any input.
        nats_before: Per example, with the outputs seen one by one; NaN where a method measures
            none.
        nats_after: The same with the weights that stay.
    """

    name: str
    shape: tuple[int, ...]
    weights_before: int
    weights_after: int
    empty_rows: int
    nats_before: float
    nats_after: float


@dataclass(frozen=True)
class MaskRecord:
    """The content of a plan of single weights.

    Attributes:
        granularity: ``"weight"``, ``"2:4"`` or ``"4:8"``.
        masks: Parameter name -> which entries stay, bit by bit in the order of the flattened
            weight, deflated, in base 64 (`packed`, `unpacked`).
        summary: A row for each layer.
        refused: Layers that are left as they are; their ``n_units`` are weights.
        before: Of the whole model.
        after: Of the whole model.
        options: As in `PlanRecord`.
        fingerprint: As in `PlanRecord`.
        mipp_version: As in `PlanRecord`.
        trails: Nats lost with the weights of a layer, for reports; none where a method measures
            none.
    """

    granularity: str
    masks: Mapping[str, str]
    summary: tuple[LayerSummary, ...]
    refused: tuple[Refusal, ...]
    before: Nonzeros
    after: Nonzeros
    options: Mapping[str, Any]
    fingerprint: str
    mipp_version: str
    trails: tuple[Trail, ...] = ()

    def __post_init__(self) -> None:
        shapes = {row.name: row for row in self.summary}
        if shapes.keys() != self.masks.keys():
            raise InputError("a plan of weights: expected one mask for each layer of the summary")
        for name, mask in self.masks.items():
            kept = int(unpacked(mask, shapes[name].shape, name).sum())
            if kept != shapes[name].weights_after:
                raise InputError(
                    f"mask of {name!r}: expected {shapes[name].weights_after} weights that stay, "
                    f"got {kept}"
                )

    def mask(self, name: str) -> BoolArray:
        """True where a weight stays, in the shape of the parameter."""
        shape = next(row.shape for row in self.summary if row.name == name)
        return unpacked(self.masks[name], shape, name)

    def to_json(self) -> str:
        """The plan as JSON text; NaN is written as null."""
        content: dict[str, Any] = {"format": FORMAT, "kind": KIND} | asdict(self)
        if not self.trails:
            del content["trails"]
        return json_text(content, "layer")

    @classmethod
    def from_json(cls, text: str) -> "MaskRecord":
        """Reads what `to_json` wrote.

        Raises:
            FileError: The text is damaged, or no plan of single weights.
        """

        def problem(content: Mapping[str, Any]) -> str:
            found = content.get("format"), content.get("kind")
            return "" if found == (FORMAT, KIND) else (
                f"not a plan of weights that this version reads: expected format {FORMAT} of kind "
                f"{KIND!r}, got {found[0]!r} of kind {found[1]!r}. Plans of units are read by "
                "mipp.Plan.from_json."
            )  # fmt: skip

        return read_json(cls, text, problem)

    def notes(self) -> list[str]:
        """Lines that say how to read the figures."""
        return few_rows_lines(self.options)

    def describe(self) -> list[str]:
        """Plain text: a line for each layer, the totals, what was refused and why."""
        width = max((len(row.name) for row in self.summary), default=0)
        lines = []
        for row in self.summary:
            nats = "" if np.isnan(row.nats_before) else (
                f", {row.nats_after / row.nats_before if row.nats_before else 1.0:.1%} of "
                f"{row.nats_before:.4g} nats"
            )  # fmt: skip
            empty = f", {row.empty_rows} outputs read nothing" if row.empty_rows else ""
            share = row.weights_after / max(row.weights_before, 1)
            lines.append(
                f"{row.name:<{width}}  {row.weights_before:>9,} -> {row.weights_after:>9,} weights "
                f"({share:.1%} left){nats}{empty}"
            )
        for what, before, after in (
            ("weights", self.before.weights, self.after.weights),
            ("params", self.before.params, self.after.params),
        ):
            lines.append(f"{what}: {before:,} -> {after:,} ({after / max(before, 1):.1%} left)")
        return [*lines, *self.notes(), *refusals.in_lines(self.refused, "weights")]


def packed(mask: BoolArray) -> str:
    """A mask as text, one bit an entry before it is deflated."""
    bits = np.packbits(mask.ravel())
    return base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode("ascii")


def unpacked(text: str, shape: tuple[int, ...], name: str) -> BoolArray:
    """The mask that was packed; raises `InputError` if the text is not of that many entries."""
    size = int(np.prod(shape))
    try:
        # never more than a mask of this size and one byte, whatever the text would unpack to
        bits = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size // 8 + 2)
    except (ValueError, zlib.error) as error:
        raise InputError(f"mask of {name!r} cannot be unpacked: {error}") from error
    if len(bits) != -(-size // 8):
        raise InputError(f"mask of {name!r}: expected {size} entries, got {len(bits)} bytes of 8")
    flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=size).astype(bool)
    return flat.reshape(shape)


def apply_masks(
    model: Module, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
) -> Module:
    """A copy of the model with zeros where the masks are false; the model itself is not changed.

    Args:
        model: The model, of which a copy is changed.
        masks: Which entries of a parameter stay, by its name.
        weights: Values that the parameters get before that, those of the model where absent.
    """
    copied = slice_model(model, {})
    tensors = named_tensors(copied)
    with torch.no_grad():
        for name, mask in masks.items():
            if name in (weights or {}):
                tensors[name].copy_((weights or {})[name])
            tensors[name].masked_fill_(~mask.to(tensors[name].device), 0)
    return copied
