"""MIPP's scores without its elimination, beside the elimination."""

import pytest
import torch
from torch import nn

import mipp
from mipp import errors

from .nets import Normed, data, jitter_norms

BATCHES = data(dtype=torch.float32)


def widths(model, lost):
    groups = mipp.plan(model, BATCHES, "units=100%", method="l2").keep
    return {name: len(units) - lost for name, units in groups.items()}


@pytest.mark.parametrize("noise", ["fisher", 0.1])
def test_left_out_alone_the_least_unit_is_the_one_that_the_elimination_removes_first(noise):
    model = jitter_norms(Normed())
    method = mipp.methods.LeaveOneOut(noise=noise)
    first = widths(model, 1)
    expected = mipp.plan(model, BATCHES, widths=first, noise=noise).keep
    assert mipp.plan(model, BATCHES, widths=first, method=method).keep == expected


@pytest.mark.parametrize("lost", [1, 3])
def test_on_its_own_units_rank_as_in_the_papers_ordered_elimination(lost):
    model = jitter_norms(Normed())
    left = widths(model, lost)
    expected = mipp.plan(model, BATCHES, widths=left, order="ordered").keep
    assert mipp.plan(model, BATCHES, widths=left, method="mipp-solo").keep == expected


def test_both_of_two_equal_units_go_where_the_elimination_keeps_one():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[5], model[0].bias[5] = model[0].weight[2], model[0].bias[2]
        model[2].weight[:, [2, 5]] *= 3  # they matter, but for each other
    x = torch.randn(256, 4)
    static = mipp.plan(model, [x], widths={"0": 4}, method="mipp-leave-one-out").keep["0"]
    greedy = mipp.plan(model, [x], widths={"0": 4}).keep["0"]
    assert not {2, 5} & set(static)
    assert len({2, 5} & set(greedy)) == 1


def test_scores_are_nats_that_a_price_can_be_put_on():
    model = jitter_norms(Normed())
    plan = mipp.plan(model, BATCHES, "macs=50%", method="mipp-solo", allocation="priced")
    assert plan.after.macs <= 0.5 * plan.before.macs
    assert plan.record.options["allocation"] == "priced"


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"noise": 0.1}, "estimator"),
        ({"estimator": "mlp"}, "estimator"),
        ({"target": "labels"}, "target"),
        ({"order": "ordered"}, "order"),
        ({"passes": 2}, "passes"),
    ],
)
def test_settings_of_mipps_own_measurement_are_refused_and_not_ignored(option, name):
    with pytest.raises(errors.InputError, match=f"method='mipp-solo' has no use for {name}: how"):
        mipp.plan(Normed(), BATCHES, "macs=50%", method="mipp-solo", **option)
