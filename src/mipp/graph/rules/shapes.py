"""Rules of ops that move dimensions or cut and join tensors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mipp.graph.findings import Labels
from mipp.graph.labels import FIXED, UNKNOWN, DependsOnValues, Source, Value, stand_ins
from mipp.graph.rules.pointwise import tie_broadcast
from mipp.graph.rules.rule import Call, rule
from mipp.tracing.size_attributes import AttributeInt


def moved(call: Call, x: Value, dims: Sequence[int | None]) -> Value:
    """Dimension ``i`` of the output is dimension ``dims[i]`` of ``x``, None a new one."""
    source = x.source and replace(
        x.source, dims=tuple(None if dim is None else x.source.dims[dim] for dim in dims)
    )
    return call.out([None if dim is None else x.labels[dim] for dim in dims], source)


@rule(
    "contiguous", "clone", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh",
    "lift_fresh_copy", "requires_grad", "cpu", "cuda", "positive",
    "_autocast_to_full_precision", "_autocast_to_reduced_precision",
)  # fmt: skip
def identity(call: Call) -> Value:
    """The same tensor."""
    return moved(call, call.first, range(len(call.first.shape)))


@rule("permute")
def permute(call: Call) -> Value:
    """``dims`` in a new order."""
    x = call.first
    return moved(call, x, [dim % len(x.shape) for dim in call.integers("dims")])


@rule("transpose", "t", "mT", "swapaxes", "swapdims", "numpy_T", "adjoint")
def transpose(call: Call) -> Value:
    """Two dimensions swapped, the last two where none are named."""
    x = call.first
    dims = list(range(len(x.shape)))
    names = [("dim0", "dim1"), ("axis0", "axis1")]
    pair = next(
        ([call.integer(a), call.integer(b)] for a, b in names if call.get(a) is not None), [-2, -1]
    )
    if len(dims) > 1:
        first, second = (dim % len(dims) for dim in pair)
        dims[first], dims[second] = dims[second], dims[first]
    return moved(call, x, dims)


@rule("movedim", "moveaxis")
def movedim(call: Call) -> Value:
    """Some dimensions at new places, the others in order."""
    x = call.first
    rank = len(x.shape)
    pairs = zip(call.integers("destination"), call.integers("source"), strict=True)
    origin = {to % rank: dim % rank for to, dim in pairs}
    others = iter([dim for dim in range(rank) if dim not in origin.values()])
    return moved(call, x, [origin[dim] if dim in origin else next(others) for dim in range(rank)])


@rule("unsqueeze")
def unsqueeze(call: Call) -> Value:
    """A new dimension of size 1."""
    dims: list[int | None] = list(range(len(call.first.shape)))
    dims.insert(call.integer("dim") % (len(dims) + 1), None)
    return moved(call, call.first, dims)


@rule("squeeze")
def squeeze(call: Call) -> Value:
    """Dimensions of size 1 taken out."""
    x = call.first
    rank = len(x.shape)
    named = range(rank) if call.get("dim") is None else call.integers("dim")
    gone = {dim % rank for dim in named if x.shape[dim] == 1}
    return moved(call, x, [dim for dim in range(rank) if dim not in gone])


@rule("expand_as")
def expand_as(call: Call) -> Value:
    """Dimensions of size 1 repeated as often as there are indices in another tensor."""
    x, other = call.tensor("self"), call.tensor("other")
    missing = len(other.shape) - len(x.shape)
    labels = [
        atoms if dim < missing or x.shape[dim - missing] == 1 else x.labels[dim - missing]
        for dim, atoms in enumerate(other.labels)
    ]
    for dim, atoms in enumerate(x.labels):
        if x.shape[dim] != 1:
            call.tie(atoms, other.labels[dim + missing])
    return _for_all_examples(call, call.out(labels))


@rule("expand", "broadcast_to")
def expand(call: Call) -> Value:
    """Dimensions of size 1 repeated; how often, an attribute may say, which can get smaller."""
    labels = tie_broadcast(call, [call.first], call.shape)
    sizes = call.size_attributes("size") if call.get("size") is not None else [None] * len(labels)
    missing = len(labels) - len(call.first.shape)
    for dim, size in enumerate(sizes):
        if size is not None and dim >= missing and call.first.shape[dim - missing] == 1:
            labels[dim] = call.flow.ties.fresh(call.shape[dim])
        if call.shape[dim] > 1:
            call.has_size(size, labels[dim])
    made = replace(call.out(labels), source=_repeated(call, missing))
    return _for_all_examples(call, made, from_attribute=bool(sizes) and sizes[0] is not None)


def _repeated(call: Call, missing: int) -> Source | None:
    """The parameter that is repeated along new dimensions or ones of size 1, which are not its."""
    x = call.first
    if x.source is None:
        return None
    kept = (
        own if size == call.shape[missing + dim] else None
        for dim, (own, size) in enumerate(zip(x.source.dims, x.shape, strict=True))
    )
    return replace(x.source, dims=(*[None] * missing, *kept))


def _for_all_examples(call: Call, made: Value, *, from_attribute: bool = False) -> Value:
    """What a parameter is repeated to holds the examples, if it is as long as there are any.

    A graph of fixed sizes cannot tell; where an attribute gives the size it is something else.
    """
    x = call.first
    grown = len(x.shape) < len(made.shape) or x.shape[:1] == (1,)
    if from_attribute or made.batched or not grown or made.shape[:1] != (call.flow.batch,):
        return made
    return replace(made, batched=True)


@rule("repeat", "tile")
def repeat(call: Call) -> Value:
    """The whole tensor again and again, along each dimension."""
    x, shape = call.first, call.shape
    lead = len(shape) - len(x.shape)
    labels: list[Labels] = [None] * len(shape)
    for dim, atoms in enumerate(x.labels):
        if atoms is not None and shape[lead + dim] == UNKNOWN:
            raise DependsOnValues
        if atoms is not None:
            labels[lead + dim] = np.tile(atoms, shape[lead + dim] // x.shape[dim])
    return _for_all_examples(call, call.out(labels))


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
def reshape(call: Call) -> Value:
    """Dimensions merged and split, block by block."""
    x, shape = call.first, call.shape
    before, after = stand_ins(call.node.all_input_nodes[0], call.node)
    if 0 in shape or math.prod(before) != math.prod(after):
        call.fix_all("it has no elements, or a number of them that depends on values")
        return call.out([None] * len(shape))
    labels: list[Labels] = [None] * len(shape)
    origin: list[int | None] = [None] * len(shape)
    for ins, outs in _blocks(before, after):
        if len(ins) == len(outs) == 1:
            labels[outs[0]], origin[outs[0]] = x.labels[ins[0]], ins[0]
            continue
        if UNKNOWN in [x.shape[dim] for dim in ins] + [shape[dim] for dim in outs]:
            call.fix_dims(x, ins, "it is joined with or split by a size that depends on values")
            continue
        labelled = [dim for dim in ins if x.labels[dim] is not None]
        if len(labelled) == 1:
            _reshape_block(call, x, ins, outs, labels)
        elif labelled:
            # heads and what is in them: the outer one is pruned, the inner one stays as it is
            call.fix_dims(x, labelled[1:], "it makes one dimension out of two that could be pruned")
            outer = Value(x.shape, tuple(
                atoms if dim == labelled[0] else None for dim, atoms in enumerate(x.labels)
            ))  # fmt: skip
            _reshape_block(call, outer, ins, outs, labels)
    in_heads = {id(atoms) for _, atoms in call.flow.in_heads}
    for size, atoms, length in zip(_attribute_sizes(call), labels, shape, strict=True):
        if length > 1:
            call.has_size(size, atoms, surely=id(atoms) in in_heads)
    source = None
    if x.source is not None:
        dims = tuple(None if dim is None else x.source.dims[dim] for dim in origin)
        source = replace(x.source, dims=dims)
    return call.out(labels, source)


def _blocks(
    before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest runs of dimensions before and after with the same number of elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        ins, outs = list(range(i, min(i + 1, len(before)))), list(range(j, min(j + 1, len(after))))
        n_in = math.prod(before[dim] for dim in ins)
        n_out = math.prod(after[dim] for dim in outs)
        while n_in != n_out:
            if n_in < n_out:
                ins.append(i + len(ins))
                n_in *= before[ins[-1]]
            else:
                outs.append(j + len(outs))
                n_out *= after[outs[-1]]
        i, j = i + len(ins), j + len(outs)
        yield ins, outs


def _reshape_block(
    call: Call, x: Value, ins: list[int], outs: list[int], labels: list[Labels]
) -> None:
    """Writes into ``labels`` what one block with one labelled dimension becomes."""
    along = [x.labels[dim] if x.labels[dim] is not None else np.zeros(1, np.int64) for dim in ins]
    which = next(i for i, dim in enumerate(ins) if x.labels[dim] is not None)
    atoms = along[which]
    assert atoms is not None
    spread = atoms.reshape([-1 if i == which else 1 for i in range(len(ins))])
    after = tuple(call.shape[dim] for dim in outs)
    spread = np.broadcast_to(spread, [x.shape[dim] for dim in ins]).reshape(after)
    inside = _in_heads(call, outs) if call.flow.head_dims else None
    kept = _adapting(call, outs) if inside is None else inside
    rows = np.moveaxis(spread, kept, 0).reshape(after[kept], -1)
    made = rows[:, 0] if (rows == rows[:, :1]).all() else call.merge(rows)
    labels[outs[kept]] = made
    if inside is not None:
        size = _attribute_sizes(call)[outs[kept]]
        call.flow.in_heads.append((() if size is None else size.attributes, made))


def _in_heads(call: Call, outs: list[int]) -> int | None:
    """Which of ``outs`` are the features of a head, None where no heads are split off.

    It is the one whose size is an attribute that measures heads, such as ``head_dim``; where an
    attribute gives the number of heads, it is the last one.
    """
    wide = [index for index, dim in enumerate(outs) if call.shape[dim] > 1]
    sizes = _attribute_sizes(call)
    measuring = [i for i in wide if (size := sizes[outs[i]]) and size.measures and not size.counts]
    if len(measuring) == 1:
        return measuring[0]
    counting = [i for i in wide if (size := sizes[outs[i]]) and size.counts]
    if len(counting) != 1 or counting == wide[-1:]:
        return None
    return wide[-1]


def _adapting(call: Call, outs: list[int]) -> int:
    """Which of ``outs`` eager code makes smaller when the dimension that it splits gets smaller.

    It is the one whose size is an attribute that counts units, as in ``view(b, self.num_heads,
    d)``; then the one given as -1; otherwise of two the last, as in ``view(b, groups, c //
    groups)``, of more the first, as in ``view(b, c // 4, 2, 2)``. That is so even if the labels
    differ along another one only: a constant number of groups cuts a smaller tensor at other
    places. Where the code has it otherwise the sliced model does not run, and the group is put
    back.
    """
    given = call.get("size") or call.get("shape") or call.get("sizes") or []
    if call.op == "unflatten":
        given = [None] * call.dim() + list(given)
    wide = [index for index, dim in enumerate(outs) if call.shape[dim] > 1]
    sizes = _attribute_sizes(call)
    counting = [index for index in wide if (size := sizes[outs[index]]) and size.counts]
    if len(counting) == 1:
        return counting[0]
    for index in wide:
        if outs[index] < len(given) and given[outs[index]] == -1:
            return index
    return wide[-1] if len(wide) == 2 else wide[0]


def _attribute_sizes(call: Call) -> list[AttributeInt | None]:
    """The attributes that give each dimension of the output of a reshape."""
    name = next((name for name in ("size", "shape", "sizes") if call.get(name) is not None), None)
    if name is None:
        return [None] * len(call.shape)
    before = call.dim() if call.op == "unflatten" else 0
    sizes = call.size_attributes(name)
    made: list[AttributeInt | None] = [None] * len(call.shape)
    made[before : before + len(sizes)] = sizes
    return made


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Value:
    """Units of all inputs one after the other; along other dimensions they are the same."""
    values = [value for value in call.inputs if value.shape != (0,)]
    dim = call.integer("dim") % len(call.shape)
    if call.shape[dim] == UNKNOWN and any(value.labels[dim] is not None for value in values):
        raise DependsOnValues
    labels = [
        None if other == dim else call.tie_all([value.labels[other] for value in values])
        for other in range(len(call.shape))
    ]
    if any(value.labels[dim] is not None for value in values):
        pieces = [value.labels[dim] for value in values]
        labels[dim] = np.concatenate(
            [
                np.full(value.shape[dim], FIXED, np.int64) if piece is None else piece
                for value, piece in zip(values, pieces, strict=True)
            ]
        )
    return call.out(labels)


@rule("stack")
def stack(call: Call) -> Value:
    """A new dimension; the others are the same in all inputs."""
    values = call.inputs
    labels = [
        call.tie_all([value.labels[dim] for value in values]) for dim in range(len(values[0].shape))
    ]
    labels.insert(call.integer("dim") % len(call.shape), None)
    return call.out(labels)
