"""Stop rules, targets and estimators through the whole way, and the guards of their options."""

import copy
import json

import pytest
import torch
from torch import nn

import mipp
from mipp import information
from mipp.errors import BudgetError, InputError
from mipp.planning.option_values import unit_options

SMALL = {"epochs": 2, "hidden": (8,), "batch_size": 128, "max_targets": 8}
ESTIMATORS = {
    "gaussian": mipp.Gaussian(noise=0.1),
    "mlp": mipp.Mlp(**SMALL, retrain_epochs=1, noise=0.1),
    "masked": mipp.Masked(**SMALL, noise=0.1),
}
STOPS = {"none": None, "share": mipp.Share(0.8), "confidence": mipp.Confidence(0.9)}


class Residual(nn.Module):
    """A stem that a residual block ties to its output, an inner layer of the block, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3)
        self.inner = nn.Conv2d(5, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.outer(self.norm(self.inner(x)).relu())
        return self.head(x.mean((2, 3)))


def batches(n=320):
    x = torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0].mean((1, 2)) > 0).long() + (x[:, 1].mean((1, 2)) > 0).long()
    return list(zip(x.split(80), y.split(80), strict=True))


def net():
    torch.manual_seed(0)
    return Residual()


def sizes(plan):
    return {name: len(units) for name, units in plan.keep.items()}


COMBINATIONS = [
    # target, stop, next_layer, order, budget
    ("activations", "confidence", "pruned", "ordered", None),
    ("activations", "share", "whole", "greedy", "units=90%"),
    ("activations", "none", "whole", "greedy", "macs=60%"),
    ("outputs", "confidence", "pruned", "greedy", "units=95%"),
    ("outputs", "none", "pruned", "greedy", "information=80%"),
    ("labels", "share", "pruned", "ordered", None),
    ("labels", "confidence", "whole", "ordered", None),
]


@pytest.mark.parametrize("name", information.names())
@pytest.mark.parametrize(("target", "stop", "next_layer", "order", "budget"), COMBINATIONS)
def test_every_estimator_makes_a_plan_that_applies(name, target, stop, next_layer, order, budget):
    model, data = net().train(), batches()
    before = copy.deepcopy(model.state_dict())
    if (name, target, stop) == ("masked", "outputs", "confidence"):
        budget = None  # it is sure that each of the nine units is useful, so that none may go
    plan = mipp.plan(
        model, data, budget, estimator=ESTIMATORS[name], target=target, stop=STOPS[stop],
        next_layer=next_layer, order=order,
    )  # fmt: skip
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for group in plan.summary:
        assert 1 <= group.units_after <= group.units_before
        assert 0 <= group.nats_after <= group.nats_before
    if budget and not budget.startswith("information"):
        resource, share = budget.split("=")
        whole = getattr(plan.before, resource)
        assert getattr(plan.after, resource) <= float(share[:-1]) / 100 * whole
    x = data[0][0]
    sliced, masked = plan.apply(refit=False).eval(), plan.mask().eval()
    torch.testing.assert_close(sliced(x), masked(x), rtol=1e-5, atol=1e-5)
    assert plan.apply()(x).shape == (80, 3)
    told = json.loads(plan.to_json())["options"]
    assert (told["estimator"], told["target"], told["next_layer"]) == (name, target, next_layer)
    assert told["stop"] == (None if stop == "none" else repr(STOPS[stop]))


@pytest.mark.parametrize("name", information.names())
def test_the_same_seed_gives_the_same_plan(name):
    plans = [
        mipp.plan(net(), batches(), estimator=ESTIMATORS[name], stop=STOPS["confidence"], seed=s)
        for s in (1, 1)
    ]
    assert plans[0].to_json() == plans[1].to_json()


def test_a_higher_confidence_removes_more():
    """Each of 30 hidden units is read less than the one before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 4))
    with torch.no_grad():
        model[2].weight.mul_(torch.logspace(0, -3, 30))
    data = [torch.randn(600, 8)]
    kept = [
        set(mipp.plan(model, data, confidence=level, order="ordered").keep["0"])
        for level in (0.5, 0.9, 0.99)
    ]
    assert 30 > len(kept[0]) > len(kept[1]) > len(kept[2]) > 1
    assert max(kept[2]) < 25


def wide():
    """Two hidden layers, in the second of which only two units are read, by an output each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[4].weight[:, 2:] = 0
        # the first half of the first layer is for those two alone
        model[2].weight[:2, 5:] = 0
        model[2].weight[2:, :5] = 0
        model[2].bias.fill_(1.0)
    return model


@pytest.mark.parametrize("order", ["greedy", "ordered"])
@pytest.mark.parametrize("rule", [{"budget": "information=99%"}, {"stop": mipp.Share(0.99)}])
def test_a_pruned_next_layer_asks_only_for_what_it_kept(order, rule):
    data = [torch.randn(500, 6, generator=torch.Generator().manual_seed(1))]
    options = {"order": order, "noise": 0.1} | rule
    whole = mipp.plan(wide(), data, next_layer="whole", **options)
    pruned = mipp.plan(wide(), data, next_layer="pruned", **options)
    assert pruned.keep["2"] == whole.keep["2"] == (0, 1)
    assert set(pruned.keep["0"]) <= set(range(5))
    assert not set(whole.keep["0"]) <= set(range(5))


def test_protected_rounded_and_least_widths_count_as_kept_next_layers():
    data = [torch.randn(500, 6, generator=torch.Generator().manual_seed(1))]
    options = {"stop": mipp.Share(0.99), "noise": 0.1, "next_layer": "pruned"}
    for change in ({"protect": "2"}, {"round_to": 8}, {"min_units": 8}):
        plan = mipp.plan(wide(), data, **options, **change)
        assert len(plan.keep["2"]) == 8
        assert not set(plan.keep["0"]) <= set(range(5))


def test_rounds_end_when_a_rule_leaves_one_unit_of_each():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    plan = mipp.plan(model, [torch.randn(200, 4)], stop=mipp.Share(0.001), noise=0.1, rounds=3)
    assert sizes(plan) == {"0": 1}


def test_a_budget_that_the_rule_does_not_reach_is_an_error_that_names_the_rule():
    with pytest.raises(BudgetError, match=r"cannot be reached: the smallest is .* the stop rule"):
        mipp.plan(net(), batches(), "units=10%", stop=mipp.Share(0.9999))


def test_several_budgets_share_the_measurement_of_a_rule():
    many = mipp.plans(net(), batches(), ["units=95%", "units=85%"], stop=mipp.Share(0.5))
    assert many[0].after.units > many[1].after.units
    two = ["information=90%", "information=50%"]
    with pytest.raises(InputError, match="next_layer='pruned' for information"):
        mipp.plans(net(), batches(), two, next_layer="pruned")
    (one,) = mipp.plans(net(), batches(), two[:1], next_layer="pruned")
    assert one.keep == mipp.plan(net(), batches(), two[0], next_layer="pruned").keep


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Neither a budget nor a stop rule was given"),
        ({"confidence": None}, "Neither a budget nor a stop rule was given"),
        ({"next_layer": "pruned", "budget": "macs=50%"}, "needs a rule that decides each group"),
        ({"next_layer": "half", "confidence": 0.9}, "expected one of 'whole', 'pruned'"),
        ({"confidence": 0.9, "stop": mipp.Share(0.9)}, "were both given; give one of them"),
        ({"confidence": 1.0}, r"level=1\.0\); expected at least 0\.5 and below 1"),
        ({"confidence": "95%"}, "confidence='95%'; expected a number such as 0"),
        ({"confidence": 0.2}, r"level=0\.2\); expected at least 0\.5 and below 1"),
        ({"stop": 0.9}, r"stop=0\.9; expected a rule such as mipp\.Confidence"),
        ({"stop": mipp.Share}, r"expected a rule such as mipp\.Confidence"),
        ({"stop": mipp.Share(0.9), "method": "l2"}, "method='l2' measures no information, so"),
        ({"target": "weights", "confidence": 0.9}, "expected one of 'activations', 'outputs', 'la"),
        ({"target": "labels", "confidence": 0.9}, "target='labels' needs class indices"),
    ],
)
def test_options_that_do_not_fit_are_errors_that_say_so(options, message):
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    given = {"budget": None} | options
    with pytest.raises(InputError, match=message):
        mipp.plan(model, [x for x, _ in batches()], **given)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_confidence_takes_relative_noise_unless_told_otherwise():
    assert unit_options(confidence=0.9).estimator.noise == 0.1
    assert unit_options(stop=mipp.Confidence(0.9), estimator="mlp").estimator.noise == 0.1
    assert unit_options(confidence=0.9, noise="fisher").estimator.noise == "fisher"
    assert unit_options(confidence=0.9, estimator=mipp.Gaussian()).estimator.noise == "fisher"
    assert unit_options(stop=mipp.Share(0.9)).estimator.noise == "fisher"


def test_too_few_examples_for_five_fits_are_an_error_that_says_what_to_do():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 3))
    with pytest.raises(InputError, match="rows for 60 features; least squares needs more rows"):
        mipp.plan(model, [torch.randn(50, 4)], confidence=0.9)


def test_the_record_of_a_plan_has_the_estimators_settings():
    options = {"estimator": mipp.Masked(**SMALL, noise=0.1), "order": "ordered"}
    plan = mipp.plan(net(), batches(), "units=60%", **options)
    said = json.loads(plan.to_json())["options"]["estimator_settings"]
    assert said["hidden"] == [8]
    assert said["epochs"] == 2
    ridged = mipp.plan(net(), batches(), "units=60%", estimator=mipp.Gaussian(ridge=0.5))
    assert json.loads(ridged.to_json())["options"]["estimator_settings"]["ridge"] == 0.5


@pytest.mark.parametrize("order", ["greedy", "ordered"])
def test_progress_ends_with_all_units_also_under_a_stop_rule(order):
    seen = []
    mipp.plan(
        net(), batches(), stop=mipp.Share(0.9), order=order,
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )  # fmt: skip
    assert seen[-1] == ("score", 9, 9)


def test_relative_noise_of_whole_maps_takes_no_more_memory_than_the_rows():
    y = torch.randn(64, 40_000)
    y[:, 7] = 3.0
    told = information.in_units_of_noise(y, 0.5)
    assert told.shape == (64, 39_999)
    torch.testing.assert_close(told.var(0, correction=0), torch.full((39_999,), 2.0))
