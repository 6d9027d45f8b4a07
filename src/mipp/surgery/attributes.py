"""Attributes of layers that must agree with the shapes of their weights."""

import numpy as np
from torch import nn

from mipp.errors import SurgeryError
from mipp.records import IntArray
from mipp.tracing.attention import PrunedAttention

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
ZERO_IS_SAFE = (
    *CONVOLUTIONS,
    *TRANSPOSED_CONVOLUTIONS,
    nn.Linear,
    nn.Bilinear,
    *BATCH_NORMS,
    *INSTANCE_NORMS,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.PReLU,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
"""Layers that only multiply by their parameters or add them, and never divide by them."""


def fit_attributes(name: str, layer: nn.Module, rows: IntArray | None) -> None:  # noqa: PLR0912
    """Sets ``in_channels``, ``groups``, ``num_features``, ... of a layer from its sliced tensors.

    Args:
        name: The layer's qualified name, for the error text.
        layer: Changed in place; kinds of layer that are not known here are left alone.
        rows: The indices that stayed along dimension 0 of its weight, shape ``(n_kept,)``; ``None``
            when all stayed.

    Raises:
        SurgeryError: The rows that stayed do not divide evenly into what is left of the groups of a
            grouped convolution or a GroupNorm.
    """
    # the branches are one table: kind of layer -> attributes
    shapes = {key: tuple(p.shape) for key, p in layer.named_parameters(recurse=False)}
    shapes |= {key: tuple(b.shape) for key, b in layer.named_buffers(recurse=False)}
    weight = shapes.get("weight", ())
    if isinstance(layer, CONVOLUTIONS):
        layer.groups = _groups_left(name, layer.groups, layer.out_channels, rows)
        layer.in_channels, layer.out_channels = weight[1] * layer.groups, weight[0]
    elif isinstance(layer, TRANSPOSED_CONVOLUTIONS):
        layer.groups = _groups_left(name, layer.groups, layer.in_channels, rows)
        layer.in_channels, layer.out_channels = weight[0], weight[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight
    elif isinstance(layer, nn.Bilinear):
        layer.out_features, layer.in1_features, layer.in2_features = weight
    elif isinstance(layer, (*BATCH_NORMS, *INSTANCE_NORMS)):
        (layer.num_features,) = weight or shapes["running_mean"]
    elif isinstance(layer, nn.GroupNorm):
        layer.num_groups = _whole_groups_left(name, layer.num_groups, layer.num_channels, rows)
        (layer.num_channels,) = weight
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        layer.normalized_shape = weight
    elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        layer.num_embeddings, layer.embedding_dim = weight
    elif isinstance(layer, nn.PReLU):
        (layer.num_parameters,) = weight
    elif isinstance(layer, nn.RNNBase):
        layer.input_size = shapes["weight_ih_l0"][1]
        if layer.proj_size:
            layer.proj_size, layer.hidden_size = shapes["weight_hr_l0"]
        else:
            layer.hidden_size = shapes["weight_hh_l0"][1]
    elif isinstance(layer, nn.RNNCellBase):
        layer.input_size, layer.hidden_size = shapes["weight_ih"][1], shapes["weight_hh"][1]
    elif isinstance(layer, nn.MultiheadAttention):
        _fit_attention(layer, shapes)


def _fit_attention(layer: nn.MultiheadAttention, shapes: dict[str, tuple[int, ...]]) -> None:
    """Widths of what it takes; where heads are gone, a forward that can do without them."""
    made, wanted = shapes.get("in_proj_weight") or shapes["q_proj_weight"]
    heads = made // 3 if "in_proj_weight" in shapes else made
    for name, weight in (("kdim", "k_proj_weight"), ("vdim", "v_proj_weight")):
        setattr(layer, name, shapes[weight][1] if weight in shapes else wanted)
    layer.embed_dim = wanted
    if heads != wanted:
        PrunedAttention.take_over(layer)


def _groups_left(name: str, groups: int, channels: int, rows: IntArray | None) -> int:
    """Groups of a convolution that still have channels; all must have the same number left."""
    if rows is None or groups == 1:
        return groups
    left = np.bincount(rows // (channels // groups), minlength=groups)
    if len(set(left[left > 0])) != 1:
        raise SurgeryError(
            f"{name}: the {groups} groups of the convolution would keep {left.tolist()} channels; "
            f"expected the same number in each group that stays. Keep or remove channels of a "
            f"grouped convolution evenly, or protect the layer."
        )
    return int((left > 0).sum())


def _whole_groups_left(name: str, groups: int, channels: int, rows: IntArray | None) -> int:
    """Groups of a GroupNorm that stay; each stays or goes as a whole, or its mean would change."""
    if rows is None:
        return groups
    per_group = channels // groups
    left = np.bincount(rows // per_group, minlength=groups)
    if not np.isin(left, (0, per_group)).all():
        raise SurgeryError(
            f"{name}: the {groups} groups of the norm would keep {left.tolist()} of {per_group} "
            f"channels each; expected all or none, since the norm mixes the channels of a group. "
            f"Remove whole groups, or protect the layer."
        )
    return int((left > 0).sum())
