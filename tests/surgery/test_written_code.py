"""Code as people write it: hooks, containers, reuse, sizes computed from other sizes."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .pruning import pruned, reasons, seeded

WIDTH = 12
TOKENS = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(0)).double()


class Net(nn.Module):
    """A block in a residual stream with a norm."""

    def __init__(self, block):
        super().__init__()
        self.norm, self.block = nn.LayerNorm(WIDTH), block
        self.hidden, self.out = nn.Linear(WIDTH, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = x + self.block(self.norm(x))
        return self.out(F.relu(self.hidden(x.mean(1))))


class Gated(nn.Module):
    """Both halves of a gated layer from one weight."""

    def __init__(self, gate, act=None):
        super().__init__()
        self.fc, self.o, self.gate = nn.Linear(WIDTH, 32), nn.Linear(16, WIDTH), gate
        self.act = act

    def forward(self, x):
        return self.o(self.gate(self.fc(x)))


def swiglu(h):
    x, g = h.chunk(2, -1)
    return x * F.silu(g)


def two_of_a_view(h):
    x, g = h.unflatten(-1, (2, -1)).unbind(-2)
    return x * g.sigmoid()


@pytest.mark.parametrize("gate", [swiglu, two_of_a_view, nn.GLU(-1), F.glu])
def test_neurons_of_a_fused_gated_layer_go_in_pairs(gate):
    graph, (_, few) = pruned(seeded(lambda: Net(Gated(gate))), TOKENS)
    assert {g.name: g.n_units for g in graph.groups} == {"hidden": 7, "block.fc": 16}
    assert few.block.fc.out_features == 2 * few.block.o.in_features


def test_halves_cut_at_a_number_are_refused_with_what_the_code_says():
    graph, _ = pruned(seeded(lambda: Net(Gated(lambda h: h[..., :16] * h[..., 16:]))), TOKENS)
    assert [group.name for group in graph.groups] == ["hidden"]
    assert "block.fc: its length along the channels is a constant in the code" in reasons(graph)


class FromAttributes(nn.Module):
    """nanoGPT's attention, with sizes from its attributes alone."""

    def __init__(self):
        super().__init__()
        self.n_head, self.n_embd = 4, WIDTH
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, t, _ = x.size()
        q, k, v = (
            part.view(b, t, self.n_head, self.n_embd // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(self.n_embd, dim=2)
        )
        made = F.scaled_dot_product_attention(q, k, v)
        return self.c_proj(made.transpose(1, 2).contiguous().view(b, t, self.n_embd))


class OneReshape(nn.Module):
    """timm's attention: one reshape for queries, keys and values, and a width of all heads."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = 4, 3, WIDTH
        self.scale = self.head_dim**-0.5
        self.qkv, self.q_norm = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.LayerNorm(3)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        shares = ((self.q_norm(q) * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((shares @ v).transpose(1, 2).reshape(b, n, self.attn_dim))


@pytest.mark.parametrize("block", [FromAttributes, OneReshape])
def test_heads_whose_sizes_are_attributes_go(block):
    graph, _ = pruned(seeded(lambda: Net(block())), TOKENS)
    assert [g.n_units for g in graph.groups] == [7, 4]
    assert {"FromAttributes": 2, "OneReshape": 2}[block.__name__] == len(graph.sizes)


class Pair(NamedTuple):
    one: torch.Tensor
    two: torch.Tensor


class Containers(nn.Module):
    """Takes two tensors, in a tuple or by name, and gives several."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(7, 8)
        self.one, self.two = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x=None, y=None, both=None):
        x, y = (x, y) if both is None else both
        hidden = F.relu(self.a(x) + self.b(y))
        return {"pair": Pair(self.one(hidden), self.two(hidden)), "list": [self.one(hidden * 2)]}


@pytest.mark.parametrize("how", ["named", "in a tuple"])
def test_inputs_and_outputs_in_containers(how):
    x, y = torch.randn(4, 6).double(), torch.randn(4, 7).double()
    given = {"x": x, "y": y} if how == "named" else {"both": (x, y)}
    graph, _ = pruned(seeded(Containers), **given)
    assert {g.name: g.n_units for g in graph.groups} == {"a": 8}


class Again(nn.Module):
    """One layer three times, with hooks on it."""

    def __init__(self):
        super().__init__()
        self.a, self.same, self.out = nn.Linear(WIDTH, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.a.register_forward_hook(lambda module, args, output: output * 2)
        self.same.register_forward_pre_hook(lambda module, args: (args[0] + 1,))

    def forward(self, x):
        x = F.relu(self.a(x))
        for _ in range(3):
            x = F.relu(self.same(x))
        return self.out(x)


def test_modules_with_hooks_and_used_again():
    graph, (_, few) = pruned(seeded(Again), TOKENS)
    assert {g.name: g.n_units for g in graph.groups} == {"a": 8}
    assert few.same.in_features == few.same.out_features < 8


def test_a_table_of_words_that_is_also_the_output_head():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.norm = nn.Embedding(9, 8), nn.LayerNorm(8)
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
            self.head = nn.Linear(8, 9, bias=False)
            self.head.weight = self.words.weight

        def forward(self, tokens):
            x = self.words(tokens)
            return self.head(x + self.down(F.gelu(self.up(self.norm(x)))))

    graph, (_, few) = pruned(seeded(Tied), torch.randint(0, 9, (4, 5)))
    assert {g.name: g.n_units for g in graph.groups} == {"up": 16}
    assert "all 8 channels are tied into one unit by layer_norm" in reasons(graph)
    assert few.head.weight is few.words.weight
