"""CHIP: nuclear norms by singular values, and maps that others can make up for."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.methods import CHIP
from mipp.methods.chip import independence

from .nets import data, plain, question


def brute_force(rows, unit, n_units):
    nuclear = torch.linalg.svdvals(rows).sum()
    lost = torch.zeros(n_units, dtype=rows.dtype)
    for u in unit.unique():
        lost[u] = nuclear - torch.linalg.svdvals(rows * (unit != u).unsqueeze(1)).sum()
    return lost


@pytest.mark.parametrize(("channels", "columns"), [(6, 20), (20, 6), (7, 1)])
def test_independence_is_the_nuclear_norm_that_is_lost_with_a_units_rows(channels, columns):
    rows = torch.randn(channels, columns).double()
    unit = torch.arange(channels) // 2 + 1  # units of two channels; unit 0 has none
    n_units = int(unit.max()) + 1
    expected = brute_force(rows, unit, n_units)
    torch.testing.assert_close(independence(rows, unit, n_units), expected, rtol=1e-6, atol=1e-6)
    assert expected[0] == 0


def test_a_duplicated_map_and_a_mixture_of_others_are_hardly_independent():
    drawn = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.linalg.qr(drawn.double())[0].T.clone()
    rows[3] = rows[2]
    rows[5] = (rows[6] + rows[7]) / 2**0.5
    lost = independence(rows, torch.arange(8), 8)
    # either duplicate, and the mixture, take sqrt(2) - 1 away from the nuclear norm
    assert set(lost.argsort()[:3].tolist()) == {2, 3, 5}
    torch.testing.assert_close(lost[[2, 3, 5]], torch.full((3,), 2**0.5 - 1).double())
    assert set(lost.argsort()[3:5].tolist()) == {6, 7}
    torch.testing.assert_close(lost[:2], torch.ones(2).double())


def test_scores_are_means_over_images_and_a_copied_filter_scores_lower_than_it_did_alone():
    model, batches = plain(), data(dtype=torch.float32)
    asked = question(model, batches)
    group = next(g.index for g in asked.graph.groups if g.name == "0")
    x = torch.cat([batch.args[0] for batch in batches])

    def expected():
        maps = model[:2](x).detach().double().flatten(2)
        return torch.stack([brute_force(one, torch.arange(5), 5) for one in maps]).mean(0).numpy()

    before = CHIP(examples=None).score(asked)[group]
    np.testing.assert_allclose(before, expected(), rtol=1e-4)
    with torch.no_grad():
        model[0].weight[4], model[0].bias[4] = model[0].weight[1], model[0].bias[1]
    after = CHIP(examples=None).score(question(model, batches))[group]
    np.testing.assert_allclose(after, expected(), rtol=1e-4)
    assert after[1] == pytest.approx(after[4])
    assert after[1] < before[1]


class Aside(nn.Module):
    """A stream of two layers' channels; those of the first are read once more, aside."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(2, 6, 1)
        self.head, self.aside = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return (self.head(self.stream(x)) + self.aside(self.a(x))).mean((2, 3))

    def stream(self, x):
        return torch.cat([self.a(x), self.b(x)], 1) + self.c(x)


def test_units_that_are_seen_more_often_than_others_get_the_mean_over_what_they_are_seen_in():
    model, x = Aside(), torch.randn(8, 2, 4, 4)
    whole = model.stream(x).detach().double().flatten(2)
    aside = model.a(x).detach().double().flatten(2)
    lost = torch.stack([brute_force(one, torch.arange(6), 6) for one in whole]).mean(0)
    again = torch.stack([brute_force(one, torch.arange(3), 3) for one in aside]).mean(0)
    lost[:3] = (lost[:3] + again) / 2
    scores = CHIP().score(question(model, mipp.statistics.read_batches([x])))[0]
    np.testing.assert_allclose(scores, lost.numpy(), rtol=1e-4)


def test_neurons_are_compared_over_the_examples_of_a_batch():
    model, batches = plain(), data(dtype=torch.float32)
    asked = question(model, batches)
    scores = CHIP(examples=None, batch_size=48).score(asked)[0]
    x = torch.cat([batch.args[0] for batch in batches])
    rows = model[:8](x).detach().double().T
    np.testing.assert_allclose(scores, brute_force(rows, torch.arange(6), 6).numpy(), rtol=1e-4)


@pytest.mark.parametrize("option", ["examples", "batch_size"])
def test_options_that_do_not_fit_are_errors(option):
    with pytest.raises(errors.InputError, match=f"{option}=0; expected at least 1"):
        CHIP(**{option: 0})
