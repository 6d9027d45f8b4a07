"""The same size from scratch: widths and counts of a plan, new weights."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors, models
from mipp.methods import scratch
from mipp.records import Cost
from mipp.retrain import Recipe

from .nets import CLASSES, Normed, jitter_norms, plain
from .runs import pairs, same_state


def planned(budget="params=50%", **options):
    return mipp.plan(jitter_norms(Normed()), pairs(), budget, method="l2", **options)


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_widths_and_counts_are_the_plans_and_the_weights_are_new():
    plan = planned()
    model, generator = copy.deepcopy(plan.model), torch.get_rng_state()
    small, pruned = mipp.methods.scratch.same_size(plan, seed=3), plan.apply(refit=False)
    assert count(small) == plan.after.params
    for name, value in pruned.state_dict().items():
        assert small.state_dict()[name].shape == value.shape
        if value.dim() > 1:
            assert not (small.state_dict()[name] == value).any()
    assert small.norm1.running_var.eq(1).all()
    assert small.norm1.bias.eq(0).all()
    assert same_state(plan.model, model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert same_state(small, mipp.methods.scratch.same_size(plan, seed=3))
    assert not same_state(small, mipp.methods.scratch.same_size(plan, seed=4))
    assert small(pairs()[0][0]).shape == (20, CLASSES)


@pytest.mark.parametrize("match", ["params", "macs", "units"])
def test_uniform_widths_have_the_same_share_of_every_group_and_no_more_than_the_plan(match):
    net = models.build("digits_cnn", width=0.5, seed=0)
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    plan = mipp.plan(net, [(x, y)], "params=40%", method="l2", allocation="global")
    small = mipp.methods.scratch.same_size(plan, widths="uniform", match=match)
    sizes = {g.name: g.n_units for g in plan.traced.groups}
    widths = {name: len(small.get_submodule(name).weight) for name in sizes}
    shares = [widths[name] / n for name, n in sizes.items()]
    assert max(shares) - min(shares) < 2 / min(sizes.values())
    keep = {g.index: np.arange(g.n_units) < widths[g.name] for g in plan.traced.groups}
    cost = mipp.graph.cost(plan.traced, keep)
    assert getattr(cost, match) <= getattr(plan.after, match)
    wider = [keep | {g: np.arange(len(u)) <= u.sum()} for g, u in keep.items() if not u.all()]
    costs = [getattr(mipp.graph.cost(plan.traced, k), match) for k in wider]
    assert max(costs) > getattr(plan.after, match)
    assert count(small) == cost.params


def test_what_was_protected_stays_whole_in_uniform_widths():
    plan = planned("params=60%", protect="first")
    small = mipp.methods.scratch.same_size(plan, widths="uniform")
    assert len(small.first.weight) == 5
    assert count(small) <= plan.after.params


@pytest.mark.parametrize("name", ["vgg11", "resnet20"])
def test_weights_start_on_the_scale_of_the_small_net(name):
    small = scratch.fresh(models.build(name, width=0.2, seed=0), seed=1)
    for conv in [m for m in small.modules() if isinstance(m, nn.Conv2d)][-3:]:
        he = math.sqrt(2 / (conv.out_channels * 9))
        assert conv.weight.std().item() == pytest.approx(he, rel=0.1)
        assert conv.bias is None or not conv.bias.any()


class Scaled(nn.Module):
    """A weight that no method starts."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(2))


def test_weights_that_nothing_starts_are_an_error_or_the_callers_own():
    with pytest.raises(
        errors.InputError, match="nothing gives new values to scale: no reset_param"
    ):
        scratch.fresh(Scaled())
    with pytest.raises(
        errors.InputError, match="nothing gives new values to scale: no reset_param"
    ):
        scratch.fresh(Scaled(), 0, lambda m: nn.init.constant_(m.layer.weight, 7.0))
    model = Scaled()
    made = scratch.fresh(model, 0, lambda m: nn.init.constant_(m.scale, 7.0))
    assert made.scale.eq(7).all()
    assert not made.layer.weight.eq(model.layer.weight).any()
    assert scratch.fresh(nn.MultiheadAttention(4, 2)).in_proj_weight.std() > 0


def test_weights_that_a_reset_does_not_reach_are_an_error():
    # it fills the product of direction and magnitude, and not these two
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(errors.InputError, match=r"nothing gives new values to parametrizations\."):
        scratch.fresh(normed)


def test_an_empty_layer_stays_empty():
    plan = mipp.plan(plain(), pairs(), "units=2", method="l2", allocation="global", min_units=0)
    assert plan.collapsed
    small = mipp.methods.scratch.same_size(plan, seed=1)
    outputs = small(pairs()[0][0])
    torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs))
    assert small[-1].bias.any()


def test_a_plan_without_its_model_is_an_error():
    plan = planned()
    alone = mipp.Plan.from_json(plan.to_json())
    with pytest.raises(errors.InputError, match="read without a model"):
        mipp.methods.scratch.same_size(alone)
    untraced = mipp.Plan.from_json(plan.to_json(), plan.model)
    assert count(mipp.methods.scratch.same_size(untraced)) == plan.after.params
    with pytest.raises(errors.InputError, match="Uniform widths need the traced model"):
        mipp.methods.scratch.same_size(untraced, widths="uniform")


def test_equal_epochs_and_equal_compute():
    recipe, retraining = Recipe(epochs=20, peak_lr=0.3), Recipe(epochs=5)
    before, after = Cost(1000.0, 10, 10), Cost(250.0, 5, 5)
    assert scratch.equal_epochs(recipe) == recipe
    assert scratch.equal_epochs(recipe, retraining) == Recipe(epochs=25, peak_lr=0.3)
    assert scratch.equal_compute(recipe, before, after).epochs == 80
    with_retraining = scratch.equal_compute(recipe, before, after, retraining)
    assert with_retraining == Recipe(epochs=85, peak_lr=0.3)
    assert with_retraining.epochs * 250 == 20 * 1000 + 5 * 250
    assert scratch.equal_compute(recipe, before, after, most=2).epochs == 40
    with pytest.raises(errors.InputError, match=r"after= has 0\.0 multiply-accumulates"):
        scratch.equal_compute(recipe, before, Cost(0.0, 0, 0))
    with pytest.raises(errors.InputError, match=r"most=0\.5; expected at least 1"):
        scratch.equal_compute(recipe, before, after, most=0.5)
