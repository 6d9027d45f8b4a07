"""A budget of weights over rows: brute force, nesting, and what cannot be met."""

import itertools

import numpy as np
import pytest

from mipp import errors
from mipp.selection.spend_weights import Choice, spend


def convex(n, t, seed):
    """Rows with convex curves: from t - 1 weights to none."""
    generator = np.random.default_rng(seed)
    slopes = np.sort(generator.exponential(size=(n, t - 1)), axis=1)
    nats = np.concatenate([np.zeros((n, 1)), np.cumsum(slopes, axis=1)], axis=1)
    return Choice(np.tile(np.arange(t - 1, -1, -1), (n, 1)), nats)


def lost(choices, keep):
    return sum(
        choice.nats[np.arange(len(keep[n])), choice.kept[0, 0] - keep[n]].sum()
        for n, choice in choices.items()
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_other_numbers_of_weights_lose_fewer_nats(seed):
    choices = {"a": convex(2, 5, seed), "b": convex(1, 4, seed + 10)}
    for most in range(12):
        keep = spend(choices, most, None)
        assert sum(int(k.sum()) for k in keep.values()) == most
        best = min(
            lost(choices, {"a": np.array(k[:2]), "b": np.array(k[2:])})
            for k in itertools.product(range(5), range(5), range(4))
            if sum(k) <= most
        )
        assert lost(choices, keep) == pytest.approx(best)


def test_numbers_are_nested_as_the_budget_shrinks():
    choices = {"a": convex(7, 20, 0), "b": convex(5, 30, 1)}
    before = spend(choices, 1000, None)
    for most in range(270, -1, -27):
        keep = spend(choices, most, None)
        assert sum(int(k.sum()) for k in keep.values()) == most
        assert all((keep[n] <= before[n]).all() for n in keep)
        before = keep


def test_weights_that_cost_nothing_stay_where_there_is_room_and_go_first():
    free = Choice(np.array([[4, 2, 0]]), np.array([[0.0, 0.0, 1.0]]))
    dear = Choice(np.array([[4, 2, 0]]), np.array([[0.0, 0.5, 2.0]]))
    found = [spend({"free": free, "dear": dear}, most, None) for most in (8, 7, 6)]
    assert [(int(k["free"][0]), int(k["dear"][0])) for k in found] == [(4, 4), (3, 4), (2, 4)]


def test_every_layer_keeps_its_share_of_information_and_not_more_than_it_must():
    choices = {"a": convex(6, 12, 0), "b": convex(4, 9, 5)}
    for share in (0.5, 0.9, 0.99, 1.0):
        keep = spend(choices, None, share)
        for name, choice in choices.items():
            gone = lost({name: choice}, {name: keep[name]})
            assert gone <= (1 - share) * choice.total + 1e-9
            if share < 0.95:
                assert gone > 0.5 * (1 - share) * choice.total


def test_a_uniform_share_holds_in_every_layer_or_in_every_row():
    choices = {"a": convex(6, 21, 0), "b": convex(4, 11, 5)}
    layers = spend(choices, 80, None, "uniform")
    assert [int(layers[n].sum()) for n in "ab"] == [60, 20]
    assert len(set(layers["a"].tolist())) > 1
    rows = spend(choices, 80, None, "rows")
    assert rows["a"].tolist() == [10] * 6
    assert rows["b"].tolist() == [5] * 4


def test_what_cannot_be_met_is_an_error():
    choices = {"a": convex(6, 12, 0)}
    with pytest.raises(errors.BudgetError, match=r"leaves 5 weights, and the share .* needs \d+"):
        spend(choices, 5, 0.99)
    with pytest.raises(errors.InputError, match="allocation='by row'; expected one of 'priced'"):
        spend(choices, 5, None, "by row")
    with pytest.raises(errors.InputError, match="'rows' spends a budget of params alone"):
        spend(choices, 5, 0.9, "rows")
