"""The weights that can be pruned one by one: those of convolutions and linear layers.

They are found by running the model, not by tracing it: a weight counts when layer calls, and
nothing else, use it. A weight that several calls of one kind share is one weight, whose positions
are those of all of them.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mipp.errors import GraphError, InputError
from mipp.records import Kind, Refusal
from mipp.statistics import Batch
from mipp.tracing.calls import LINEAR, Call, CallHooks, NormCall, n_positions
from mipp.tracing.function_mode import FunctionMode
from mipp.tracing.guards import measuring
from mipp.weights.regression import Pattern

EXAMPLES = 16
"""Examples that are run one by one to find layers whose positions depend on values."""


@dataclass(frozen=True)
class Layer:
    """One weight, as blocks of rows: ``groups`` of them, each of ``m`` outputs and ``d`` inputs.

    Attributes:
        name: Of the parameter.
        kind: Of the layer.
        shape: Of the weight.
        groups: Number of blocks.
        bias: Name of the bias that every call adds and that nothing else uses; None without one.
        norm_after: Whether every output goes to a BatchNorm with running statistics, and nowhere
            else.
        calls: Number of calls in one forward pass.
        cells: Of the kernel; columns of a block are inputs, each with its cells.
        routed: Whether its positions depend on values, as for the tokens of an expert.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    groups: int
    bias: str | None
    norm_after: bool
    calls: int
    cells: int
    routed: bool = False

    @property
    def centred(self) -> bool:
        """Whether a bias, or a running mean, can absorb a shift of the outputs' mean."""
        # outputs of a transposed convolution overlap: what one input adds has no bias in it
        return self.kind != "conv_transpose" and (self.bias is not None or self.norm_after)

    @property
    def module(self) -> str:
        """``features.0.weight`` -> ``features.0``."""
        return self.name.removesuffix(".weight")

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        whole = torch.Size(self.shape).numel()
        if self.kind == "conv_transpose":
            inputs = self.shape[0] // self.groups
            return whole // self.groups // inputs, inputs
        if self.kind == "matmul":
            return self.shape[1], self.shape[0]
        return self.shape[0] // self.groups, whole // self.shape[0]

    @property
    def channels(self) -> int:
        """Inputs of a row, each with all its kernel cells."""
        return self.block[1] // (1 if self.kind == "conv_transpose" else self.cells)

    def blocks(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "g m d"]:
        """Values in the weight's shape, as blocks."""
        m, d = self.block
        if self.kind in ("conv_transpose", "matmul"):
            return values.reshape(self.groups, d, m).mT
        return values.reshape(self.groups, m, d)

    def whole(self, blocks: Shaped[Tensor, "g m d"]) -> Shaped[Tensor, "..."]:
        """Blocks in the shape of the weight."""
        turned = blocks.mT if self.kind in ("conv_transpose", "matmul") else blocks
        return turned.reshape(self.shape)


def find_layers(
    model: nn.Module, batch: Batch, more: Sequence[Batch] = ()
) -> tuple[tuple[Layer, ...], tuple[Refusal, ...]]:
    """Finds the weights that can be pruned.

    Args:
        model: The model.
        batch: What it is run on.
        more: Batches of which some examples are run, too, to find routed layers.

    Returns:
        The weights that can be pruned, in order of use, and refusals with reasons for the others,
        whose ``n_units`` are weights. Vectors (biases, norms) are not listed.

    Raises:
        GraphError: No weight can be pruned.
    """
    calls: dict[str, list[Call]] = {}
    parameters = dict(model.named_parameters())
    watch = _Uses(parameters)
    normed: Counter[str] = Counter()

    def after(call: Call, output: Tensor) -> Tensor:
        calls.setdefault(call.name, []).append(call)
        watch.follow(call.name, output)
        return output

    def on_norm(call: NormCall) -> None:
        normed[watch.made_by(call.input)] += 1

    hooks = CallHooks(model, after=after, on_norm=on_norm, grouped=True)
    with torch.no_grad(), measuring(model), watch, hooks:
        model(*batch.args, **batch.kwargs)
    routed = _routed(model, [batch, *more])
    found, refused = [], []
    names = {id(p): name for name, p in parameters.items()}
    for name in [*calls, *(name for name in parameters if name not in calls)]:
        parameter = parameters[name]
        reason = _unusable(parameter, calls.get(name, []), watch.uses[name])
        if reason is not None and _computes(name, parameters):
            reason += "; make the weight that it computes plain with mipp.prepare.folded(model)"
        if reason is None:
            bias = names.get(id(calls[name][0].bias))
            own = bias is not None and watch.uses[bias].total() == len(calls[name])
            alone = normed[name] == watch.outputs[name] == len(calls[name])
            layer = _layer(calls[name], name, bias if own else None, norm_after=alone)
            found.append(replace(layer, routed=name in routed))
        elif parameter.is_floating_point() and parameter.dim() > 1:
            refused.append(Refusal(name.removesuffix(".weight"), parameter.numel(), reason))
    if not found:
        listed = "\n".join(f"  {r.name}: {r.n_units} weights: {r.reason}" for r in refused)
        raise GraphError(
            f"No single weight of {type(model).__name__} can be pruned: no convolution or linear "
            f"layer has a weight that is a parameter of its own.\n{listed}".rstrip()
        )
    return tuple(found), tuple(refused)


def _routed(model: nn.Module, batches: Iterable[Batch]) -> set[str]:
    """Layers whose number of positions differs between examples, or is zero."""
    counts: list[Counter[str]] = []

    def after(call: Call, output: Tensor) -> Tensor:
        counts[-1][call.name] += n_positions(call)
        return output

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    singly = (part for batch in batches for part in batch.parts(1))
    with torch.no_grad(), measuring(model):
        for one in itertools.islice(singly, EXAMPLES):
            counts.append(Counter())
            moved = one.to(device)
            try:
                with CallHooks(model, after=after, grouped=True):
                    model(*moved.args, **moved.kwargs)
            except Exception:  # noqa: BLE001 # a forward that does not take one example by itself
                return set()
    names = set().union(*counts)
    return {n for n in names if len({c[n] for c in counts}) > 1 or counts[0][n] == 0}


def in_whole_runs(
    layers: Sequence[Layer], pattern: Pattern
) -> tuple[tuple[Layer, ...], tuple[Refusal, ...]]:
    """The layers whose inputs come in whole runs of a pattern, and the others."""
    fits = {layer.name: layer.channels % pattern.run == 0 for layer in layers}
    reason = "its {} inputs are no multiple of {}, so that no kernel takes the pattern"
    return tuple(layer for layer in layers if fits[layer.name]), tuple(
        Refusal(
            layer.module, torch.Size(layer.shape).numel(),
            reason.format(layer.channels, pattern.run),
        )
        for layer in layers
        if not fits[layer.name]
    )  # fmt: skip


def without_protected(layers: Sequence[Layer], patterns: Iterable[str]) -> tuple[Layer, ...]:
    """The layers that no pattern names, by parameter, module or a module above it.

    Raises:
        InputError: A pattern names no layer, or the patterns leave none.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(_named(layer, pattern) for layer in layers):
            raise InputError(
                f"protect={pattern!r} names no layer. Layers: "
                f"{', '.join(layer.module for layer in layers)}."
            )
    left = tuple(l for l in layers if not any(_named(l, pattern) for pattern in patterns))
    if not left:
        raise InputError(f"protect={patterns} names all layers; leave one to be pruned.")
    return left


def _computes(name: str, parameters: Collection[str]) -> bool:
    """Whether torch computes a weight from the parameter: a norm, a mask, a parametrization."""
    base = name[:-2]
    normed = name in (f"{base}_g", f"{base}_v") and {f"{base}_g", f"{base}_v"} <= set(parameters)
    return normed or name.endswith("_orig") or "parametrizations." in name


def _named(layer: Layer, pattern: str) -> bool:
    names = (layer.name, layer.module)
    return any(fnmatch(n, pattern) or n.startswith(pattern + ".") for n in names)


def _layer(calls: Sequence[Call], name: str, bias: str | None, *, norm_after: bool) -> Layer:
    first = calls[0]
    alike = all(c.bias is first.bias for c in calls)
    return Layer(
        name=name,
        kind=first.kind,
        shape=tuple(first.weight.shape),
        groups=first.groups,
        bias=bias if alike else None,
        norm_after=norm_after,
        calls=len(calls),
        cells=1 if first.kind in LINEAR else torch.Size(first.weight.shape[2:]).numel(),
    )


def _unusable(
    parameter: nn.Parameter, calls: Sequence[Call], uses: Mapping[str, int]
) -> str | None:
    """Why the weight has to stay as it is, or None."""
    n_uses = sum(uses.values())
    if not n_uses:
        return "no call of a convolution or linear layer takes it"
    if n_uses > len(calls):
        others = ", ".join(sorted(uses))
        return f"it is used other than as the weight of a layer ({others})"
    if not parameter.is_floating_point():
        return f"it holds {parameter.dtype}, not floating-point numbers"
    kinds = {(c.kind, c.groups) for c in calls}
    if len(kinds) > 1:
        return f"layers of different kinds share it ({', '.join(sorted({c.kind for c in calls}))})"
    return None


class _Uses(FunctionMode):
    """Counts the functions that make tensors of each parameter, and of each layer's outputs.

    Attributes:
        uses: Parameter name -> function -> calls.
        outputs: Parameter name -> calls of functions on the layer's outputs.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in parameters.items()}
        self.uses: dict[str, Counter[str]] = {name: Counter() for name in parameters}
        self.outputs: Counter[str] = Counter()
        # outputs are kept, so that no other tensor gets the id of one
        self._made: dict[int, tuple[str, Tensor]] = {}

    def follow(self, name: str, output: Tensor) -> None:
        """Counts the functions that take this output of the layer from now on."""
        self._made[id(output)] = (name, output)

    def made_by(self, tensor: Tensor) -> str:
        """The layer whose output it is, or an empty name."""
        return self._made.get(id(tensor), ("", tensor))[0]

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs ``func`` and counts it."""
        made = func(*args, **kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]
        for leaf in pytree.tree_leaves((args, kwargs)):
            name = self._names.get(id(leaf))
            if id(leaf) in self._made and tensors:
                self.outputs[self.made_by(leaf)] += 1
            # a cast to the type that it has already gives the parameter itself
            if name is not None and any(tensor is not leaf for tensor in tensors):
                self.uses[name][getattr(func, "__name__", str(func))] += 1
        return made
