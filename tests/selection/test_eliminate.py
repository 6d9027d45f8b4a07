"""Elimination on tables of facts; stop rules in closed form, and their errors on known truth."""

import functools

import numpy as np
import pytest
import torch

from lab.experiments.confidence import xor
from mipp.errors import InputError
from mipp.information import Gaussian, Masked, Mlp, Observations
from mipp.information.learned.learned_scorer import LearnedScorer
from mipp.selection import (
    Confidence,
    Share,
    eliminate,
    eliminate_until,
    removable,
    surely_positive,
)

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
WEIGHTS = [0.0] * 4 + [0.1, 0.2, 1.0]
USELESS, WEAKER, WEAK, STRONG = slice(0, 4), 4, 5, 6
TINY = {"epochs": 10, "hidden": (8,), "batch_size": 64}
LEARNED = {"masked": Masked(**TINY), "mlp": Mlp(**TINY, retrain_epochs=2)}


def rows(seed, n, weights=WEIGHTS):
    """Y = w X + noise of unit variance: unit u transfers 1/2 log(1 + w_u^2) nats to it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, len(weights), generator=generator).double()
    noise = torch.randn(n, generator=generator).double()
    y = x @ torch.tensor(weights).double() + noise
    return Observations(x, y.unsqueeze(1), torch.arange(len(weights)))


@functools.cache
def sure(estimator, n=300, repetitions=60):
    """How sure we are of each unit with no other removed, shape (repetitions, units)."""
    out = []
    for seed in range(repetitions):
        scorer = estimator.scorer([rows(seed, n)], len(WEIGHTS), seed=seed)
        out.append([surely_positive(scorer.estimates(u).sum(1)) for u in range(len(WEIGHTS))])
    return np.array(out)


class Estimated:
    """A scorer of which only the estimates and the loss are asked for."""

    n_units = 1
    total = solo = scores = remove = remove_least = transfers = NotImplemented

    def __init__(self, estimates):
        self.found = np.asarray(estimates, dtype=float)

    def estimates(self, unit):
        return self.found

    def nats_of(self, unit):
        return self.found.mean(0)


def may_go(level, estimates):
    nothing = np.zeros(np.shape(estimates)[1])
    return Confidence(level).may_go(Estimated(estimates), 0, nothing, nothing)


def test_how_sure_we_are_is_students_t_with_one_degree_of_freedom_less_than_estimates():
    def four_degrees(t):
        s = 1 + t**2 / 4
        return 0.5 + 3 / 8 * t / np.sqrt(s) * (1 - t**2 / s / 12)

    generator = np.random.default_rng(0)
    for shift in (-2.0, -0.3, 0.0, 0.4, 1.5):
        found = generator.normal(shift, 1.0, 5)
        t = found.mean() / (found.std(ddof=1) / np.sqrt(5))
        assert surely_positive(found) == pytest.approx(four_degrees(t), rel=1e-12)
    # with one degree of freedom it is Cauchy's: the mean is 2, its error 1
    assert surely_positive(np.array([1.0, 3.0])) == pytest.approx(0.5 + np.arctan(2) / np.pi)
    # the table's 95 % for four degrees
    at_the_edge = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) + 2.131847 * np.sqrt(2.5 / 5)
    assert surely_positive(at_the_edge) == pytest.approx(0.95, abs=1e-7)


def test_estimates_that_agree_to_the_last_bit_leave_no_doubt():
    assert surely_positive(np.full(5, 0.3)) == 1.0
    assert surely_positive(np.zeros(5)) == 0.0
    assert surely_positive(np.full(5, -0.3)) == 0.0


def test_a_unit_stays_only_above_the_level():
    found = np.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
    edge = 2.131847 * np.sqrt(0.5)
    assert may_go(0.95, found + edge - 1e-3)
    assert not may_go(0.95, found + edge + 1e-3)
    assert may_go(0.96, found + edge + 1e-3)
    assert may_go(0.5, found)
    assert not may_go(0.5, found + 1e-6)
    assert may_go(0.5, np.zeros((5, 1)))


def test_estimates_of_several_consumers_are_added_before_they_are_judged():
    first = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    assert may_go(0.95, first[:, None])
    assert not may_go(0.95, np.stack([first, 0.2 - first], 1))
    assert may_go(0.95, np.stack([first, -0.2 - first], 1))


def test_useless_units_stay_less_often_than_one_minus_the_level():
    """Five-fold estimates share rows, and overfitting pulls them down: the second wins.

    Of 240 units 17 % stay at 0.5, 4.6 % at 0.8, 2.1 % at 0.9, 0.8 % at 0.95, none at 0.99.
    """
    kept = {level: (sure(Gaussian())[:, USELESS] > level).mean() for level in LEVELS}
    for level in LEVELS:
        assert kept[level] <= 1 - level
    assert 0.1 < kept[0.5] < 0.25
    assert 0.005 < kept[0.9] < 0.05


def test_strong_units_stay_and_weak_ones_the_more_often_the_more_they_transfer():
    """1/2 log(1 + w^2) nats a row, 300 rows: 1.5, 6 and 104 nats in all.

    At 0.95 they stay in 7, 28 and 100 % of 60 repetitions: the rule errs on removing.
    """
    found = sure(Gaussian())
    stays = (found > 0.95).mean(0)
    assert stays[STRONG] == 1
    assert (found[:, STRONG] > 0.99).mean() > 0.97
    assert stays[USELESS].mean() < stays[WEAKER] < 0.15 < stays[WEAK] < 0.5


def test_more_rows_find_weaker_units():
    few, many = (sure(Gaussian(), n, 10) > 0.95 for n in (300, 3000))
    assert many[:, WEAKER].mean() > few[:, WEAKER].mean() + 0.3
    assert many[:, USELESS].mean() <= 0.05


@pytest.mark.parametrize("order", ["ordered", "greedy"])
def test_a_higher_level_removes_more_and_no_strong_unit(order):
    removed = {
        level: [
            set(eliminate_until(Gaussian().scorer([rows(seed, 300)], 7, seed),
                                Confidence(level), order).order.tolist())
            for seed in range(8)
        ]
        for level in (0.5, 0.9, 0.99)
    }  # fmt: skip
    assert not any(STRONG in gone for runs in removed.values() for gone in runs)
    sizes = [np.mean([len(gone) for gone in runs]) for runs in removed.values()]
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0] + 1
    # later units are judged with others gone, so supersets are the rule, not a law
    assert np.mean([a <= b for a, b in zip(removed[0.5], removed[0.99], strict=True)]) >= 0.75


def test_a_copy_goes_and_then_its_original_stays():
    view = rows(0, 500)
    x = torch.cat([view.inputs, view.inputs[:, 6:]], 1)
    twice = Observations(x, view.targets, torch.arange(8))
    for order in ("ordered", "greedy"):
        curve = eliminate_until(Gaussian().scorer([twice], 8), Confidence(0.95), order)
        assert len({6, 7} & set(curve.order.tolist())) == 1


@pytest.mark.parametrize("name", LEARNED)
def test_learned_estimates_keep_strong_units_and_let_most_useless_ones_go(name):
    """Of 40 useless units at most 5 % stay at 0.95: with ``masked`` as with ``mlp``."""
    found = sure(LEARNED[name], 300, 10)
    assert (found[:, STRONG] > 0.9).mean() == 1
    useless = [(found[:, USELESS] > level).mean() for level in LEVELS]
    assert useless == sorted(useless, reverse=True)
    assert useless[3] <= 0.05
    assert found[:, STRONG].mean() > found[:, USELESS].mean() + 0.3


def test_masked_lets_useless_bits_go_that_only_masking_would_keep():
    """A network that has seen few rows under a mask does worse under it, whatever is hidden.

    By masking alone 7 of these 8 useless bits beside an XOR pair stay at 0.95.
    """
    masking, both = [], []
    for seed in (0, 1):
        scorer = Masked().scorer([xor(seed)], 6, seed)
        masking.append(
            [surely_positive(LearnedScorer.estimates(scorer, u)[:, 0]) for u in range(6)]
        )
        both.append([surely_positive(scorer.estimates(u)[:, 0]) for u in range(6)])
    assert (np.array(masking)[:, 2:] > 0.95).sum() >= 5
    assert (np.array(both)[:, 2:] > 0.95).sum() <= 1
    assert np.array(both)[:, :2].min() > 0.95


def test_a_share_is_asked_of_every_consumer():
    total = np.array([2.0, 1.0])
    lost = np.array([0.1, 0.1])
    one = Estimated([[0.09, 0.0]])
    both = Estimated([[0.09, 0.05]])
    assert Share(0.9).may_go(one, 0, lost, total)
    assert not Share(0.9).may_go(both, 0, lost, total)
    assert not Share(0.95).may_go(one, 0, lost, total)
    assert Share(1.0).may_go(Estimated([[0.0, 0.0]]), 0, np.zeros(2), total)


def test_an_estimated_total_below_zero_counts_as_none():
    class Nothing(Estimated):
        n_units = 3

        def total(self):
            return np.array([-0.01])

        def solo(self):
            return np.zeros(3)

        def remove(self, unit):
            return self.nats_of(unit)

    for stop in (Share(0.9), Confidence(0.9)):
        curve = eliminate_until(Nothing(np.zeros((5, 1))), stop, "ordered")
        assert curve.total == 0
        assert len(curve.order) == removable(curve, 0.9) == 2


@pytest.mark.parametrize("level", [0.49, 1.0, 1.5, float("nan")])
def test_a_level_out_of_range_is_an_error(level):
    with pytest.raises(InputError, match=r"expected at least 0\.5 and below 1, such as 0\.95"):
        Confidence(level)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_out_of_range_is_an_error(share):
    with pytest.raises(InputError, match=r"expected above 0 and at most 1, such as 0\.99"):
        Share(share)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([0.3], "1 estimate of the nats lost with a unit; a stop rule by confidence needs two"),
        ([0.3, float("nan"), 0.1], "are not finite"),
    ],
)
def test_one_estimate_or_none_that_is_a_number_is_an_error(found, message):
    with pytest.raises(InputError, match=message):
        surely_positive(np.array(found))


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
