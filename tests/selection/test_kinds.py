"""One width for all layers of a kind: the budget is met, and each layer loses its own units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mipp.errors import BudgetError
from mipp.selection import Budget, Limits, parse_budget, spend, spend_by_kinds
from mipp.selection.kinds import kinds
from tests.selection.test_budget import ChainCosts, curve


def kept(keep):
    return {group: int(mask.sum()) for group, mask in keep.items()}


def test_a_kind_has_one_size_and_names_that_differ_in_numbers_alone():
    names = {0: "h.0.mlp", 1: "h.0.attn", 2: "h.1.mlp", 3: "h.12.mlp", 4: "h.2.mlp", 5: "head"}
    n_units = {0: 8, 1: 8, 2: 8, 3: 8, 4: 9, 5: 8}
    assert kinds(names, n_units, Limits()) == [(0, 2, 3), (1,), (4,), (5,)]
    spared = Limits(protected=frozenset({2}))
    assert kinds(names, n_units, spared) == [(0, 3), (1,), (2,), (4,), (5,)]


def test_a_kind_is_priced_by_the_sum_and_each_group_loses_its_own_least_units():
    names = {0: "h.0.mlp", 1: "h.1.mlp", 2: "head"}
    n_units = dict.fromkeys(names, 3)
    curves = {
        0: curve([0.0, 0.0, 9.0], order=[2, 0, 1]),  # free alone, and expensive with the other
        1: curve([5.0, 5.0, 9.0], order=[1, 2, 0]),
        2: curve([2.0, 2.0, 9.0], order=[0, 1, 2]),
    }
    alone = spend(curves, n_units, ChainCosts([3, 3, 3]), parse_budget("units=7"))
    assert kept(alone) == {0: 1, 1: 3, 2: 3}
    model = ChainCosts([3, 3, 3])
    keep = spend_by_kinds(
        curves, n_units, model, parse_budget("units=7"), names, allocation="global"
    )
    assert kept(keep) == {0: 3, 1: 3, 2: 1}  # 2 nats for a unit, where the pair costs 5 for two
    keep = spend_by_kinds(curves, n_units, ChainCosts([3, 3, 3]), parse_budget("units=5"), names)
    assert [mask.tolist() for mask in keep.values()] == [
        [True, True, False], [True, False, True], [False, False, True],
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["macs", "params", "units"]),
    st.floats(0.1, 0.99),
    st.sampled_from(["priced", "global", "tolerance", "uniform"]),
)
def test_never_above_the_budget_and_one_width_in_each_kind(seed, resource, share, allocation):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 12, 2).tolist()
    names = {0: "a.0.x", 1: "b.0.y", 2: "a.1.x", 3: "b.1.y", 4: "a.2.x"}
    n_units = {group: sizes[name[0] == "b"] for group, name in names.items()}
    curves = {
        group: curve(generator.exponential(size=n), order=generator.permutation(n))
        for group, n in n_units.items()
    }
    model = ChainCosts(n_units.values())
    limit = share * getattr(model.cost(), resource)
    floor = getattr(ChainCosts([1] * 5).cost(), resource)
    budget = Budget({resource: (limit, False)})
    if floor > limit:
        with pytest.raises(BudgetError, match="cannot be reached"):
            spend_by_kinds(curves, n_units, model, budget, names, allocation=allocation)
        return
    keep = spend_by_kinds(curves, n_units, model, budget, names, allocation=allocation)
    left = kept(keep)
    assert getattr(model.cost(), resource) <= limit * (1 + 1e-9)
    assert list(left.values()) == model.widths
    assert left[0] == left[2] == left[4]
    assert left[1] == left[3]
    for group, mask in keep.items():
        gone = np.flatnonzero(~mask)
        assert set(gone) == set(curves[group].order[: len(gone)])
    if allocation == "priced" and left[0] < n_units[0]:
        # what was taken last was needed: with one more unit in a kind the budget is exceeded
        more = [
            ChainCosts([w + (g in members and w < n_units[g]) for g, w in left.items()])
            for members in ((0, 2, 4), (1, 3))
        ]
        assert any(getattr(one.cost(), resource) > limit for one in more)


def test_a_share_of_information_holds_for_every_layer_of_a_kind():
    names = {0: "h.0", 1: "h.1"}
    for second, left in (([0.0, 0.6, 0.4], 2), ([0.0, 0.6, 9.4], 1)):
        curves = {0: curve([0.0, 0.0, 1.0]), 1: curve(second)}
        keep = spend_by_kinds(
            curves, {0: 3, 1: 3}, ChainCosts([3, 3]), parse_budget("information=90%"), names
        )
        assert kept(keep) == {0: left, 1: left}


def test_what_is_gone_stays_gone_in_every_layer_of_a_kind():
    names = {0: "h.0", 1: "h.1"}
    model = ChainCosts([4, 4])
    curves = {0: curve([0.0, 1.0, 1.0, 1.0]), 1: curve([0.0, 1.0, 1.0, 1.0], order=[3, 2, 1, 0])}
    model.remove(0, 0)
    model.remove(1, 3)
    keep = spend_by_kinds(
        curves, {0: 4, 1: 4}, model, parse_budget("units=4"), names, gone={0: 1, 1: 1}
    )
    assert kept(keep) == {0: 2, 1: 2} == dict(enumerate(model.widths))
