"""Rules of ops that keep every dimension where it is: pointwise, norms, pooling, reductions."""

from collections.abc import Sequence

import numpy as np

from mipp.graph.exported import module_path, module_type
from mipp.graph.findings import Labels
from mipp.graph.labels import Value
from mipp.graph.rules.rule import Call, Made, rule
from mipp.tracing.size_attributes import AttributeInt


def tie_broadcast(call: Call, values: Sequence[Value], shape: tuple[int, ...]) -> list[Labels]:
    """Ties what meets when ``values`` are broadcast to ``shape``; the labels of the result.

    A dimension of size 1 has no labels and broadcasts freely; one that stays, or whose size depends
    on values, meets labels only by fixing them.
    """
    labels: list[Labels] = [None] * len(shape)
    for dim, size in enumerate(shape):
        met = [
            value.labels[dim - len(shape)]
            for value in values
            if len(shape) - dim <= len(value.shape) and value.shape[dim - len(shape)] != 1
        ]
        if size != 1 and met:
            labels[dim] = call.tie_all(met)
    return labels


def tied(call: Call) -> Value:
    """The output of an op for which all inputs are broadcast."""
    return call.out(tie_broadcast(call, call.inputs, call.shape))


@rule(
    "pointwise", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "bernoulli",
    "rsub", "copy", "where", "masked_fill", "fill", "zero", "log_sigmoid", "relu6", "subtract",
    "multiply", "divide", "true_divide", "floor_divide", "hardswish", "absolute", "negative",
    "fix", "greater", "greater_equal", "less", "less_equal", "not_equal", "isclose", "isreal",
    "real", "conj", "special_expit", "special_erf", "special_log1p", "special_logit", "__and__",
    "__or__",
)  # fmt: skip
def pointwise(call: Call) -> Made:
    """Index ``i`` of the output needs index ``i`` of every input."""
    if isinstance(call.node.meta["val"], tuple | list):  # where(condition) alone gives indices
        call.fix_all("how many indices it gives depends on the values")
        return call.unlabelled()
    return tied(call)


@rule("prelu")
def prelu(call: Call) -> Value:
    """The slopes go along dimension 1."""
    x = call.tensor("self")
    call.tie_vector(call.tensor("weight"), x.labels[1] if len(x.shape) > 1 else None)
    return call.like(x)


@rule("batch_norm", "instance_norm")
def batch_norm(call: Call) -> Value:
    """Weight, bias and running statistics go along dimension 1."""
    x = call.tensor("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        call.tie_vector(call.maybe_tensor(name), x.labels[1])
    if call.op == "instance_norm":
        call.fix_dims(x, range(2, len(x.shape)), "instance norm takes statistics along it")
        _note_num_features(call, x)
    elif call.get("training"):
        others = [dim for dim in range(len(x.shape)) if dim != 1]
        call.fix_dims(x, others, "batch norm takes statistics along it")
    return call.like(x)


def _note_num_features(call: Call, x: Value) -> None:
    """An instance norm that holds no tensors warns of a width other than its ``num_features``.

    One that is called several times may see several widths: that warning is all there is to it.
    """
    tensors = [call.maybe_tensor(name) for name in ("weight", "running_mean")]
    path = module_path(call.node)
    calls = [n for n in call.node.graph.nodes if n.op == call.node.op and module_path(n) == path]
    if not any(tensors) and len(calls) == 1 and "InstanceNorm" in module_type(call.node):
        size = x.shape[1]
        call.has_size(AttributeInt.of(size, ((path, "num_features"),), (size,)), x.labels[1])


@rule("group_norm")
def group_norm(call: Call) -> Value:
    """The channels that one norm group normalises together are one unit."""
    x, groups = call.tensor("input"), call.integer("num_groups")
    call.fix_dims(x, range(2, len(x.shape)), "group norm takes statistics along it")
    labels = x.labels[1]
    if labels is not None and groups == 1:
        call.fix(labels, f"all {len(labels)} channels are tied into one unit by one norm group")
    elif labels is not None:
        units = call.merge(labels.reshape(groups, -1))
        labels = np.repeat(units, len(labels) // groups)
    call.tie_vector(call.maybe_tensor("weight"), labels)
    call.tie_vector(call.maybe_tensor("bias"), labels)
    return call.out([x.labels[0], labels, *x.labels[2:]])


@rule("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Value:
    """What is normalised together cannot be removed in part, unless that is requested."""
    x = call.tensor("input")
    n_normed = len(call.integers("normalized_shape"))
    if n_normed == 1 and call.norms(x):
        for name in ("weight", "bias"):
            call.tie_vector(call.maybe_tensor(name), x.labels[-1])
        return call.like(x)
    kept, normed = x.labels[: len(x.shape) - n_normed], x.labels[len(x.shape) - n_normed :]
    for index, labels in enumerate(normed):
        if labels is not None:
            call.fix(labels, f"all {len(labels)} channels are tied into one unit by {call.op}")
        for name in ("weight", "bias"):
            vector = call.maybe_tensor(name)
            if vector is not None:
                call.tie(vector.labels[index], labels)
    return call.out([*kept, *[None] * n_normed])


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip
def spatial(call: Call) -> list[Value | None]:
    """Each channel by itself: the last one, two or three dimensions change, the others pass."""
    x = call.first
    n_spatial = int(next(letter for letter in call.op if letter.isdigit() and letter != "_"))
    dims = range(len(x.shape) - n_spatial, len(x.shape))
    return call.each(call.fix_dims(x, dims, "it slides along this dimension"))


@rule(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod",
    "logsumexp", "norm", "linalg_vector_norm", "any", "all", "argmax", "argmin", "median",
    "nanmean", "nansum", "count_nonzero", "aminmax",
)  # fmt: skip
def reduction(call: Call) -> list[Value | None]:
    """Dimensions that are not reduced pass."""
    if len(call.inputs) == 2:
        return [tied(call)]  # torch.max(x, y)
    x = call.first
    rank = len(x.shape)
    reduced = {dim % rank for dim in call.integers("dim")} if rank else set()
    reduced = reduced or set(range(rank))
    written_out = call.op == "mean" and reduced == {rank - 1} and bool(call.get("keepdim"))
    if written_out and call.norms(x):
        return call.each([*x.labels[:-1], None])
    kept = call.fix_dims(x, reduced, "it takes one number over all channels")
    if not call.get("keepdim"):
        kept = [labels for dim, labels in enumerate(kept) if dim not in reduced]
    return call.each(kept)


@rule(
    "softmax", "log_softmax", "_safe_softmax", "cumsum", "cumprod", "cummax", "cummin",
    "logcumsumexp", "sort", "argsort", "flip", "roll",
)  # fmt: skip
def along_dims(call: Call) -> list[Value | None]:
    """Same shape; along ``dim`` every index needs all the others."""
    x = call.first
    named = call.integers("dim") or call.integers("dims") or range(len(x.shape))
    return call.each(call.fix_dims(x, named, "it mixes all channels"))


@rule("_assert_tensor_metadata", "sym_size", "_assert_async", "_assert_scalar")
def check_only(call: Call) -> Made:
    """Only looks at the traced shape."""
    return call.unlabelled()


FILLED = ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")
"""Ops that make the same number everywhere, of a size that they are given."""


@rule(*FILLED)
def filled(call: Call) -> Made:
    """The same number everywhere: a size that an attribute gives may get smaller."""
    labels: list[Labels] = [None] * len(call.shape)
    for dim, size in enumerate(call.size_attributes("size")):
        if size is not None:
            labels[dim] = call.flow.ties.fresh(call.shape[dim])
            call.has_size(size, labels[dim])
    return call.out(labels)


@rule(
    "new_empty", "arange", "empty",
    "rand", "randn", "linspace", "eye", "scalar_tensor", "tril_indices", "triu_indices",
)  # fmt: skip
def constant(call: Call) -> Made:
    """A constant whose size is in the code."""
    return call.unlabelled()
