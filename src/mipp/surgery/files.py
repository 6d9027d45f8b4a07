"""Pruned models in one safetensors file: the weights, and what was kept of the full-size model.

Nothing is pickled. The file holds every tensor once, of those with many zeros only the entries that
are not zero, and one JSON text under the key ``mipp`` of its metadata. A digest over both shows
damage and careless edits; it is no signature, since whoever changes a file on purpose can compute
it again.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mipp.atomic_files import replacing
from mipp.checks import checked
from mipp.errors import FileError, InputError, SurgeryError
from mipp.origin import Source, note_plans, note_source, plans_of
from mipp.surgery.blocks import fit_blocks, note_blocks, recorded_blocks
from mipp.surgery.file_record import (
    ADVICE,
    FORMAT,
    KEY,
    PACKED,
    THINNED,
    FileRecord,
    digest_of,
    read_file,
)
from mipp.surgery.keeps import AxisKeep, fingerprint, kept_of
from mipp.surgery.kept_record import check_sizes, recorded_axes, recorded_sizes, write_record
from mipp.surgery.record import installed_version
from mipp.surgery.slice import slice_model
from mipp.surgery.tensors import state_shapes
from mipp.surgery.weight_files import pack
from mipp.tracing.guards import gradients_enabled, unwrap

Shapes = Mapping[str, tuple[int, ...]]
T = TypeVar("T")


@checked
def save(
    model: nn.Module,
    path: str | Path,
    extra: Mapping[str, Any] = MappingProxyType({}),
    source: Source | None = None,
) -> None:
    """Writes a model, pruned or not, so that `load` can put it into a freshly built full-size one.

    The whole of `mipp.save`, but for finding out what builds the model.

    Args:
        model: The model, pruned or not.
        path: The file, whose name ends in ``.safetensors``.
        extra: Anything that JSON can hold, to be found in `read_record`.
        source: What builds the full-size model, where that is known.

    Raises:
        InputError: As `mipp.save`.
        FileError: As `mipp.save`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise FileError(
            f"{path} was given; expected a name that ends in .safetensors, which is what the file "
            f"is, whatever its name. Save it as {path.with_suffix('.safetensors').name!r}."
            if path.name
            else f"{str(path)!r} is no name of a file; expected one that ends in .safetensors."
        )
    model = unwrap(model)
    tensors, aliases = _stored(model)
    axes = recorded_axes(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    full = _full_shapes(_with_aliases(shapes, aliases), axes, aliases)
    content = {
        "format": FORMAT,
        "axes": [asdict(axis) for axis in axes],
        "aliases": aliases,
        "fingerprint": fingerprint(full),
        "mipp_version": installed_version(),
        "extra": dict(extra),
    }
    sizes = recorded_sizes(model)
    if sizes:
        check_sizes(model, sizes, sliced=True)
        content["sizes"] = [asdict(size) for size in sizes]
    content["versions"] = _versions(model)
    if source is not None:
        content["source"] = asdict(source)
    if plans_of(model):
        content["plans"] = [asdict(plan) for plan in plans_of(model)]
    stored, packed = pack(tensors)
    if packed:
        content |= {"format": PACKED, "packed": {n: list(shape) for n, shape in packed.items()}}
    if recorded_blocks(model):
        content["format"] = THINNED
        content["blocks"] = [asdict(block) for block in recorded_blocks(model)]
    try:
        text = json.dumps(content | {"digest": digest_of(content, stored)}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"extra must be what JSON can hold: {error}") from error
    _write(path, stored, {KEY: text})


@gradients_enabled()
@checked
def load(model: nn.Module | Callable[[], nn.Module], path: str | Path) -> nn.Module:
    """The model that was saved, as a new module; the one given is left exactly as it is.

    Args:
        model: A full-size model, what builds one, or a model that already has the small widths.
            Train / eval mode, devices and hooks are taken from it, all weights from the file.
        path: A file that `save` has written.

    Raises:
        FileError: No such file, a damaged or changed one, or one for another model: other names,
            shapes, number types or shared tensors.

    Examples:
        >>> import tempfile, torch, mipp
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> path = f"{tempfile.mkdtemp()}/small.safetensors"
        >>> mipp.save(mipp.prune(net, [torch.randn(64, 4)], "units=25%"), path)
        >>> mipp.load(net, path)[2]
        Linear(in_features=2, out_features=2, bias=True)
    """
    given = unwrap(model if isinstance(model, nn.Module) else model())
    return put(given, *read_file(Path(path)), Path(path))


def put(
    given: nn.Module, record: FileRecord, tensors: Mapping[str, Tensor], path: Path
) -> nn.Module:
    """A copy of a model with the widths and weights that `read_file` has found; see `load`."""
    state = _with_aliases(tensors, record.aliases)
    try:
        given = fit_blocks(given, record.blocks)
    except InputError as error:
        raise FileError(f"{path} does not fit {type(given).__name__}: {error}") from error
    small = _with_saved_widths(given, record, state, path)
    for name, tensor in small.state_dict(keep_vars=True).items():
        if tensor.dtype != state[name].dtype:
            raise FileError(
                f"{path}: {name!r} is {state[name].dtype} in the file and {tensor.dtype} in the "
                f"model. Convert the model first, with model.to({state[name].dtype})."
            )
        if tensor.is_meta:
            raise InputError("the model is on the meta device: build it on a real one")
    small.load_state_dict(state, strict=True)
    write_record(small, record.axes, record.sizes)
    note_blocks(small, record.blocks)
    note_plans(small, record.plans)
    if record.source is not None:
        note_source(small, record.source)
    return small


@checked
def read_record(path: str | Path) -> FileRecord:
    """The record in a file written by `save`; raises `FileError` like `load`."""
    return read_file(Path(path))[0]


def full_fingerprint(model: nn.Module) -> str:
    """That of the model before units were removed; blocks that are gone are not in it."""
    aliases = _aliases(model)
    shapes = {n: shape for n, shape in state_shapes(model).items() if n not in aliases}
    axes = recorded_axes(model)
    return fingerprint(_full_shapes(_with_aliases(shapes, aliases), axes, aliases))


def _with_saved_widths(
    model: nn.Module, record: FileRecord, state: Mapping[str, Tensor], path: Path
) -> nn.Module:
    """A copy of the model with the widths of the saved one."""
    small = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found = state_shapes(model)
    try:
        full = _full_shapes(small, record.axes, record.aliases)
        if fingerprint(full) != record.fingerprint:
            raise FileError(f"{path} is damaged: tensors are missing or changed shape. {ADVICE}")
        # a buffer that is not saved must come from a model that was cut alike
        unsaved = any(axis.tensor not in small for axis in record.axes)
        if found == full:
            result = slice_model(model, kept_of(record.axes), record.aliases, record.sizes)
        elif found == small and (not unsaved or recorded_axes(model) == record.axes):
            check_sizes(model, record.sizes, sliced=True)
            result = slice_model(model, {})
        else:
            raise FileError(
                f"{path} was saved from another model: {_first_mismatch(found, full)}. Give the "
                f"full-size model that was pruned, freshly built, or a model of the saved widths."
            )
    except (InputError, SurgeryError) as error:
        raise FileError(f"{path} does not fit {type(model).__name__}: {error}") from error
    if _aliases(result) != record.aliases:
        raise FileError(
            f"{path}: the saved model shares the tensors {dict(record.aliases)} (name: stored as), "
            f"the one given shares {_aliases(result)}. Tie the same weights as when it was saved."
        )
    return result


def _first_mismatch(found: Shapes, expected: Shapes) -> str:
    for name in sorted(found.keys() | expected.keys()):
        one, other = expected.get(name), found.get(name)
        if one != other:
            return (
                f"expected {f'{name!r} of shape {one}' if one is not None else f'no {name!r}'}, "
                f"got {f'shape {other}' if other is not None else 'no such tensor'}"
            )
    return "expected other names and shapes"


def _aliases(model: nn.Module) -> dict[str, str]:
    """Other names of every shared tensor in the state -> its first name."""
    first: dict[int, str] = {}
    names = [(name, first.setdefault(id(tensor), name))
             for name, tensor in model.state_dict(keep_vars=True).items()]  # fmt: skip
    return {name: origin for name, origin in names if name != origin}


def _stored(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of the state once, on the CPU, and the other names of shared ones."""
    aliases = _aliases(model)
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or value.is_meta:
            what = "a tensor without values" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"the state of the model holds {what} under {name!r}; only tensors with values can "
                f"be saved. Remove it (or its get_extra_state) first."
            )
        if name in aliases:
            continue
        if type(value.detach()) is not Tensor:
            raise InputError(
                f"{name!r} is of type {type(value.detach()).__name__}, such as quantized or "
                "distributed weights are; only plain tensors can be saved. Save the model before "
                "you convert its weights."
            )
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        # two views of one storage would be written as one
        tensors[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return tensors, aliases


def _with_aliases(values: Mapping[str, T], aliases: Mapping[str, str]) -> dict[str, T]:
    return dict(values) | {name: values[first] for name, first in aliases.items()}


def _full_shapes(
    shapes: Shapes, axes: tuple[AxisKeep, ...], aliases: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    """Shapes before anything was removed; ``shapes`` are those after, by all names."""
    full = {name: list(shape) for name, shape in shapes.items()}
    for axis in axes:
        first = aliases.get(axis.tensor, axis.tensor)
        for name in (n for n in full if aliases.get(n, n) == first):
            if axis.dim >= len(full[name]) or shapes[name][axis.dim] != len(axis.kept):
                raise InputError(
                    f"dimension {axis.dim} of {name!r}, of shape {shapes[name]}, was sliced to "
                    f"{len(axis.kept)}: the model was changed afterwards. Save it before you "
                    f"replace layers, or slice what the replaced model was made from."
                )
            full[name][axis.dim] = axis.size
    return {name: tuple(shape) for name, shape in full.items()}


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes the whole file, or raises `FileError`."""
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise FileError(
            f"{path} cannot be written: {error}. Expected a folder that exists, with room and "
            f"permission to write."
        ) from error


def _versions(model: nn.Module) -> dict[str, str]:
    """Of torch, and of the package that the model's class is from."""
    names = {"torch", type(model).__module__.partition(".")[0]}
    return {
        name: str(sys.modules[name].__version__)
        for name in sorted(names)
        if hasattr(sys.modules.get(name), "__version__") and name != "mipp"
    }
