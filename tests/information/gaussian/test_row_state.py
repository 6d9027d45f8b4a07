"""Fewer rows than features: row space gives what feature space gives."""

import numpy as np
import pytest
import torch

from mipp.covariance import Factor
from mipp.information import ConsumerView, Gaussian
from mipp.information.gaussian.downdate import State
from mipp.information.gaussian.row_state import RowState
from mipp.information.gaussian.standardised import logdet_eye_plus
from mipp.selection import eliminate


def few_rows(seed, n=7, n_units=14, k=3, outputs=5, context=6, constant=4):
    """A consumer of ``n`` rows; the last unit has one feature, some features never vary."""
    generator = torch.Generator().manual_seed(seed)
    d = n_units * k - (k - 1) + context
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    rows -= rows.mean(0)
    rows[:, torch.randperm(d, generator=generator)[:constant]] = 0
    unit = torch.full((d,), -1)
    places = torch.randperm(d, generator=generator)[: d - context]
    unit[places] = torch.arange(n_units).repeat_interleave(k)[: d - context]
    noise_root = torch.randn(outputs, outputs, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, d, generator=generator, dtype=torch.float64)
    return ConsumerView(Factor(rows / n**0.5), weight, noise_root @ noise_root.T, unit, uses=3)


def in_feature_space(view):
    return ConsumerView(
        view.covariance.dense(), view.weight, view.fisher, view.unit, uses=view.uses
    )


def both(noise, seed=0, **sizes):
    """The same scorer in row space and in feature space."""
    view = few_rows(seed, **sizes)
    n_units = int(view.unit.max()) + 1
    made = [Gaussian(noise=noise, ridge=1e-4).scorer([v], n_units)
            for v in (view, in_feature_space(view))]  # fmt: skip
    assert isinstance(made[0]._states[0], RowState)
    assert isinstance(made[1]._states[0], State)
    return made


@pytest.mark.parametrize("noise", ["fisher", 0.1])
@pytest.mark.parametrize("context", [0, 6])
def test_totals_scores_and_transfers_are_the_same(noise, context):
    rows, features = both(noise, context=context)
    np.testing.assert_allclose(rows.total(), features.total(), rtol=1e-9)
    np.testing.assert_allclose(rows.solo(), features.solo(), rtol=1e-6)
    np.testing.assert_allclose(rows.scores(), features.scores(), rtol=1e-6)
    np.testing.assert_allclose(rows.nats_of(3), features.nats_of(3), rtol=1e-6)
    for units in ([0], [1, 5, 7], list(range(13))):
        chosen = np.array(units)
        np.testing.assert_allclose(rows.transfers(chosen), features.transfers(chosen), rtol=1e-6)


@pytest.mark.parametrize("noise", ["fisher", 0.1])
@pytest.mark.parametrize("order", ["greedy", "ordered"])
@pytest.mark.parametrize("seed", range(3))
def test_the_elimination_goes_through_row_space_and_out_of_it(noise, order, seed):
    rows, features = both(noise, seed)
    a, b = eliminate(rows, order), eliminate(features, order)
    assert isinstance(rows._states[0], State), "fewer features than rows are left in the end"
    np.testing.assert_array_equal(a.order, b.order)
    np.testing.assert_allclose(a.nats_lost, b.nats_lost, rtol=1e-5)


def test_all_features_of_other_groups_stay_in_row_space():
    rows, features = both(0.1, n=5, n_units=4, context=20)
    a, b = eliminate(rows, "greedy"), eliminate(features, "greedy")
    assert isinstance(rows._states[0], RowState)
    np.testing.assert_array_equal(a.order, b.order)
    np.testing.assert_allclose(a.nats_lost, b.nats_lost, rtol=1e-5)


def test_memory_follows_the_rows():
    """100,000 features would take 80 GB as a matrix."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 100_000, generator=generator)
    unit = torch.arange(5000).repeat_interleave(20)
    view = ConsumerView(
        Factor(rows / 6**0.5), torch.randn(4, 100_000, generator=generator), None, unit, 1
    )
    scorer = Gaussian(noise=0.1).scorer([view], 5000)
    assert len(scorer.remove_least(10)) == 10


@pytest.mark.parametrize("n", [5, 30])
def test_outputs_that_the_loss_never_sees_get_no_information(n):
    """In row space and in feature space: a Fisher matrix of zeros leaves no direction at all."""
    view = few_rows(0, n=n)
    if n == 30:
        view = in_feature_space(view)
    blind = ConsumerView(view.covariance, view.weight, 0 * view.fisher, view.unit, view.uses)
    scorer = Gaussian().scorer([blind], 14)
    assert scorer.total()[0] == 0
    assert not scorer.solo().any()
    curve = eliminate(scorer, "greedy")
    assert sorted(curve.order.tolist()) == list(range(14))
    assert not curve.nats_lost.any()


def test_without_a_ridge_row_space_takes_the_least_there_is():
    view = few_rows(0, n=5)
    curve = eliminate(Gaussian(noise=0.1, ridge=0.0).scorer([view], 14), "greedy")
    assert np.isfinite(curve.nats_lost).all()


def test_moments_that_rounding_has_made_indefinite_have_a_total():
    matrix = torch.diag(torch.tensor([2.0, -1.5, 0.0]).double())
    assert logdet_eye_plus(matrix) == pytest.approx(np.log(3.0))
