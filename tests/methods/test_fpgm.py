"""FPGM: the filter nearest to the geometric median goes first."""

import numpy as np
import torch
from torch import nn

import mipp
from mipp.methods import FPGM

from .nets import Normed, data, plain, question, some


def summed_distances(filters):
    return np.linalg.norm(filters[:, None] - filters[None], axis=2).sum(1)


def test_scores_are_sums_of_distances_to_the_filters_that_are_left():
    model = plain()
    keep = some(question(model).graph)
    asked = question(model, keep=keep)
    group = next(g.index for g in asked.graph.groups if g.name == "3")
    # of the copy that is asked about, whose removed inputs are zero
    filters = asked.model[3].weight.detach().flatten(1).double().numpy()
    left = keep[group]
    scores = FPGM().score(asked)[group]
    np.testing.assert_allclose(scores[left], summed_distances(filters[left]), rtol=1e-12)
    assert (scores[~left] == 0).all()


def test_the_filter_at_the_geometric_median_goes_first_and_the_farthest_last():
    angles = torch.arange(6) * torch.pi / 3
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        # all filters far from the origin: a norm would not see which one is in the middle
        model[0].weight.copy_(torch.cat([ring[:3], torch.zeros(1, 2), ring[3:],
                                         torch.tensor([[4.0, 0.0]])]) + 10)  # fmt: skip
    scores = FPGM().score(question(model, mipp.statistics.read_batches([torch.randn(8, 2)])))
    assert scores[0].argmin() == 3
    assert scores[0].argmax() == 7
    plan = mipp.plan(model, [torch.randn(8, 2)], "units=7", method="fpgm")
    assert plan.keep == {"0": (0, 1, 2, 4, 5, 6, 7)}


def test_a_tied_unit_is_one_vector_of_the_weights_of_all_layers_that_make_it():
    model = Normed()
    scores = FPGM().score(question(model))
    first, outer = (
        layer.weight.detach().flatten(1).double() for layer in (model.first, model.outer)
    )
    stream = torch.cat([first, outer], 1).numpy()
    group = next(g.index for g in question(model).graph.groups if g.name == "first")
    np.testing.assert_allclose(scores[group], summed_distances(stream), rtol=1e-12)


def test_a_unit_of_several_rows_is_one_vector_of_all_of_them():
    model = nn.Sequential(
        nn.Conv2d(2, 12, 1), nn.GroupNorm(3, 12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, 3),
    )  # fmt: skip
    asked = question(model, data(dtype=torch.float32))
    assert asked.graph.groups[0].n_units == 3
    units = model[0].weight.detach().double().reshape(3, -1).numpy()
    np.testing.assert_allclose(FPGM().score(asked)[0], summed_distances(units), rtol=1e-12)


def test_biases_and_norm_parameters_count_where_they_are_asked_for():
    model = plain()
    scores, owned = FPGM().score(question(model)), FPGM(own=True).score(question(model))
    hidden = model[6]
    filters = torch.cat([hidden.weight, hidden.bias.unsqueeze(1)], 1).detach().double().numpy()
    np.testing.assert_allclose(owned[0], summed_distances(filters), rtol=1e-12)
    assert (owned[0] > scores[0]).all()
    assert mipp.plan(model, data(dtype=torch.float32), "units=50%", method=FPGM(own=True)).keep
