"""Budgets of latency, with a stopwatch that counts multiply-accumulates in place of time."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mipp
from mipp import selection
from mipp.errors import BudgetError, InputError
from mipp.latency import Latency
from mipp.planning import prunable_graph
from mipp.planning.latency_budget import Speed
from mipp.planning.runtimes import Timed


def counting(works, *, seconds, fewest, device):
    """As many milliseconds as the work does multiply-accumulates."""
    runs = []
    for work in works:
        with FlopCounterMode(display=False) as counter:
            work()
        runs.append(np.full(fewest, counter.get_total_flops() / 2))
    return runs


def overhead(works, *, seconds, fewest, device):
    """A thousand more for each call that is no lone layer, as a small net has."""
    runs = counting(works, seconds=seconds, fewest=fewest, device=device)
    return [run + (3000 if fewest > 5 else 0) for run in runs]


def in_blocks(works, *, seconds, fewest, device):
    """Multiply-accumulates of channels that are filled up to multiples of eight."""

    def convolution(x, w, *_args, out_shape, **_kwargs):
        channels = math.prod(-(-n // 8) * 8 for n in w[:2])
        return 2 * channels * math.prod(w[2:]) * out_shape[0] * math.prod(out_shape[2:])

    runs = []
    for work in works:
        mapping = {torch.ops.aten.convolution: convolution}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            work()
        runs.append(np.full(fewest, counter.get_total_flops() / 2))
    return runs


COUNTED = Latency(stopwatch=counting)


class Net(nn.Module):
    """Convolutions, one depthwise, one after a flatten, a residual sum and a transposed one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.inner = nn.Conv2d(8, 12, 1)
        self.outer = nn.Conv2d(12, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.flat = nn.Linear(6 * 64, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.depth(self.stem(x).relu())
        x = x + self.outer(self.inner(x).relu())
        return self.head(self.flat(self.up(x).flatten(1)).relu())


def batches():
    x = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return [x[:32], x[32:]]


def test_where_time_is_macs_a_budget_of_latency_is_a_budget_of_macs():
    model = Net()
    by_macs = mipp.plan(model, batches(), "macs=50%")
    # every width is in the table, so that nothing is interpolated
    fine = Latency(stopwatch=counting, shares=tuple(n / 48 for n in range(1, 49)))
    plan = mipp.plan(model, batches(), "latency=50%", latency=fine, allocation="priced")
    assert plan.keep == by_macs.keep
    assert plan.before.latency == pytest.approx(plan.before.macs)
    assert plan.after.latency == pytest.approx(plan.after.macs)


@pytest.mark.parametrize(
    ("budget", "method"),
    [
        ("latency=50%", "mipp"),
        ("latency=50%", "l2"),
        ("latency=HALF", "mipp"),
        ("macs=60%,latency=50%", "mipp"),
        ("macs=60%,latency=50%", "l2"),
    ],
)
def test_the_real_model_meets_the_budget(budget, method):
    model, data = Net(), batches()
    whole = mipp.plan(model, data, "macs=100%").before.macs
    budget = budget.replace("HALF", f"{0.5 * whole}ms")
    before = copy.deepcopy(model.state_dict())
    plan = mipp.plan(model.train(), data, budget, method=method, latency=COUNTED)
    small = plan.apply()
    (counted,) = counting([lambda: small(data[0][:1])], seconds=1, fewest=1, device=None)
    assert plan.after.latency == pytest.approx(counted[0])
    assert 0.3 * whole < plan.after.latency <= 0.5 * whole
    assert plan.after.macs == plan.after.latency
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "latency" in str(plan)
    again = mipp.Plan.from_json(plan.to_json())
    assert again.after == plan.after
    assert again.record.options["latency"]["batch"] == 1


def test_where_kernels_work_in_blocks_the_ways_that_are_left_open_lose_the_fewest_nats():
    torch.manual_seed(0)
    widths = (3, 24, 24, 24, 4)
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))[:-1]
    data = [torch.randn(64, 3, 6, 6)]
    timed = Latency(stopwatch=in_blocks, shares=(0.25, 0.5, 0.75, 1))

    def lost(**options):
        plan = mipp.plan(model, data, "latency=55%", latency=timed, progress=False, **options)
        assert plan.after.latency <= 0.55 * plan.before.latency
        spread.append((plan.record.options["latency"]["allocation"], str(plan)))
        return sum(row.nats_before - row.nats_after for row in plan.record.summary)

    spread = []
    best = lost()
    assert f"; widths: {spread[0][0]}, in multiples of 8" in spread[0][1]
    assert best < 0.9 * lost(allocation="priced", round_to=2)
    assert best <= lost(allocation="uniform", round_to=8) * 1.001


def test_where_no_way_is_fast_enough_the_error_has_the_fastest_of_all():
    speed = object.__new__(Speed)
    speed.full, speed.settings, speed.time = Timed(10.0, 0.1), Latency(tries=1), lambda ms: ms
    budget, units = selection.Budget({"latency": (0.5, True)}), np.ones(3, dtype=bool)
    times = iter([Timed(8.0, 0.0), Timed(6.0, 0.0), Timed(7.0, 0.0)])
    ways = [lambda _: {0: units}] * 3
    with pytest.raises(BudgetError, match="the fastest model takes 6 ± 0 ms"):
        speed.meet(budget, 5.0, ways, lambda _: next(times), lambda _: 1.0)


def test_several_rounds_and_several_budgets():
    model, data = Net(), batches()
    twice = mipp.plan(model, data, "latency=40%", rounds=2, latency=COUNTED)
    assert twice.after.latency == twice.after.macs <= 0.4 * twice.before.macs
    some = mipp.plans(model, data, ["latency=60%", "macs=30%"], latency=COUNTED)
    assert some[0].after.latency <= 0.6 * some[0].before.macs
    assert some[1].after.latency is None
    assert some[1].after.macs <= 0.3 * some[1].before.macs


def test_what_no_layer_explains_is_found_and_stays():
    model, data = Net(), [mipp.statistics.read_batch(x) for x in batches()]
    traced = prunable_graph(model, data)
    speed = Speed(model, traced, data, Latency(stopwatch=overhead))
    assert speed.table.fixed == pytest.approx(3000, rel=0.1)
    assert speed.whole.latency == pytest.approx(speed.full.ms)
    with pytest.raises(BudgetError, match=r"the smallest is latency = .* ms"):
        mipp.plan(model, batches(), "latency=5%", latency=Latency(stopwatch=overhead))


def test_a_saving_below_the_scatter_is_an_error():
    def shaky(works, *, seconds, fewest, device):
        runs = counting(works, seconds=seconds, fewest=fewest, device=device)
        return [run * np.linspace(0.9, 1.1, len(run)) for run in runs]

    with pytest.raises(BudgetError, match=r"lie ±.* ms apart: nobody could tell"):
        mipp.plan(Net(), batches(), "latency=95%", latency=Latency(stopwatch=shaky))
    assert mipp.plan(Net(), batches(), "latency=50%", latency=Latency(stopwatch=shaky))


def test_a_check_that_scatters_more_than_what_is_saved_is_an_error():
    def shaky(works, *, seconds, fewest, device):
        runs = counting(works, seconds=seconds, fewest=fewest, device=device)
        if len(works) == 2 and fewest > 5:
            runs[1] = runs[1] * np.linspace(0.5, 1.5, len(runs[1]))
        return runs

    with pytest.raises(BudgetError, match=r"of the small one against it lie ±.* ms apart"):
        mipp.plan(Net(), batches(), "latency=80%", latency=Latency(stopwatch=shaky))


def test_a_table_that_is_wrong_is_found_out():
    def halves(works, *, seconds, fewest, device):
        """Models that are compared as a pair never get faster, whatever the table says."""
        runs = counting(works, seconds=seconds, fewest=fewest, device=device)
        return [runs[0], runs[0]] if len(works) == 2 and fewest > 5 else runs

    with pytest.raises(BudgetError, match=r"the fastest model takes .* Ask for that"):
        mipp.plan(Net(), batches(), "latency=80%", latency=Latency(stopwatch=halves))


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_table_that_is_off_is_made_up_for(factor):
    def off(works, *, seconds, fewest, device):
        runs = counting(works, seconds=seconds, fewest=fewest, device=device)
        pair = len(works) == 2 and fewest > 5
        return [runs[0], runs[0] + factor * (runs[1] - runs[0])] if pair else runs

    plan = mipp.plan(Net(), batches(), "latency=60%", latency=Latency(stopwatch=off))
    assert 0.55 * plan.before.latency < plan.after.latency <= 0.6 * plan.before.latency


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"batch": 0}, "expected at least 1 of each"),
        ({"tries": 0}, "expected at least 1 of each"),
        ({"shares": (0.5, 0.25, 1)}, "rising numbers above 0"),
        ({"shares": (0.5,)}, "the last one 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, text):
    with pytest.raises(InputError, match=text):
        Latency(**settings)
