"""Running a sliced model, to see that it still computes what the masked one computes."""

import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mipp.errors import InputError, SurgeryError
from mipp.records import BoolArray, ChannelGraph, Keep
from mipp.surgery.keeps import kept_indices
from mipp.surgery.mask import mask_model
from mipp.surgery.outputs import Comparison, batches_like, compare, map_tensors, tensors_in
from mipp.surgery.slice import slice_graph
from mipp.surgery.tensors import deep_copy
from mipp.tracing.guards import as_it_was

NO_KWARGS: Mapping[str, Any] = MappingProxyType({})
Module = TypeVar("Module", bound=nn.Module)
_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


@dataclass(frozen=True)
class BrokenGroup:
    """A group that cannot be pruned after all.

    Attributes:
        index: of the group in the graph.
        reason: why not.
    """

    index: int
    reason: str


def same_outputs(
    first: nn.Module,
    second: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] = NO_KWARGS,
    tolerance: float | None = None,
) -> Comparison:
    """Runs both models in eval mode on an example, and on another batch size, and compares them.

    The other batch is half the example, or the example twice if it has an odd size; a first model
    that cannot take it is compared on the example only. All tensors are compared, however deep
    they lie in tuples, dicts and dataclasses. Modes, buffers and RNG are restored, also after an
    error.

    Args:
        first: The model whose outputs are right.
        second: The model that is compared.
        args: Positional arguments of the example.
        kwargs: Keyword arguments of the example.
        tolerance: Largest difference allowed, relative to the largest output; by default the square
            root of the machine precision of each output (3e-4 for float32). Whole numbers must
            agree.

    Raises:
        InputError: The first model fails on the example, or returns no tensor.
    """
    largest = 0.0
    with as_it_was(first, second) as rewind:
        for position, batch in enumerate(batches_like(args, kwargs)):
            rewind()
            expected, problem = _outputs(first, *batch)
            if problem and position == 0:
                raise InputError(f"the model fails on the example input: {problem}")
            if problem:
                break
            if not expected:
                raise InputError(
                    "the model puts out no tensor to compare: expected a tensor, or tuples, dicts "
                    "or dataclasses of tensors"
                )
            rewind()
            found, problem = _outputs(second, *batch)
            if problem:
                return Comparison(ok=False, difference=float("inf"), message=problem)
            comparison = compare(expected, found, tolerance)
            if not comparison.ok:
                return comparison
            largest = max(largest, comparison.difference)
    return Comparison(ok=True, difference=largest, message="")


def probe(
    model: nn.Module,
    graph: ChannelGraph,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] = NO_KWARGS,
) -> list[BrokenGroup]:
    """Slices away a part of every group, runs the result, and finds the groups that break it.

    It catches what a graph cannot show: a shape written as a number in the Python code, a check of
    a width. The sliced model is compared with the masked one of full size; if they differ, the
    culprits are found by halving: in about ``2 log2(n_groups)`` runs if there is one. Groups that
    break the model only together are all named. It works on copies: the model is not even run.

    Args:
        model: The model.
        graph: Its groups.
        args: Positional arguments of an example.
        kwargs: Keyword arguments of it.

    Raises:
        InputError: The model itself fails on the example.
    """
    varied = vary_constants(model)
    trial = trial_keep(graph)

    def failure(groups: Sequence[int]) -> str | None:
        keep: Keep = {index: trial[index] for index in groups}
        masked = mask_model(varied, graph, keep)
        try:
            kept = kept_indices(graph, keep)
            small = slice_graph(varied, graph, kept)
        except SurgeryError as error:
            return str(error)
        result = same_outputs(masked, small, args, kwargs)
        return None if result.ok else result.message

    # layers of one kind, which mostly break alike, next to each other: halves are whole or not
    kind = {group.index: re.sub(r"\d+", "", group.name) for group in graph.groups}
    remaining, broken = sorted(trial, key=lambda i: (kind[i], i)), list[BrokenGroup]()
    while (reason := failure(remaining)) is not None:
        broken += _culprits(remaining, reason, failure)
        found = {group.index for group in broken}
        remaining = [index for index in remaining if index not in found]
    return sorted(broken, key=lambda group: group.index)


def vary_constants(model: Module) -> Module:
    """A copy in which no parameter has the same value everywhere: what is one or zero is jittered.

    On a fresh model, norms of ones and zeros (and last layers of zeros) would hide that a channel
    was taken for another, and `probe` looks for exactly that. All other parameters are the model's
    own, not copies. Leaves the global RNG alone.
    """
    constant = {id(p) for p in model.parameters() if _is_constant(p)}
    # whoever looks for a difference copies what is changed: what is not jittered can be shared
    shared = {id(p): p for p in model.parameters() if id(p) not in constant}
    varied = deep_copy(model, shared)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for full, parameter in zip(model.parameters(), varied.parameters(), strict=True):
            if id(full) in constant:
                # a tenth: norms stay positive, and a last layer of zeros lets a signal through
                noise = torch.randn(parameter.shape, generator=generator) / 10
                parameter.add_(noise.to(parameter))
    return varied


def _is_constant(parameter: Tensor) -> bool:
    if not parameter.is_floating_point() or parameter.numel() < 2:
        return False
    flat = parameter.detach().reshape(-1)
    # most weights differ in their first entries: no need to read all of a large one
    return bool((flat[:64] == flat[0]).all()) and bool((flat == flat[0]).all())


def trial_keep(graph: ChannelGraph) -> Keep:
    """Masks without a quarter to three quarters of every group, in no regular pattern.

    Shares differ from group to group: code that divides one width by another, which both get
    smaller, may be right for equal shares alone. No dimension of any tensor loses all it has, with
    all groups or with any of them: a layer may make only a few of a group's units, and these must
    not all go.
    """
    left = {key: axis.size for key, axis in graph.axes.items()}
    trial: dict[int, BoolArray] = {}
    for group in graph.groups:
        spans = {
            key: np.bincount(axis.unit[axis.group == group.index], minlength=group.n_units)
            for key, axis in graph.axes.items()
            if (axis.group == group.index).any()
        }
        keep = np.ones(group.n_units, dtype=np.bool_)
        # multiples of the golden ratio: no two shares of neighbouring groups are close
        share = 0.25 + 0.5 * ((0.5 + 0.618 * group.index) % 1)
        least = group.n_units - max(1, int(share * group.n_units))
        for unit in np.random.default_rng(group.index).permutation(group.n_units):
            if keep.sum() <= least:
                break
            if all(left[key] > span[unit] for key, span in spans.items()):
                keep[unit] = False
                left |= {key: left[key] - int(span[unit]) for key, span in spans.items()}
        trial[group.index] = keep
    return trial


def _culprits(
    groups: Sequence[int], reason: str, failure: Callable[[Sequence[int]], str | None]
) -> list[BrokenGroup]:
    """At least one of the groups, which are known to break the model when all lose units."""
    if len(groups) <= 1:
        if not groups:
            raise SurgeryError(
                f"a copy with nothing removed computes something else: {reason}. Does the model "
                f"use random numbers in eval mode, or state from outside?"
            )
        return [BrokenGroup(groups[0], reason)]
    found: list[BrokenGroup] = []
    for half in (groups[: len(groups) // 2], groups[len(groups) // 2 :]):
        why = failure(half)
        if why is not None:
            found += _culprits(half, why, failure)
    if found:
        return found
    together = _conflict([], groups, failure, added=False)
    return [
        BrokenGroup(index, f"{reason} (when groups {together} lose units)") for index in together
    ]


def _conflict(
    fixed: Sequence[int],
    groups: Sequence[int],
    failure: Callable[[Sequence[int]], str | None],
    *,
    added: bool,
) -> list[int]:
    """A smallest subset of the groups that breaks the model together with the fixed ones.

    Junker, "QuickXplain: preferred explanations and relaxations", AAAI 2004.
    """
    if added and failure(fixed) is not None:
        return []
    if len(groups) == 1:
        return list(groups)
    left, right = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    from_right = _conflict([*fixed, *left], right, failure, added=True)
    from_left = _conflict([*fixed, *from_right], left, failure, added=bool(from_right))
    return from_left + from_right


def failure(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Why the model fails on an example, in eval mode; empty if it does not."""
    with as_it_was(model):
        return _outputs(model, args, kwargs)[1]


def _outputs(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Tensor], str]:
    """All output tensors, or none and the reason why the model fails."""
    try:
        with torch.no_grad():
            # a forward that works in place would change the example for the next one
            own_args, own_kwargs = map_tensors((list(args), dict(kwargs)), torch.clone)
            return list(tensors_in(model(*own_args, **own_kwargs))), ""
    except torch.OutOfMemoryError:
        raise  # says nothing about the model
    except Exception as error:  # noqa: BLE001 - a user's forward may raise anything
        return [], _cause(error)


def _cause(error: Exception) -> str:
    """The last line of the traceback, with the last source line that is the user's own."""
    text = str(error).strip().splitlines()
    cause = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    if not frames:
        return cause
    return f"{cause} (at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})"
