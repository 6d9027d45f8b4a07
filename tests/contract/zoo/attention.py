"""Transformers and what takes their place."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .entry import N_TOKENS, entry, floats, tokens

WIDTH, HEADS, SIZE = 12, 4, 3
TOKENS, ROWS = tokens(6), floats((6, WIDTH))
NORM = ("tied into one unit by layer_norm",)
PLACES = "the indices of an embedding count on every entry"


class Attention(nn.Module):
    """Separate projections, PyTorch's kernel."""

    def __init__(self, *, causal=False):
        super().__init__()
        self.num_heads, self.head_dim, self.causal = HEADS, SIZE, causal
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def heads(self, x):
        return x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def forward(self, x, memory=None):
        memory = x if memory is None else memory
        q, k, v = self.heads(self.q(x)), self.heads(self.k(memory)), self.heads(self.v(memory))
        return self.o(self.mix(q, k, v).transpose(1, 2).flatten(2))

    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class Fused(nn.Module):
    """One projection for queries, keys and values, as in timm."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim = HEADS, SIZE
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        made = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(made.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


class ByHand(Attention):
    def mix(self, q, k, v):
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        ahead = torch.ones(q.shape[2], q.shape[2]).triu(1).bool()
        return scores.masked_fill(ahead, float("-inf")).softmax(-1) @ v


class Einsum(Attention):
    def mix(self, q, k, v):
        shares = torch.einsum("bhqd,bhkd->bhqk", q, k).mul(SIZE**-0.5).softmax(-1)
        return torch.einsum("bhqk,bhkd->bhqd", shares, v)


class Linearized(Attention):
    """No softmax over pairs: keys and values are summed first."""

    def mix(self, q, k, v):
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(2).unsqueeze(-1))


class Biased(Attention):
    """A learnt bias for each head and distance, added to the scores (T5)."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Embedding(6, HEADS)

    def mix(self, q, k, v):
        place = torch.arange(q.shape[2])
        near = (place[None] - place[:, None]).abs().clamp(max=5)
        scores = q @ k.transpose(-2, -1) + self.bias(near).permute(2, 0, 1)
        return scores.softmax(-1) @ v


class Block(nn.Module):
    """Norm, attention, norm, MLP, with two shortcuts."""

    def __init__(self, attention, inner=10):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), attention, nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, inner), nn.Linear(inner, WIDTH)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Tagger(nn.Module):
    """Tokens in, a class for each out."""

    def __init__(self, *blocks):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(N_TOKENS, WIDTH), nn.Sequential(*blocks)
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        return self.out(self.norm(self.blocks(self.embed(tokens))))


@entry("attention written out", "attention", TOKENS, stays=NORM)
def by_hand():
    return Tagger(Block(ByHand()), Block(ByHand()))


@entry("attention by einsum", "attention", TOKENS, stays=NORM)
def by_einsum():
    return Tagger(Block(Einsum()))


@entry("linear attention", "attention", TOKENS, stays=NORM)
def linearized():
    return Tagger(Block(Linearized()))


@entry("T5, bias of every head", "attention", TOKENS, stays=NORM)
def biased():
    return Tagger(Block(Biased()))


class ViT(nn.Module):
    """Patches, a class token, learnt positions."""

    def __init__(self, attention, n_outputs=1):
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.first = nn.Parameter(torch.randn(1, n_outputs, WIDTH))
        self.place = nn.Parameter(torch.randn(1, 4 + n_outputs, WIDTH))
        self.blocks = nn.Sequential(Block(attention()), Block(attention(), 8))
        self.norm, self.heads = (
            nn.LayerNorm(WIDTH),
            nn.ModuleList(nn.Linear(WIDTH, 3) for _ in range(n_outputs)),
        )

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.place
        x = self.norm(self.blocks(x))
        made = [head(x[:, index]) for index, head in enumerate(self.heads)]
        return made[0] if len(made) == 1 else tuple(made)


IMAGE = floats((3, 8, 8))


@entry("ViT, separate projections", "attention", IMAGE, stays=NORM)
def vit():
    return ViT(Attention)


@entry("ViT, fused projection", "attention", IMAGE, stays=NORM)
def vit_fused():
    return ViT(Fused)


@entry("DeiT, two tokens and two outputs", "attention", IMAGE, stays=NORM)
def deit():
    return ViT(Fused, 2)


class Window(nn.Module):
    """Attention inside of windows, which are shifted every second time (Swin)."""

    def __init__(self, shift):
        super().__init__()
        self.inner, self.norm, self.shift = Biased2d(), nn.LayerNorm(WIDTH), shift
        self.fc1, self.fc2 = nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)

    def forward(self, x):
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        y = y.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = self.inner(y).view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(y.reshape(b, h, w, c), (self.shift, self.shift), (1, 2))
        return x + self.fc2(F.gelu(self.fc1(x)))


class Biased2d(Attention):
    """A table of biases, one for each head and pair of places in the window."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, HEADS))
        self.register_buffer("pairs", torch.randint(0, 9, (4, 4)))

    def mix(self, q, k, v):
        bias = self.table[self.pairs.view(-1)].view(4, 4, -1).permute(2, 0, 1).contiguous()
        return ((q @ k.transpose(-2, -1)) / SIZE**0.5 + bias[None]).softmax(-1) @ v


class Swin(nn.Module):
    """Four neighbours become one place with twice the width, between the blocks."""

    def __init__(self):
        super().__init__()
        self.patch, self.windows = nn.Conv2d(3, WIDTH, 1), nn.Sequential(Window(0), Window(1))
        self.merge, self.head = nn.Linear(4 * WIDTH, 10), nn.Linear(10, 3)

    def forward(self, image):
        x = self.windows(self.patch(image).permute(0, 2, 3, 1))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.head(F.gelu(self.merge(torch.cat(parts, -1))).mean((1, 2)))


entry("Swin, shifted windows", "attention", floats((3, 4, 4)), stays=NORM)(Swin)


class Bert(nn.Module):
    """Tokens, places and segments are added; padding is masked; a pooled output beside all."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(N_TOKENS, WIDTH), nn.Embedding(8, WIDTH)
        self.kinds, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.after = Attention(), nn.LayerNorm(WIDTH)
        self.up, self.down, self.last = (
            nn.Linear(WIDTH, 10),
            nn.Linear(10, WIDTH),
            nn.LayerNorm(WIDTH),
        )
        self.pool, self.out = nn.Linear(WIDTH, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        place = torch.arange(input_ids.shape[1])
        x = self.norm(self.words(input_ids) + self.places(place) + self.kinds(token_type_ids))
        seen = (1 - attention_mask[:, None, None].to(x.dtype)) * -1e4
        self.attention.mix = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, seen)
        x = self.after(x + self.attention(x))
        x = self.last(x + self.down(F.gelu(self.up(x))))
        return {"hidden": x, "logits": self.out(torch.tanh(self.pool(x[:, 0])))}


def sentences():
    seen = torch.ones(4, 6, dtype=torch.long)
    seen[1, 4:] = 0
    words = torch.randint(0, N_TOKENS, (4, 6))
    return {"input_ids": words, "attention_mask": seen, "token_type_ids": words % 2}


entry("BERT, named inputs and outputs", "attention", sentences, stays=NORM)(Bert)


class NanoAttention(nn.Module):
    """As in nanoGPT: the width is split by an attribute and joined by the input's."""

    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.n_head, self.n_embd = HEADS, WIDTH
        self.register_buffer("bias", torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8))

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        q, k, v = (p.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for p in (q, k, v))
        shares = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        shares = shares.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        made = F.softmax(shares, dim=-1) @ v
        return self.c_proj(made.transpose(1, 2).contiguous().view(b, t, self.joined(c)))

    def joined(self, c):
        return c


class NanoGPT(nn.Module):
    """Embeddings tied to the output head."""

    def __init__(self, attention):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(N_TOKENS, WIDTH), nn.Embedding(8, WIDTH)
        self.blocks = nn.ModuleList([Block(attention()), Block(attention())])
        self.ln_f, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, N_TOKENS, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx):
        x = self.wte(idx) + self.wpe(torch.arange(idx.size(1)))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


@entry(
    "GPT as nanoGPT writes it", "attention", TOKENS,
    stays=(*NORM, r"shape '.4, 6, \d, \d.' is invalid for input of size", PLACES),
)  # fmt: skip
def nanogpt():
    return NanoGPT(NanoAttention)


class OwnWidth(NanoAttention):
    """The same, where one line says that heads may be fewer."""

    def __init__(self):
        super().__init__()
        self.head_size = SIZE

    def forward(self, x):
        b, t, _ = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        q, k, v = (p.view(b, t, self.n_head, self.head_size).transpose(1, 2) for p in (q, k, v))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@entry("GPT, tied embeddings", "attention", TOKENS, stays=(*NORM, PLACES))
def gpt():
    return NanoGPT(OwnWidth)


class Grouped(nn.Module):
    """Rotary positions; fewer heads of keys and values than of queries."""

    def __init__(self, kv_heads):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = HEADS, kv_heads, 4
        self.wq, self.wo = nn.Linear(WIDTH, 16, bias=False), nn.Linear(16, WIDTH, bias=False)
        self.wk, self.wv = (nn.Linear(WIDTH, 4 * kv_heads, bias=False) for _ in range(2))
        self.n_rep = HEADS // kv_heads

    def forward(self, x):
        b, n, _ = x.shape
        q = rotated(self.wq(x).view(b, n, self.n_heads, self.head_dim)).transpose(1, 2)
        k = rotated(self.wk(x).view(b, n, self.n_kv_heads, self.head_dim)).transpose(1, 2)
        v = self.wv(x).view(b, n, self.n_kv_heads, self.head_dim).transpose(1, 2)
        k, v = (t.repeat_interleave(self.n_rep, dim=1) for t in (k, v))
        made = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(made.transpose(1, 2).reshape(b, n, self.n_heads * self.head_dim))


def rotated(x):
    n, size = x.shape[1], x.shape[3]
    angle = torch.outer(torch.arange(n), 10 ** -torch.arange(size // 2)).to(x.dtype)
    angle = torch.cat([angle, angle], -1)[:, None]
    left, right = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-right, left], -1) * angle.sin()


class Llama(nn.Module):
    """RMS norms and a gated MLP."""

    def __init__(self, kv_heads):
        super().__init__()
        self.embed, self.attention = nn.Embedding(N_TOKENS, WIDTH), Grouped(kv_heads)
        self.norm1, self.norm2, self.norm3 = (nn.RMSNorm(WIDTH) for _ in range(3))
        self.gate, self.up = (nn.Linear(WIDTH, 10, bias=False) for _ in range(2))
        self.down, self.out = nn.Linear(10, WIDTH, bias=False), nn.Linear(WIDTH, N_TOKENS)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.out(self.norm3(x))


RMS = ("tied into one unit by rms_norm",)


@entry("Llama, grouped queries", "attention", TOKENS, stays=RMS)
def llama():
    return Llama(2)


@entry(
    "multi-query attention",
    "attention",
    TOKENS,
    stays=(*RMS, "tied to channels", "one dimension out of two"),
)
def multiquery():
    return Llama(1)


class FusedGate(nn.Module):
    """SwiGLU with both halves in one weight, cut by chunk."""

    def __init__(self):
        super().__init__()
        self.norm, self.w12, self.w3 = (
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 20),
            nn.Linear(10, WIDTH),
        )

    def forward(self, x):
        gate, up = self.w12(self.norm(x)).chunk(2, dim=-1)
        return x + self.w3(F.silu(gate) * up)


@entry("SwiGLU, fused", "attention", TOKENS, stays=NORM)
def swiglu():
    return Tagger(FusedGate(), FusedGate())


class Experts(nn.Module):
    """A mixture of all experts, each with its share (soft routing)."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH)) for _ in range(3)
        )

    def forward(self, x):
        shares = self.router(x).softmax(-1)
        made = torch.stack([expert(x) for expert in self.experts], -1)
        return x + (made * shares.unsqueeze(-2)).sum(-1)


@entry("mixture of experts", "attention", TOKENS, stays=(*NORM, "it mixes all channels"))
def experts():
    return Tagger(Experts(), nn.LayerNorm(WIDTH))


class TopExperts(Experts):
    """Only the best two experts of a token count, the others get a share of zero."""

    def forward(self, x):
        scores = self.router(x)
        best, which = scores.topk(2, -1)
        shares = torch.zeros_like(scores).scatter(-1, which, best.softmax(-1))
        return x + sum(e(x) * shares[..., i, None] for i, e in enumerate(self.experts))


@entry("mixture of the best experts", "attention", TOKENS, stays=(*NORM, "constant in the code"))
def top_experts():
    return Tagger(TopExperts())


class StackedExperts(nn.Module):
    """All experts in one parameter of three dimensions."""

    def __init__(self):
        super().__init__()
        self.norm, self.router = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        self.w1 = nn.Parameter(torch.randn(3, WIDTH, 8) / 4)
        self.w2 = nn.Parameter(torch.randn(3, 8, WIDTH) / 4)

    def forward(self, x):
        y = self.norm(x)
        made = torch.einsum("bnc,ecf->benf", y, self.w1).relu()
        made = torch.einsum("benf,efc->benc", made, self.w2)
        return x + torch.einsum("benc,bne->bnc", made, self.router(y).softmax(-1))


@entry(
    "mixture of experts, one weight",
    "attention",
    TOKENS,
    stays=(*NORM, "it mixes all channels", "mipp sees no layer in this product with a weight"),
)
def stacked_experts():
    return Tagger(StackedExperts(), FusedGate())


class Cross(nn.Module):
    """PyTorch's own attention in an encoder and a decoder."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(N_TOKENS, WIDTH), nn.Embedding(N_TOKENS, WIDTH)
        self.own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.first = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.cross = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, N_TOKENS)

    def forward(self, source, target):
        memory, x = self.source(source), self.target(target)
        memory = memory + self.own(memory, memory, memory)[0]
        ahead = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        x = x + self.first(x, x, x, attn_mask=ahead, need_weights=False)[0]
        return self.out(self.norm(x + self.cross(x, memory, memory)[0]))


entry(
    "nn.MultiheadAttention, encoder and decoder",
    "attention",
    tokens(6, 5),
    stays=("a part of a weight reads it",),
)(Cross)


@entry("nn.TransformerEncoder", "attention", TOKENS, stays=NORM)
def encoder():
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 10, batch_first=True, norm_first=True)
    return Tagger(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(N_TOKENS, WIDTH), nn.Embedding(N_TOKENS, WIDTH)
        self.inner = nn.Transformer(WIDTH, HEADS, 1, 1, 10, batch_first=True)
        self.out = nn.Linear(WIDTH, N_TOKENS)

    def forward(self, source, target):
        return self.out(self.inner(self.source(source), self.target(target)))


entry("nn.Transformer", "attention", tokens(6, 5), stays=NORM)(Translator)


class Perceiver(nn.Module):
    """A few learnt queries read the whole input, again and again with the same layer."""

    def __init__(self):
        super().__init__()
        self.latents, self.embed = nn.Parameter(torch.randn(3, WIDTH)), nn.Linear(5, WIDTH)
        self.cross, self.block = Attention(), Block(Attention())
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x):
        memory, state = self.embed(x), self.latents.expand(x.shape[0], -1, -1)
        for _ in range(2):
            state = self.block(state + self.cross(self.norm(state), memory))
        return self.out(state.mean(1))


entry("Perceiver, latent queries", "attention", floats((7, 5)), stays=NORM)(Perceiver)


class Mixer(nn.Module):
    """MLPs over places and over features, one after the other."""

    def __init__(self, places):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.places = nn.Sequential(nn.Linear(places, 7), nn.GELU(), nn.Linear(7, places))
        self.features = nn.Sequential(nn.Linear(WIDTH, 10), nn.GELU(), nn.Linear(10, WIDTH))

    def forward(self, x):
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.features(self.norm2(x))


@entry("MLP-Mixer", "attention", TOKENS, stays=NORM)
def mixer():
    return Tagger(Mixer(6), Mixer(6))


class SpatialGate(nn.Module):
    """gMLP: half of the features, mixed over places, are the gate of the others."""

    def __init__(self, places):
        super().__init__()
        self.norm, self.fc1, self.fc2 = (
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 16),
            nn.Linear(8, WIDTH),
        )
        self.weight, self.bias = (
            nn.Parameter(torch.randn(places, places)),
            nn.Parameter(torch.ones(places)),
        )

    def forward(self, x):
        left, right = F.gelu(self.fc1(self.norm(x))).chunk(2, dim=-1)
        mixed = F.linear(right.transpose(1, 2), self.weight, self.bias).transpose(1, 2)
        return x + self.fc2(left * mixed)


@entry("gMLP", "attention", TOKENS, stays=NORM)
def gmlp():
    return Tagger(SpatialGate(6), SpatialGate(6))


class Conformer(nn.Module):
    """Attention, then a gated and a depthwise convolution over time."""

    def __init__(self):
        super().__init__()
        self.attention, self.norm = Block(Attention()), nn.LayerNorm(WIDTH)
        self.point1, self.depth = nn.Conv1d(WIDTH, 16, 1), nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.bn, self.point2, self.out = (
            nn.BatchNorm1d(8),
            nn.Conv1d(8, WIDTH, 1),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x):
        x = self.attention(x)
        y = F.glu(self.point1(self.norm(x).transpose(1, 2)), dim=1)
        y = self.point2(F.silu(self.bn(self.depth(y))))
        return self.out(x + y.transpose(1, 2))


entry("Conformer", "attention", ROWS, stays=("tied to channels that have to stay",))(Conformer)


class AreaAttention(nn.Module):
    """Every place of a map attends to all others (non-local block)."""

    def __init__(self):
        super().__init__()
        self.stem, self.q, self.k = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(8, 4, 1),
        )
        self.v, self.o, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        q, k, v = (f(x).flatten(2) for f in (self.q, self.k, self.v))
        made = torch.bmm(v, torch.bmm(q.transpose(1, 2), k).softmax(-1).transpose(1, 2))
        return self.head((x + self.o(made.view(*made.shape[:2], *x.shape[2:]))).mean((2, 3)))


entry(
    "non-local block", "attention", floats((3, 4, 4)),
    stays=("a product of two activations sums over it",),

)(AreaAttention)  # fmt: skip
