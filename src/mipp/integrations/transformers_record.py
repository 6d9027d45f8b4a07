"""What a folder says beside the config: the widths and the units that are left."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mipp.errors import FileError, InputError
from mipp.integrations.transformers_config import Followed
from mipp.origin import Applied, Source, note_plans, note_source, plans_of, source_of
from mipp.records import AxisKey
from mipp.surgery import installed_version, recorded_sizes, slice_model
from mipp.surgery.block_names import RemovedBlock
from mipp.surgery.blocks import note_blocks, recorded_blocks
from mipp.surgery.file_record import ADVICE
from mipp.surgery.keeps import AttributeKeep, AxisKeep
from mipp.surgery.kept_record import recorded_axes, write_record
from mipp.surgery.record import first_problem
from mipp.surgery.tensors import named_tensors
from mipp.tracing.size_attributes import integers

FILE = "mipp.json"
FORMAT = 1


@dataclass(frozen=True)
class FolderRecord:
    """The content of ``mipp.json``.

    Attributes:
        format: Version of the record.
        mipp_version: That wrote it.
        model: Name of the class in transformers.
        axes: What was kept of the full-size model.
        sizes: Attributes of modules that changed with the widths.
        shapes: Tensors whose shape the config does not say.
        numbers: Path of a module -> its numbers that the config does not say.
        plans: That were applied, one after the other.
        whole: The config of the full-size model.
        blocks: That were taken out of it.
    """

    format: int
    mipp_version: str
    model: str
    axes: tuple[AxisKeep, ...]
    sizes: tuple[AttributeKeep, ...]
    shapes: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, Mapping[str, int]]
    plans: tuple[Applied, ...] = ()
    whole: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[RemovedBlock, ...] = ()

    def note_on(self, model: nn.Module) -> None:
        """Notes on a model that was read what the one that was written had noted."""
        write_record(model, self.axes, self.sizes)
        note_blocks(model, self.blocks)
        note_plans(model, self.plans)
        if self.whole:
            note_source(model, Source(f"hf:{self.model}", {"config": self.whole}))


def record_of(model: nn.Module, followed: Followed) -> FolderRecord:
    """The record of a model whose config follows as far as it can.

    Raises:
        InputError: The model has other weights than its class, or lost some that are not saved.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    numbers: dict[str, dict[str, int]] = {}
    state, kind = model.state_dict(), type(model).__name__
    for (owner, place), (before, after) in followed.differences.items():
        if isinstance(place, str):
            numbers.setdefault(owner, {})[place] = after
        elif before is None or after is None:
            raise InputError(
                f"{owner!r} is {'new' if before is None else 'absent'} in this {kind}, compared "
                "with what its config builds. Put experts that were taken apart together with "
                "mipp.prepare.restacked; for other models, such as those whose config cannot say "
                "which blocks are gone, use mipp.save and mipp.load."
            )
        elif owner in state:
            shapes[owner] = tuple(state[owner].shape)
        else:
            raise InputError(
                f"the buffer {owner!r}, which the state of {kind} leaves out, was pruned, and "
                "transformers would compute it anew. Use mipp.save and mipp.load."
            )
    axes, sizes = recorded_axes(model), recorded_sizes(model)
    return FolderRecord(
        FORMAT,
        installed_version(),
        type(model).__name__,
        axes,
        sizes,
        shapes,
        numbers,
        plans_of(model),
        _whole_config(model),
        recorded_blocks(model),
    )


def _whole_config(model: Any) -> dict[str, Any]:
    """The config of the full-size model: as it was noted, or the model's own."""
    noted = source_of(model)
    if noted is not None and "config" in noted.arguments:
        return dict(noted.arguments["config"])
    found: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return found


def cut_class(kind: Any, record: FolderRecord) -> Any:
    """The class, or one like it whose models are built with the widths of the record."""
    if not record.shapes and not record.numbers:
        return kind

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        vars(self).update(vars(_with_widths(self, record)))

    return type(kind.__name__, (kind,), {"__init__": build, "__module__": kind.__module__})


def _with_widths(model: nn.Module, record: FolderRecord) -> nn.Module:
    """A copy of the model that the config gives, cut to the widths of the record."""
    kept = {(axis.tensor, axis.dim): axis for axis in record.axes}
    cuts = {}
    for name, tensor in named_tensors(model).items():
        for dim, size in enumerate(record.shapes.get(name, ())):
            whole = tensor.shape[dim]
            if whole != size:
                axis = kept.get((name, dim))
                if axis is not None and (axis.size, len(axis.kept)) == (whole, size):
                    cuts[AxisKey(name, dim)] = axis.indices
                else:  # any units do: the weights come from the file
                    cuts[AxisKey(name, dim)] = np.arange(size)
    modules, sizes = dict(model.named_modules()), []
    for path, places in record.numbers.items():
        found = integers(modules[path]) if path in modules else {}
        for place, after in places.items():
            if place not in found:
                raise InputError(f"{type(model).__name__} has no number {path}.{place}")
            sizes.append(AttributeKeep(path, place, found[place], after))
    return slice_model(model, cuts, sizes=sizes)


def read_record(folder: Path) -> FolderRecord | None:
    """The record in a folder; None where mipp has not written it."""
    from pydantic import TypeAdapter, ValidationError

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        text = path.read_text()
        written = json.loads(text).get("format")
        if written != FORMAT:
            raise FileError(
                f"{path} has format {written!r}; this version of mipp reads format {FORMAT}. Read "
                "it with the version that wrote it."
            )
        return TypeAdapter(FolderRecord).validate_json(text, strict=True)
    except ValidationError as error:
        raise FileError(f"{path} is damaged: {first_problem(error)}. {ADVICE}") from error
    except (OSError, ValueError, AttributeError, InputError) as error:
        raise FileError(f"{path} cannot be read: {error}. {ADVICE}") from error
