"""How terms of single weights become scores of units, in every kind of group."""

import numpy as np
import pytest
import torch
from torch import nn

from mipp.methods import aggregate
from mipp.methods.shared.aggregate import unit_entries

from .nets import Normed, question, some


def signed(model):
    generator = torch.Generator().manual_seed(4)
    return {
        n: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for n, p in model.named_parameters()
    }


def index_of(graph, name):
    return next(group.index for group in graph.groups if group.name == name)


BY_HAND = {
    "l1": lambda rows: rows.abs().sum(1),
    "mean": lambda rows: rows.abs().mean(1),
    "l2": lambda rows: rows.square().sum(1).sqrt(),
    "signed": lambda rows: rows.sum(1).abs(),
    "sum": lambda rows: rows.sum(1),
}


@pytest.mark.parametrize("how", BY_HAND)
def test_a_tied_group_is_scored_once_over_all_layers_that_make_it(how):
    model = Normed().double()
    graph, terms = question(model).graph, signed(model)
    found = aggregate(graph, {}, terms, how)
    rows = torch.cat([terms["first.weight"].flatten(1), terms["outer.weight"].flatten(1)], 1)
    np.testing.assert_allclose(found[index_of(graph, "first")], BY_HAND[how](rows).numpy())
    rows = terms["inner.weight"].flatten(1)
    np.testing.assert_allclose(found[index_of(graph, "inner")], BY_HAND[how](rows).numpy())


def test_own_parameters_of_a_unit_count_only_where_they_are_asked_for():
    model = Normed().double()
    graph, terms = question(model).graph, signed(model)
    inner = index_of(graph, "inner")
    plain = aggregate(graph, {}, terms, "sum")[inner]
    own = aggregate(graph, {}, terms, "sum", own=True)[inner]
    np.testing.assert_allclose(own - plain, (terms["norm2.weight"] + terms["norm2.bias"]).numpy())


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.point = nn.Conv2d(2, 6, 1)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.last = nn.Conv2d(6, 5, 2, padding=1)
        self.head = nn.Linear(5 * 25, 3)

    def forward(self, x):
        return self.head(self.last(self.depth(self.point(x)).relu()).relu().flatten(1))


def test_a_depthwise_filter_belongs_to_its_unit_and_flattened_columns_to_theirs():
    model = Depthwise().double()
    graph, terms = question(model).graph, signed(model)
    point = index_of(graph, "point")
    np.testing.assert_allclose(
        aggregate(graph, {}, terms, "sum")[point], terms["point.weight"].sum((1, 2, 3)).numpy()
    )
    own = sum(terms[n].flatten(1).sum(1) for n in ("point.weight", "depth.weight"))
    own += terms["point.bias"] + terms["depth.bias"]
    np.testing.assert_allclose(aggregate(graph, {}, terms, "sum", own=True)[point], own.numpy())


def test_a_unit_of_several_rows_has_all_their_weights():
    model = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (4, 2)), nn.Flatten(), nn.Linear(8, 2))
    shuffled = nn.Sequential(nn.Conv2d(2, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 3, 1))
    graph, terms = question(shuffled).graph, signed(shuffled)
    (group,) = graph.groups
    assert group.n_units == 2
    rows = terms["0.weight"].reshape(2, -1)
    np.testing.assert_allclose(aggregate(graph, {}, terms)[0], rows.abs().sum(1).numpy())
    assert model is not shuffled


def test_the_mean_leaves_out_removed_inputs():
    model = Normed().double()
    whole = question(model).graph
    keep = some(whole)
    asked = question(model, keep=keep)
    terms = {n: p.detach() for n, p in asked.parameters().items()}  # zero where units are removed
    inner, first = index_of(whole, "inner"), index_of(whole, "first")
    found = aggregate(whole, keep, terms, "mean")[inner]
    left = terms["inner.weight"][:, torch.from_numpy(keep[first])]
    np.testing.assert_allclose(found, left.abs().flatten(1).mean(1).numpy())


def test_entries_of_units_are_those_along_units_that_are_left():
    model = Normed().double()
    graph = question(model).graph
    keep = some(graph)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    masks = unit_entries(graph, keep, shapes)
    assert masks.keys() == {"first.weight", "inner.weight", "outer.weight"}
    inner = keep[index_of(graph, "inner")]
    assert masks["inner.weight"].shape == (7, 1, 1, 1)
    assert masks["inner.weight"].flatten().tolist() == inner.tolist()
    assert "norm2.bias" in unit_entries(graph, keep, shapes, own=True)
