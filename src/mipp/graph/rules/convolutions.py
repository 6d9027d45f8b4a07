"""Rules of convolutions, dense and grouped.

What can be removed of a grouped convolution is one of two things. Where there are many groups, each
is a unit with all its channels, input and output: no group reads another, so that this is exact and
the layer in front gets smaller too. Where there are few, the outputs at the same place of all
groups are one unit, so that groups stay equal, and the inputs stay.
"""

import math

import numpy as np

from mipp.graph.findings import Extent, Labels
from mipp.graph.labels import Value
from mipp.graph.rules.dense import Dense, dense, parameter_axis, produce, record
from mipp.graph.rules.rule import Call, rule
from mipp.records import IntArray, Kind

MANY_GROUPS = 16
"""So many units are enough for a layer; with fewer, channels inside the groups may be more."""


@rule("conv1d", "conv2d", "conv3d")
def conv(call: Call) -> Value:
    """Weight ``(out, in / groups, *kernel)``."""
    return _any_conv(call, "conv", in_dim=1, out_dim=0)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(call: Call) -> Value:
    """Weight ``(in, out / groups, *kernel)``."""
    return _any_conv(call, "conv_transpose", in_dim=0, out_dim=1)


def _any_conv(call: Call, kind: Kind, in_dim: int, out_dim: int) -> Value:
    x, weight, bias = call.tensor("input"), call.tensor("weight"), call.maybe_tensor("bias")
    kernel_dims = range(2, len(weight.shape))
    channel = len(x.shape) - len(kernel_dims) - 1
    dims = range(channel + 1, len(x.shape))
    labels = call.fix_dims(x, dims, "a convolution slides along this dimension")
    call.fix_dims(weight, kernel_dims, "it is the kernel of a convolution")
    layer = Dense(kind, x, weight, bias, in_dim, out_dim, channel)
    groups = call.integer("groups")
    labels[channel] = dense(call, layer) if groups == 1 else _grouped(call, layer, groups)
    out = call.out(labels)
    counted = out if kind == "conv" else x
    kernel = math.prod(weight.shape[dim] for dim in kernel_dims)
    if groups == 1:
        record(call, layer, kernel, counted)
    else:
        _count(call, layer, kernel, counted)
    return out


def _grouped(call: Call, layer: Dense, groups: int) -> Labels:
    inputs, key = layer.x.labels[layer.channel], parameter_axis(layer.weight, 0)
    n_in, n_out = (shape[layer.channel] // groups for shape in (layer.x.shape, call.shape))
    if inputs is not None and n_in == 1:
        return _whole(call, layer, inputs, n_out)
    enough = groups >= min(MANY_GROUPS, n_out)
    if inputs is not None and enough and (key is None or key not in call.flow.evenly):
        if key is not None:
            call.flow.whole.append(key)
        return _whole(call, layer, call.merge(inputs.reshape(groups, n_in)), n_out)
    return _evenly(call, layer, groups, n_out)


def _whole(call: Call, layer: Dense, units: IntArray, n_out: int) -> IntArray:
    """Group ``g`` with all it reads and makes is unit ``g``; in depthwise ones it reads one."""
    made = np.repeat(units, n_out)
    rows = made if layer.kind == "conv" else np.repeat(units, layer.weight.shape[0] // len(units))
    call.tie(layer.weight.labels[0], rows)
    call.fix(layer.weight.labels[1], "it is inside of the groups of a convolution, which go whole")
    call.tie_vector(layer.bias, made)
    return made


def _evenly(call: Call, layer: Dense, groups: int, n_out: int) -> Labels:
    """Output ``k`` of all groups is one unit; the inputs stay."""
    reason = f"a convolution with groups={groups} reads it in blocks"
    call.fix(layer.x.labels[layer.channel], reason)
    call.fix(layer.weight.labels[layer.in_dim], reason)
    rows, key = layer.weight.labels[layer.out_dim], parameter_axis(layer.weight, layer.out_dim)
    if rows is None or key is None or n_out == 1:
        why = "each group makes one channel" if n_out == 1 else "the weight is computed"
        call.fix(rows, f"{why} of a convolution with groups={groups} whose inputs stay")
        call.tie_vector(layer.bias, None)
        call.refuse(call.shape[layer.channel], f"its inputs stay, {why}, and groups={groups}")
        return None
    units = call.merge(rows.reshape(groups, n_out).T) if layer.kind == "conv" else rows
    made = np.tile(units, groups)
    produce(call, key)
    call.tie_vector(layer.bias, made)
    return made


def _count(call: Call, layer: Dense, kernel: int, counted: Value) -> None:
    scale, positions = call.positions(counted, layer.channel)
    weight = layer.weight
    name = weight.source.tensor if weight.source else call.op
    sides = [
        Extent(weight.shape[dim], weight.labels[dim], parameter_axis(weight, dim)) for dim in (0, 1)
    ]
    call.count(name, scale * kernel, *sides, *positions)
