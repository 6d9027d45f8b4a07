"""The record on a sliced model of which indices and sizes are left of the full-size one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from mipp.errors import InputError
from mipp.records import AxisKey, IntArray
from mipp.surgery.keeps import AttributeKeep, AxisKeep
from mipp.surgery.tensors import named_tensors
from mipp.tracing.guards import unwrap
from mipp.tracing.size_attributes import integers

RECORD = "_mipp_keep"
"""Attribute of a sliced model that holds its `AxisKeep` records, for `mipp.save`."""
SIZES = "_mipp_sizes"
"""Attribute of a sliced model that holds its `AttributeKeep` records."""


def original_indices(model: nn.Module) -> dict[tuple[str, int], tuple[int, ...]]:
    """Where what is left of a pruned model comes from: ``(tensor, dimension)`` -> indices.

    They count in the model that was never pruned, over all rounds, and also for a model that
    `mipp.load` read. Dimensions that lost nothing are absent, and so are all of a whole model.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> batches = [torch.randn(64, 4)]
        >>> plan = mipp.plan(net, batches, "units=25%")
        >>> mipp.original_indices(plan.apply())["0.bias", 0] == plan.keep["0"]
        True
    """
    return {(axis.tensor, axis.dim): axis.kept for axis in recorded_axes(unwrap(model))}


def recorded_axes(model: nn.Module) -> tuple[AxisKeep, ...]:
    """What earlier calls of `slice_model` kept of the model, or of modules inside it.

    Names are those in ``model``; indices count in the full-size model. Empty if never sliced.
    """
    return tuple(
        AxisKeep(f"{name}.{axis.tensor}".lstrip("."), axis.dim, axis.size, axis.kept)
        for name, module in _recorded(model)
        for axis in vars(module)[RECORD]
    )


def recorded_sizes(model: nn.Module) -> tuple[AttributeKeep, ...]:
    """The attributes that earlier calls of `slice_model` changed, named as in ``model``."""
    return tuple(
        AttributeKeep(f"{name}.{size.module}".strip("."), size.name, size.before, size.after)
        for name, module in _recorded(model)
        for size in vars(module).get(SIZES, ())
    )


def _recorded(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that were sliced, with their paths."""
    taken: list[str] = []
    for name, module in model.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer in taken)
        if RECORD in vars(module) and not inside and taken != [""]:
            taken.append(name)
            yield name, module


def write_record(
    model: nn.Module, axes: tuple[AxisKeep, ...], sizes: tuple[AttributeKeep, ...] = ()
) -> None:
    """Records on the model what was kept, and on each module inside it its own part of that.

    A part serves those who take the module out and save it alone; otherwise the outermost record
    counts.
    """
    tensors = named_tensors(model)
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    axes_in: dict[str, list[AxisKeep]] = {}
    for axis in axes:
        for own in names.get(id(tensors.get(axis.tensor)), ()):
            for path, rest in _inside(own):
                axes_in.setdefault(path, []).append(replace(axis, tensor=rest))
    sizes_in: dict[str, list[AttributeKeep]] = {}
    for size in sizes:
        for path, rest in _inside(f"{size.module}."):
            sizes_in.setdefault(path, []).append(replace(size, module=rest.removesuffix(".")))
    for path, module in model.named_modules():
        vars(module).pop(RECORD, None)
        vars(module).pop(SIZES, None)
        mine = axes if path == "" else tuple(axes_in.get(path, ()))
        counts = sizes if path == "" else tuple(sizes_in.get(path, ()))
        if mine or path == "":
            setattr(module, RECORD, mine)
        if counts:
            setattr(module, SIZES, counts)


def _inside(name: str) -> Iterator[tuple[str, str]]:
    """Paths of the modules that a name lies in, each with the name as seen from there."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        yield ".".join(parts[:depth]), ".".join(parts[depth:])


def check_sizes(model: nn.Module, sizes: Sequence[AttributeKeep], *, sliced: bool) -> None:
    """Raises `InputError` unless the attributes have the values after, or before, slicing."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for size in sizes:
        expected = size.after if sliced else size.before
        module = modules.get(size.module)
        found = None if module is None else integers(module).get(size.name)
        if found != expected:
            raise InputError(
                f"attribute {size.name!r} of {size.module!r} should be {expected} and is "
                f"{found!r}. Was the plan or the file made for another model?"
            )


def composed(model: nn.Module, kept: Mapping[AxisKey, IntArray]) -> tuple[AxisKeep, ...]:
    """What is kept of the full-size model after slicing a model that may have been sliced."""
    tensors = named_tensors(model)
    before = {axis.key: axis for axis in recorded_axes(model)}
    now = dict(before)
    for key, indices in kept.items():
        earlier = before.get(key)
        size = tensors[key.tensor].shape[key.dim] if earlier is None else earlier.size
        chosen = indices if earlier is None else earlier.indices[indices]
        now[key] = AxisKeep(key.tensor, key.dim, size, tuple(chosen.tolist()))
    return tuple(now[key] for key in sorted(now))


def composed_sizes(model: nn.Module, sizes: Sequence[AttributeKeep]) -> tuple[AttributeKeep, ...]:
    """What became of the full-size model's attributes after slicing what may have been sliced."""
    now = {(size.module, size.name): size for size in recorded_sizes(model)}
    for size in sizes:
        earlier = now.get((size.module, size.name), size)
        now[size.module, size.name] = replace(size, before=earlier.before)
    return tuple(now[key] for key in sorted(now))
