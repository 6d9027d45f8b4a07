"""allocation="kinds": layers of one kind keep one number of units, whatever the budget is."""

import pytest
import torch
from torch import nn

import mipp


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, size), nn.Linear(size, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """Three blocks of one kind, one of another size, and a layer of another name."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(size) for size in (16, 16, 12, 16))
        self.hidden, self.out = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.out(torch.relu(self.hidden(x)))


KIND = ["blocks.0.up", "blocks.1.up", "blocks.3.up"]
BATCH = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("method", ["mipp", "l2"])
@pytest.mark.parametrize("more", [{}, {"rounds": 3}, {"round_to": 4}, {"min_units": 0}])
@pytest.mark.parametrize("budget", ["params=50%", "macs=60%,units=50%"])
def test_one_width_for_a_kind_within_the_budget(budget, more, method):
    plan = mipp.plan(net(), [BATCH], budget, method=method, allocation="kinds", **more)
    widths = {name: len(units) for name, units in plan.keep.items()}
    assert len({widths[name] for name in KIND}) == 1
    assert widths["blocks.0.up"] < 16 or widths["hidden"] < 16 or widths["blocks.2.up"] < 12
    for part in budget.split(","):
        resource, share = part.split("=")
        limit = int(share[:-1]) / 100 * getattr(plan.before, resource)
        assert getattr(plan.after, resource) <= limit
    if "rounds" not in more:
        free = mipp.plan(net(), [BATCH], budget, method=method, **more)
        assert plan.after.macs <= 1.3 * free.after.macs  # and not far below it


def test_which_units_stay_is_a_matter_of_each_layer():
    plan = mipp.plan(net(), [BATCH], "macs=50%", allocation="kinds")
    assert len({plan.keep[name] for name in KIND}) == 3
    priced = mipp.plan(net(), [BATCH], "macs=50%")
    assert len({len(priced.keep[name]) for name in KIND}) > 1


def test_parts_shares_of_information_and_protected_layers():
    plan = mipp.plan(net(), [BATCH], {"blocks.*": "units=50%"}, allocation="kinds")
    assert len({len(plan.keep[name]) for name in KIND}) == 1
    assert sum(len(plan.keep[name]) for name in [*KIND, "blocks.2.up"]) <= 30
    assert len(plan.keep["hidden"]) == 16
    told = mipp.plan(net(), [BATCH], "information=60%", allocation="kinds")
    assert len({len(told.keep[name]) for name in KIND}) == 1
    assert all(row.nats_after >= 0.6 * row.nats_before - 1e-9 for row in told.summary)
    some = mipp.plan(net(), [BATCH], "macs=70%", allocation="kinds", protect=["blocks.1"])
    assert [len(some.keep[name]) for name in KIND].count(16) == 1
    assert len(some.keep["blocks.0.up"]) == len(some.keep["blocks.3.up"]) < 16
