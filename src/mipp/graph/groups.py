"""From ties to groups of units, their producers and consumers, and what is refused."""

from collections import Counter
from collections.abc import Container, Mapping

import numpy as np

from mipp.errors import GraphError
from mipp.graph.findings import Flow
from mipp.graph.labels import Solution
from mipp.graph.size_axes import Measures, contradictions, size_attributes
from mipp.records import (
    KEPT,
    Axis,
    AxisKey,
    ChannelGraph,
    Consumer,
    Group,
    IntArray,
    Refusal,
    SizeAttribute,
)


def build(
    flow: Flow,
    solution: Solution,
    shapes: Mapping[str, tuple[int, ...]],
    first_names: Mapping[str, str],
) -> ChannelGraph:
    """The groups of a solved flow; `GraphError` with every refusal where no unit can be removed."""
    axes = _axes(flow, solution)
    refused = _refusals(flow, solution)
    if not axes:
        raise GraphError(_nothing_prunable(refused))
    consumers = _consumers(flow, axes)
    groups, order = _groups(flow, axes, consumers)
    place = np.append(np.argsort(order), KEPT)  # index KEPT = -1 stays KEPT
    measures = Measures(solution, axes, shapes)
    # Measures compare the group numbers of the solution, so they get the axes as found.
    return ChannelGraph(
        groups=groups,
        consumers=consumers,
        axes={key: Axis(key, place[axis.group], axis.unit) for key, axis in axes.items()},
        macs=tuple(measures.macs(term, module_name(term.name)) for term in flow.terms),
        shapes=dict(shapes),
        refused=refused,
        sizes=_attributes(flow, solution, shapes)[0],
        aliases={name: first for name, first in first_names.items() if name != first},
        uncounted=tuple(flow.uncounted),
        norms=tuple(
            Axis(AxisKey(path, -1), place[solution.group_of[labels]], solution.unit_of[labels])
            for path, labels in flow.norms.items()
            if (solution.group_of[labels] != KEPT).any()
        ),
        products=tuple(
            item.product for item in flow.products if (solution.group_of[item.labels] != KEPT).any()
        ),
    )


def module_name(weight: str) -> str:
    """``layer1.0.conv1.weight`` -> ``layer1.0.conv1``."""
    return weight.removesuffix(".weight")


# ---- units


def unprunable_whole_groups(flow: Flow, solution: Solution) -> frozenset[AxisKey]:
    """Weights of grouped convolutions whose groups were taken for units, and all of them stay."""
    kept = (key for key in flow.whole if (solution.group_of[flow.atoms[key]] == KEPT).all())
    return frozenset(kept)


def solve(flow: Flow, shapes: Mapping[str, tuple[int, ...]]) -> Solution:
    """Fixes what turns out not to be prunable until nothing more is found."""
    while True:
        solution = _components(flow)
        found = [
            *_without_use(flow, solution),
            *_single_units(flow, solution),
            *_uncounted(flow, solution, shapes),
            *contradictions(flow, solution),
            *_attributes(flow, solution, shapes)[1],
        ]
        for atoms, reason in found:
            flow.ties.fix(atoms, reason)
        if not found:
            return solution


def _components(flow: Flow) -> Solution:
    """Groups of classes that one producer makes, numbered in order of execution."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - only tracing needs SciPy
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    classes = flow.ties.classes()
    n_classes = int(classes.class_of.max()) + 1
    made = [classes.unit_of[flow.atoms[key]] for key in flow.producers]
    made = [units[units >= 0] for units in made]
    none = np.zeros(0, np.int64)
    first = np.concatenate([*(np.full(len(u), u[0]) for u in made if len(u)), none])
    other = np.concatenate([*made, none])
    links = coo_array((np.ones(len(first), np.int8), (first, other)), shape=(n_classes,) * 2)
    component = connected_components(links, directed=False)[1]
    group_of = np.full(n_classes + 1, KEPT)
    unit_of = np.full(n_classes + 1, KEPT)
    groups: dict[int, int] = {}
    n_units: Counter[int] = Counter()
    for units in made:
        for unit in units:
            if unit_of[unit] == KEPT:
                group = groups.setdefault(int(component[unit]), len(groups))
                group_of[unit], unit_of[unit] = group, n_units[group]
                n_units[group] += 1
    return Solution(classes, group_of[classes.unit_of], unit_of[classes.unit_of])


def _without_use(flow: Flow, solution: Solution) -> list[tuple[IntArray, str]]:
    used = {
        int(group)
        for layer in flow.layers
        if not layer.idle
        and (atoms := flow.atoms.get(AxisKey(layer.weight, layer.in_dim))) is not None
        for group in np.unique(solution.group_of[atoms])
    }
    reason = "no convolution or linear layer reads these channels"
    unused = {group: made for group, made in _by_group(flow, solution).items() if group not in used}
    return [(atoms, reason) for made in unused.values() for atoms in made]


def _single_units(flow: Flow, solution: Solution) -> list[tuple[IntArray, str]]:
    found = []
    for made in _by_group(flow, solution).values():
        if all(solution.unit_of[atoms].max() == 0 for atoms in made):
            merged_by = solution.classes.merged_by.get(int(solution.classes.class_of[made[0][0]]))
            why = f" by {merged_by}" if merged_by else ""
            found.append((made[0], f"all {len(made[0])} channels are tied into one unit{why}"))
    return found


def _by_group(flow: Flow, solution: Solution) -> dict[int, list[IntArray]]:
    """For each group the atoms of its units in each producer that makes any."""
    made: dict[int, list[IntArray]] = {}
    for key in flow.producers:
        atoms = flow.atoms[key]
        for group in np.unique(solution.group_of[atoms]):
            if group != KEPT:
                made.setdefault(int(group), []).append(atoms[solution.group_of[atoms] == group])
    return made


def _uncounted(
    flow: Flow, solution: Solution, parameters: Container[str]
) -> list[tuple[IntArray, str]]:
    measures = Measures(solution, _axes(flow, solution), parameters)
    return [
        (extent.labels, f"the cost of {term.name} is not in proportion to any weight's dimension")
        for term in flow.terms
        for extent in term.extents
        if extent.labels is not None
        and not measures.constant(extent)
        and measures.axis(extent) is None
    ]


def _attributes(
    flow: Flow, solution: Solution, parameters: Container[str]
) -> tuple[tuple[SizeAttribute, ...], list[tuple[IntArray, str]]]:
    axes = _axes(flow, solution)
    return size_attributes(flow, solution, axes, Measures(solution, axes, parameters))


# ---- axes, consumers, groups


def _axes(flow: Flow, solution: Solution) -> dict[AxisKey, Axis]:
    axes = {}
    for key, atoms in flow.atoms.items():
        group = solution.group_of[atoms]
        if (group != KEPT).any():
            axes[key] = Axis(key, group, solution.unit_of[atoms])
    return axes


def _consumers(flow: Flow, axes: Mapping[AxisKey, Axis]) -> tuple[Consumer, ...]:
    calls: Counter[str] = Counter()
    consumers = []
    for layer in flow.layers:
        call = calls[layer.weight]
        calls[layer.weight] += 1
        if not layer.idle and AxisKey(layer.weight, layer.in_dim) in axes:
            name = module_name(layer.weight) + (f"#{call}" if call else "")
            alone = all(flow.reads[own] == 1 for own in (layer.weight, layer.bias) if own)
            same = {own: value for own, value in vars(layer).items() if own != "idle"}
            consumers.append(Consumer(name=name, call=call, alone=alone, **same))
    return tuple(consumers)


def _groups(
    flow: Flow, axes: Mapping[AxisKey, Axis], consumers: tuple[Consumer, ...]
) -> tuple[tuple[Group, ...], list[int]]:
    """Groups from outputs to inputs, and for each place in that order the number it had."""
    producers: dict[int, list[AxisKey]] = {}
    for key in flow.producers:
        if key in axes:
            present = np.unique(axes[key].group)
            producers.setdefault(int(present[present != KEPT][0]), []).append(key)
    reads: dict[int, list[int]] = {group: [] for group in producers}
    for index, consumer in enumerate(consumers):
        for group in np.unique(axes[consumer.in_axis].group):
            if group != KEPT:
                reads[int(group)].append(index)
    order = sorted(producers, key=lambda group: (-reads[group][-1], -group))
    names: Counter[str] = Counter()
    groups = []
    for place, group in enumerate(order):
        made = producers[group]
        name = module_name(made[0].tensor)
        names[name] += 1
        groups.append(
            Group(
                index=place,
                name=name if names[name] == 1 else f"{name}:{made[0].dim}",
                n_units=1 + max(int(axes[k].unit[axes[k].group == group].max()) for k in made),
                producers=tuple(made),
                consumers=tuple(reads[group]),
            )
        )
    return tuple(groups), order


# ---- refusals


def _refusals(flow: Flow, solution: Solution) -> tuple[Refusal, ...]:
    classes = solution.classes
    refused = []
    for key in flow.producers:
        atoms = flow.atoms[key]
        fixed = classes.class_of[atoms[solution.group_of[atoms] == KEPT]]
        reasons = Counter(classes.reason_of[int(unit)] for unit in fixed)
        name = module_name(key.tensor)
        refused += [Refusal(name, count, reason) for reason, count in reasons.items()]
    return (*refused, *flow.refused)


def _nothing_prunable(refused: tuple[Refusal, ...]) -> str:
    if not refused:
        return (
            "nothing in this model can be pruned: it has no convolution (groups=1), linear layer "
            "or embedding whose weight is a parameter. Give a model with such layers."
        )
    listed = "\n".join(f"  {item.name}: {item.n_units} channels: {item.reason}" for item in refused)
    return (
        "nothing in this model can be pruned: every channel has to stay. Change the model at the "
        f"named places, or give another one. Why each layer has to keep its channels:\n{listed}"
    )
