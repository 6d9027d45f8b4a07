"""FLAP: its metrics by hand, groups on one scale, and the bias that makes up for constants."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.methods import FLAP

from .nets import data, plain, question, some, unchecked


def taken_in(model, stop):
    x = torch.cat([batch.args[0] for batch in data()])
    return model[:stop](x).detach()


def raw(metric):
    return FLAP(metric=metric, normalise="none", examples=None)


@pytest.mark.parametrize("metric", ["wifv", "ifv", "wifn"])
def test_metrics_are_those_of_the_next_layers_inputs_and_weights(metric):
    model = plain().double()
    x, w = taken_in(model, 8), model[8].weight.detach()
    expected = {
        "wifv": x.var(0, correction=0) * (w**2).sum(0),
        "ifv": x.var(0, correction=0),
        "wifn": w.abs().mean(0) * (x**2).mean(0).sqrt(),
    }[metric]
    scores = raw(metric).score(question(model))
    np.testing.assert_allclose(scores[0], expected.numpy(), rtol=1e-9)


def test_a_filters_score_is_the_sum_over_the_cells_that_read_it():
    model = plain().double()
    patches = nn.functional.unfold(taken_in(model, 3), 2).movedim(1, 2).flatten(0, 1)
    w = model[3].weight.detach().flatten(1)
    expected = (patches.var(0, correction=0) * (w**2).sum(0)).reshape(5, 4).sum(1)
    asked = question(model)
    group = next(g.index for g in asked.graph.groups if g.name == "0")
    np.testing.assert_allclose(raw("wifv").score(asked)[group], expected.numpy(), rtol=1e-9)


def test_groups_are_on_one_scale_unless_told_otherwise():
    for values in FLAP().score(question(plain().double())).values():
        assert values.mean() == pytest.approx(0, abs=1e-9)
        assert values.std(ddof=1) == pytest.approx(1)


def test_only_units_that_are_left_count_for_the_scale():
    model = plain().double()
    keep = some(question(model).graph)
    scores = FLAP().score(question(model, keep=keep))
    for index, values in scores.items():
        assert values[keep[index]].mean() == pytest.approx(0, abs=1e-9)


def test_transposed_convolutions_are_read_by_input_channel():
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(5, 3, 2, stride=2),
        nn.Flatten(), nn.Linear(192, 3),
    ).double()  # fmt: skip
    asked = question(model)
    group = next(g.index for g in asked.graph.groups if g.name == "0")
    x = taken_in(model, 2).movedim(1, -1).flatten(0, 2)
    expected = x.var(0, correction=0) * model[2].weight.detach().square().sum((1, 2, 3))
    np.testing.assert_allclose(raw("wifv").score(asked)[group], expected.numpy(), rtol=1e-9)
    for method in (mipp.methods.OBS(), mipp.methods.ThiNet()):
        assert np.isfinite(method.score(asked)[group]).all()


def test_a_unit_that_never_changes_goes_first_and_the_bias_makes_up_for_it_wholly():
    model = nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 0, 2.0
        model[2].weight[1], model[2].bias[1] = 0, 3.0
    x = torch.randn(64, 4).double()
    plan = mipp.plan(model, [x], widths={"0": 4, "2": 5}, method="flap", refit="own")
    assert plan.keep == {"0": (0, 1, 2, 4), "2": (0, 2, 3, 4, 5)}
    assert plan.refit == mipp.Refit(fits="bias")
    small = plan.apply()
    torch.testing.assert_close(small(x), model(x))
    torch.testing.assert_close(small[0].weight, model[0].weight[[0, 1, 2, 4]])
    torch.testing.assert_close(small[4].weight, model[4].weight[:, [0, 2, 3, 4, 5]])
    assert (plan.apply(refit=False)(x) - model(x)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"examples": 0}, "examples=0; expected at least 1"),
        ({"metric": "wanda"}, "metric='wanda'; expected one of 'wifv', 'ifv', 'wifn'"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, text):
    with pytest.raises(errors.InputError, match=text), unchecked():
        FLAP(**options)
