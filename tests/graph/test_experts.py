"""Mixtures of experts: neurons inside of each expert, however tokens get there."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp.graph import trace

from . import slicing
from .checks import groups, refusals, traced, units

X = torch.randn(4, 5, 6)


class Experts(nn.Module):
    """Three experts behind a gate, in a residual stream that may get narrower as well."""

    def __init__(self, route):
        super().__init__()
        self.stem, self.gate = nn.Linear(6, 8), nn.Linear(8, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8)) for _ in range(3)
        )
        self.out, self.route = nn.Linear(8, 2), route

    def forward(self, x):
        x = self.stem(x)
        return self.out(x + self.route(self, x, self.gate(x).softmax(-1)))


def dense(net, x, shares):
    return sum(shares[..., i : i + 1] * expert(x) for i, expert in enumerate(net.experts))


def stacked(net, x, shares):
    return (torch.stack([expert(x) for expert in net.experts], -1) * shares[..., None, :]).sum(-1)


def masked(net, x, shares):
    top, chosen = shares.topk(2, -1)
    return sum(
        ((chosen == i) * top).sum(-1, keepdim=True) * expert(x)
        for i, expert in enumerate(net.experts)
    )


def sparse(net, x, shares):
    """Only the tokens of an expert go through it, as in Mixtral."""
    tokens = x.flatten(0, 1)
    top, chosen = shares.flatten(0, 1).topk(2, -1)
    made = torch.zeros_like(tokens)
    for i, expert in enumerate(net.experts):
        token, place = torch.where(chosen == i)
        made.index_add_(0, token, expert(tokens[token]) * top[token, place, None])
    return made.view_as(x)


def by_mask(net, x, shares):
    """Written to where a mask says."""
    best, made = shares.argmax(-1), torch.zeros_like(x)
    for i, expert in enumerate(net.experts):
        made[best == i] = expert(x[best == i])
    return made


@pytest.mark.parametrize("route", [dense, stacked, masked, sparse, by_mask])
def test_neurons_of_each_expert_are_units_of_their_own(route):
    torch.manual_seed(0)
    shares = (0.7, 0.3)
    graph = traced(Experts(route), X, shares=shares) if route in COUNTED else uncounted(route)
    found = groups(graph)
    for i in range(3):
        name = f"experts.{i}.0"
        assert found[name] == (10, [f"{name}.weight.0"], [f"experts.{i}.2"])
    made = ["stem.weight.0", *(f"experts.{i}.2.weight.0" for i in range(3))]
    assert found["stem"][:2] == (8, made)
    assert "it mixes all channels" in refusals(graph)["gate"][0][1]


COUNTED = (dense, stacked, masked)


def uncounted(route):
    """How many tokens an expert gets is not known beforehand, so costs are not compared."""
    model = Experts(route).double().eval()
    graph = trace(model, (X.double(),))
    for share in (0.7, 0.3):
        keep = slicing.random_keep(graph, random.Random(0), share)
        made, wanted = (f(model, graph, keep)(X.double()) for f in (slicing.sliced, slicing.masked))
        torch.testing.assert_close(made, wanted)
    return graph


def test_experts_in_one_tensor_are_refused_by_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(3, 6, 8)), nn.Parameter(torch.randn(3, 8, 6))
            self.a, self.out = nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            made = torch.einsum("etd,edf->etf", torch.einsum("tc,ecd->etd", x, self.w), self.v)
            return self.out(F.relu(self.a(made.sum(0))))

    graph = traced(Net(), torch.randn(4, 6))
    assert list(groups(graph)) == ["a"]
    text = str(refusals(graph))
    for name in ("w", "v"):
        assert f"mipp sees no layer in this product with a weight: {name} (aten.einsum at" in text


def test_indices_along_channels_hold_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 2)

        def forward(self, x):
            x = self.a(x)
            x[:, torch.tensor([0, 2])] = 1.0
            return self.out(F.relu(self.b(x)))

    graph = traced(Net(), torch.randn(4, 6))
    assert list(groups(graph)) == ["b"]
    assert "it writes channels by their place" in refusals(graph)["a"][0][1]


def test_rows_of_a_vector_written_by_index_pass_their_channels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.token = nn.Linear(6, 8), nn.Parameter(torch.randn(8))
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            x = self.a(x)
            x[:, torch.tensor([0, 2])] = self.token
            return self.out(x)

    graph = traced(Net(), X)
    assert units(graph, "token", 0) == " ".join(f"a.{u}" for u in range(8))
