"""L1 and L2 norms: what they sum, and how groups are made comparable."""

import numpy as np
import pytest
import torch

import mipp
from mipp import errors
from mipp.methods import L1, L2, Random
from mipp.methods.shared.aggregate import normalised

from .nets import Normed, data, jitter_norms, plain, question, some, unchecked

BATCHES = data(dtype=torch.float32)


def rows(model):
    """Filters of the tied group and of the inner convolution of `Normed`."""
    first, inner, outer = (
        layer.weight.detach().flatten(1).double().numpy()
        for layer in (model.first, model.inner, model.outer)
    )
    return np.concatenate([first, outer], 1), inner


def test_norms_are_those_of_all_incoming_weights_of_a_tied_group_together():
    model = jitter_norms(Normed())
    asked = question(model)
    stream, inner = rows(model)
    by_name = {group.name: group.index for group in asked.graph.groups}
    ones, twos = L1().score(asked), L2().score(asked)
    np.testing.assert_allclose(ones[by_name["first"]], np.abs(stream).sum(1), rtol=1e-6)
    np.testing.assert_allclose(ones[by_name["inner"]], np.abs(inner).sum(1), rtol=1e-6)
    np.testing.assert_allclose(twos[by_name["first"]], np.linalg.norm(stream, axis=1), rtol=1e-6)


def test_divided_by_the_mean_of_the_group_scores_are_one_on_average_and_keep_their_order():
    model = plain()
    keep = some(question(model).graph)
    asked = question(model, keep=keep)
    raw, scaled = L1().score(asked), L1(normalise="mean").score(asked)
    for index, values in raw.items():
        left = keep[index]
        assert scaled[index][left].mean() == pytest.approx(1)
        np.testing.assert_array_equal(np.argsort(values), np.argsort(scaled[index]))


def test_z_scores_have_mean_zero_and_variance_one_and_a_group_of_equal_units_is_not_divided():
    model = plain()
    asked = question(model)
    with_equal_units = model[6].weight.data.fill_(0.5)
    assert with_equal_units.shape == (6, 4)
    scores = L1(normalise="z-score").score(question(model))
    hidden = next(g.index for g in asked.graph.groups if g.name == "6")
    assert (scores[hidden] == 0).all()
    for index, values in scores.items():
        assert values.mean() == pytest.approx(0, abs=1e-12)
        if index != hidden:
            assert values.std(ddof=1) == pytest.approx(1)


def test_equal_scores_are_equal_on_every_scale_though_rounding_makes_them_vary():
    scaled = normalised({0: np.full(6, 0.1)}, {}, "z-score")[0]
    np.testing.assert_allclose(scaled, np.zeros(6), atol=1e-9)


@pytest.mark.parametrize("how", ["mean", "z-score"])
def test_negative_scores_keep_their_order_and_those_of_mean_zero_too(how):
    for values in ([-3.0, -1.0, -2.0], [-3.0, 1.0, 2.0]):
        scaled = normalised({0: np.array(values)}, {}, how)[0]
        np.testing.assert_array_equal(np.argsort(scaled), np.argsort(values))
        assert np.isfinite(scaled).all()


def test_a_global_ranking_of_sums_starves_a_layer_of_small_fan_in_and_one_of_means_does_not():
    model = plain()  # 18 weights a filter, then 20, then 4
    widths = {
        how: {
            name: len(units)
            for name, units in mipp.plan(
                model, BATCHES, "units=6", method=L1(normalise=how), allocation="global",
                min_units=0,
            ).keep.items()
        }
        for how in ("none", "mean")
    }  # fmt: skip
    assert widths["none"]["6"] == 0
    assert widths["mean"]["6"] > 0


def test_random_units_are_others_for_another_seed_and_the_same_for_the_same():
    model = plain()
    keeps = [
        mipp.plan(model, BATCHES, "units=50%", method=Random(), seed=seed).keep
        for seed in (0, 0, 1)
    ]
    assert keeps[0] == keeps[1] != keeps[2]
    assert {name: len(units) for name, units in keeps[0].items()} == {"0": 2, "3": 2, "6": 3}


def test_a_normalisation_that_is_not_known_is_an_error():
    with (
        pytest.raises(errors.InputError, match="normalise='max'; expected one of 'none', 'mean'"),
        unchecked(),
    ):
        L2(normalise="max")
