"""Layers of graphs, as people write them: messages are gathered along edges and added at nodes."""

import pytest
import torch
from torch import nn

from mipp.graph import trace

from .checks import groups, refusals, traced

X = torch.randn(7, 3)
EDGES = torch.randint(0, 7, (2, 19), generator=torch.Generator().manual_seed(0))


class Layers(nn.Module):
    """Two linear layers, and a function of the hidden features and the edges between them."""

    def __init__(self, function, hidden=6):
        super().__init__()
        self.a, self.out = nn.Linear(3, hidden), nn.Linear(hidden, 2)
        self.function = function

    def forward(self, x, edges):
        return self.out(self.function(self.a(x).relu(), edges))


def rows_of(index, like):
    return index.view(-1, 1).expand_as(like)


def by_index_add(h, edges):
    return h + torch.zeros_like(h).index_add(0, edges[1], h.index_select(0, edges[0]))


def by_scatter_add(h, edges):
    messages = h.index_select(0, edges[0])
    zeros = messages.new_zeros(h.shape[0], h.shape[1])
    return zeros.scatter_add(0, rows_of(edges[1], messages), messages)


def by_mean(h, edges):
    count = h.new_zeros(len(h)).scatter_add(0, edges[1], h.new_ones(edges.shape[1])).clamp(1)
    total = by_scatter_add(h, edges)
    return total / count.view(-1, 1).expand_as(total)


def by_maximum(h, edges):
    index = edges[1].view(-1, 1).expand(-1, h.shape[1])
    return torch.zeros(h.shape).to(h).scatter_reduce(0, index, h[edges[0]], "amax")


def by_index_put(h, edges):
    made = torch.zeros(h.shape).to(h)
    made[edges[1]] = h[edges[0]]
    return made


def by_gather(h, edges):
    return h + h.gather(0, rows_of(edges[0, :7], h))


@pytest.mark.parametrize(
    "function", [by_index_add, by_scatter_add, by_mean, by_maximum, by_index_put, by_gather]
)
def test_messages_between_nodes_let_units_pass(function):
    graph = traced(Layers(function), X, EDGES)
    assert groups(graph) == {"a": (6, ["a.weight.0"], ["out"])}


def test_attention_over_edges_has_its_heads_as_units():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = 4
            self.a, self.out = nn.Linear(3, 12), nn.Linear(12, 2)
            self.score = nn.Parameter(torch.randn(1, 4, 3))

        def forward(self, x, edges):
            h = self.a(x).view(-1, self.heads, 3)
            score = (h * self.score).sum(-1)[edges[0]].exp()
            index = rows_of(edges[1], score)
            total = score.new_zeros(len(x), self.heads).scatter_add(0, index, score)
            share = (score / total[edges[1]]).unsqueeze(-1)
            messages = share * h[edges[0]]
            index = edges[1].view(-1, 1, 1).expand_as(messages)
            made = torch.zeros_like(h).scatter_add(0, index, messages)
            return self.out(made.reshape(len(x), -1))

    graph = traced(Attention(), X, EDGES)
    assert groups(graph) == {"a": (4, ["a.weight.0"], ["out"])}


def each_by_itself(h, edges):
    return torch.zeros_like(h).scatter_add(0, h.argsort(0), h)


def across_channels(h, edges):
    return torch.zeros_like(h).scatter(1, torch.zeros(7, 6, dtype=torch.long), h)


def some_channels(h, edges):
    index = torch.zeros(7, 1, dtype=torch.long).expand(-1, 4)
    return torch.zeros_like(h).scatter_add(0, index, h)


def a_number(h, edges):
    return h.scatter(0, torch.zeros(1, 6, dtype=torch.long), 0.0)


def some_gathered(h, edges):
    return h + h.gather(1, h.argmax(0).view(1, 6).expand_as(h) % 6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (each_by_itself, "an index says where it is put"),
        (across_channels, "an index says where it is put"),
        (some_channels, "an index says where it is put"),
        (a_number, "it writes channels by their place"),
        (some_gathered, "it takes channels by their place"),
    ],
)
def test_indices_that_tell_channels_apart_keep_them(function, reason):
    class Beside(Layers):
        def __init__(self):
            super().__init__(function)
            self.b, self.end = nn.Linear(2, 5), nn.Linear(5, 2)

        def forward(self, x, edges):
            return self.end(self.b(super().forward(x, edges)).relu())

    graph = trace(Beside().eval(), (X, EDGES))
    assert "a" not in groups(graph)
    ((n_channels, given),) = refusals(graph)["a"]
    assert n_channels == 6
    assert given.startswith(reason)
