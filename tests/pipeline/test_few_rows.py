"""Too few examples are not passed over in silence."""

import warnings

import pytest
import torch
from torch import nn

import mipp


def net():
    torch.manual_seed(0)
    layers = nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4)
    return nn.Sequential(*layers)


def conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


@pytest.mark.parametrize("method", ["mipp", "l2"])
def test_fewer_rows_than_features_are_said_in_a_warning_and_in_the_plan(method):
    text = "30 examples give 1 of 2 layers fewer rows than features: 2 has 30 rows for 32 features"
    with pytest.warns(mipp.CalibrationWarning, match=text) as caught:
        plan = mipp.plan(net(), [torch.randn(30, 8)], budget="units=50%", method=method)
    assert "at least 32 examples, better 128" in str(caught[0].message)
    assert "too few examples, rows for features: 2 (30 for 32)" in str(plan)
    again = mipp.Plan.from_json(plan.to_json())
    assert str(again) == str(plan)


def test_positions_of_a_map_are_rows():
    with pytest.warns(mipp.CalibrationWarning, match="2 has 50 rows for 72 features"):
        mipp.plan(conv(), [torch.randn(2, 3, 9, 9)], budget="units=50%")


@pytest.mark.parametrize("budgets", [["units=50%"], ["units=50%", "units=25%"]])
def test_plans_of_several_budgets_say_it_too(budgets):
    with pytest.warns(mipp.CalibrationWarning):
        plans = mipp.plans(net(), [torch.randn(16, 8)], budgets)
    assert all("too few examples" in str(plan) for plan in plans)


def test_single_weights():
    text = "8 examples give 2 of 3 layers fewer rows than features"
    with pytest.warns(mipp.CalibrationWarning, match=text):
        plan = mipp.plan(net(), [torch.randn(8, 8)], "params=50%", granularity="weight")
    assert "rows for features: 2 (8 for 32), 4 (8 for 24)" in str(plan)
    assert str(mipp.WeightPlan.from_json(plan.to_json())) == str(plan)


@pytest.mark.parametrize("model", [net, conv])
def test_enough_examples_are_not_worth_a_word(model):
    shape = (64, 8) if model is net else (4, 3, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = mipp.plan(model(), [torch.randn(shape)], budget="units=50%")
    assert "too few" not in str(plan)


def test_predictions_that_nothing_can_change_are_said():
    model = net()
    with torch.no_grad():
        model[4].bias[0] = 1e6
    with pytest.warns(mipp.CalibrationWarning, match="No unit transfers any information"):
        mipp.plan(model, [torch.randn(64, 8)], budget="units=50%")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mipp.plan(model, [torch.randn(64, 8)], budget="units=50%", noise=0.1)
