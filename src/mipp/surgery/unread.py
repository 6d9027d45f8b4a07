"""Integer attributes that are as large as a width, and that the traced pass never reads.

Code beside the forward pass may read them: a second forward for an exporter, a method that makes
states. Such an attribute follows a width if running that code shows which one it counts. All others
are named by the plan: it may be by chance that they are as large.
"""

import dis
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import nn

from mipp.records import KEPT, Axis, AxisKey, ChannelGraph, IntArray, SizeAttribute
from mipp.surgery.check import trial_keep
from mipp.surgery.keeps import kept_indices
from mipp.surgery.outputs import compare, map_tensors, tensors_in
from mipp.surgery.slice import slice_graph
from mipp.tracing.guards import Unannounced, as_it_was, duplicate

Units = tuple[tuple[int, int], ...]
"""Group and unit of each index along an axis, sorted."""


@dataclass(frozen=True)
class _Attribute:
    """An attribute that may count the indices along one of ``axes``, which are of its size."""

    module: str
    name: str
    size: int
    axes: tuple[AxisKey, ...]

    def of(self, axis: AxisKey) -> SizeAttribute:
        return SizeAttribute(self.module, self.name, self.size, axis)


def with_unread_sizes(
    model: nn.Module, graph: ChannelGraph, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> ChannelGraph:
    """The graph with such attributes: in ``sizes`` where they follow, in ``unsure`` where not."""
    found = list(_candidates(model, graph))
    if not found:
        return graph
    read = _read(model, found, args, kwargs)
    found = [one for one in found if (one.module, one.name) not in read]
    shown = _shown(model, graph, found, args, kwargs) if found else {}
    sizes, unsure = list(graph.sizes), []
    for one in found:
        axis = shown.get((one.module, one.name))
        if axis is not None:
            sizes.append(one.of(axis))
        else:
            unsure += [one.of(axis) for axis in one.axes]
    return replace(graph, sizes=tuple(sizes), unsure=tuple(unsure))


def _candidates(model: nn.Module, graph: ChannelGraph) -> Iterator[_Attribute]:
    beside = list(_read_beside(model, {axis.size for axis in graph.axes.values()}))
    known = {(size.module, size.name) for size in graph.sizes}
    wanted = {size for path, name, size in beside if (path, name) not in known}
    by_size: dict[int, list[tuple[AxisKey, Units | None]]] = {size: [] for size in wanted}
    for tensor, shape in graph.shapes.items():
        for dim, length in enumerate(shape):
            if length in wanted:
                axis = graph.axes.get(AxisKey(tensor, dim))
                units = None if axis is None else _units(axis)
                by_size[length].append((AxisKey(tensor, dim), units))
    inside = _modules_of_groups(graph) if wanted else {}
    for path, name, size in beside:
        kinds: dict[Units | None, AxisKey] = {}
        for key, units in by_size[size] if (path, name) not in known else ():
            # units that live inside one of its modules are none of this module's business
            mine = units is None or not all(
                group == KEPT or _in(inside[group], path, below=True) for group, _ in units
            )
            if mine and _in(key.tensor, path):
                kinds.setdefault(units, key)
        kinds.pop(None, None)
        if kinds:
            yield _Attribute(path, name, size, tuple(kinds.values()))


def _read_beside(model: nn.Module, sizes: set[int]) -> Iterator[tuple[str, str, int]]:
    """Paths, names and values of integers as large as one of ``sizes`` that some method reads."""
    names: dict[type[nn.Module], set[str]] = {}
    for path, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith("torch."):
            continue  # their sizes follow their weights
        for name, value in list(vars(module).items()):
            if type(value) is int and value in sizes and not name.startswith("_"):
                if kind not in names:
                    names[kind] = names_read(kind)
                if name in names[kind]:
                    yield path, name, value


def _units(axis: Axis) -> Units:
    return tuple(sorted(zip(axis.group.tolist(), axis.unit.tolist(), strict=True)))


def _in(name: str, path: str, *, below: bool = False) -> bool:
    """Whether a name lies inside a module, or inside one of the modules in it."""
    if below:
        return name != path and _in(name, path)
    return not path or name == path or name.startswith(f"{path}.")


def _modules_of_groups(graph: ChannelGraph) -> dict[int, str]:
    """Group -> the innermost module that holds all parameters which its units run through."""
    paths: dict[int, list[str]] = {}
    for key, axis in graph.axes.items():
        module = key.tensor.rpartition(".")[0].split(".")
        for group in set(np.unique(axis.group).tolist()) - {KEPT}:
            common = paths.setdefault(group, module)
            same = [a == b for a, b in zip(common, module, strict=False)]
            paths[group] = common[: same.index(False) if False in same else len(same)]
    return {group: ".".join(path) for group, path in paths.items()}


def unsure_sizes(graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]) -> dict[str, int]:
    """Attributes that may have to change when only the indices in ``kept`` stay, and do not."""
    return {
        f"{size.module}.{size.name}".lstrip("."): size.size
        for size in graph.unsure
        if size.axis in kept
    }


# ---- what code reads


def names_read(kind: type[nn.Module]) -> set[str]:
    """Attributes of itself that a class reads after it was built."""
    functions: dict[str, CodeType] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("torch.") or base is object:
            continue
        for name, value in vars(base).items():
            function = value.fget if isinstance(value, property) else value
            if inspect.isfunction(function):
                functions[name] = inspect.unwrap(function).__code__
    reads = {name: set(_of_self(code)) for name, code in functions.items()}
    building, new = {"extra_repr", "__repr__", "reset_parameters"}, {"__init__"}
    while new:
        building |= new
        new = {n for name in new for n in reads.get(name, ()) if n in functions} - building
    # what building calls, forward may call, too
    used, new = set[str](), {"forward"}
    while new:
        used |= new
        new = {n for name in new for n in reads.get(name, ()) if n in functions} - used
    return {n for name, names in reads.items() if name in used or name not in building
            for n in names}  # fmt: skip


def _of_self(code: CodeType) -> Iterator[str]:
    """Names of the attributes that a method loads from its first argument."""
    own = code.co_varnames[0] if code.co_argcount else ""
    before: Any = None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and own and before == own:
            yield str(step.argval)
        before = None
        if step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")):
            # later versions of Python load two at once
            before = step.argval[-1] if isinstance(step.argval, tuple) else step.argval
    for constant in code.co_consts:  # lambdas and comprehensions
        if isinstance(constant, CodeType) and own in constant.co_freevars:
            yield from (n for n in constant.co_names)


def _read(
    model: nn.Module, found: Iterable[_Attribute], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> set[tuple[str, str]]:
    """Which of the attributes the forward pass reads: the check of the sliced model covers them."""
    read: set[tuple[str, str]] = set()
    twin = _shared(model)
    names: dict[str, list[str]] = {}
    for one in found:
        names.setdefault(one.module, []).append(one.name)
    for path, own in names.items():
        module = twin.get_submodule(path)

        def noted(name: str, path: str = path) -> property:
            def get(self: nn.Module) -> Any:
                read.add((path, name))
                return vars(self)[name]

            return property(get, lambda self, value: vars(self).update({name: value}))

        kind = type(module)
        content = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        watched = {name: noted(name) for name in own}
        try:
            module.__class__ = type(kind.__name__, (Unannounced, kind), content | watched)
        except TypeError:  # a class that takes no attributes of other layout
            read.update((path, name) for name in own)
    try:
        with torch.no_grad(), as_it_was(twin):
            twin(*map_tensors(list(args), torch.clone), **map_tensors(dict(kwargs), torch.clone))
    except Exception:  # noqa: BLE001 - of a forward that looks at its own class, say
        return {(path, name) for path, own in names.items() for name in own}
    return read


def _shared(model: nn.Module) -> nn.Module:
    """A copy of a model that has the same parameters and buffers."""
    return duplicate(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})


# ---- what running it shows


def _shown(
    model: nn.Module,
    graph: ChannelGraph,
    found: Sequence[_Attribute],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> dict[tuple[str, str], AxisKey]:
    """Axes whose new length alone lets other forwards do what ``forward`` does when sliced.

    Those are methods of the class whose names start with ``forward``, and that give the same as
    ``forward`` in the model as it is.
    """
    methods = {one.module: _other_forwards(model.get_submodule(one.module)) for one in found}
    modules = [path for path, names in methods.items() if names]
    if not modules:
        return {}
    kept = kept_indices(graph, trial_keep(graph))
    models = [_shared(model), slice_graph(model, graph, kept)]
    calls = [_calls(net, modules, args, kwargs) for net in models]
    shown = {}
    for one in found:
        reading = [n for n, reads in methods[one.module].items() if one.name in reads]
        full, small = (net.get_submodule(one.module) for net in models)
        first, second = (seen.get(one.module) for seen in calls)
        if first is None or second is None:
            continue
        same = [n for n in reading if _gives(full, n, *first)]
        works = []
        for axis in one.axes:
            setattr(small, one.name, len(kept[axis]) if axis in kept else one.size)
            if same and all(_gives(small, n, *second) for n in same):
                works.append(axis)
        # left as it was where it is not known: other attributes are looked at, too
        setattr(small, one.name, one.size)
        if len(works) == 1:
            shown[one.module, one.name] = works[0]
    return shown


def _other_forwards(module: nn.Module) -> dict[str, set[str]]:
    """Methods that may stand in for ``forward``, with the attributes that each of them reads."""
    kind = type(module)
    functions = {n: getattr(kind, n) for n in dir(kind) if re.match(r"_?forward(_|$)", n)}
    return {
        name: set(_of_self(inspect.unwrap(function).__code__))
        for name, function in functions.items()
        if name != "forward" and inspect.isfunction(function)
    }


Seen = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional and keyword arguments of a call, and what it gave."""


def _calls(
    model: nn.Module, paths: Iterable[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Seen]:
    """The last call of each of these modules in a forward pass of the model."""
    seen: dict[str, Seen] = {}
    handles = []
    for path in paths:

        def note(_: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            seen[path] = (args, kwargs, output)

        module = model.get_submodule(path)
        handles.append(module.register_forward_hook(note, with_kwargs=True))
    with torch.no_grad(), as_it_was(model):
        model(*map_tensors(list(args), torch.clone), **map_tensors(dict(kwargs), torch.clone))
    for handle in handles:
        handle.remove()
    return seen


def _gives(
    module: nn.Module, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> bool:
    """Whether a method gives what ``forward`` gave."""
    try:
        with torch.no_grad(), as_it_was(module):
            found = getattr(module, method)(*args, **kwargs)
    except Exception:  # noqa: BLE001 - other code of the user's, with a wrong width or other inputs
        return False
    tensors = list(tensors_in(found))
    return bool(tensors) and compare(list(tensors_in(output)), tensors, None).ok
