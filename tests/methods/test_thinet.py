"""ThiNet: both greedy orders against brute force, least squares, and what an instance is."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.methods import ThiNet
from mipp.methods.thinet import pursuit_order, removal_order, scales

from .nets import Normed, data, jitter_norms, plain, question

ALL = np.ones(7, dtype=bool)


def instances(n=40, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, 7)) @ generator.normal(size=(7, 7))


def test_the_order_of_removal_keeps_the_removed_sum_smallest_at_every_step():
    x = instances()
    removed, left = [], list(range(7))
    while left:
        best = min(left, key=lambda c: np.linalg.norm(x[:, [*removed, c]].sum(1)))
        left.remove(best)
        removed.append(best)
    assert removal_order(x.T @ x, ALL).tolist() == removed
    some = ALL.copy()
    some[removed[0]] = False
    assert removed[0] not in removal_order(x.T @ x, some)
    assert len(removal_order(x.T @ x, some)) == 6


def test_channels_are_pursued_as_with_least_squares_solved_anew_for_each_choice():
    x = instances()
    y, chosen, left = x.sum(1), [], list(range(7))
    while left:
        fit = np.linalg.lstsq(x[:, chosen], y, rcond=None)[0] if chosen else np.zeros(0)
        residual = y - x[:, chosen] @ fit
        error = {
            c: np.linalg.norm(residual - x[:, c] * (x[:, c] @ residual) / (x[:, c] @ x[:, c]))
            for c in left
        }
        best = min(left, key=error.get)
        left.remove(best)
        chosen.append(best)
    assert pursuit_order(x.T @ x, ALL).tolist() == chosen[::-1]


def test_a_channel_of_zeros_goes_first_and_one_that_undoes_another_goes_with_it():
    x = instances()
    x[:, 5] = 0
    x[:, 3] = x[:, 2] / 2  # the half that is left undoes the half that goes
    x[:, 1] = -x[:, 2] / 2
    order = removal_order(x.T @ x, ALL).tolist()
    assert order[0] == 5
    pair = sorted(order.index(c) for c in (1, 3))
    assert pair[1] == pair[0] + 1


def test_least_squares_makes_up_for_a_duplicate_wholly_and_is_never_worse_than_no_factors():
    x = instances()
    x[:, 4] = x[:, 0]
    gram, y = x.T @ x, x.sum(1)
    kept = ALL.copy()
    kept[4] = False
    factors = scales(gram, kept, ridge=1e-12)
    assert factors[4] == 0
    np.testing.assert_allclose(x @ factors, y, atol=1e-6)
    np.testing.assert_allclose(factors[0], 2, rtol=1e-6)
    kept[2] = False
    left = scales(gram, kept)
    assert np.linalg.norm(x @ left - y) < np.linalg.norm(x[:, kept].sum(1) - y)
    np.testing.assert_allclose(left[kept], np.linalg.lstsq(x[:, kept], y, rcond=None)[0], rtol=1e-3)


def test_a_dead_channel_does_not_stop_the_least_squares():
    x = instances()
    x[:, 5] = 0
    kept = np.ones(7, dtype=bool)
    assert np.isfinite(scales(x.T @ x, kept)).all()
    assert pursuit_order(x.T @ x, ALL)[0] == 5


def test_the_channels_of_an_instance_sum_to_an_output_of_the_next_layer_without_its_bias():
    """One filter and one position are left to draw, so that nothing is random."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    x = torch.randn(20, 4).double()
    gram = ThiNet(locations=3).grams(
        question(model, mipp.statistics.read_batches([x])), mipp.statistics.read_batches([x])
    )[0]
    parts = (model[:2](x) * model[2].weight).detach()
    np.testing.assert_allclose(gram, 3 * (parts.T @ parts).numpy(), rtol=1e-9, atol=1e-12)
    y = (model(x) - model[2].bias).detach()
    np.testing.assert_allclose(gram.sum(), 3 * float((y**2).sum()), rtol=1e-9)


def test_many_instances_come_to_all_filters_at_all_positions():
    model, batches = jitter_norms(Normed()).double().eval(), data()
    asked = question(model, batches)
    inner = next(g.index for g in asked.graph.groups if g.name == "inner")
    x = torch.cat([batch.args[0] for batch in batches])
    many = ThiNet(locations=400).grams(asked, batches)[inner] / 400 / len(x)
    taken_in = model.norm2(model.inner(model.norm1(model.first(x)).relu())).relu()
    w = model.outer.weight.flatten(1)
    moment = torch.einsum("bchw,bdhw->cd", taken_in, taken_in) / len(x) / 16
    expected = (moment * (w.T @ w) / len(w)).detach().numpy()
    np.testing.assert_allclose(many, expected, atol=0.06 * np.abs(expected).max())


def test_windows_of_a_padded_convolution_with_stride_are_seen():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(4, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
                          nn.Linear(8, 3)).double()  # fmt: skip
    batches = data()
    x = torch.cat([batch.args[0] for batch in batches])
    asked = question(model, batches)
    group = next(g.index for g in asked.graph.groups if g.name == "0")
    locations = 600
    gram = ThiNet(examples=None, locations=locations).grams(asked, batches)[group]
    output = (model[2](model[:2](x)) - model[2].bias.view(1, -1, 1, 1)).detach()
    per_instance = gram.sum() / locations / len(x)
    assert per_instance == pytest.approx(float((output**2).mean()), rel=0.05)


def test_the_place_in_the_order_is_the_score_and_removed_units_are_not_in_it():
    model = plain()
    keep = {0: np.array([True, False, True, True, False, True])}
    scores = ThiNet().score(question(model, data(dtype=torch.float32), keep=keep))
    assert sorted(scores[0][keep[0]].tolist()) == [1, 2, 3, 4]
    assert (scores[0][~keep[0]] == 0).all()
    pursued = ThiNet(variant="tpami").score(question(model, data(dtype=torch.float32)))
    assert sorted(pursued[0].tolist()) == [1, 2, 3, 4, 5, 6]


def test_inputs_that_are_not_finite_are_an_error():
    model = plain()
    with torch.no_grad():
        model[6].bias[1] = float("nan")
    with pytest.raises(errors.CalibrationError, match="behind group 6 take in of it is not finite"):
        ThiNet().score(question(model, data(dtype=torch.float32)))


@pytest.mark.parametrize("option", ["examples", "locations", "batch_size"])
def test_options_that_do_not_fit_are_errors(option):
    with pytest.raises(errors.InputError, match=f"{option}=0; expected at least 1"):
        ThiNet(**{option: 0})
