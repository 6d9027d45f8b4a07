"""Plans in the widths of another plan: any method, exactly those units."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp import errors, graph, selection
from mipp.options import Options
from mipp.planning.spending import Spending
from mipp.problem import Clock, Problem


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


BATCHES = [
    (torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 3)
]


def n_units(plan):
    return {name: len(units) for name, units in plan.keep.items()}


@pytest.mark.parametrize(
    "method", ["random", "l2", "taylor", "mipp", mipp.methods.SynFlow(rounds=4)]
)
def test_any_method_keeps_as_many_units_of_each_group_as_the_plan_whose_widths_it_takes(method):
    model = net()
    given = mipp.plan(model, BATCHES, "macs=40%")
    plan = mipp.plan(model, BATCHES, widths=given, method=method)
    assert n_units(plan) == n_units(given)
    assert plan.after == given.after
    if method == "random":
        assert plan.keep != given.keep
    read = mipp.Plan.from_json(plan.to_json(), model, BATCHES)
    assert read.keep == plan.keep
    assert plan.record.options["budget"] == ",".join(f"{n}={w}" for n, w in n_units(given).items())


def test_in_its_own_widths_a_plan_is_itself():
    model = net()
    given = mipp.plan(model, BATCHES, "macs=40%")
    assert mipp.plan(model, BATCHES, widths=given).keep == given.keep


@pytest.mark.parametrize("method", ["mipp", "random"])
def test_rounds_come_down_to_the_widths_step_by_step(method):
    widths = {"0": 2, "2": 3, "5": 1}
    plan = mipp.plan(net(), BATCHES, widths=widths, method=method, rounds=3)
    assert n_units(plan) == widths


def test_after_half_of_the_rounds_half_of_the_way_is_gone_in_factors_and_nothing_is_empty():
    model = net()
    traced = graph.trace(model, (BATCHES[0][0][:2],))
    wanted = selection.Budget({}, widths={"2": 2, "0": 0, "5": 7})
    problem = Problem(net(), traced, (), Options(), lambda *_: None, Clock())
    spending = Spending(problem, wanted, None)
    widths = [spending._part_way(share, {}).widths for share in (0.5, 1.0)]
    assert widths == [{"2": 4, "0": 1, "5": 7}, {"2": 2, "0": 0, "5": 7}]


def test_numbers_can_be_given_and_groups_that_are_not_named_are_whole():
    plan = mipp.plan(net(), BATCHES, widths={"2": 5}, method="l1")
    assert n_units(plan) == {"5": 7, "2": 5, "0": 6}
    counted = np.array([5])
    assert mipp.plan(net(), BATCHES, widths={"2": counted[0]}, method="l1").keep == plan.keep
    none = mipp.plan(net(), BATCHES, widths={"2": 0}, method="l1", min_units=0, rounds=2)
    assert none.collapsed == ("2",)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"widths": {"9": 2}}, r"widths= names '9', which is no group. Groups: 5, 2, 0"),
        ({"widths": {"2": 9}}, "gives group 2 9 units; expected 1 to 8"),
        ({"widths": {"2": 0}}, "gives group 2 0 units; expected 1 to 8"),
        ({"widths": {"2": 4}, "protect": "2"}, "gives group 2 4 units; expected 8 to 8"),
        ({"widths": {"2": 0.5}}, "gives group 2 0.5; expected a number of units"),
        ({"widths": 4}, "widths=4; expected a plan of units, or a mapping"),
        ({"widths": {"2": 4}, "budget": "macs=50%"}, "widths= was given with a budget"),
        ({"widths": {"2": 4}, "confidence": 0.9}, "widths= was given with a budget or a stop rule"),
    ],
)
def test_widths_that_do_not_fit_are_errors(options, text):
    with pytest.raises(errors.InputError, match=text):
        mipp.plan(net(), BATCHES, **options)


def test_several_budgets_go_without_widths():
    with pytest.raises(errors.InputError, match="widths= was given with a budget"):
        mipp.planning.plans(net(), BATCHES, ["macs=50%"], widths={"2": 4})
