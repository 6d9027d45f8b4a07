"""Rules of dense layers with weights: linear layers, embeddings, what convolutions share."""

import math
from dataclasses import dataclass

from mipp.graph.exported import module_path
from mipp.graph.findings import Extent, Labels, LayerCall
from mipp.graph.labels import UNKNOWN, Value
from mipp.graph.rules.rule import Call, rule
from mipp.records import AxisKey, Kind


@dataclass(frozen=True, eq=False)
class Dense:
    """What a dense layer needs.

    ``in_dim`` and ``out_dim`` are dimensions of ``weight``, the value; ``channel`` is the dimension
    of the input ``x`` and of the output that they stand for.
    """

    kind: Kind
    x: Value
    weight: Value
    bias: Value | None
    in_dim: int
    out_dim: int
    channel: int


@rule("linear")
def linear(call: Call) -> Value:
    """Weight ``(out, in)`` over the last dimension; units along other dimensions pass."""
    weight, bias = call.tensor("weight"), call.maybe_tensor("bias")
    return dense_linear(call, call.tensor("input"), weight, bias, in_dim=1)


@rule("embedding")
def embedding(call: Call) -> Value:
    """Weight ``(entries, features)``: makes features, the entries stay."""
    weight, indices = call.tensor("weight"), call.tensor("indices")
    call.fix(weight.labels[0], "the indices of an embedding count on every entry")
    key = parameter_axis(weight, 1)
    if key is None:
        call.fix(weight.labels[1], "the table of the embedding is computed, not a parameter")
    else:
        produce(call, key)
    return call.out([*indices.labels, weight.labels[1]])


def dense_linear(call: Call, x: Value, weight: Value, bias: Value | None, in_dim: int) -> Value:
    """``x`` times a matrix of which ``in_dim`` (0 or 1) is summed over."""
    return call.out(dense_labels(call, x, weight, bias, in_dim))


def dense_labels(
    call: Call, x: Value, weight: Value, bias: Value | None, in_dim: int, made_dim: int = -1
) -> list[Labels]:
    """Labels of ``x`` times a matrix, features last; ``made_dim``: where the output has them."""
    kind: Kind = "linear" if in_dim == 1 else "matmul"
    layer = Dense(kind, x, weight, bias, in_dim, 1 - in_dim, len(x.shape) - 1)
    labels = [*x.labels[:-1], dense(call, layer)]
    record(call, layer, kernel=1, counted=x, made_dim=made_dim)
    if made_dim % len(x.shape) != layer.channel:
        # products that sum over features inside heads look for these in the last dimension
        call.flow.makers.pop(call.node, None)
    return labels


def parameter_axis(value: Value, dim: int) -> AxisKey | None:
    """The dimension of a parameter that dimension ``dim`` of ``value`` is, if it is one."""
    source = value.source
    if source is None or not source.is_parameter:
        return None
    own = source.dims[dim]
    return None if own is None else AxisKey(source.tensor, own)


def produce(call: Call, key: AxisKey) -> None:
    """Remembers that ``key`` makes units, in order of execution."""
    if key not in call.flow.atoms:
        call.refuse(1, "it makes a single channel")
    elif key not in call.flow.producers:
        call.flow.producers.append(key)


def dense(call: Call, layer: Dense) -> Labels:
    """Ties the layer's inputs to its weight; returns the labels of its outputs."""
    x, weight, bias = layer.x, layer.weight, layer.bias
    in_key, out_key = parameter_axis(weight, layer.in_dim), parameter_axis(weight, layer.out_dim)
    computed = in_key is None or out_key is None or in_key.tensor != out_key.tensor
    # a bias may be put together out of several, as long as it is known which units they belong to
    loose = bias is not None and parameter_axis(bias, 0) is None and bias.labels[0] is None
    if computed or loose:
        what = "weight" if computed else "bias"
        reason = f"the {what} of this layer is computed, not a parameter itself{advice(call)}"
        call.fix(x.labels[layer.channel], reason)
        call.fix_dims(weight, range(len(weight.shape)), reason)
        call.tie_vector(bias, None)
        call.refuse(weight.shape[layer.out_dim], reason)
        return None
    assert out_key is not None
    if x.labels[layer.channel] is None:
        call.fix(weight.labels[layer.in_dim], "the same weight reads channels that have to stay")
    if weight.source is not None and weight.source.part:
        # nothing is measured where several calls share out one weight
        call.fix(x.labels[layer.channel], "a part of a weight reads it")
    call.tie(x.labels[layer.channel], weight.labels[layer.in_dim])
    produce(call, out_key)
    call.tie_vector(bias, weight.labels[layer.out_dim])
    bias_key = None if bias is None else parameter_axis(bias, 0)
    sources = [weight.source, weight.source if bias is None else bias.source]
    if all(source is not None and not source.part for source in sources):
        keys = (out_key, bias_key)
        call.flow.makers[call.node] = tuple(key for key in keys if key is not None)
    return weight.labels[layer.out_dim]


def advice(call: Call) -> str:
    """What to do about a weight that a weight or spectral norm or a pruning mask computes."""
    own = f"{module_path(call.node)}.".lstrip(".")
    names = [k.tensor.removeprefix(own) for k in call.flow.sizes if k.tensor.startswith(own)]
    if any(n.startswith("parametrizations.") or n.endswith(("_g", "_orig")) for n in names):
        return "; make it plain with mipp.prepare.folded(model)"
    return ""


def record(
    call: Call, layer: Dense, kernel: int, counted: Value, made_dim: int | None = None
) -> None:
    """Counts the cost of a dense layer and remembers it as a possible consumer.

    Args:
        call: The call of the layer.
        layer: The layer.
        kernel: Number of positions in its kernel.
        counted: The value whose positions count: the input or the output.
        made_dim: The dimension of the output that it makes, if not that which it reads.
    """
    weight = layer.weight
    in_key, out_key = parameter_axis(weight, layer.in_dim), parameter_axis(weight, layer.out_dim)
    scale, positions = call.positions(counted, layer.channel)
    routed = UNKNOWN in counted.shape
    scale = 1.0 if routed else scale
    name = weight.source.tensor if weight.source else call.op
    part = weight.source is not None and weight.source.part
    sides = [
        Extent(weight.shape[dim], weight.labels[dim], None if part else key)
        for dim, key in ((layer.in_dim, in_key), (layer.out_dim, out_key))
    ]
    call.count(name, scale * kernel, *sides, *positions, routed=routed)
    if in_key is None or out_key is None or part:
        return
    uses = math.ceil(scale * math.prod(extent.size for extent in positions))
    kind = layer.kind
    if kind in (
        "linear",
        "matmul",
    ):  # a weight may be given transposed; the parameter is what counts
        kind = "linear" if in_key.dim == 1 else "matmul"
    bias = parameter_axis(layer.bias, 0) if layer.bias is not None else None
    call.flow.layers.append(
        LayerCall(
            kind=kind,
            weight=in_key.tensor,
            bias=bias.tensor if bias is not None else None,
            in_dim=in_key.dim,
            out_dim=out_key.dim,
            uses=uses,
            norm_after=_norm_after(call, layer.channel if made_dim is None else made_dim),
            idle=call.node in call.flow.idle,
            routed=routed,
        )
    )


def _norm_after(call: Call, made_dim: int) -> bool:
    """Whether the output goes to a BatchNorm over the dimension that is made, and nowhere else."""
    users = list(call.node.users)
    return (
        len(users) == 1
        and made_dim % len(call.shape) == 1
        and str(users[0].target).startswith("aten.batch_norm.")
        and users[0].args[0] is call.node
    )
