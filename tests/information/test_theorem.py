"""Theorem 1 of arXiv 2411.00147: information is kept exactly when the next layer can be restored.

It is about all functions. Which of its two directions an estimate of information carries over
depends on what functions the estimator sees; both ways to go wrong are among the tests.
"""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp.information import Gaussian, Mlp, Observations
from mipp.information.views import observations

RNG = np.random.default_rng


def best_linear(x, y):
    """The best linear prediction of y from x, and a constant."""
    design = np.column_stack([x, np.ones(len(x))])
    return design @ np.linalg.lstsq(design, y, rcond=None)[0]


def redundant_layer(n, seed):
    """Twelve units of rank six, and the next layer's outputs, which are linear in them."""
    rng = RNG(seed)
    base = np.maximum(rng.standard_normal((n, 6)) @ rng.standard_normal((6, 6)) + 0.3, 0)
    mixed = base @ rng.standard_normal((6, 3))
    hidden = np.column_stack([base, 3 * base[:, :2], base[:, 5], mixed])[:, rng.permutation(12)]
    return hidden, hidden @ rng.standard_normal((12, 8))


def seen_through(share, hidden, outputs):
    """The outputs in units of a noise that is this share of their variance."""
    scaled = outputs / np.sqrt(share * outputs.var(0))
    tensors = (torch.as_tensor(a, dtype=torch.float64) for a in (hidden, scaled))
    return Observations(*tensors, unit=torch.arange(hidden.shape[1]), noise=1.0), scaled


def test_nats_lost_are_the_error_of_the_best_restoration_at_every_step():
    hidden, outputs = redundant_layer(3000, seed=0)
    view, scaled = seen_through(0.01, hidden, outputs)
    scorer = Gaussian(ridge=1e-12).scorer([view], 12)
    left = list(range(12))
    lost, kept_all, lost_some = 0.0, 0, 0
    for _ in range(11):
        ((unit, nats),) = scorer.remove_least(1)
        left.remove(unit)
        lost += float(nats.sum())
        error = scaled - best_linear(hidden[:, left], scaled)
        covariance = np.cov(error.T, bias=True)
        # what is left over, against a noise of 1: I(all) - I(left) = 1/2 logdet(1 + covariance)
        by_error = 0.5 * np.linalg.slogdet(np.eye(8) + covariance)[1]
        assert lost == pytest.approx(by_error, rel=1e-4, abs=1e-6)
        restored = np.abs(error).max() < 1e-5
        assert restored == (lost < 1e-6)
        kept_all += restored
        lost_some += not restored
    # six units more than its rank: so many go without a loss, and not one more
    assert (kept_all, lost_some) == (6, 5)


def widened_net():
    """Six hidden units and six that repeat them, times some positive number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    with torch.no_grad():
        scale = torch.linspace(0.5, 2, 6)
        model[0].weight[6:] = model[0].weight[:6] * scale[:, None]
        model[0].bias[6:] = model[0].bias[:6] * scale
    return model


def test_a_network_without_units_that_lose_nothing_is_refitted_to_what_it_was():
    model, x = widened_net(), torch.randn(2000, 5)
    plan = mipp.plan(model, [x], "information=99.99%", protect="2")
    # the first linear layer makes the group, the second reads it
    assert len(plan.keep["0"]) == 6
    assert len({unit % 6 for unit in plan.keep["0"]}) == 6
    with torch.no_grad():
        # the default refit holds on to the old weights a little, and so to an error of 5e-4
        small = plan.apply(refit=mipp.Refit(ridge=1e-10, toward="zero"))(x)
        original = model(x)
    assert float((original - small).abs().max()) < 1e-5


def test_without_one_more_unit_no_refit_gives_the_outputs_back():
    model, x = widened_net(), torch.randn(2000, 5)
    # units are 12 and 7, of which the last layer's seven are protected
    plan = mipp.plan(model, [x], "units=12", protect="2")
    assert len(plan.keep["0"]) == 5
    (group,) = [row for row in plan.summary if row.name == "0"]
    assert group.nats_before - group.nats_after > 1e-4 * group.nats_before
    with torch.no_grad():
        second = model[:3](x).numpy()
        hidden = model[:2](x).numpy()
    error = second - best_linear(hidden[:, list(plan.keep["0"])], second)
    assert np.abs(error).max() > 0.05


MLP = Mlp(hidden=(32, 32), batch_size=64, learning_rate=3e-3)


def lost_with(estimator, x, y, unit):
    """Share of the information that is lost with one unit."""
    scorer = estimator.scorer([observations(x, y)], x.shape[1])
    return scorer.nats_of(unit).sum() / scorer.total().sum()


def test_what_a_nonlinear_function_restores_the_gaussian_counts_as_lost():
    # unit 1 is a function of unit 0, and uncorrelated with it
    rng = RNG(1)
    a = rng.uniform(-2, 2, 1000)
    x = np.column_stack([a, np.abs(a) - 1])
    y = x[:, 1] + 0.2 * rng.standard_normal(1000)
    assert lost_with(Gaussian(), x, y, unit=1) > 0.95
    assert lost_with(MLP, x, y, unit=1) < 0.1
    # and rightly so: the rest of y is noise, whichever of the two is there
    assert (y - best_linear(a[:, None], y)).var() > 0.3
    assert (y - best_linear(np.maximum([a, -a], 0).T, y)).var() < 0.05


def test_of_a_target_that_is_not_linear_the_gaussian_misses_what_no_function_restores():
    # a product, such as a model's output or a label may be of a layer's units
    rng = RNG(2)
    x = rng.choice([-1.0, 1.0], size=(1000, 2))
    y = x[:, 0] * x[:, 1] + 0.3 * rng.standard_normal(1000)
    scorer = Gaussian().scorer([observations(x, y)], 2)
    assert scorer.total().sum() < 0.02
    assert lost_with(MLP, x, y, unit=0) > 0.9
    # given unit 1 alone, y is -1 or 1 with even odds: no function of unit 1 does better than 0
    for sign in (-1, 1):
        assert abs(y[x[:, 1] == sign].mean()) < 0.15


def test_of_a_noisy_target_the_odds_are_kept_and_not_its_values():
    rng = RNG(3)
    a = rng.standard_normal(2000)
    x, y = np.column_stack([a, a]), a + rng.standard_normal(2000)
    scorer = Gaussian().scorer([observations(x, y)], 2)
    assert scorer.remove(1).sum() < 1e-3 * scorer.total().sum()
    with_both, with_one = (y - best_linear(x[:, :k], y) for k in (2, 1))
    assert with_one.var() == pytest.approx(with_both.var(), rel=1e-9)
    assert with_one.var() > 0.9
