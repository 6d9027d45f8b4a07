"""How much information a choice of units keeps."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp.errors import InputError


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def data(n=600, seed=1):
    return [torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))]


def test_keeping_everything_keeps_all_information():
    found = mipp.information_kept(net(), data(), {})
    assert [(k.group, k.consumer) for k in found] == [("2", "4"), ("0", "2")]
    assert all(k.share == 1 and k.before > 0 for k in found)


def test_it_agrees_with_the_curve_of_the_elimination():
    model, batches = net(), data()
    plan = mipp.plan(model, batches, "units=50%")
    kept = {k.group: k for k in mipp.information_kept(model, batches, plan)}
    for summary in plan.summary:
        assert kept[summary.name].before == pytest.approx(summary.nats_before, rel=1e-9)
        assert kept[summary.name].after == pytest.approx(summary.nats_after, rel=1e-4)


def test_chosen_units_keep_more_than_the_others():
    model, batches = net(), data()
    plan = mipp.plan(model, batches, "units=50%")
    sizes = {s.name: s.units_before for s in plan.summary}
    others = {
        name: [u for u in range(sizes[name]) if u not in units]
        for name, units in plan.keep.items()
        if len(units) < sizes[name]
    }
    best = mipp.information_kept(model, batches, plan)
    worst = mipp.information_kept(model, batches, others)
    assert np.mean([k.share for k in best]) > np.mean([k.share for k in worst]) + 0.1


def test_of_the_pruned_next_layer_only_what_stays_is_told():
    model, batches = net(), data()
    keep = {"0": list(range(6)), "2": [1]}
    whole = mipp.information_kept(model, batches, keep)[1]
    pruned = mipp.information_kept(model, batches, keep, next_layer="pruned")[1]
    assert whole.group == pruned.group == "0"
    assert pruned.before < whole.before


@pytest.mark.parametrize("next_layer", ["whole", "pruned"])
def test_several_choices_at_once_are_measured_as_each_alone(next_layer):
    model, batches = net(), data()
    keeps = [{"0": [0, 3]}, {}, {"0": [1, 2, 5], "2": [1, 2]}]
    together = mipp.information_kept(model, batches, keeps, next_layer=next_layer)
    alone = [mipp.information_kept(model, batches, k, next_layer=next_layer) for k in keeps]
    assert together == alone
    assert together[0] != together[2]


def test_a_group_or_unit_that_is_not_there_is_an_error():
    with pytest.raises(InputError, match=r"'nine', which is no group. Groups: 2, 0"):
        mipp.information_kept(net(), data(), {"nine": [0]})
    with pytest.raises(InputError, match=r"\[8\]; expected some of 0 to 7"):
        mipp.information_kept(net(), data(), {"0": [0, 8]})
    with pytest.raises(InputError, match="no units; expected some of 0 to 7"):
        mipp.information_kept(net(), data(), {"0": []})
