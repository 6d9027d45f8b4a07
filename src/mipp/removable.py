"""Which blocks of a model can be taken out: those that leave a model that runs.

A block is a child of an `nn.ModuleList` or `nn.Sequential` with layers inside, called once in a
forward pass, that gives a tensor of the shape that it takes. Where blocks lie in blocks, the
outermost that add their input to their output count, but not what stacks several of one class, such
as a whole encoder. Taking one out must give what the model gives when it runs around the block.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from mipp import processes, statistics, surgery
from mipp.errors import CalibrationError, GraphError, InputError
from mipp.prunable import example
from mipp.records import Refusal
from mipp.statistics.loss import answer_tensors
from mipp.surgery.block_configs import counted_places
from mipp.surgery.block_names import RemovedBlock
from mipp.surgery.blocks import leaves_of, without_blocks
from mipp.tracing.block_calls import ModuleCall, go_around, module_calls
from mipp.tracing.guards import duplicate, measuring

SIDE = "what else it gives, or its place among the others, matters to the rest of the model"


@dataclass(frozen=True)
class Block:
    """A block that can be taken out.

    Attributes:
        gone: Its record once it is gone.
        kind: Name of its class.
        residual: Whether it adds its input to its output.
        macs: Multiply-accumulates for one example.
        params: Parameters that no other module has.
    """

    gone: RemovedBlock
    kind: str
    residual: bool
    macs: float
    params: int

    @property
    def name(self) -> str:
        """Its path in the model."""
        return self.gone.name


@dataclass(frozen=True, eq=False)
class Removable:
    """The blocks of a model.

    Attributes:
        blocks: That can be taken out, in the order of the model.
        refused: Others, and why they stay.
        macs: Of the whole model, for one example.
        params: Of the whole model.
        shared: Blocks that alone have some parameters together -> how many these are.
    """

    blocks: tuple[Block, ...]
    refused: tuple[Refusal, ...]
    macs: float
    params: int
    shared: Mapping[frozenset[str], int]

    def params_without(self, going: Collection[str]) -> int:
        """Parameters that are left without the blocks of these names."""
        return self.params - sum(n for names, n in self.shared.items() if names <= set(going))


def removable_blocks(
    model: nn.Module, data: Sequence[statistics.Batch], patterns: Sequence[str] = ()
) -> Removable:
    """Finds the blocks by running the model on a few examples.

    Args:
        model: The model.
        data: Calibration batches.
        patterns: Names of the modules that are blocks, with ``*`` and ``?``; none to find them.

    Raises:
        InputError: A pattern names no module.
        GraphError: No block can be taken out.
    """
    args, kwargs = example(model, data)
    n_examples = len(statistics.Batch(args, kwargs))
    calls, macs = module_calls(model, args, kwargs, n_examples)
    names = _named(model, patterns) if patterns else _found(model, calls)
    found, refused = list[RemovedBlock](), list[Refusal]()
    counted: dict[str, tuple[str, ...]] = {}
    for name in names:
        reason = _unfit(model, calls.get(name), name)
        gone = reason or _taken_out(model, name, args, kwargs, counted)
        if isinstance(gone, str):
            refused.append(Refusal(name, 1, gone))
        else:
            found.append(gone)
    if not patterns:
        refused += _others(model, calls, names)
    processes.agree("the blocks found", [gone.name for gone in found])
    if not found:
        reasons = "\n".join(f"  {r.name}: {r.reason}" for r in refused)
        raise GraphError(
            f"No block of {type(model).__name__} can be taken out. Name blocks of yours with "
            f"blocks='encoder.layer.*', or prune units (granularity='unit').\n{reasons}".rstrip()
        )
    params, shared = sum(p.numel() for p in model.parameters()), _owned(model, found)
    blocks = tuple(_block(model, gone, calls[gone.name], shared) for gone in found)
    return Removable(blocks, tuple(refused), macs, params, shared)


def _named(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The modules that the patterns name, none inside another."""
    modules = [name for name, _ in model.named_modules() if name]
    found: dict[str, None] = {}
    for pattern in patterns:
        depth = pattern.count(".")
        mine = [n for n in modules if fnmatch(n, pattern) and n.count(".") == depth]
        if not mine:
            lists = {n.rpartition(".")[0] for n in modules if n.rpartition(".")[2].isdecimal()}
            raise InputError(
                f"blocks={pattern!r} names no module of {type(model).__name__}. Lists of modules: "
                f"{', '.join(sorted(lists)) or 'none'}; write 'NAME.*' for all in one of them."
            )
        found |= dict.fromkeys(mine)
    names = [n for n in modules if n in found]
    inside = [(n, outer) for n in names for outer in names if n.startswith(f"{outer}.")]
    if inside:
        raise InputError(
            f"blocks= names {inside[0][0]!r} and {inside[0][1]!r}, which it lies in; give one of "
            "them."
        )
    return names


def _found(model: nn.Module, calls: Mapping[str, ModuleCall]) -> list[str]:
    """The outermost blocks, in the order of the model."""
    fit = [name for name in _children(model) if not _unfit(model, calls.get(name), name)]
    kinds = {name: type(model.get_submodule(name)) for name in fit}

    def inside(outer: str, names: Sequence[str]) -> list[str]:
        return [n for n in names if n.startswith(f"{outer}.")]

    def stacks(name: str, names: Sequence[str]) -> bool:
        """Whether it has several blocks of one class in one list, or is but a list of blocks."""
        mine = inside(name, names)
        alike = Counter((n.rpartition(".")[0], kinds[n]) for n in mine)
        plain = kinds[name] in (nn.Sequential, nn.ModuleList)
        return (plain and bool(mine)) or any(count > 1 for count in alike.values())

    residual = [n for n in fit if calls[n].residual]
    chosen: list[str] = []
    for among, names in ((residual, residual), (fit, fit)):
        for name in names:
            container = name.rpartition(".")[0]
            # what lies in another child of a list of blocks is a part of something like a block
            lists = [n.rpartition(".")[0] for n in chosen]
            parts = any(container.startswith(f"{path}.") for path in lists if path)
            covered = any(name.startswith(f"{n}.") or n.startswith(f"{name}.") for n in chosen)
            if not parts and not covered and not stacks(name, among):
                chosen.append(name)
    return [name for name in fit if name in chosen]


def _children(model: nn.Module) -> list[str]:
    """Modules in lists and sequences that have layers inside, outer ones first."""
    return [
        f"{path}.{key}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for key, child in module.named_children()
        if next(child.children(), None) is not None
        and not isinstance(child, nn.ModuleList)
        and next(child.parameters(), None) is not None
    ]


def _unfit(model: nn.Module, call: ModuleCall | None, name: str) -> str:
    """Why a module is no block that can be taken out; empty if it is."""
    if call is None and isinstance(model.get_submodule(name), nn.ModuleList):
        return f"it is a list, which is never called; name what is in it: {name}.*"
    if call is None:
        return "it is not called in the forward pass"
    if call.count > 1:
        return f"it is called {call.count} times in one forward pass"
    if not call.keeps_shape:
        taken, given = (str(s[0][1:]) if s else "no tensor" for s in call.shapes)
        if taken == given:
            return "it gives another number type than it takes"
        return f"it takes {taken} an example and gives {given}, so that nothing can go around it"
    if leaves_of(model, name) == "identity" and not call.plain:
        return (
            "it takes or gives several values and stands in no nn.ModuleList or nn.Sequential, so "
            "that neither can it be taken out nor an nn.Identity stand in for it"
        )
    return "" if call.macs else "it has no multiply-accumulates to save"


def _taken_out(
    model: nn.Module,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    counted: dict[str, tuple[str, ...]],
) -> RemovedBlock | str:
    """The record of the block once it is gone, or why the model cannot do without it.

    ``counted``: places in configs that count the blocks of a list, by its path; added to.
    """
    container, leaves = name.rpartition(".")[0], leaves_of(model, name)
    reason = ""
    if leaves != "identity":
        siblings = len(model.get_submodule(container)._modules)  # noqa: SLF001
        if container not in counted:
            last = list(model.get_submodule(container)._modules)[-1]  # noqa: SLF001
            counted[container] = counted_places(model, f"{container}.{last}".lstrip("."))
        gone = RemovedBlock(name, leaves, siblings, counted[container])
        reason = difference(model, [gone], args, kwargs)
        if not reason:
            return gone
    gone = RemovedBlock(name, "identity")
    another = difference(model, [gone], args, kwargs)
    return gone if not another else reason or another


def difference(
    model: nn.Module,
    blocks: Sequence[RemovedBlock],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> str:
    """How a model without the blocks differs from one that runs around them; empty if it does not.

    Args:
        model: That has the blocks.
        blocks: To be taken out.
        args: Positional arguments of an example.
        kwargs: Keyword arguments of it.
    """
    around = duplicate(model, {id(t): t for t in surgery.named_tensors(model).values()})
    go_around(around, [block.name for block in blocks])
    expected = _answers(around, args, kwargs)
    small = without_blocks(model, blocks, shared=True)
    if why := surgery.failure(small, args, kwargs):
        return f"the model fails without it: {why}"
    try:
        found = _answers(small, args, kwargs)
    except CalibrationError as error:
        return str(error)
    compared = surgery.compare(expected, found, None)
    return "" if compared.ok else f"{SIDE} ({compared.message})"


def _answers(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    with torch.no_grad(), measuring(model):
        return answer_tensors(model(*args, **dict(kwargs)))


def _block(
    model: nn.Module, gone: RemovedBlock, call: ModuleCall, owned: Mapping[frozenset[str], int]
) -> Block:
    kind = type(model.get_submodule(gone.name)).__name__
    return Block(gone, kind, call.residual, call.macs, owned.get(frozenset([gone.name]), 0))


def _owned(model: nn.Module, blocks: Sequence[RemovedBlock]) -> Mapping[frozenset[str], int]:
    """How many parameters are gone once all blocks of a set are, and not before.

    Modules and lists may have several paths; a block is gone from all that lead through its list.
    """
    places = {(model.get_submodule(b.container), b.name.rpartition(".")[2]): b.name for b in blocks}
    holders: dict[nn.Parameter, set[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        module, holder = model, ""
        for key in path.split(".")[:-1]:
            holder, module = holder or places.get((module, key), ""), module.get_submodule(key)
        holders.setdefault(parameter, set()).add(holder)
    owned = Counter[frozenset[str]]()
    for parameter, names in holders.items():
        if "" not in names:
            owned[frozenset(names)] += parameter.numel()
    return owned


def _others(
    model: nn.Module, calls: Mapping[str, ModuleCall], names: Sequence[str]
) -> list[Refusal]:
    """Children of lists that are no blocks, do not hold one and do not lie in one."""
    refused: list[Refusal] = []
    for name in _children(model):
        near = (*names, *(r.name for r in refused))
        if any(f"{name}.".startswith(f"{n}.") or n.startswith(f"{name}.") for n in near):
            continue
        reason = _unfit(model, calls.get(name), name)
        if reason:
            refused.append(Refusal(name, 1, reason))
    return refused
