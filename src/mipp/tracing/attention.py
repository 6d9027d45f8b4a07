"""`nn.MultiheadAttention` written out in plain layers, for any number of heads.

PyTorch's own forward runs in one piece, so that nothing sees the output projection in it, and
insists that all heads together are as wide as the embedding. Here the same is computed with calls
that can be traced and measured, from whatever number of heads the weights hold.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PrunedAttention(nn.MultiheadAttention):
    """An `nn.MultiheadAttention` some of whose heads are gone; its state has the same names.

    ``embed_dim``, ``kdim`` and ``vdim`` stay the widths that it takes and gives; ``num_heads`` is
    the number of heads left, each ``head_dim`` wide.
    """

    @classmethod
    def take_over(cls, layer: nn.MultiheadAttention) -> None:
        """Makes a layer whose weights have lost heads one of this class, in place."""
        layer.__class__ = cls
        # encoder layers then leave their one-piece kernels alone, which know full weights only
        layer._qkv_same_embed_dim = False  # noqa: SLF001

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What `nn.MultiheadAttention` gives, of the heads that are left."""
        swapped = self.batch_first and query.dim() == 3
        if swapped:
            # one tensor stays one tensor: that is how self-attention is recognised
            moved = {id(x): x.transpose(0, 1) for x in (query, key, value)}
            query, key, value = (moved[id(x)] for x in (query, key, value))
        packed = self.in_proj_weight is not None
        made, weights = attention_forward(
            query, key, value, self.embed_dim, self.num_heads,
            self.in_proj_weight, self.in_proj_bias, self.bias_k, self.bias_v, self.add_zero_attn,
            self.dropout, self.out_proj.weight, self.out_proj.bias,
            training=self.training, key_padding_mask=key_padding_mask, need_weights=need_weights,
            attn_mask=attn_mask, use_separate_proj_weight=not packed,
            q_proj_weight=self.q_proj_weight, k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight, average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )  # fmt: skip
        return (made.transpose(0, 1) if swapped else made), weights


def written_out(kwargs: dict[str, Any]) -> bool:
    """Whether `attention_forward` takes this call: all but those with static keys or values."""
    return kwargs.get("static_k") is None and kwargs.get("static_v") is None


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,  # noqa: ARG001 # a hint about the mask, which is applied all the same
) -> tuple[Tensor, Tensor | None]:
    """What `torch.nn.functional.multi_head_attention_forward` gives, with its arguments.

    Shapes are (length, batch, features), or without the batch. ``embed_dim_to_check`` is the width
    of the query; the heads take what widths the weights have. Static keys and values are not taken.
    """
    assert static_k is None
    assert static_v is None
    if query.shape[-1] != embed_dim_to_check:
        raise RuntimeError(f"query has {query.shape[-1]} features instead of {embed_dim_to_check}")
    batched = query.dim() == 3
    if not batched:
        moved = {id(x): x.unsqueeze(1) for x in (query, key, value)}
        query, key, value = (moved[id(x)] for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else ()
    # beside separate weights callers give an empty packed one, which counts for nothing
    packed = None if use_separate_proj_weight else in_proj_weight
    q, k, v = _projected((query, key, value), packed, separate, in_proj_bias)
    n_examples = query.shape[1]
    if bias_k is not None and bias_v is not None:
        k = torch.cat([k, bias_k.expand(-1, n_examples, -1)])
        v = torch.cat([v, bias_v.expand(-1, n_examples, -1)])
    q, k, v = (x.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for x in (q, k, v))
    if add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    more = k.shape[2] - key.shape[0]
    mask = _mask(attn_mask, key_padding_mask, n_examples, more, query.dtype)
    dropout_p = dropout_p if training else 0.0
    if need_weights:
        scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
        shares = (scores if mask is None else scores + mask).softmax(-1)
        shares = F.dropout(shares, dropout_p) if dropout_p > 0 else shares
        made = shares @ v
        shares = shares.mean(1) if average_attn_weights else shares
    else:
        made = F.scaled_dot_product_attention(q, k, v, mask, dropout_p)
        shares = None
    made = F.linear(made.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    if not batched:
        return made.squeeze(1), None if shares is None else shares.squeeze(0)
    return made, shares


def _projected(
    inputs: tuple[Tensor, Tensor, Tensor],
    packed: Tensor | None,
    separate: tuple[Tensor | None, ...],
    bias: Tensor | None,
) -> tuple[Tensor, ...]:
    """Queries, keys and values, from one weight for all three or from one for each."""
    if packed is not None and inputs[0] is inputs[1] is inputs[2]:
        return F.linear(inputs[0], packed, bias).chunk(3, dim=-1)
    weights = separate if packed is None else packed.chunk(3)
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    projected = []
    for x, weight, own_bias in zip(inputs, weights, biases, strict=True):
        assert weight is not None
        projected.append(F.linear(x, weight, own_bias))
    return tuple(projected)


def _mask(
    mask: Tensor | None, padding: Tensor | None, n_examples: int, more: int, dtype: torch.dtype
) -> Tensor | None:
    """Both masks as one to add, (batch, heads, queries, keys); ``more`` keys are open to all."""
    parts = []
    if mask is not None:
        # a mask for each example and head has both in one dimension
        parts.append(mask.unflatten(0, (n_examples, -1)) if mask.dim() == 3 else mask[None, None])
    if padding is not None:
        parts.append(padding[:, None, None, :])
    added = [
        torch.zeros_like(part, dtype=dtype).masked_fill_(part, -math.inf)
        if part.dtype == torch.bool
        else part
        for part in parts
    ]
    if not added:
        return None
    whole = added[0] if len(added) == 1 else added[0] + added[1]
    return F.pad(whole, (0, more)) if more else whole
