"""Small attention layers in the forms that people write them, for the contract tests."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, SIZE = 12, 4, 3


class Block(nn.Module):
    """An embedding of tokens, one attention in a residual stream with norms, and a head."""

    def __init__(self, attention):
        super().__init__()
        self.embed, self.norm = nn.Embedding(9, WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.out = attention, nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.out((x + self.attention(self.norm(x))).mean(1))


class Separate(nn.Module):
    """Projections of their own, sizes of the heads as attributes."""

    def __init__(self, kv_heads=HEADS, width=HEADS * SIZE):
        super().__init__()
        self.num_heads, self.head_dim, self.num_kv_heads = HEADS, SIZE, kv_heads
        self.num_key_value_groups, self.all_head_size = HEADS // kv_heads, width
        self.q = nn.Linear(WIDTH, HEADS * SIZE)
        self.k, self.v = nn.Linear(WIDTH, kv_heads * SIZE), nn.Linear(WIDTH, kv_heads * SIZE)
        self.o = nn.Linear(HEADS * SIZE, WIDTH)

    def split(self, x):
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = (
            f(x).view(b, n, self.num_kv_heads, self.head_dim).transpose(1, 2)
            for f in (self.k, self.v)
        )
        return q, k, v

    def forward(self, x):
        return self.o(self.join(F.scaled_dot_product_attention(*self.split(x), is_causal=True)))

    def join(self, made):
        made = made.transpose(1, 2)
        return made.reshape(made.size()[:-2] + (self.all_head_size,))  # noqa: RUF005 # as people write


class HeadsTimesSize(Separate):
    def join(self, made):
        return made.transpose(1, 2).reshape(len(made), -1, self.num_heads * self.head_dim)


class OpenSize(Separate):
    """The size of a head is left open, so that the number of heads has to be an attribute."""

    def split(self, x):
        b, n, _ = x.shape
        return (
            f(x).view(b, n, self.num_heads, -1).permute(0, 2, 1, 3)
            for f in (self.q, self.k, self.v)
        )


class OpenHeads(Separate):
    def split(self, x):
        return (
            f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )

    def join(self, made):
        return made.transpose(1, 2).flatten(2)


class ByHand(Separate):
    """Softmax written out, with a mask and a scale."""

    def forward(self, x):
        q, k, v = self.split(x)
        scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        return self.o(self.join(scores.masked_fill(hidden, -1e9).softmax(-1) @ v))


class Einsum(Separate):
    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (
            f(x).reshape(b, n, self.num_heads, self.head_dim) for f in (self.q, self.k, self.v)
        )
        shares = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        return self.o(torch.einsum("bhnm,bmhd->bnhd", shares, v).flatten(2))


class FlatBatch(Separate):
    """Examples and heads in one dimension, for bmm."""

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (part.reshape(b * self.num_heads, n, self.head_dim) for part in self.split(x))
        made = torch.bmm(torch.bmm(q, k.mT).softmax(-1), v)
        return self.o(self.join(made.view(b, self.num_heads, n, self.head_dim)))


class Rotary(Separate):
    """Queries and keys are turned by their position, half against half."""

    def forward(self, x):
        q, k, v = self.split(x)
        angle = torch.arange(x.shape[1])[:, None] * torch.ones(self.head_dim)

        def turned(t):
            half = self.head_dim // 2
            return t * angle.cos() + torch.cat((-t[..., half:], t[..., :half]), -1) * angle.sin()

        return self.o(self.join(F.scaled_dot_product_attention(turned(q), turned(k), v)))


class Shared(Separate):
    """Grouped queries: keys and values are repeated."""

    def forward(self, x):
        q, k, v = self.split(x)
        k, v = (t.repeat_interleave(self.num_key_value_groups, dim=1) for t in (k, v))
        return self.o(self.join(F.scaled_dot_product_attention(q, k, v)))


class Expanded(Separate):
    """Grouped queries as in Llama; with one key and value head too."""

    def forward(self, x):
        q, k, v = self.split(x)
        b, heads, n, size = k.shape
        k, v = (
            t[:, :, None].expand(b, heads, self.num_key_value_groups, n, size).reshape(
                b, heads * self.num_key_value_groups, n, size
            )
            for t in (k, v)
        )  # fmt: skip
        return self.o(self.join(F.scaled_dot_product_attention(q, k, v)))


class GroupedKernel(Separate):
    def forward(self, x):
        return self.o(self.join(F.scaled_dot_product_attention(*self.split(x), enable_gqa=True)))


class Fused(nn.Module):
    """One projection for queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim, self.split_size = HEADS, SIZE, HEADS * SIZE
        self.qkv, self.o = nn.Linear(WIDTH, 3 * HEADS * SIZE), nn.Linear(HEADS * SIZE, WIDTH)

    def heads(self, x):
        b, n, _ = x.shape
        return (
            part.view(b, n, self.num_heads, self.head_dim).transpose(1, 2) for part in self.parts(x)
        )

    def forward(self, x):
        made = F.scaled_dot_product_attention(*self.heads(x))
        return self.o(made.transpose(1, 2).flatten(2))


class FusedReshape(Fused):
    def heads(self, x):
        b, n, _ = x.shape
        made = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim)
        return made.permute(2, 0, 3, 1, 4).unbind(0)


class FusedInHeads(Fused):
    """Queries, keys and values of one head lie together."""

    def heads(self, x):
        b, n, _ = x.shape
        return (
            self.qkv(x).view(b, n, self.num_heads, 3 * self.head_dim).transpose(1, 2).chunk(3, -1)
        )


class FusedChunk(Fused):
    def parts(self, x):
        return self.qkv(x).chunk(3, dim=-1)


class FusedSplit(Fused):
    def parts(self, x):
        return self.qkv(x).split(self.split_size, dim=2)


class FusedSizes(nn.Module):
    """Parts of different sizes: more query heads than heads of keys and values."""

    def __init__(self):
        super().__init__()
        self.q_size, self.kv_size, self.head_dim = HEADS * SIZE, 2 * SIZE, SIZE
        self.qkv, self.o = nn.Linear(WIDTH, (HEADS + 4) * SIZE), nn.Linear(HEADS * SIZE, WIDTH)

    def forward(self, x):
        parts = self.qkv(x).split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        made = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(made.transpose(1, 2).flatten(2))


class Conv1D(nn.Module):
    """The linear layer of GPT-2: a weight of shape (in, out)."""

    def __init__(self, made, read):
        super().__init__()
        self.nf = made
        self.weight, self.bias = (
            nn.Parameter(torch.randn(read, made) / 4),
            nn.Parameter(torch.randn(made)),
        )

    def forward(self, x):
        made = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return made.view(x.size()[:-1] + (self.nf,))  # noqa: RUF005 # as in GPT-2


class FusedConv1D(FusedSplit):
    def __init__(self):
        super().__init__()
        self.qkv, self.o = Conv1D(3 * HEADS * SIZE, WIDTH), Conv1D(WIDTH, HEADS * SIZE)


class Torch(nn.Module):
    """PyTorch's own layer."""

    def __init__(self, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        return self.inner(x, x, x, attn_mask=mask, need_weights=False)[0]


class TorchWeights(Torch):
    """The shares of attention are computed and thrown away; the sequence comes first."""

    def forward(self, x):
        self.inner.batch_first = False
        x = x.transpose(0, 1)
        return self.inner(x, x, x)[0].transpose(0, 1)


class TorchCross(Torch):
    """Keys and values from elsewhere, of another width."""

    def __init__(self):
        super().__init__(kdim=5, vdim=7)
        self.k, self.v = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 7)

    def forward(self, x):
        return self.inner(x, self.k(x), self.v(x), need_weights=False)[0]


class TorchMemory(Torch):
    """Keys and values from elsewhere, with the three projections in one weight."""

    def __init__(self):
        super().__init__()
        self.memory = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        memory = self.memory(x)
        return self.inner(x, memory, memory, need_weights=False)[0]


class Unbatched(Torch):
    """One example after the other."""

    def forward(self, x):
        return torch.stack([self.inner(one, one, one, need_weights=False)[0] for one in x])


class Encoder(nn.TransformerEncoderLayer):
    def __init__(self, **options):
        super().__init__(WIDTH, HEADS, 10, batch_first=True, **options)


ZOO = {
    "separate": Separate,
    "heads times size": HeadsTimesSize,
    "open size": OpenSize,
    "open heads": OpenHeads,
    "by hand": ByHand,
    "einsum": Einsum,
    "flat batch": FlatBatch,
    "rotary": Rotary,
    "repeated": lambda: Shared(2),
    "expanded": lambda: Expanded(2),
    "one expanded": lambda: Expanded(1),
    "grouped kernel": lambda: GroupedKernel(2),
    "one in the kernel": lambda: GroupedKernel(1),
    "fused reshape": FusedReshape,
    "fused in heads": FusedInHeads,
    "fused chunk": FusedChunk,
    "fused split": FusedSplit,
    "fused sizes": FusedSizes,
    "fused Conv1D": FusedConv1D,
    "torch": Torch,
    "torch without bias": lambda: Torch(bias=False),
    "torch with more keys": lambda: Torch(add_bias_kv=True, add_zero_attn=True),
    "torch weights": TorchWeights,
    "torch cross": TorchCross,
    "torch memory": TorchMemory,
    "torch without batch": Unbatched,
    "encoder layer": Encoder,
    "encoder layer, norm first": lambda: Encoder(norm_first=True, activation="gelu"),
    "encoder": lambda: nn.TransformerEncoder(Encoder(), 2),
}
