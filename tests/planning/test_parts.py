"""Budgets for parts of a model: the units of some groups apart from those of others."""

import pytest
import torch
from torch import nn

import mipp
from mipp import errors
from mipp.errors import BudgetError


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(),
        nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


BATCHES = [torch.randn(128, 5, generator=torch.Generator().manual_seed(1))]
LABELLED = [(BATCHES[0], torch.arange(128) % 3)]


def n_units(plan):
    return {name: len(units) for name, units in plan.keep.items()}


@pytest.mark.parametrize("method", ["mipp", "l2", "random", "taylor"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_each_part_gets_its_own_share_and_what_is_not_named_stays(method, rounds):
    budget = {"0": "units=25%", "2": "units=75%"}
    plan = mipp.plan(net(), LABELLED, budget, method=method, rounds=rounds)
    assert n_units(plan) == {"4": 8, "2": 9, "0": 4}
    assert plan.apply().state_dict()["2.weight"].shape == (9, 4)
    assert plan.record.options["budget"] == "0: units=25%; 2: units=75%"


def test_a_pattern_of_several_groups_has_one_budget_for_all_of_them():
    found = n_units(mipp.plan(net(), BATCHES, {"[02]": "units=10", "4": "units=6"}))
    assert found["0"] + found["2"] == 10
    assert found["4"] == 6
    even = mipp.plan(net(), BATCHES, {"[02]": "units=50%"}, allocation="uniform", noise=0.1)
    assert n_units(even) == {"4": 8, "2": 6, "0": 8}


def test_a_part_is_chosen_as_if_it_were_the_whole():
    alone = mipp.plan(net(), BATCHES, "units=22", protect=["2", "4"], noise=0.1)  # 2 of 16 stay
    part = mipp.plan(net(), BATCHES, {"0": "units=2", "4": "units=5"}, noise=0.1)
    assert n_units(alone) == {"4": 8, "2": 12, "0": 2}
    assert part.keep["0"] == alone.keep["0"]


def test_text_says_the_same_and_several_budgets_take_one_measurement():
    written = "0: units=25%; 2: units=9"
    first = mipp.plan(net(), BATCHES, written)
    assert n_units(first) == {"4": 8, "2": 9, "0": 4}
    both = mipp.plans(net(), BATCHES, [written, {"4": "units=4"}])
    assert both[0].keep == first.keep
    assert n_units(both[1]) == {"4": 4, "2": 12, "0": 16}
    again = mipp.plan(net(), BATCHES, first.record.options["budget"])
    assert again.keep == first.keep


def test_protected_groups_of_a_part_stay_and_the_others_make_up_for_them():
    plan = mipp.plan(net(), BATCHES, {"[02]": "units=14"}, protect="2")
    assert n_units(plan) == {"4": 8, "2": 12, "0": 2}


@pytest.mark.parametrize(
    ("budget", "error", "text"),
    [
        ({"9": "units=50%"}, errors.InputError, "'9' names no group. Groups: 4, 2, 0"),
        (
            {"[02]": "units=50%", "2": "units=3"},
            errors.InputError,
            r"The budgets of '\[02\]' and '2' both name 2",
        ),
        ({"0": "macs=50%"}, BudgetError, "a part of the groups takes units alone"),
        ({"0": "units=50%,macs=50%"}, BudgetError, "a part of the groups takes units alone"),
        ("0: units=50%; 0: units=20%", BudgetError, "names '0' twice"),
        ({}, BudgetError, "in parts is empty"),
        ({"0": "units=0.5"}, BudgetError, "did you mean units=50%"),
    ],
)
def test_parts_that_do_not_fit_are_errors(budget, error, text):
    with pytest.raises(error, match=text):
        mipp.plan(net(), BATCHES, budget)
