"""Products: with a parameter a linear layer, between activations a boundary."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp.graph import cost

from .checks import groups, refusals, traced, units


class Attention(nn.Module):
    """Parts of a size that the code leaves open; the residual stream goes without norms."""

    def __init__(self, product, heads=2, features=8):
        super().__init__()
        self.embed = nn.Linear(6, features)
        self.q, self.k, self.v = (nn.Linear(features, features) for _ in range(3))
        self.mix, self.out = nn.Linear(features, features), nn.Linear(features, 3)
        self.parts, self.product = heads, product

    def forward(self, x):
        x = self.embed(x)
        b, n, _ = x.shape
        q, k, v = (
            f(x).view(b, n, self.parts, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        made = self.product(q, k, v).transpose(1, 2).flatten(2)
        return self.out((x + self.mix(made)).mean(1))


PRODUCTS = {
    "matmul": lambda q, k, v: (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v,
    "sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
    "einsum": lambda q, k, v: torch.einsum(
        "bhnm,bhmd->bhnd", torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1), v
    ),
    "bmm": lambda q, k, v: torch.bmm(
        torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).softmax(-1), v.flatten(0, 1)
    ).unflatten(0, (-1, 2)),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_values_pass_attention_and_what_it_sums_over_stays(product):
    graph = traced(Attention(PRODUCTS[product]), torch.randn(2, 5, 6))
    assert groups(graph) == {
        "embed": (8, ["embed.weight.0", "mix.weight.0"], ["q", "k", "v", "out"]),
        "v": (4, ["v.weight.0"], ["mix"]),
    }
    assert units(graph, "v.weight", 0) == "v.0 v.1 v.2 v.3 v.0 v.1 v.2 v.3"  # the same in each head
    for name in ("q", "k"):
        ((n_units, reason),) = refusals(graph)[name]
        assert n_units == 8
        assert reason.startswith("a product of two activations sums over it (aten.")


def test_attention_costs_the_same_however_it_is_written():
    costs = {
        cost(traced(Attention(product), torch.randn(2, 5, 6))) for product in PRODUCTS.values()
    }
    assert len(costs) == 1


def test_a_head_is_a_unit_where_the_number_of_heads_is_left_open():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 12)
            self.out = nn.Linear(12, 2)

        def forward(self, x):
            b, n, _ = x.shape
            q, k, v = (f(x).view(b, n, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            made = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(made.transpose(1, 2).reshape(b, n, -1))

    graph = traced(Net(), torch.randn(2, 5, 6))
    assert groups(graph) == {"q": (3, ["q.weight.0", "k.weight.0", "v.weight.0"], ["out"])}
    assert units(graph, "out.weight", 1) == "q.0 q.0 q.0 q.0 q.1 q.1 q.1 q.1 q.2 q.2 q.2 q.2"


def test_heads_and_hidden_units_of_an_encoder_layer_are_units():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    graph = traced(nn.Sequential(nn.Linear(3, 8), layer, nn.Linear(8, 2)), torch.randn(2, 5, 3))
    assert groups(graph) == {
        "1.linear1": (16, ["1.linear1.weight.0"], ["1.linear2"]),
        "1.self_attn.in_proj_weight": (
            2, ["1.self_attn.in_proj_weight.0"], ["1.self_attn.out_proj"],
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "multiply",
    [
        lambda x, w: x @ w,
        lambda x, w: torch.einsum("bnc,cd->bnd", x, w),
        lambda x, w: torch.einsum("cd,bnc->bnd", w, x),
        lambda x, w: torch.einsum("...c,cd->...d", x, w),
        lambda x, w: torch.mm(x.flatten(0, 1), w).unflatten(0, (2, 4)),
        lambda x, w: F.linear(x, w.t()),
        lambda x, w: F.linear(x, w.transpose(0, 1).contiguous()),
    ],
)
def test_a_product_with_a_parameter_is_a_linear_layer(multiply):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(3, 6), nn.Linear(5, 2)
            self.w = nn.Parameter(torch.randn(6, 5))

        def forward(self, x):
            return self.out(F.relu(multiply(F.relu(self.a(x)), self.w)))

    # at a width of 1 einsum multiplies and sums, which is not counted as a product
    graph = traced(Net(), torch.randn(2, 4, 3), shares=(1.0, 0.8))
    assert groups(graph) == {"w": (5, ["w.1"], ["out"]), "a": (6, ["a.weight.0"], ["w"])}
    consumer = graph.consumers[0]
    assert (consumer.in_dim, consumer.out_dim, consumer.uses) == (0, 1, 4)


@pytest.mark.parametrize(
    "multiply",
    [
        lambda x, w: x @ (w * 2),
        lambda x, w: torch.addmm(torch.ones(5).double(), x, w, alpha=2),
        lambda x, w: torch.addmm(torch.ones(5, 1).double(), w.mT, x.mT, beta=2).mT,
        lambda x, w: (w.mT.expand(3, -1, -1) @ x.mT).sum(0).mT,  # the weight repeats x
        lambda x, w: x @ w[:, 0, None].expand(-1, 5),
        lambda x, w: (x @ w[:, 0])[:, None] + w[0],
    ],
)
def test_any_other_product_is_a_boundary(multiply):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 6), nn.Linear(5, 4), nn.Linear(4, 2)
            self.w = nn.Parameter(torch.randn(6, 5))

        def forward(self, x):
            return self.out(F.relu(self.b(multiply(F.relu(self.a(x)), self.w))))

    graph = traced(Net(), torch.randn(2, 3))
    assert list(groups(graph)) == ["b"]
    assert refusals(graph)["a"][0][0] == 6


def on_the_left(multiply):
    """A network on maps (batch, features, length) whose second layer is ``multiply(x, weight)``."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.out = nn.Conv1d(3, 6, 1), nn.Conv1d(5, 2, 1)
            self.w = nn.Parameter(torch.randn(5, 6))

        def forward(self, x):
            return self.out(F.relu(multiply(F.relu(self.a(x)), self.w)))

    return Net()


LEFT = {
    "@": lambda x, w: w @ x,
    "matmul": lambda x, w: torch.matmul(w, x),
    "expanded": lambda x, w: torch.bmm(w.unsqueeze(0).expand(len(x), -1, -1), x),
    "one for all": lambda x, w: w[None] @ x,
    "with a sum": lambda x, w: torch.baddbmm(x.new_ones(1, 1, 1), w.expand(len(x), -1, -1), x),
    "einsum": lambda x, w: torch.einsum("oi,bil->bol", w, x),
    "einsum, weight last": lambda x, w: torch.einsum("...il,oi->...ol", x, w),
    "einsum, other order": lambda x, w: torch.einsum("bil,oi->lbo", x, w).permute(1, 2, 0),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_weight_on_the_left_is_a_linear_layer_over_the_last_dimension_but_one(name):
    # at a width of 1 einsum multiplies and sums, which is not counted as a product
    graph = traced(on_the_left(LEFT[name]), torch.randn(2, 3, 4), shares=(1.0, 0.8))
    assert list(groups(graph)) == ["w", "a"]
    readers = [consumer for consumer in graph.consumers if consumer.weight == "w"]
    assert {(c.kind, c.in_dim, c.out_dim, c.uses) for c in readers} == {("linear", 1, 0, 4)}
