"""Rounds of pruning while training, without any trainer."""

import json

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import BudgetError, FileError, InputError
from mipp.integrations.rounds import Rounds, restore_widths


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3)
    )


def batches():
    return [torch.randn(100, 6, generator=torch.Generator().manual_seed(3))]


def test_every_round_removes_the_same_share_and_the_last_meets_the_budget():
    model, rounds = net(), Rounds(batches(), "macs=20%", rounds=3, every=2, start=1)
    full = 6 * 40 + 40 * 30 + 30 * 3
    sizes = []
    for epoch in range(1, 9):
        rounds.after(epoch, model)
        sizes.append(sum(m.weight.numel() for m in model if isinstance(m, nn.Linear)))
    assert [entry["at"] for entry in rounds.history] == [1, 3, 5]
    assert [entry["macs"] for entry in rounds.history] == [sizes[0], sizes[2], sizes[4]]
    assert sizes[4] == sizes[-1] <= 0.2 * full
    for number, size in enumerate((sizes[0], sizes[2], sizes[4]), 1):
        assert 0.95 * full * 0.2 ** (number / 3) < size <= full * 0.2 ** (number / 3)


@pytest.mark.parametrize("budget", ["params=600", "macs=50%,params=40%", "units=30%"])
def test_amounts_and_several_bounds(budget):
    model, rounds = net(), Rounds(batches(), budget, rounds=2)
    before = sum(p.numel() for p in model.parameters())
    rounds.after(1, model)
    between = sum(p.numel() for p in model.parameters())
    rounds.after(2, model)
    after = sum(p.numel() for p in model.parameters())
    assert after < between < before
    assert after <= {"params=600": 600, "units=30%": before}.get(budget, 0.4 * before)


def test_a_round_that_was_missed_is_made_up_for():
    model, rounds = net(), Rounds(batches(), "macs=25%", rounds=3)
    assert rounds.after(2, model).after.macs <= 0.25 ** (2 / 3) * 1530
    assert rounds.after(2, model) is None
    assert [entry["round"] for entry in rounds.history] == [2]


def test_a_state_is_json_and_gives_a_full_size_model_the_widths_of_the_checkpoint():
    model, rounds = net(), Rounds(batches(), "macs=25%", rounds=3)
    rounds.after(1, model)
    rounds.after(2, model)
    state = json.loads(json.dumps(rounds.state(model)))
    fresh, resumed = net(), Rounds(batches(), "macs=25%", rounds=3)
    parameters = list(fresh.parameters())
    resumed.restore(fresh, state)
    assert list(map(id, fresh.parameters())) == list(map(id, parameters))
    fresh.load_state_dict(model.state_dict())
    assert fresh(batches()[0]).equal(model(batches()[0]))
    assert mipp.original_indices(fresh) == mipp.original_indices(model)
    rounds.after(3, model)
    resumed.after(3, fresh)
    assert resumed.history == rounds.history
    assert mipp.original_indices(fresh) == mipp.original_indices(model)
    assert fresh(batches()[0]).equal(model(batches()[0]))


def test_a_pruned_model_has_no_way_back():
    model, rounds = net(), Rounds(batches(), "macs=25%", rounds=2)
    rounds.after(1, model)
    state = rounds.state(model)
    restore_widths(model, state)  # is as it should be
    rounds.after(2, model)
    with pytest.raises(InputError, match=r"removed units cannot come back. Give a freshly built"):
        rounds.restore(model, state)


def test_a_state_of_another_version():
    with pytest.raises(FileError, match=r"rounds of format 7; this version of mipp reads format 1"):
        restore_widths(net(), {"format": 7})


@pytest.mark.parametrize("name", ["rounds", "every", "start"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_numbers_are_whole_and_above_0(name, value):
    with pytest.raises(InputError, match=rf"{name}={value} was given; expected a whole number"):
        Rounds(batches(), "macs=25%", **{name: value})


def test_batches_are_read_in_every_round():
    with pytest.raises(InputError, match=r"list_iterator was given .* read only once"):
        Rounds(iter(batches()), "macs=25%")


@pytest.mark.parametrize("budget", ["latency=50%", "information=99%", "0: units=50%"])
def test_budgets_that_rounds_cannot_share(budget):
    with pytest.raises(BudgetError, match=r"cannot be spent in rounds; expected macs, params"):
        Rounds(batches(), budget)


def test_options_of_the_plan():
    model = net()
    rounds = Rounds(batches(), "units=80%", refit=False, method="l2", protect=["0"])
    weights = model[2].weight.detach().clone()
    plan = rounds.after(1, model)
    assert model[0].out_features == 40
    assert model[2].weight.equal(weights[list(plan.keep["2"])])
