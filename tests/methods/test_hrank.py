"""HRank: ranks as an independent library has them, and what breaks ties."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.methods import HRank

from .nets import data, plain, question


def test_scores_are_mean_ranks_of_the_maps_behind_the_activation():
    model, batches = plain(), data(dtype=torch.float32)
    asked = question(model, batches)
    group = next(g.index for g in asked.graph.groups if g.name == "0")
    scores = HRank(examples=None, batch_size=20).score(asked)[group]
    x = torch.cat([batch.args[0] for batch in batches])
    maps = model[:2](x).detach().numpy()
    ranks = np.array([[np.linalg.matrix_rank(one) for one in image] for image in maps]).mean(0)
    # ties are broken by less than one rank of one image
    np.testing.assert_allclose(scores, ranks, atol=0.5 / len(x) + 1e-12)
    assert (scores >= ranks).all()


def test_a_filter_whose_maps_are_flat_goes_before_all_others_and_a_dead_one_before_that():
    model, batches = plain(), data(dtype=torch.float32)
    with torch.no_grad():
        model[0].weight[1:3] = 0
        model[0].bias[1], model[0].bias[2] = 5.0, -5.0
        model[0].bias[3:] += 1
    asked = question(model, batches)
    group = next(g.index for g in asked.graph.groups if g.name == "0")
    scores = HRank().score(asked)[group]
    assert scores.argsort()[:2].tolist() == [2, 1]
    assert scores[2] == 0
    assert scores[1] == pytest.approx(1, abs=0.02)


def test_neurons_are_ranked_by_how_often_they_are_active_and_then_by_how_much():
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0], [1.0], [0.0]]))
        model[0].bias.copy_(torch.tensor([-2.5, 3.5, -0.5, 0.25]))
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    scores = HRank().score(question(model, mipp.statistics.read_batches([x])))[0]
    # active for 2, 3, 4 and 4 of the 4 examples
    np.testing.assert_allclose(scores, [0.5, 0.75, 1, 1], atol=0.125)
    assert scores.argsort().tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize("option", ["examples", "batch_size"])
def test_options_that_do_not_fit_are_errors(option):
    with pytest.raises(errors.InputError, match=f"{option}=0; expected at least 1"):
        HRank(**{option: 0})
