"""Too few examples are not passed over in silence."""

import warnings

import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.planning.option_values import read_memory
from mipp.statistics.few_rows import n_features


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
    with pytest.warns(errors.CalibrationWarning, match=text) as caught:
        plan = mipp.plan(net(), [torch.randn(30, 8)], budget="units=50%", method=method)
    assert "at least 32 examples, better 128" in str(caught[0].message)
    assert "too few examples, rows for features: 2 (30 for 32)" in str(plan)
    again = mipp.Plan.from_json(plan.to_json())
    assert str(again) == str(plan)


def test_positions_of_a_map_are_rows():
    with pytest.warns(errors.CalibrationWarning, match="2 has 50 rows for 72 features"):
        mipp.plan(conv(), [torch.randn(2, 3, 9, 9)], budget="units=50%")


@pytest.mark.parametrize("budgets", [["units=50%"], ["units=50%", "units=25%"]])
def test_plans_of_several_budgets_say_it_too(budgets):
    with pytest.warns(errors.CalibrationWarning):
        plans = mipp.plans(net(), [torch.randn(16, 8)], budgets)
    assert all("too few examples" in str(plan) for plan in plans)


def test_single_weights():
    text = "8 examples give 2 of 3 layers fewer rows than features"
    with pytest.warns(errors.CalibrationWarning, match=text):
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
    with pytest.warns(errors.CalibrationWarning, match="No unit transfers any information"):
        mipp.plan(model, [torch.randn(64, 8)], budget="units=50%")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mipp.plan(model, [torch.randn(64, 8)], budget="units=50%", noise=0.1)


@pytest.mark.parametrize("few_rows", [-1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(few_rows):
    with pytest.raises(errors.InputError, match=r"few_rows=.*expected a number from 0 up"):
        mipp.Refit(few_rows=few_rows)


@pytest.mark.parametrize("memory", ["4000000", "4MB", "4mb"])
def test_memory_is_read_as_it_is_written(memory):
    assert read_memory(memory) == 4_000_000


def test_features_of_a_transposed_convolution_are_its_inputs():
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4)
    plan = mipp.plan(nn.Sequential(*layers), [torch.randn(4, 3, 8, 8)], "units=50%", noise=0.1)
    (consumer,) = plan.traced.consumers
    assert n_features(plan.traced, consumer) == 16


@pytest.mark.parametrize("labels", [torch.arange(10), torch.full((64,), 9)])
def test_labels_that_do_not_fit_are_refused_in_words(labels):
    with pytest.raises(
        errors.InputError, match=r"do not fit the model's scores of shape \(32, 4\)"
    ):
        mipp.plan(net(), [(torch.randn(64, 8), labels)], "units=50%", method="taylor")
