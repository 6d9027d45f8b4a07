"""Budgets: what is read, what is reached, and that more budget never takes another path."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mipp.errors import BudgetError, InputError
from mipp.records import Cost, Curve
from mipp.selection import Budget, Limits, parse_budget, spend


class ChainCosts:
    """A chain of dense layers: MACs and parameters are products of neighbouring widths."""

    def __init__(self, widths, fan_in=3, classes=10):
        self.ends = fan_in, classes
        self.widths = list(widths)

    def cost(self):
        sizes = [self.ends[0], *self.widths, self.ends[1]]
        products = sum(a * b for a, b in itertools.pairwise(sizes))
        return Cost(macs=float(products), params=products + sum(sizes[1:]), units=sum(self.widths))

    def saving(self, group, _unit):
        before = self.cost()
        self.widths[group] -= 1
        after = self.cost()
        self.widths[group] += 1
        return Cost(
            before.macs - after.macs, before.params - after.params, before.units - after.units
        )

    def remove(self, group, _unit):
        self.widths[group] -= 1

    def restore(self, group, _unit):
        self.widths[group] += 1

    def empties(self, group, _unit):
        return self.widths[group] == 1


def curve(losses, order=None):
    nats = np.concatenate([[0.0], np.cumsum(losses)])
    return Curve(
        order=np.arange(len(losses)) if order is None else np.asarray(order),
        nats_lost=nats,
        total=float(nats[-1]),
        consumer_lost=nats[:, None],
        consumer_total=nats[-1:],
    )


def random_case(seed, groups=4):
    generator = np.random.default_rng(seed)
    widths = generator.integers(3, 40, groups)
    curves = {
        g: curve(generator.exponential(1, w) ** 2, generator.permutation(w))
        for g, w in enumerate(widths)
    }
    return curves, dict(enumerate(widths.tolist())), widths.tolist()


def kept(keep):
    return {g: int(mask.sum()) for g, mask in keep.items()}


@pytest.mark.parametrize(
    ("text", "bounds", "information"),
    [
        ("macs=50%", {"macs": (0.5, True)}, None),
        ("params=300k", {"params": (3e5, False)}, None),
        ("MACs <= 1.5G, units=20%", {"macs": (1.5e9, False), "units": (0.2, True)}, None),
        ("information=99%", {}, 0.99),
        ("latency=50%, macs=60%", {"latency": (0.5, True), "macs": (0.6, True)}, None),
        ("latency=3ms", {"latency": (3.0, False)}, None),
        ("latency = 250us", {"latency": (0.25, False)}, None),
        ("latency=1.5s", {"latency": (1500.0, False)}, None),
        ("information=0.9;params=1e6", {"params": (1e6, False)}, 0.9),
    ],
)
def test_budgets_are_read(text, bounds, information):
    read = parse_budget(text)
    assert {name: tuple(bound) for name, bound in read.bounds.items()} == bounds
    assert read.information == information
    assert parse_budget(str(read)) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops=50%", "cannot be read"),
        ("macs", "cannot be read"),
        ("macs=-3", "cannot be read"),
        ("", "names nothing"),
        ("macs=50%,macs=20%", "names macs twice"),
        ("macs=150%", "above 0% and at most 100%"),
        ("macs=0", "above 0"),
        ("information=7", "information is a share"),
        ("latency=3", "latency is a time"),
        ("latency=3m", "latency is a time"),
        ("macs=3ms", "latency is a time"),
    ],
)
def test_budgets_that_cannot_be_meant_say_so(text, message):
    with pytest.raises(BudgetError, match=message):
        parse_budget(text)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["macs", "params", "units"]),
    st.floats(0.1, 0.99),
    st.sampled_from(["priced", "global", "tolerance", "uniform"]),
)
def test_never_above_the_budget_and_no_unit_could_come_back(seed, resource, share, allocation):
    curves, n_units, widths = random_case(seed)
    model = ChainCosts(widths)
    limit = share * getattr(model.cost(), resource)
    try:
        keep = spend(curves, n_units, model, parse_budget(f"{resource}={100 * share}%"),
                     allocation=allocation)  # fmt: skip
    except BudgetError:
        floor = ChainCosts([1] * len(widths))
        assert getattr(floor.cost(), resource) > limit
        return
    assert getattr(model.cost(), resource) <= limit * (1 + 1e-9)
    assert kept(keep) == dict(enumerate(model.widths))
    for group, mask in keep.items():
        # exactly the first units of the group's own order are gone
        gone = np.flatnonzero(~mask)
        assert set(gone) == set(curves[group].order[: len(gone)])
    if allocation == "priced":
        # the unit taken last was needed: with one more in some group the budget is exceeded
        assert any(
            getattr(model.cost(), resource) + getattr(_grown(model, g), resource) > limit
            for g in n_units
            if model.widths[g] < n_units[g]
        )


def _grown(model, group):
    model.restore(group, 0)
    more = model.saving(group, 0)
    model.remove(group, 0)
    return more


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_nested_budgets_keep_nested_units(seed):
    curves, n_units, widths = random_case(seed)
    previous = None
    for share in (90, 70, 50, 35, 20):
        keep = spend(curves, n_units, ChainCosts(widths), parse_budget(f"macs={share}%"))
        if previous is not None:
            assert all((previous[g] | ~keep[g]).all() for g in keep)
        previous = keep


def test_units_that_cost_nothing_go_first():
    curves = {0: curve([0.0, 0.0, 5.0, 5.0]), 1: curve([1.0, 1.0, 1.0, 1.0])}
    keep = spend(curves, {0: 4, 1: 4}, ChainCosts([4, 4]), parse_budget("units=6"))
    assert kept(keep) == {0: 2, 1: 4}


def test_a_stretch_that_pays_only_as_a_whole_is_taken_as_a_whole():
    """The hull looks past one dear unit to the free ones behind it."""
    curves = {0: curve([2.0, 0.0, 0.0, 0.0, 9.0]), 1: curve([1.0, 1.0, 1.0, 1.0, 9.0])}
    keep = spend(curves, {0: 5, 1: 5}, ChainCosts([5, 5], 1, 1), parse_budget("units=6"),
                 allocation="global")  # fmt: skip
    assert kept(keep) == {0: 1, 1: 5}


@pytest.mark.parametrize("allocation", ["priced", "global", "uniform"])
def test_the_last_unit_of_a_layer_goes_only_where_the_limits_allow_it(allocation):
    curves = {0: curve([0.0, 0.0, 0.0]), 1: curve([1.0, 1.0, 1.0])}
    for least, floor in ((1, 2), (0, 0)):
        limits = Limits(min_units=least)
        model = ChainCosts([3, 3])
        spend(
            curves,
            {0: 3, 1: 3},
            model,
            Budget({"units": (float(floor), False)}),
            limits,
            allocation,
        )
        assert model.widths == [floor // 2, floor // 2]
    model = ChainCosts([3, 3])
    spend(curves, {0: 3, 1: 3}, model, parse_budget("units=3"), Limits(min_units=0), "global")
    assert model.widths == [0, 3]
    model = ChainCosts([8, 8])
    rounded = Limits(min_units=0, round_to=4)
    free = {0: curve([0.0] * 8), 1: curve([1.0] * 8)}
    spend(free, {0: 8, 1: 8}, model, parse_budget("units=8"), rounded, "global")
    assert model.widths == [0, 8]


@pytest.mark.parametrize("allocation", ["priced", "global", "tolerance", "uniform"])
def test_units_that_are_gone_stay_gone_and_the_others_are_spent_from_there(allocation):
    curves = {0: curve([0.0, 0.0, 3.0, 4.0]), 1: curve([1.0, 2.0, 5.0, 6.0])}
    model = ChainCosts([4, 4])
    for unit in (0, 1):
        model.remove(0, unit)
    keep = spend(
        curves, {0: 4, 1: 4}, model, parse_budget("units=6"), allocation=allocation, gone={0: 2}
    )
    assert kept(keep) == {0: 2, 1: 4}  # the budget was met before: nothing comes back
    keep = spend(
        curves, {0: 4, 1: 4}, model, parse_budget("units=4"), allocation=allocation, gone={0: 2}
    )
    assert kept(keep) == {0: 2, 1: 2}
    assert model.widths == [2, 2]


def test_several_budgets_are_all_met():
    curves, n_units, widths = random_case(3)
    model = ChainCosts(widths)
    full = model.cost()
    spend(curves, n_units, model, parse_budget("macs=60%,params=40%,units=90%"))
    cost = model.cost()
    assert cost.macs <= 0.6 * full.macs
    assert cost.params <= 0.4 * full.params
    assert cost.units <= 0.9 * full.units


def test_information_alone_removes_all_that_the_share_allows():
    curves = {0: curve([0.0, 0.5, 0.4, 9.1]), 1: curve([2.0, 8.0])}
    keep = spend(curves, {0: 4, 1: 2}, ChainCosts([4, 2]), parse_budget("information=90%"))
    assert kept(keep) == {0: 1, 1: 2}


def test_information_bounds_what_another_budget_may_take():
    curves = {0: curve([0.0, 0.5, 0.4, 9.1]), 1: curve([2.0, 8.0])}
    keep = spend(curves, {0: 4, 1: 2}, ChainCosts([4, 2]), parse_budget("information=90%,units=5"))
    assert kept(keep) == {0: 3, 1: 2}
    with pytest.raises(BudgetError, match=r"smallest is units = 3 \(50%\).*information share"):
        spend(curves, {0: 4, 1: 2}, ChainCosts([4, 2]), parse_budget("information=90%,units=2"))


def test_the_smallest_reachable_is_named():
    curves, n_units, widths = random_case(1)
    floor = ChainCosts([1] * len(widths)).cost()
    with pytest.raises(BudgetError, match=f"smallest is macs = {int(floor.macs)} "):
        spend(curves, n_units, ChainCosts(widths), parse_budget("macs=1"))


@pytest.mark.parametrize("allocation", ["priced", "uniform", "tolerance", "global"])
def test_limits_hold_inside_the_optimisation(allocation):
    curves, n_units, widths = random_case(7)
    limits = Limits(min_units=2, round_to=4, protected=frozenset({1}))
    model = ChainCosts(widths)
    full = model.cost().macs
    try:
        spend(curves, n_units, model, parse_budget("macs=60%"), limits, allocation)
    except BudgetError:
        pytest.fail("60 % of the MACs can be reached under these limits")
    assert model.cost().macs <= 0.6 * full
    assert model.widths[1] == widths[1]
    for group in (0, 2, 3):
        assert model.widths[group] == widths[group] or model.widths[group] % 4 == 0
        assert model.widths[group] >= min(4, widths[group])


def test_uniform_keeps_the_same_share_everywhere():
    curves = {g: curve(np.ones(100)) for g in range(3)}
    model = ChainCosts([100, 100, 100])
    spend(curves, dict.fromkeys(range(3), 100), model, parse_budget("units=50%"),
          allocation="uniform")  # fmt: skip
    assert model.widths == [50, 50, 50]


@pytest.mark.parametrize("limits", [{"min_units": -1}, {"round_to": 0}])
def test_limits_that_cannot_be_are_errors(limits):
    with pytest.raises(InputError, match="expected min_units >= 0 and round_to >= 1"):
        Limits(**limits)
