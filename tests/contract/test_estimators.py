"""What every estimator must do under every elimination and stop rule."""

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from mipp import information
from mipp.errors import InputError
from mipp.information import Estimator, Gaussian, Masked, Mlp, Observations
from mipp.information.views import second_moments
from mipp.records import Scorer
from mipp.selection import Confidence, Share, eliminate, eliminate_until, removable

SMALL = {"epochs": 12, "hidden": (8,), "batch_size": 64, "learning_rate": 0.03}
ESTIMATORS = {
    "gaussian": Gaussian(),
    "mlp": Mlp(**SMALL, retrain_epochs=2),
    "masked": Masked(**SMALL),
}
STOPS = {"none": None, "share": Share(0.9), "confidence": Confidence(0.9)}
STRONG, NOISE, COPY, TWIN, PAIR = range(5)
N_UNITS = 5

every_estimator = pytest.mark.parametrize("name", information.names())
every_order = pytest.mark.parametrize("order", ["greedy", "ordered"])
every_stop = pytest.mark.parametrize("stop", STOPS)


def rows(seed=0, n=400, labels=False, **fields):
    """A strong unit, one that tells nothing, one and its copy, and one of two features."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator).double()
    y = x @ torch.tensor([[2.0, 0.0, 1.0, 0.5, 0.5], [1.0, 0.0, -0.5, 0.5, -0.5]]).double().T
    y = y + 0.7 * torch.randn(n, 2, generator=generator)
    x = torch.cat([x[:, :3], x[:, 2:3], x[:, 3:]], 1)
    unit = torch.tensor([STRONG, NOISE, COPY, TWIN, PAIR, PAIR])
    targets = (y[:, 0] > 0).long() + (y[:, 0] > 2).long() if labels else y
    return Observations(x, targets, unit, **fields)


def scorer_of(name, *views, n_units=N_UNITS, seed=0):
    return ESTIMATORS[name].scorer(views or [rows()], n_units, seed)


def curve_of(scorer, order, stop):
    if STOPS[stop] is None:
        return eliminate(scorer, order)
    return eliminate_until(scorer, STOPS[stop], order)


@functools.cache
def curve(name, order, stop, labels=False):
    return curve_of(scorer_of(name, rows(labels=labels)), order, stop)


def check(found, n_units, n_consumers=1):
    n = len(found.order)
    assert len(set(found.order.tolist())) == n
    assert set(found.order.tolist()) <= set(range(n_units))
    assert found.nats_lost.shape == (n + 1,)
    assert found.consumer_lost.shape == (n + 1, n_consumers)
    assert found.nats_lost[0] == 0
    assert (np.diff(found.consumer_lost, axis=0) >= 0).all()
    np.testing.assert_allclose(found.consumer_lost.sum(1), found.nats_lost)
    assert found.consumer_total.shape == (n_consumers,)
    assert found.total == pytest.approx(found.consumer_total.sum())
    assert np.isfinite(found.nats_lost).all()


def test_no_estimator_is_left_out_here():
    assert set(ESTIMATORS) == set(information.names())


@every_estimator
def test_a_name_gives_the_estimator_of_that_name(name):
    for estimator in (information.get(name), ESTIMATORS[name]):
        assert isinstance(estimator, Estimator)
        assert estimator.name == name
        assert estimator.reads in ("moments", "rows")
        assert estimator.row_shape in ("maps", "positions")
        assert replace(estimator, noise=0.3).noise == 0.3
    scorer = scorer_of(name)
    assert isinstance(scorer, Scorer)
    assert scorer.n_units == N_UNITS


@every_estimator
@every_order
@every_stop
@pytest.mark.parametrize("labels", [False, True])
def test_every_elimination_gives_a_curve(name, order, stop, labels):
    found = curve(name, order, stop, labels)
    check(found, N_UNITS)
    gone = found.order.tolist()
    assert found.total > 0.1
    if stop == "none":
        assert sorted(gone) == list(range(N_UNITS))
    else:
        assert 1 <= len(gone) < N_UNITS
        assert STRONG not in gone
    if stop == "share":
        assert found.nats_lost[-1] <= 0.1 * found.total + 1e-9


@every_estimator
@every_order
@pytest.mark.parametrize("labels", [False, True])
def test_noise_and_a_copy_go_before_what_is_needed(name, order, labels):
    place = {unit: n for n, unit in enumerate(curve(name, order, "none", labels).order.tolist())}
    first_copy, second_copy = sorted([place[COPY], place[TWIN]])
    assert place[NOISE] < second_copy
    assert place[NOISE] < place[PAIR] < place[STRONG]
    assert first_copy < place[STRONG]
    lost = np.diff(curve(name, order, "none", labels).nats_lost)
    assert lost[place[NOISE]] < 0.1 * lost[place[STRONG]]
    # one network for all sets makes less of what could stand in for a unit
    assert lost[first_copy] < (0.7 if name == "masked" else 0.3) * lost[second_copy]


@every_estimator
@every_order
def test_the_last_unit_stays_though_nothing_asks_for_it(name, order):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 3, generator=generator), torch.randn(300, 1, generator=generator)
    useless = scorer_of(name, Observations(x, y, torch.arange(3)), n_units=3)
    assert len(eliminate_until(useless, Confidence(0.999), order).order) == 2
    copies = Observations(y.repeat(1, 3), y + 0.5 * x[:, :1], torch.arange(3))
    found = eliminate_until(scorer_of(name, copies, n_units=3), Share(0.5), order)
    assert len(found.order) == 2
    assert found.nats_lost[-1] <= 0.5 * found.total


@every_estimator
@every_stop
def test_where_nothing_is_told_the_total_is_not_below_zero(name, stop):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(100, 4, generator=generator), torch.randn(100, 1, generator=generator)
    found = curve_of(
        scorer_of(name, Observations(x, y, torch.arange(4)), n_units=4), "greedy", stop
    )
    check(found, 4)
    assert 0 <= found.total < 0.1
    assert 0 <= removable(found, 0.9) <= len(found.order)


@every_estimator
def test_the_same_seed_gives_the_same_bits_and_another_one_others(name):
    first, again, other = (scorer_of(name, rows(noise=0.5), seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.estimates(STRONG), again.estimates(STRONG))
    assert not np.array_equal(first.estimates(STRONG), other.estimates(STRONG))
    curves = [curve_of(s, "greedy", "none") for s in (first, again)]
    np.testing.assert_array_equal(curves[0].order, curves[1].order)
    np.testing.assert_array_equal(curves[0].consumer_lost, curves[1].consumer_lost)


@every_estimator
def test_the_global_generators_and_the_rows_are_left_as_they_were(name):
    view = rows()
    before = copy.deepcopy(view)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    scorer = scorer_of(name, view)
    scorer.remove_least(2)
    scorer.estimates(STRONG)
    scorer.transfers(np.array([STRONG]))
    assert torch.equal(view.inputs, before.inputs)
    assert torch.equal(view.targets, before.targets)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002


def two_consumers():
    """The second reads two of the units only, and tells classes from them."""
    plain = rows(n=250)
    part = plain.unit <= NOISE
    labels = (plain.inputs[:, 0] > 0).long()
    return plain, Observations(plain.inputs[:, part], labels, plain.unit[part], uses=2)


@every_estimator
@every_order
@every_stop
def test_curves_of_several_consumers_keep_them_apart(name, order, stop):
    found = curve_of(scorer_of(name, *two_consumers()), order, stop)
    check(found, N_UNITS, 2)
    assert (found.consumer_total > 0.1).all()
    if stop == "share":
        assert (found.consumer_lost[-1] <= 0.1 * found.consumer_total + 1e-9).all()


@every_estimator
def test_nats_of_consumers_are_added_and_none_is_lost_where_a_unit_is_not_read(name):
    views = two_consumers()
    scorer = scorer_of(name, *views)
    assert scorer.total()[0] == pytest.approx(scorer_of(name, views[0]).total()[0], rel=1e-6)
    assert scorer.nats_of(PAIR)[1] == pytest.approx(0, abs=1e-9)
    assert (scorer.nats_of(STRONG) > 0.1).all()
    assert scorer.estimates(STRONG).shape == (5, 2)
    assert scorer.scores()[STRONG] == pytest.approx(scorer.nats_of(STRONG).sum(), rel=1e-6)
    solo = scorer.solo()
    assert solo.shape == (N_UNITS,)
    assert solo[STRONG] > solo[NOISE]


@every_estimator
def test_nats_are_multiplied_by_the_positions_of_an_example(name):
    once, thrice = scorer_of(name), scorer_of(name, rows(uses=3))
    for found, expected in (
        (thrice.total(), once.total()),
        (thrice.solo(), once.solo()),
        (thrice.scores(), once.scores()),
        (thrice.nats_of(PAIR), once.nats_of(PAIR)),
        (thrice.estimates(PAIR), once.estimates(PAIR)),
        (thrice.transfers(np.array([PAIR])), once.transfers(np.array([PAIR]))),
        (thrice.remove(PAIR), once.remove(PAIR)),
    ):
        np.testing.assert_allclose(found, 3 * expected, rtol=1e-6)


@every_estimator
def test_what_is_always_given_is_never_asked_for_and_makes_its_copy_worthless(name):
    view = rows()
    given = Observations(view.inputs, view.targets, torch.where(view.unit == COPY, -1, view.unit))
    scorer = scorer_of(name, given)
    plain = scorer_of(name, view)
    assert scorer.total()[0] == pytest.approx(plain.total()[0], rel=0.15)
    assert scorer.nats_of(TWIN)[0] < 0.2 * scorer.nats_of(STRONG)[0]
    assert scorer.nats_of(COPY)[0] == pytest.approx(0, abs=1e-9)
    still = scorer.transfers(np.array([], dtype=np.int64))[0]
    assert 0.01 < still < 0.5 * scorer.total()[0]
    found = eliminate(scorer, "ordered")
    check(found, N_UNITS)
    assert found.nats_lost[-1] < found.total - 0.5 * still


@every_estimator
def test_all_units_together_transfer_the_total_and_one_alone_its_solo(name):
    scorer = scorer_of(name)
    # trained anew, networks end elsewhere
    rel = {"gaussian": 1e-6, "masked": 1e-6, "mlp": 0.3}[name]
    scorer.remove_least(2)
    everything = scorer.transfers(np.arange(N_UNITS))
    np.testing.assert_allclose(everything, scorer.total(), rtol=rel)
    solo = scorer.solo()
    for unit in (STRONG, COPY, PAIR):
        alone = scorer.transfers(np.array([unit]))
        assert alone.shape == (1,)
        assert alone[0] == pytest.approx(solo[unit], rel=rel, abs=0.02 if name == "mlp" else 1e-9)
    assert scorer.transfers(np.array([], dtype=np.int64))[0] == pytest.approx(0, abs=1e-9)


@every_estimator
def test_removing_gives_what_was_foretold_and_counts_on(name):
    scorer = scorer_of(name)
    for unit in (COPY, NOISE):
        foretold = scorer.nats_of(unit)
        np.testing.assert_allclose(scorer.remove(unit), foretold, rtol=1e-9, atol=1e-12)
    scores = scorer.scores()
    assert np.isinf(scores[[COPY, NOISE]]).all()
    assert np.isfinite(scores[[STRONG, TWIN, PAIR]]).all()
    # with the copy gone its twin is needed
    assert scores[TWIN] > 0.02
    assert [unit for unit, _ in scorer.remove_least(9)][-1] == STRONG
    assert np.isinf(scorer.scores()).all()
    assert scorer.remove_least(1) == []


@every_estimator
def test_a_unit_that_is_gone_or_never_was_is_an_error(name):
    scorer = scorer_of(name)
    scorer.remove(NOISE)
    for unit in (NOISE, N_UNITS, -1):
        for ask in (scorer.remove, scorer.nats_of, scorer.estimates):
            with pytest.raises(InputError, match=f"Unit {unit} is not among the 4 units left"):
                ask(unit)


@every_estimator
def test_five_estimates_scatter_about_what_is_lost_and_can_be_negative(name):
    scorer = scorer_of(name, rows(seed=2))
    strong, noise = scorer.estimates(STRONG), scorer.estimates(NOISE)
    assert strong.shape == noise.shape == (5, 1)
    assert (strong > 0.1).all()
    assert strong.std() > 0
    assert noise.min() < 0
    assert strong.mean() == pytest.approx(scorer.nats_of(STRONG)[0], rel=0.25)


@every_estimator
def test_moments_are_enough_where_the_estimator_says_so(name):
    moments = second_moments(rows())
    if ESTIMATORS[name].reads == "moments":
        check(eliminate(scorer_of(name, moments)), N_UNITS)
        with pytest.raises(InputError, match="Several estimates need rows of observations"):
            scorer_of(name, moments).estimates(STRONG)
    else:
        with pytest.raises(InputError, match=f"'{name}' needs rows of observations"):
            scorer_of(name, moments)


@every_estimator
@every_stop
def test_constant_features_and_single_precision_are_no_trouble(name, stop):
    view = rows(n=200)
    x = torch.cat([view.inputs, torch.full((200, 1), 4.2)], 1).float()
    view = Observations(x, view.targets.float(), torch.cat([view.unit, torch.tensor([5])]))
    found = curve_of(scorer_of(name, view, n_units=6), "ordered", stop)
    check(found, 6)
    assert 5 in found.order[:2]
    assert found.nats_lost[found.order.tolist().index(5) + 1] < 0.05
