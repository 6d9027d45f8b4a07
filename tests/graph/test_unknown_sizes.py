"""Sizes that depend on values: what has nothing to do with them is pruned, the rest is refused."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from mipp.graph import trace

from .checks import groups, refusals, traced
from .slicing import masked, random_keep, sliced

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()


class Net(nn.Module):
    """A linear layer, a function of what it gives and of the input, and another one.

    A second group stays prunable whatever becomes of the first.
    """

    def __init__(self, function):
        super().__init__()
        self.first, self.a, self.out = nn.Linear(3, 5), nn.Linear(5, 8), nn.Linear(8, 2)
        self.function = function
        self.heads = 4

    def forward(self, x):
        return self.out(self.function(self, self.a(self.first(x).relu()), x))


def graph_of(function):
    """The graph of such a net, after a check that sliced nets compute what masked ones do."""
    net = Net(function).double().eval()
    graph = trace(net, (X,))
    for share in (0.7, 0.3):
        keep = random_keep(graph, random.Random(0), share)
        with torch.no_grad():
            np.testing.assert_allclose(
                sliced(net, graph, keep)(X), masked(net, graph, keep)(X), rtol=1e-9, atol=1e-9
            )
    return graph


def positive(x):
    return (x[:, 0] > 0).nonzero().squeeze(1)


def n_positive(x):
    return positive(x).shape[0]


def some_rows(net, h, x):
    return h[positive(x)]


def masked_rows(net, h, x):
    return h[x[:, 0] > 0]


def rows_written(net, h, x):
    made = torch.zeros_like(h)
    made[positive(x)] = h[positive(x)]
    return made


def rows_joined(net, h, x):
    return torch.cat([h, h[positive(x)]])


def rows_stacked(net, h, x):
    return torch.stack([h[positive(x)], h[positive(x)]]).mean(0)


def row_repeated(net, h, x):
    return h[:1].expand(n_positive(x), -1)


def first_rows(net, h, x):
    return h[: n_positive(x)]


def in_heads(net, h, x):
    rows = h[positive(x)]
    return rows.view(rows.shape[0], net.heads, 2).flatten(1)


def added_at(net, h, x):
    kept = positive(x)
    messages = h[kept]
    index = kept.view(-1, 1).expand_as(messages)
    return h.new_zeros(h.shape[0], h.shape[1]).scatter_add(0, index, messages)


def scaled_by_a_number(net, h, x):
    return h * n_positive(x)


def padded_rows(net, h, x):
    n = n_positive(x)
    torch._check(n <= 8)
    return nn.functional.pad(h, (0, 0, 0, n))


@pytest.mark.parametrize(
    "function",
    [
        some_rows, masked_rows, rows_written, rows_joined, rows_stacked, row_repeated, first_rows,
        in_heads, added_at, scaled_by_a_number, padded_rows,
    ],
)  # fmt: skip
def test_units_along_other_dimensions_pass(function):
    assert groups(graph_of(function))["a"][0] == (4 if function is in_heads else 8)


def flattened(net, h, x):
    return h[positive(x)].flatten().view(-1, 8)


def up_to_a_place(net, h, x):
    n = n_positive(x)
    torch._check(n <= 8)
    return h + h[:, :n].sum()


def from_a_place_on(net, h, x):
    n = n_positive(x)
    torch._check(n <= 8)
    return h + h[:, n:].sum()


def repeated(net, h, x):
    n = n_positive(x)
    torch._check(n <= 8)
    return h + h.repeat(1, n).sum()


def each_repeated(net, h, x):
    n = n_positive(x)
    torch._check(n <= 8)
    return h + h.repeat_interleave(n, dim=1).sum()


def joined_along_channels(net, h, x):
    return h + torch.cat([h, x[:1, :1].expand(-1, n_positive(x)).expand(8, -1)], 1).sum()


def of_seven_masks(net, h, x):
    rows = torch.cat([h[x[:, 0] > bound] for bound in range(-3, 4)])
    return rows.view(-1, net.heads, 2).flatten(1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (flattened, "it is joined with or split by a size that depends on values"),
        (up_to_a_place, "its length along the channels is a constant in the code"),
        (from_a_place_on, "its length along the channels is a constant in the code"),
        (repeated, "a size or a place in it depends on values"),
        (each_repeated, "a size or a place in it depends on values"),
        (joined_along_channels, "a size or a place in it depends on values"),
        (of_seven_masks, "a size or a place in it depends on values"),
    ],
)
def test_channels_that_meet_such_a_size_stay(function, reason):
    graph = graph_of(function)
    assert list(groups(graph)) == ["first"]
    ((n_channels, given),) = refusals(graph)["a"]
    assert n_channels == 8
    assert given.startswith(reason)


def test_a_size_beside_the_path_of_the_units_restricts_nothing():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            found = torch.zeros(torch.nonzero(x > 0).shape[0], 2)
            return self.out(self.a(x).relu()), found

    assert groups(traced(Beside(), X)) == {"a": (6, ["a.weight.0"], ["out"])}


def test_a_size_that_the_units_decide_keeps_them():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            h = self.a(x).relu()
            return self.out(self.b(h).relu()), torch.zeros(torch.nonzero(h).shape[0], 2)

    graph = traced(Decides(), X)
    assert list(groups(graph)) == ["b"]
    assert "nonzero" in refusals(graph)["a"][0][1]
