"""Rules of ops that take a part of a tensor, pad it or move channels into space."""

from dataclasses import replace

import numpy as np

from mipp.graph.findings import Labels
from mipp.graph.labels import Value
from mipp.graph.rules.rule import Call, Made, rule
from mipp.records import IntArray
from mipp.tracing.size_attributes import Attribute, AttributeInt

CONSTANT_LENGTH = "its length along the channels is a constant in the code"


@rule("slice")
def take_slice(call: Call) -> Value:
    """A slice of everything passes, and one between sums of attributes; others count on places."""
    x, dim = call.first, call.dim()
    start, end, step = call.get("start") or 0, call.get("end"), call.get("step") or 1
    to_the_end = end is None or end >= x.shape[dim]
    if start == 0 and step == 1 and to_the_end:
        return call.out(x.labels)
    before = call.size_terms("start")
    until = before if to_the_end else call.size_terms("end")
    atoms = x.labels[dim]
    # what lies before the start has to be known, too: the start moves with it
    known = before is not None and until is not None and _begins(until, before)
    if atoms is None or step != 1 or not known or sum(until or ()) > len(atoms):
        return call.out(call.fix_dims(x, [dim], CONSTANT_LENGTH))
    offset = 0
    for size in until or ():
        call.has_size(size, atoms[offset : offset + size])
        offset += int(size)
    part = atoms[start:] if to_the_end else atoms[start:end]
    return call.out([*x.labels[:dim], part, *x.labels[dim + 1 :]])


def _begins(until: tuple[AttributeInt, ...], before: tuple[AttributeInt, ...]) -> bool:
    """Whether the one sum goes on where the other one ends."""
    start = until[: len(before)]
    return [term.attributes for term in start] == [term.attributes for term in before]


@rule("select")
def select(call: Call) -> Value:
    """One index of a dimension."""
    labels = call.fix_dims(call.first, [call.dim()], "it takes one channel by its place")
    del labels[call.dim()]
    return call.out(labels)


@rule("split", "split_with_sizes")
def split(call: Call) -> Made:
    """Parts whose sizes attributes give: parts of one attribute stay equal, as in a chunk."""
    x, dim = call.first, call.dim()
    name = "split_size" if call.get("split_size") is not None else "split_sizes"
    sizes, attributes = call.integers(name), call.size_attributes(name)
    if name == "split_size":
        n_parts = -(-x.shape[dim] // sizes[0])
        sizes, attributes = sizes * n_parts, attributes * n_parts
    atoms = x.labels[dim]
    if atoms is None or sum(sizes) != len(atoms) or None in attributes:
        return cut_along(call)
    parts = np.split(atoms, np.cumsum(sizes)[:-1])
    of: dict[tuple[Attribute, ...], list[int]] = {}
    for index, size in enumerate(attributes):
        assert size is not None
        of.setdefault(size.attributes, []).append(index)
    for indices in of.values():
        rows = call.merge(np.stack([parts[index] for index in indices], axis=1))
        for index in indices:
            parts[index] = rows
            call.has_size(attributes[index], rows)
    made = [
        call.value(tuple(meta.shape), [*x.labels[:dim], part, *x.labels[dim + 1 :]])
        for meta, part in zip(call.node.meta["val"], parts, strict=True)
    ]
    return list(made)


@rule("narrow", "index_select", "topk")
def cut_along(call: Call) -> list[Value | None]:
    """A part, or several, by constants: units along other dimensions pass."""
    for value in call.inputs[1:]:
        call.fix_dims(value, range(len(value.shape)), "it is an index")
    return call.each(call.fix_dims(call.first, [call.dim()], CONSTANT_LENGTH))


@rule("unfold")
def unfold(call: Call) -> Value:
    """Windows along one dimension, as a new last dimension."""
    labels = call.fix_dims(call.first, [call.dim("dimension")], CONSTANT_LENGTH)
    return call.out([*labels, None])


@rule("unbind")
def unbind(call: Call) -> list[Value | None]:
    """All indices of a dimension, each a tensor."""
    labels = call.fix_dims(call.first, [call.dim()], "it takes channels by their place")
    del labels[call.dim()]
    return call.each(labels)


@rule("chunk")
def chunk(call: Call) -> list[Value | None]:
    """Equal parts: the indices at the same place of all parts are one unit, so parts stay equal."""
    x, n_chunks = call.first, call.integer("chunks")
    dim = call.dim()
    atoms, labels = x.labels[dim], list(x.labels)
    if atoms is not None:
        labels[dim] = None
        if len(atoms) % n_chunks or len(atoms) == n_chunks:
            call.fix(atoms, "the parts would change their places")
        else:
            labels[dim] = call.merge(atoms.reshape(n_chunks, -1).T)
    parts = call.each(labels)
    if x.source is None:
        return parts
    source = replace(x.source, part=True)
    return [part and replace(part, source=source) for part in parts]


@rule("glu")
def glu(call: Call) -> Value:
    """Like a chunk in two halves that are multiplied."""
    labels, dim = list(call.first.labels), call.dim()
    atoms = labels[dim]
    if atoms is not None:
        labels[dim] = _units(call, atoms.reshape(2, -1).T)
    return call.out(labels)


def _units(call: Call, rows: IntArray) -> Labels:
    """Each row as one unit; where there is only one, it stays."""
    if len(rows) > 1:
        return call.merge(rows)
    call.fix(rows[0], "it makes a single channel")
    return None


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
      "replication_pad1d", "replication_pad2d", "replication_pad3d")  # fmt: skip
def pad(call: Call) -> Value:
    """Channels that constant padding inserts are fixed, the others are as before."""
    x = call.first
    amounts = call.integers("pad") or call.integers("padding")
    labels = list(x.labels)
    for pair in range(len(amounts) // 2):
        dim = len(x.shape) - 1 - pair
        before, after = amounts[2 * pair : 2 * pair + 2]
        atoms = labels[dim]
        if (before, after) == (0, 0) or atoms is None:
            continue
        if min(before, after) < 0 or call.get("mode") not in (None, "constant"):
            call.fix(atoms, CONSTANT_LENGTH)
            labels[dim] = None
            continue
        inserted = call.flow.ties.fresh(before + after)
        call.fix(
            inserted, f"it is tied to the {before + after} channels of zeros that padding inserts"
        )
        labels[dim] = np.concatenate([inserted[:before], atoms, inserted[before:]])
    return call.out(labels)


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Value:
    """Blocks of ``r * r`` channels become one."""
    labels = call.fix_dims(call.first, (-1, -2), "pixel_shuffle changes it")
    atoms = labels[-3]
    if atoms is not None:
        labels[-3] = _units(call, atoms.reshape(-1, call.integer("upscale_factor") ** 2))
    return call.out(labels)


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Value:
    """One channel becomes ``r * r``."""
    labels = call.fix_dims(call.first, (-1, -2), "pixel_unshuffle changes it")
    atoms = labels[-3]
    labels[-3] = None if atoms is None else np.repeat(atoms, call.integer("downscale_factor") ** 2)
    return call.out(labels)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Value:
    """Channel ``(g, c)`` goes to ``(c, g)``; the same ``c`` of all groups is one unit."""
    x, groups = call.first, call.integer("groups")
    atoms = x.labels[1]
    if atoms is not None and len(atoms) > groups:
        atoms = np.repeat(call.merge(atoms.reshape(groups, -1).T), groups)
    return call.out([x.labels[0], atoms, *x.labels[2:]])
