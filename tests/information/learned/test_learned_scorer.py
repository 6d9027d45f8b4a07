"""What the learned estimators see where the closed form is blind, and how near they come."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab import known
from mipp.errors import InputError
from mipp.information import ConsumerView, Gaussian, Masked, Mlp, Observations, observations

SMALL = {"hidden": (32, 32), "epochs": 40}
MLP = Mlp(**SMALL, retrain_epochs=5)
MASKED = Masked(**SMALL)
LEARNED = pytest.mark.parametrize("estimator", [MLP, MASKED], ids=["mlp", "masked"])


def scorer(estimator, X, Y, units=None, seed=0):
    view = observations(X, Y, units)
    return estimator.scorer([view], int(view.unit.max()) + 1, seed)


@pytest.fixture(scope="module")
def xor():
    """Two bits whose XOR is the label, and a third that says nothing."""
    bits = np.random.default_rng(0).integers(0, 2, (1500, 3))
    return bits.astype(np.float32), bits[:, 0] ^ bits[:, 1]


@LEARNED
def test_a_pair_that_tells_something_only_together_is_kept(estimator, xor):
    X, Y = xor
    lost = scorer(estimator, X, Y).scores()
    assert lost[0] > 0.5 * np.log(2)
    assert lost[1] > 0.5 * np.log(2)
    assert abs(lost[2]) < 0.05
    assert scorer(Gaussian(), X, Y).total()[0] < 0.01


@LEARNED
def test_alone_neither_of_the_pair_tells_anything(estimator, xor):
    found = scorer(estimator, *xor)
    assert found.total()[0] == pytest.approx(np.log(2), abs=0.1)
    assert np.abs(found.solo()).max() < 0.05
    assert found.transfers(np.array([0, 1]))[0] == pytest.approx(np.log(2), abs=0.1)


@LEARNED
def test_a_spread_that_tells_the_target_is_seen(estimator):
    """X ~ N(0, Y), Y ~ chi2(1): no linear relation, yet the size of X says something of Y."""
    generator = np.random.default_rng(1)
    Y = generator.standard_normal(3000) ** 2
    X = generator.standard_normal(3000) * np.sqrt(Y)
    total = scorer(estimator, X.astype(np.float32), Y.astype(np.float32)).total()[0]
    assert total > 0.1
    assert scorer(Gaussian(), X.astype(np.float32), Y.astype(np.float32)).total()[0] < 0.01


@LEARNED
def test_correlated_normals_have_about_the_nats_of_the_closed_form(estimator):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3000, 3, generator=generator)
    y = 0.8 * x[:, :2] + 0.6 * torch.randn(3000, 2, generator=generator)
    truth = -2 * np.log(0.6)  # two pairs of correlation 0.8
    assert scorer(estimator, x, y).total()[0] == pytest.approx(truth, abs=0.15)


def test_masked_agrees_with_mlp_in_order_and_about_in_size():
    """What masked is calibrated against: nats lost with each unit of one layer."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3000, 6, generator=generator)
    strength = torch.tensor([0.0, 0.15, 0.3, 0.5, 0.8, 1.2])
    y = (x * strength).sum(1, keepdim=True) + 0.5 * torch.randn(3000, 1, generator=generator)
    slow, fast = (scorer(e, x, y).scores() for e in (MLP, MASKED))
    assert list(np.argsort(slow)[2:]) == list(np.argsort(fast)[2:]) == [2, 3, 4, 5]
    np.testing.assert_allclose(fast[2:], slow[2:], rtol=0.35, atol=0.05)


@LEARNED
def test_squared_error_and_nats_are_alike_where_errors_are_small_against_the_noise(estimator):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1500, 3, generator=generator)
    # deterministic targets, seen through noise a hundred times their variance
    y = x @ torch.tensor([[0.1, 0.0], [0.05, 0.05], [0.0, 0.1]])
    view = Observations(x, y, torch.arange(3), noise=1.0)
    lost = [
        replace(estimator, measure=m).scorer([view], 3).nats_of(0)[0] for m in ("nats", "squared")
    ]
    assert lost[0] == pytest.approx(0.5 * 0.01, rel=0.25)
    assert lost[1] == pytest.approx(lost[0], rel=0.1)


def test_a_unit_alone_is_fitted_before_the_first_step():
    """Y = |X| + noise has no linear part: the fit is that of the hidden units."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(1000, 2, generator=generator)
    y = x[:, :1].abs() + 0.3 * torch.randn(1000, 1, generator=generator)
    solo = scorer(replace(MLP, epochs=1, retrain_epochs=0), x, y).solo()
    truth = 0.5 * np.log(1 + (1 - 2 / np.pi) / 0.09)  # as if the errors were all that is left
    assert solo[0] == pytest.approx(truth, abs=0.1)
    assert abs(solo[1]) < 0.05


def test_known_sets_end_with_units_that_are_enough():
    truth = known.strong_and_weak(noise=0.5)
    X, Y = truth.sample(2000, seed=5)
    found = scorer(MLP, X, Y, truth.unit)
    enough = [found.transfers(np.array(sorted(units)))[0] for units in truth.enough]
    assert min(enough) > 0.85 * found.total()[0]


@LEARNED
def test_second_moments_are_not_enough(estimator):
    view = ConsumerView(torch.eye(2), torch.ones(1, 2), torch.eye(1), torch.arange(2), 1)
    with pytest.raises(InputError, match="needs rows of observations, and was given second"):
        estimator.scorer([view], 2)


@LEARNED
def test_too_few_examples_are_an_error(estimator):
    with pytest.raises(InputError, match="was given 40 examples; expected at least 50"):
        scorer(estimator, np.random.default_rng(0).standard_normal((40, 2)), np.arange(40.0))
