"""Elimination and stop rules, on a scorer whose information is a table."""

import numpy as np
import pytest

from mipp.selection import Share, eliminate, eliminate_until, removable


class TableScorer:
    """Each unit holds some facts; the information is the number of facts held by those left."""

    def __init__(self, *facts):
        self.facts = [frozenset(f) for f in facts]
        self.n_units = len(facts)
        self.left = set(range(self.n_units))

    def _information(self, units):
        return float(len(frozenset().union(*(self.facts[u] for u in units))))

    def total(self):
        return np.array([self._information(range(self.n_units))])

    def solo(self):
        return np.array([self._information([u]) for u in range(self.n_units)])

    def nats_of(self, unit):
        return np.array([self._information(self.left) - self._information(self.left - {unit})])

    def scores(self):
        return np.array(
            [self.nats_of(u)[0] if u in self.left else np.inf for u in range(self.n_units)]
        )

    def transfers(self, units):
        return np.array([self._information(units)])

    def estimates(self, unit):
        return np.tile(self.nats_of(unit), (5, 1))

    def remove(self, unit):
        nats = self.nats_of(unit)
        self.left.remove(unit)
        return nats

    def remove_least(self, count):
        steps = []
        for _ in range(count):
            unit = int(np.argmin(self.scores()))
            steps.append((unit, self.remove(unit)))
        return steps


@pytest.mark.parametrize("order", ["greedy", "ordered"])
def test_the_curve_goes_through_every_unit_and_ends_with_nothing(order):
    curve = eliminate(TableScorer("ab", "b", "c", "abc"), order)
    assert sorted(curve.order) == [0, 1, 2, 3]
    assert curve.nats_lost[0] == 0
    assert curve.nats_lost[-1] == curve.total == 3
    assert (np.diff(curve.nats_lost) >= 0).all()
    np.testing.assert_array_equal(curve.consumer_lost.sum(1), curve.nats_lost)


def test_of_two_redundant_sets_the_smaller_stays():
    """Two units hold what four weaker ones hold together: MI ordering tests the weak ones first."""
    scorer = TableScorer("ab", "cd", "a", "b", "c", "d")
    curve = eliminate(scorer, "ordered")
    kept = set(range(6)) - set(curve.order[: removable(curve, 1.0)])
    assert kept == {0, 1}
    one = eliminate_until(TableScorer("ab", "cd", "a", "b", "c", "d"), Share(1.0))
    assert set(range(6)) - set(one.order) == {0, 1}


def test_one_pass_keeps_a_unit_that_fails_its_test_and_goes_on():
    # in order of solo information: x (2 facts), yz (2), then the copies of yz
    curve = eliminate_until(TableScorer("pq", "yz", "yzr", "pqyzr"), Share(1.0))
    assert list(curve.order) == [0, 1, 2]
    curve = eliminate_until(TableScorer("p", "yz", "yz", "abc"), Share(1.0))
    assert list(curve.order) == [1]


def test_one_pass_never_removes_the_last_unit():
    assert len(eliminate_until(TableScorer("a", "a", "a"), Share(1.0)).order) == 2
    assert len(eliminate_until(TableScorer("", "", ""), Share(0.5)).order) == 2


def test_removable_asks_every_consumer():
    curve = eliminate(TableScorer("a", "b", "c", "d"))
    assert [removable(curve, share) for share in (1.0, 0.75, 0.5, 0.51, 0.25)] == [0, 1, 2, 1, 3]
