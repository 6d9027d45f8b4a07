"""Structured OBS: costs and weights against least squares, and how it relates to mipp's nats."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import information
from mipp.methods import OBS, obs
from mipp.methods.obs import Layer, eliminate

from .nets import data, plain, question

UNIT = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])


def problem(seed=0, m=6):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(10, 10, generator=generator).double()
    return mixed @ mixed.T, torch.randn(m, 10, generator=generator).double()


def least_error(moment, weight, kept):
    """E||W X - W' X||^2 with the best W' on the kept features, and that W'."""
    best = torch.zeros_like(weight)
    best[:, kept] = torch.linalg.solve(moment[kept][:, kept], moment[kept] @ weight.T).T
    lost = weight - best
    return float(((lost @ moment) * lost).sum()), best


def left_of(layer, moment, weight):
    """The weights that the elimination has left."""
    return weight @ moment @ layer.inverse


def test_each_cost_is_what_the_best_weights_lose_more_and_the_weights_become_those():
    moment, weight = problem()
    layer = Layer(moment, weight, UNIT, 0)
    left, error = [0, 1, 2, 3, 4], 0.0
    for unit in (3, 0, 4):
        kept_with = torch.isin(UNIT, torch.tensor(left))
        for other, cost in zip(left, layer.costs(np.array(left)), strict=True):
            after, _ = least_error(moment, weight, kept_with & (other != UNIT))
            assert cost * layer.energy == pytest.approx(after - error, rel=1e-6)
        layer.remove(unit)
        left.remove(unit)
        error, best = least_error(moment, weight, torch.isin(UNIT, torch.tensor(left)))
        torch.testing.assert_close(left_of(layer, moment, weight), best, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("together", [1, 2, 7, 128])
def test_units_with_different_numbers_of_columns_whenever_the_matrices_are_changed(
    together, monkeypatch
):
    monkeypatch.setattr(obs, "TOGETHER", together)
    moment, weight = problem()
    unit = torch.tensor([3, 3, 0, 0, 0, 5, 2, 2, 2, 1])
    layer = Layer(moment, weight, unit, 0)
    order, errors = eliminate([layer], np.array([5, 3, 2, 1, 0, 4]))
    assert order[0] == 4  # no column is of it
    assert errors[0] == 0
    left = torch.ones(10, dtype=torch.bool)
    for gone, error in zip(order[1:], errors[1:], strict=True):
        left &= unit != gone
        expected = least_error(moment, weight, left)[0] / layer.energy
        assert error == pytest.approx(expected, rel=1e-6)


def test_a_layer_that_reads_no_unit_any_more_costs_nothing():
    layer = Layer(torch.zeros(0, 0), torch.zeros(3, 0), torch.zeros(0, dtype=torch.int64), 0.01)
    order, errors = eliminate([layer], np.array([2, 4]))
    assert order.tolist() == [2, 4]
    assert errors.tolist() == [0, 0]


def test_the_least_costly_unit_goes_at_every_step_and_errors_are_relative_and_add_up():
    moment, weight = problem()
    order, errors = eliminate([Layer(moment, weight, UNIT, 0)], np.arange(5))
    left, energy = [0, 1, 2, 3, 4], float(((weight @ moment) * weight).sum())
    for unit, error in zip(order, errors, strict=True):
        after = {
            u: least_error(
                moment, weight, torch.isin(UNIT, torch.tensor([v for v in left if v != u]))
            )
            for u in left
        }
        assert min(after, key=lambda u: after[u][0]) == unit
        left.remove(int(unit))
        assert error == pytest.approx(after[int(unit)][0] / energy, rel=1e-6)
    assert errors[-1] == pytest.approx(1)


def test_one_of_two_equal_units_costs_nothing_and_the_other_stays():
    moment, weight = problem()
    # features 8 and 9 repeat 0 and 1
    same = torch.eye(10).double()
    same[8:] = same[:2]
    moment = same @ moment @ same.T
    order, errors = eliminate([Layer(moment, weight, UNIT, 1e-9)], np.arange(5))
    assert order[0] in {0, 4}
    assert errors[0] < 1e-6
    assert errors[1] > 1e-3


def test_errors_of_several_layers_that_read_the_group_add_up():
    layers = [Layer(*problem(seed, m), UNIT, 0) for seed, m in ((0, 6), (1, 4))]
    both = eliminate(
        [Layer(*problem(seed, m), UNIT, 0) for seed, m in ((0, 6), (1, 4))], np.arange(5)
    )
    alone = [layer.costs(np.arange(5)) for layer in layers]
    assert both[0][0] == (alone[0] + alone[1]).argmin()
    assert both[1][-1] == pytest.approx(2)


def test_with_much_noise_mipps_nats_are_the_costs_with_every_output_of_variance_one():
    """log det(1 + E) is tr E where the noise is far above what is lost."""
    moment, weight = problem()
    noise = 1e7
    view = information.ConsumerView(moment, weight, None, UNIT, 1)
    scorer = information.Gaussian(noise=noise, ridge=1e-12).scorer([view], 5)
    variance = ((weight @ moment) * weight).sum(1, keepdim=True)
    layer = Layer(moment, weight / variance.sqrt(), UNIT, 0)
    left = [0, 1, 2, 3, 4]
    for unit in (2, 4):
        costs = layer.costs(np.array(left)) * layer.energy
        np.testing.assert_allclose(2 * noise * scorer.scores()[left], costs, rtol=1e-4)
        left.remove(unit)
        scorer.remove(unit)
        layer.remove(unit)


def test_the_weights_of_the_elimination_are_those_of_the_refit():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    x = torch.randn(64, 4).double()
    plan = mipp.plan(model, [x], "units=3", method=OBS(damping=0), refit=False)
    small = plan.apply(refit=mipp.Refit(mode="closed", ridge=1e-12))
    hidden = model[:2](x).detach()
    moment, weight = hidden.T @ hidden / 64, model[2].weight.detach()
    layer = Layer(moment, weight, torch.arange(6), 0)
    for unit in sorted(set(range(6)) - set(plan.keep["0"])):
        layer.remove(unit)
    mine = left_of(layer, moment, weight)[:, list(plan.keep["0"])]
    torch.testing.assert_close(small[2].weight.detach(), mine, rtol=1e-6, atol=1e-8)
    assert plan.record.options["refit"] is None
    own = mipp.plan(model, [x], "units=3", method="obs", refit="own")
    assert own.refit == mipp.Refit()


def test_scores_are_errors_along_the_order_from_the_data_and_dead_features_do_no_harm():
    model = plain()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, -1  # never active
    asked = question(model, data(dtype=torch.float32))
    scores = OBS(damping=1e-9).score(asked)
    for values in scores.values():
        assert np.isfinite(values).all()
        assert values.max() <= 1 + 1e-6
    first = next(g.index for g in asked.graph.groups if g.name == "0")
    assert scores[first].argmin() == 2
    assert scores[first][2] < 1e-9
    centred = OBS(damping=1e-9, centred=True).score(question(model, data(dtype=torch.float32)))
    assert not np.allclose(centred[0], scores[0])


def test_units_of_a_layer_that_takes_in_nothing_cost_nothing():
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    asked = question(model, mipp.statistics.read_batches([torch.randn(32, 4)]))
    dead = next(g.index for g in asked.graph.groups if g.name == "0")
    assert (OBS().score(asked)[dead] == 0).all()


def test_features_that_repeat_each_other_need_damping_or_it_is_said():
    moment, weight = torch.full((2, 2), 1.0).double(), torch.ones(1, 2).double()
    moment[0, 1] = moment[1, 0] = 1 + 1e-8  # as float32 may have it
    with pytest.raises(
        mipp.errors.CalibrationError, match=r"cannot invert .* with damping=0: features"
    ):
        Layer(moment, weight, torch.tensor([0, 1]), 0)
    assert np.isfinite(Layer(moment, weight, torch.tensor([0, 1]), 0.01).costs(np.arange(2))).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"examples": 0}, "examples=0; expected at least 1"),
        ({"damping": -0.1}, "damping=-0.1; expected at least 0"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(mipp.errors.InputError, match=text):
        OBS(**options)
