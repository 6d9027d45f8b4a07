"""Pruned models in files that say, where it is certain, what builds the model."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mipp import surgery
from mipp.checks import checked
from mipp.errors import FileError, InputError
from mipp.models.sources import build_source, is_known, possible_sources
from mipp.origin import Applied, Source, source_of
from mipp.surgery.blocks import fit_blocks, recorded_blocks
from mipp.surgery.file_record import FileRecord, read_file
from mipp.surgery.files import full_fingerprint, put
from mipp.surgery.keeps import kept_of
from mipp.surgery.kept_record import recorded_axes, recorded_sizes
from mipp.tracing.guards import gradients_enabled, unwrap


@checked
def save(
    model: nn.Module, path: str | Path, extra: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Writes a model, pruned or not, into one safetensors file, for `load`.

    A built-in network, or one of torchvision, timm or transformers as its package builds it, is
    noted by name, and `load` needs nothing but the file. All others need what builds them.

    A module inside a pruned one can be saved alone, too (``mipp.save(small.backbone, path)``).
    Zeros take one bit each where there are enough of them to make the file smaller.
    The file appears as a whole or not at all: a failed write leaves the file that was there.

    Args:
        model: The model, pruned or not.
        path: The file, whose name ends in ``.safetensors``.
        extra: Anything that JSON can hold, to be found in `inspect_file`.

    Raises:
        InputError: The model's state holds something else than tensors, or no longer has the widths
            that it was sliced to, or ``extra`` is not JSON.
        FileError: The file cannot be written, or its name does not end in ``.safetensors``.

    Examples:
        >>> import tempfile, torch, mipp
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> small = mipp.prune(net, [torch.randn(64, 4)], "units=50%")
        >>> path = f"{tempfile.mkdtemp()}/small.safetensors"
        >>> mipp.save(small, path)
        >>> mipp.load(net, path)[0]
        Linear(in_features=4, out_features=4, bias=True)
    """
    surgery.save(model, path, extra, _source(unwrap(model)))


@gradients_enabled()
@checked
def load(
    model: nn.Module | Callable[[], nn.Module] | str | Path | None = None,
    path: str | Path | None = None,
    *,
    factory: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """The model that was saved, as a new module: ``load(path)`` or ``load(model, path)``.

    A model that is given is left exactly as it is. Without one, the file must say what builds it,
    as it does for built-in networks and for those of torchvision, timm and transformers (see
    `inspect_file`); the model is then in eval mode and on the CPU. Code of your own is never
    imported because a file names it.

    Args:
        model: A full-size model, what builds one, or a model that already has the small widths.
            Train / eval mode, devices and hooks are taken from it, all weights from the file. Or
            the path, with nothing else or with ``factory``.
        path: A file that `save` has written.
        factory: What builds the full-size model, where that is not the first argument.

    Raises:
        FileError: No such file, a damaged or changed one, or one for another model: other names,
            shapes, number types or shared tensors. Or it does not say what builds the model.
        InputError: Several models, or no path, were given.

    Examples:
        >>> import tempfile, torch, mipp
        >>> net = mipp.models.build("lenet5", seed=0)
        >>> path = f"{tempfile.mkdtemp()}/small.safetensors"
        >>> mipp.save(mipp.prune(net, [torch.randn(64, 1, 28, 28)], "units=25%", method="l2"), path)
        >>> type(mipp.load(path)).__name__
        'LeNet5'
        >>> mipp.load(net, path).training
        True
    """
    if path is None and isinstance(model, str | Path):
        path, model = model, None
    if factory is not None:
        if model is not None:
            raise InputError("both a model and factory= were given; expected one of them.")
        model = factory
    if path is None or isinstance(model, str | Path):
        raise InputError(
            "expected the path of a file, as in mipp.load(path) or mipp.load(make_model, path)."
        )
    path = Path(path)
    record, tensors = read_file(path)
    if model is None:
        return put(_built(record, tensors, path), record, tensors, path).eval()
    return put(unwrap(model if isinstance(model, nn.Module) else model()), record, tensors, path)


@dataclass(frozen=True)
class FileInfo:
    """What a file says about the model in it; printed, it is a few lines.

    Attributes:
        path: Of the file.
        model: What builds the full-size model, such as ``"lenet5"`` or ``"torchvision:resnet18"``;
            None where that is not known.
        arguments: Of what builds it.
        loads_alone: Whether ``mipp.load(path)`` builds the model itself.
        widths: Dimension of a tensor that lost something, ``(name, dimension)`` -> its length
            before and after.
        plans: The plans that were applied, with their budgets and costs.
        parameters: Numbers in the file, shared ones once.
        mipp_version: That wrote the file.
        versions: Of the packages that the model is made of.
        extra: What the writer added.
        blocks: Paths, in the full-size model, of the blocks that were taken out.

    Examples:
        >>> import tempfile, mipp
        >>> path = f"{tempfile.mkdtemp()}/whole.safetensors"
        >>> mipp.save(mipp.models.build("mlp", seed=0), path)
        >>> print(mipp.inspect_file(path))
        /.../whole.safetensors: mlp (width=1.0, num_classes=10, in_channels=1), 266,610 numbers
        load with: mipp.load(path)
        written by mipp ...
    """

    path: Path
    model: str | None
    arguments: Mapping[str, Any]
    loads_alone: bool
    widths: Mapping[tuple[str, int], tuple[int, int]]
    plans: tuple[Applied, ...]
    parameters: int
    mipp_version: str
    versions: Mapping[str, str]
    extra: Mapping[str, Any]
    blocks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        plain = {k: v for k, v in self.arguments.items() if not isinstance(v, Mapping)}
        given = ", ".join(f"{name}={value!r}" for name, value in plain.items())
        name = "a model of unknown class" if self.model is None else self.model
        yield f"{self.path}: {name}{f' ({given})' if given else ''}, {self.parameters:,} numbers"
        how = "mipp.load(path)" if self.loads_alone else "mipp.load(path, factory=...)"
        yield f"load with: {how}"
        for plan in self.plans:
            costs = ", ".join(
                f"{what} {_amount(before)} -> {_amount(plan.after[what])}"
                for what, before in plan.before.items()
                if before is not None and plan.after.get(what) is not None
            )
            budget = "" if plan.budget is None else f" to {plan.budget}"
            yield f"pruned by {plan.method}{budget}: {costs}"
        if self.blocks:
            yield f"  without {', '.join(self.blocks)}"
        layers: dict[tuple[str, int, int], int] = {}
        for (tensor, dim), (before, after) in self.widths.items():
            if dim == 0 and tensor.endswith("weight"):
                layer = re.sub(r"(?<=\.)\d+(?=\.)", "*", tensor.rpartition(".")[0])
                layers[layer, before, after] = layers.get((layer, before, after), 0) + 1
        for (layer, before, after), times in layers.items():
            yield f"  {layer}: {before} -> {after}{f' ({times} times)' if times > 1 else ''}"
        versions = {"mipp": self.mipp_version} | dict(self.versions)
        yield f"written by {', '.join(f'{n} {version}' for n, version in versions.items())}"


@checked
def inspect_file(path: str | Path) -> FileInfo:
    """What a file of `save` says: the model, its widths before and after, budgets, versions.

    Args:
        path: Of the file. All of it is read, since its digest is checked.

    Raises:
        FileError: No such file, or a damaged or changed one.

    Examples:
        >>> import tempfile, torch, mipp
        >>> net = mipp.models.build("lenet5", seed=0)
        >>> path = f"{tempfile.mkdtemp()}/small.safetensors"
        >>> mipp.save(mipp.prune(net, [torch.randn(64, 1, 28, 28)], "units=25%", method="l2"), path)
        >>> info = mipp.inspect_file(path)
        >>> info.model, info.loads_alone, info.plans[0].budget
        ('lenet5', True, 'units=25%')
    """
    path = Path(path)
    record, tensors = read_file(path)
    source = record.source
    return FileInfo(
        path=path,
        model=None if source is None else source.name,
        arguments={} if source is None else source.arguments,
        loads_alone=source is not None and is_known(source),
        widths={(a.tensor, a.dim): (a.size, len(a.kept)) for a in record.axes},
        plans=record.plans,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        mipp_version=record.mipp_version,
        versions=record.versions,
        extra=record.extra,
        blocks=tuple(block.name for block in record.blocks),
    )


def _amount(value: float | None) -> str:
    return "?" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _built(record: FileRecord, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The full-size model, of the number types in the file."""
    source = record.source
    if source is None or not is_known(source):
        named = "" if source is None else f", which {source.name} builds"
        raise FileError(
            f"{path} has a model of your own{named}. Give what builds the full-size model: "
            "mipp.load(path, factory=make_model)."
        )
    try:
        model = build_source(source)
    except (InputError, ImportError) as error:
        raise FileError(
            f"{path} has the model {source.name}, which cannot be built here: {error}. Install "
            "the package in a version that has it, or give mipp.load(path, factory=make_model)."
        ) from error
    for name, tensor in model.state_dict(keep_vars=True).items():
        stored = tensors.get(record.aliases.get(name, name))
        if stored is not None and tensor.dtype != stored.dtype:
            tensor.data = tensor.data.to(stored.dtype)
    return model


def _source(model: nn.Module) -> Source | None:
    """What builds the full-size model: a name that was seen to, or one that the user gave."""
    noted = source_of(model)
    known = [noted] if noted is not None and is_known(noted) else []
    for source in (*known, *possible_sources(model)):
        if _builds(source, model):
            return source
    return None if noted is None or is_known(noted) else noted


def _builds(source: Source, model: nn.Module) -> bool:
    """Whether what the source builds, cut alike, has the same layers as the model."""
    axes, sizes = recorded_axes(model), recorded_sizes(model)
    try:
        whole = fit_blocks(_built_without_values(source), recorded_blocks(model))
        if surgery.fingerprint(surgery.state_shapes(whole)) != full_fingerprint(model):
            return False
        cut = surgery.slice_model(whole, kept_of(axes), sizes=sizes)
    except Exception:  # noqa: BLE001 - a name is a help; whatever fails, the model can be saved
        return False
    if str(cut) != str(model):
        return False
    pairs = zip(cut.modules(), model.modules(), strict=True)
    return all(_alike(_plain(one), _plain(other)) for one, other in pairs)


def _built_without_values(source: Source) -> nn.Module:
    try:
        with torch.device("meta"):
            return build_source(source)
    except (NotImplementedError, RuntimeError):  # it looks at values while it is built
        return build_source(source)


_OF_AN_INSTANCE = ("training", "name_or_path", "_is_hf_initialized")
"""What differs between models that the same call has built."""


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether settings agree. Packages note things on loaded modules: private names in one only."""
    names = {name for name in one.keys() | other.keys() if not name.startswith("_")}
    return all(one.get(name) == other.get(name) for name in names | (one.keys() & other.keys()))


def _plain(module: nn.Module) -> dict[str, Any]:
    """The class of a module, and its settings that are plain values or functions."""
    kinds = (bool, int, float, str, type(None), FunctionType)
    settings = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, kinds) and name not in _OF_AN_INSTANCE
    }
    return settings | {"class": type(module)}
