"""TERC on its own: which units stay, in which order the others go, and what that loses."""

import numpy as np
import pytest
import torch

from lab import known
from mipp.errors import InputError
from mipp.features import terc
from mipp.information import Gaussian, Masked, Mlp, mutual_information
from mipp.selection import Confidence, Share

MLP = Mlp(hidden=(64, 64), batch_size=64, learning_rate=3e-3)
# to `masked` a copy is worth something as long as its twin is there, so it is never surely useless
LEARNED = {"mlp": (MLP, 600, {}), "masked": (Masked(), 1500, {"share": 0.7})}


def four_redundant_variables(n, seed):
    """Six bits: three, and three more copies of the first. The label: are the three equal?

    With the next one, a synthetic set of arXiv 2401.11512, as its authors' code makes it
    (github.com/c-s-westphal/terc-rl, terc/pipelines/synthetic.py; there with 10,000 rows).
    """
    bits = np.random.default_rng(seed).integers(0, 2, size=(n, 3))
    x = np.concatenate([bits, bits[:, [0, 0, 0]]], axis=1)
    return x.astype(float), (bits.min(1) == bits.max(1)).astype(int)


def two_redundant_triples(n, seed):
    """Six bits: three, and a copy of each. The label: are the three equal?"""
    bits = np.random.default_rng(seed).integers(0, 2, size=(n, 3))
    return np.hstack([bits, bits]).astype(float), (bits.min(1) == bits.max(1)).astype(int)


@pytest.mark.parametrize(
    ("name", "order"), [("mlp", "ordered"), ("masked", "ordered"), ("masked", "greedy")]
)
def test_of_four_redundant_variables_one_stays_with_the_two_others(name, order):
    estimator, n, rule = LEARNED[name]
    x, y = four_redundant_variables(n, seed=1)
    found = terc(x, y, estimator=estimator, order=order, **rule)
    kept = set(found.kept.tolist())
    assert len(kept) == 3
    assert {1, 2} < kept


@pytest.mark.parametrize(
    ("name", "order"), [("mlp", "ordered"), ("masked", "ordered"), ("masked", "greedy")]
)
def test_of_two_redundant_triples_one_of_each_pair_stays(name, order):
    estimator, n, rule = LEARNED[name]
    x, y = two_redundant_triples(n, seed=1)
    found = terc(x, y, estimator=estimator, order=order, **rule)
    assert sorted(found.kept % 3) == [0, 1, 2]


@pytest.mark.parametrize("made", [four_redundant_variables, two_redundant_triples])
def test_the_gaussian_estimator_is_blind_to_both_of_these_sets(made):
    # the label is (1 + ab + bc + ca) / 4 of signs a, b, c: every bit on its own is uncorrelated
    x, y = made(1500, seed=3)
    assert mutual_information(x, y) < 0.01


@pytest.mark.parametrize("order", ["ordered", "greedy"])
def test_one_of_every_set_of_copies_stays_and_no_noise(order):
    sources = known.duplicated(sources=3, copies=2).with_distractors(4)
    x, y = sources.sample(2000, seed=0)
    found = terc(x, y, order=order)
    assert frozenset(found.kept.tolist()) in sources.enough


def test_of_two_redundant_sets_the_smaller_stays():
    two = known.strong_and_weak()
    x, y = two.sample(2000, seed=0)
    assert terc(x, y).kept.tolist() == [0, 1]
    turned = terc(x[:, ::-1].copy(), y)
    assert turned.kept.tolist() == [4, 5]


@pytest.mark.parametrize("order", ["ordered", "greedy"])
def test_without_a_rule_the_elimination_goes_on_to_the_end(order):
    x, y = known.strong_and_weak().sample(1000, seed=1)
    found = terc(x, y, order=order)
    assert sorted(found.order) == list(range(6))
    assert len(found.nats_lost) == 7
    assert found.nats_lost[0] == 0
    assert (np.diff(found.nats_lost) >= 0).all()
    assert found.nats_lost[-1] == pytest.approx(found.total, rel=1e-6)
    assert found.total == pytest.approx(mutual_information(x, y), rel=1e-9)
    # what the test let go went first
    n_kept = len(found.kept)
    assert found.last(n_kept).tolist() == found.kept.tolist()


@pytest.mark.parametrize("order", ["ordered", "greedy"])
@pytest.mark.parametrize(
    "rule", [{"stop": Share(0.9)}, {"share": 0.9}, {"confidence": 0.9}, {"keep": 2}, {"keep": 0.34}]
)
def test_with_a_rule_the_order_has_those_that_went_and_no_others(order, rule):
    x, y = known.strong_and_weak().sample(1000, seed=2)
    found = terc(x, y, order=order, **rule)
    assert sorted([*found.order, *found.kept]) == list(range(6))
    assert len(found.nats_lost) == len(found.order) + 1
    if "keep" in rule:
        assert len(found.kept) == 2
    elif "confidence" not in rule:
        assert found.nats_lost[-1] <= 0.1 * found.total * (1 + 1e-6)


def test_keeping_so_many_in_one_pass_drops_what_is_redundant_first():
    # by information of each on its own, a copy of the best would come second
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2000, 2))
    x = np.column_stack([z[:, 0], z[:, 0], z[:, 1]])
    y = np.column_stack([2 * z[:, 0], z[:, 1]]) + rng.standard_normal((2000, 2))
    for order in ("ordered", "greedy"):
        kept = terc(x, y, order=order, keep=2).kept
        assert 2 in kept


def test_no_unit_stays_where_none_tells_anything():
    rng = np.random.default_rng(1)
    found = terc(rng.standard_normal((400, 3)), rng.standard_normal(400))
    assert found.kept.tolist() == []
    assert not found.mask.any()
    assert terc(rng.standard_normal((400, 1)), rng.standard_normal(400)).kept.tolist() == []


def test_a_single_unit_that_tells_something_stays():
    rng = np.random.default_rng(2)
    x = rng.standard_normal(300)
    assert terc(x, x + rng.standard_normal(300)).kept.tolist() == [0]


def test_units_of_several_features_go_as_a_whole_and_given_ones_never():
    rng = np.random.default_rng(3)
    z = rng.standard_normal((1500, 3))
    # features 1 and 3 make unit 0; feature 0 is given and says what unit 1 says
    x = np.column_stack([z[:, 0], z[:, 1], z[:, 0], z[:, 2]])
    y = z + 0.5 * rng.standard_normal((1500, 3))
    found = terc(x, y, units=[-1, 0, 1, 0])
    assert found.kept.tolist() == [0]
    assert found.mask.tolist() == [True, True, False, True]
    assert np.isinf(found.scores[0])
    assert found.scores[1] == found.scores[3] > 0.5 > found.scores[2]


def test_features_that_score_above_a_threshold_lose_no_more_than_it():
    x, y = known.strong_and_weak().sample(1000, seed=4)
    found = terc(x, y, keep=1, order="greedy")
    assert np.isinf(found.scores[found.kept]).all()
    for threshold in (0.05, 0.5, 1.0):
        stay = np.flatnonzero(found.scores > threshold)
        without = found.total - mutual_information(x[:, stay], y)
        assert without <= threshold + 1e-6


def test_order_and_scale_of_the_features_do_not_matter():
    x, y = known.duplicated(2, 1).with_distractors(3).sample(800, seed=5)
    turn = np.array([3, 0, 4, 1, 2])
    plain, other = terc(x, y), terc(7 * x[:, turn] + 3, y)
    assert turn[other.order].tolist() == plain.order.tolist()
    np.testing.assert_allclose(other.nats_lost, plain.nats_lost, atol=1e-5)


def test_labels_tensors_and_one_column_are_taken_as_they_come():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((500, 3))
    label = x[:, 1] > 0
    by_array = terc(x, label)
    by_tensor = terc(torch.as_tensor(x), torch.as_tensor(label))
    assert by_array.kept.tolist() == by_tensor.kept.tolist() == [1]


def test_the_same_seed_gives_the_same_selection():
    x, y = known.duplicated(2, 2).sample(300, seed=7)
    tiny = Masked(hidden=(8,), epochs=3)
    first, second = (terc(x, y, estimator=tiny, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.nats_lost, second.nats_lost)
    np.testing.assert_array_equal(first.order, second.order)


def test_more_units_than_the_elimination_left_cannot_be_taken_apart():
    x, y = known.duplicated(2, 2).sample(300, seed=8)
    found = terc(x, y, keep=3)
    with pytest.raises(InputError, match="2 units were asked for; this elimination has 3 to 4"):
        found.last(2)
    assert found.last(4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"keep": 2, "share": 0.9}, "share=, keep= were given; give one of them"),
        ({"keep": 0}, r"keep=0 of 4; expected a whole number from 1 to 4"),
        ({"keep": 5}, "or a share above 0.0"),
        ({"keep": 1.5}, r"keep=1.5 of 4"),
        ({"keep": True}, r"keep=True\) was given, of type bool; expected a number"),
        ({"share": 0.0}, "share=0.0; expected the share of the information"),
        ({"share": 2}, "above 0 and at most 1"),
        ({"confidence": 0.3}, "expected at least 0.5"),
        ({"order": "fast"}, "expected 'ordered' or 'greedy'"),
        ({"estimator": "best"}, "is not known"),
        ({"estimator": Gaussian}, r"call the class: Gaussian\(\)"),
        ({"units": [0, 1, 2]}, r"units has shape \(3,\)"),
        ({"units": [0.0, 1.0, 2.0, 3.0]}, "expected whole numbers"),
        ({"units": [0, 0, 2, 2]}, "every number from 0 to the last"),
        ({"units": [-1, -1, -1, -1]}, "every number from 0 to the last"),
        ({"units": "pixels"}, "expected 'positions', 'channels', 'features'"),
    ],
)
def test_what_does_not_fit_is_refused(given, text):
    x, y = known.duplicated(2, 2).sample(100, seed=9)
    with pytest.raises(InputError, match=text):
        terc(x, y, **given)


def test_a_stop_rule_of_ones_own_is_asked():
    class NeverTheLast:
        def may_go(self, scorer, unit, lost, total):
            return unit != 2

    x, y = known.duplicated(3, 1).sample(100, seed=10)
    assert terc(x, y, stop=NeverTheLast()).kept.tolist() == [2]
    assert len(terc(x, y, stop=Confidence(0.5)).kept) == 3
