"""Costs of any choice of units, in one go and unit by unit."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from mipp.errors import InputError
from mipp.graph import CostModel, cost, group_cost, trace
from mipp.records import Cost
from mipp.selection import spend_units

from .random_models import random_model
from .slicing import random_keep


@pytest.fixture
def net():
    """Conv 3 -> 4 (1x1), flatten at 2x2 (16 features), linear 16 -> 5, linear 5 -> 2."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    return trace(model, (torch.randn(2, 3, 2, 2),))


CONV, LINEAR = 1, 0


def of(macs, params, units):
    return Cost(float(macs), params, units)


def test_cost_by_hand(net):
    assert [group.name for group in net.groups] == ["2", "0"]
    assert cost(net) == of(macs=48 + 80 + 10, params=16 + 85 + 12, units=9)
    keep = {CONV: np.array([True, False, True, False]), LINEAR: np.arange(5) < 3}
    assert cost(net, keep) == of(macs=24 + 24 + 6, params=8 + 27 + 8, units=5)
    assert cost(net, {LINEAR: np.arange(5) < 1}) == of(
        macs=48 + 16 + 2, params=16 + 17 + 4, units=5
    )


def test_group_cost_has_all_that_the_group_touches(net):
    assert group_cost(net, None, CONV) == of(macs=48 + 80, params=16 + 80, units=4)
    keep = {CONV: np.arange(4) < 1}
    assert group_cost(net, keep, CONV) == of(macs=12 + 20, params=4 + 20, units=1)
    assert group_cost(net, keep, LINEAR) == of(macs=20 + 10, params=20 + 5 + 10, units=5)


def test_saving_is_what_removing_saves_at_the_widths_reached(net):
    model = CostModel(net)
    assert model.saving(CONV, 0) == of(macs=12 + 20, params=4 + 20, units=1)
    for unit in (0, 3):
        model.remove(LINEAR, unit)
    assert model.saving(CONV, 0) == of(macs=12 + 12, params=4 + 12, units=1)
    assert model.cost() == cost(net, model.keep)


def test_cost_of_a_unit_with_several_channels_is_exact():
    """In a group that repeats only some of its units, units cost differently."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1)
            self.c, self.out = nn.Conv2d(3, 5, 1), nn.Conv2d(7, 2, 1)

        def forward(self, x):
            a = self.a(x)
            return self.out(torch.cat([torch.cat([a, self.b(x)], 1) + self.c(x), a], 1))

    graph = trace(Net(), (torch.randn(2, 3, 1, 1),))
    model = CostModel(graph)
    assert model.saving(0, 0) == of(macs=3 + 3 + 2 * 2, params=4 + 4 + 2 * 2, units=1)
    assert model.saving(0, 4) == of(macs=3 + 3 + 2, params=4 + 4 + 2, units=1)


@pytest.mark.parametrize("seed", range(8))
def test_a_walk_of_removals_and_returns_stays_exact(seed):
    rng = random.Random(seed)
    model, batch = random_model(rng)
    graph = trace(model, (batch,))
    walk = CostModel(graph)
    for _ in range(60):
        group = rng.choice(graph.groups)
        unit = rng.randrange(group.n_units)
        before = walk.cost()
        if walk.keep[group.index][unit]:
            saved = walk.saving(group.index, unit)
            assert walk.cost() == before  # asking changes nothing
            walk.remove(group.index, unit)
            now = walk.cost()
            assert before == Cost(
                now.macs + saved.macs, now.params + saved.params, now.units + saved.units
            )
        else:
            walk.restore(group.index, unit)
        assert walk.cost() == cost(graph, walk.keep)
    assert CostModel(graph, walk.keep).cost() == walk.cost()


@pytest.mark.parametrize("seed", range(5))
def test_fewer_units_never_cost_more(seed):
    rng = random.Random(seed)
    model, batch = random_model(rng)
    graph = trace(model, (batch,))
    wide = random_keep(graph, rng, 0.8)
    narrow = {group: units & other for (group, units), other in
              zip(wide.items(), random_keep(graph, rng, 0.5).values(), strict=True)}  # fmt: skip
    assert cost(graph, narrow).macs <= cost(graph, wide).macs <= cost(graph).macs
    assert cost(graph, narrow).params <= cost(graph, wide).params <= cost(graph).params


def test_the_last_index_of_a_dimension_is_known_before_the_group_is_empty():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(3, 3), nn.Linear(3, 5)
            self.out = nn.Linear(5, 2)

        def forward(self, x):
            return self.out(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))

    model = CostModel(trace(Net(), (torch.randn(2, 3),)))
    assert not model.empties(0, 0)
    model.remove(0, 1)
    assert model.empties(0, 0)
    assert not model.empties(0, 2)


def test_the_keep_it_gives_is_a_copy(net):
    model = CostModel(net)
    model.keep[CONV][:] = False
    assert model.cost() == cost(net)


def test_it_serves_as_the_cost_of_a_budget(net):
    assert isinstance(CostModel(net), spend_units.CostModel)


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        ({2: np.ones(4, dtype=bool)}, "group 2 was given; the graph has groups 0 to 1"),
        ({0: np.ones(4, dtype=bool)}, r"keep of group 2 has shape \(4,\) and dtype bool"),
    ],
)
def test_a_keep_that_does_not_fit_is_refused(net, keep, text):
    with pytest.raises(InputError, match=text):
        cost(net, keep)


def test_units_that_are_not_there_are_refused(net):
    model = CostModel(net)
    with pytest.raises(InputError, match="unit 7 of group 0 was given; it has units 0 to 3"):
        model.remove(CONV, 7)
    with pytest.raises(InputError, match="group 5 was given"):
        model.group_cost(5)
    with pytest.raises(InputError, match="unit 1 of group 0 is there; remove it first"):
        model.restore(CONV, 1)
    model.remove(CONV, 1)
    with pytest.raises(InputError, match="unit 1 of group 0 is removed already; restore it first"):
        model.remove(CONV, 1)
