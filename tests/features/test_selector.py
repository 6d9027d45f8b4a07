"""The scikit-learn selector: scikit-learn's own checks, and what it selects."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import mipp
from lab import known
from mipp.errors import InputError
from mipp.information import Masked


@parametrize_with_checks(
    [mipp.FeatureSelector(), mipp.FeatureSelector(n_features_to_select=0.5, order="greedy")]
)
def test_scikit_learn_finds_nothing_to_complain_about(estimator, check):
    check(estimator)


@pytest.mark.parametrize("order", ["ordered", "greedy"])
def test_it_selects_what_terc_keeps(order):
    x, y = known.duplicated(3, 1).with_distractors(5).sample(500, seed=0)
    selector = mipp.FeatureSelector(order=order, confidence=0.6, random_state=7).fit(x, y)
    found = mipp.terc(x, y, order=order, confidence=0.6, seed=7)
    assert 3 <= len(found.kept) < 8
    np.testing.assert_allclose(selector.selection_.nats_lost, found.nats_lost, atol=1e-5)
    assert selector.get_support(indices=True).tolist() == found.kept.tolist()
    np.testing.assert_array_equal(selector.transform(x), x[:, found.kept])
    back = selector.inverse_transform(selector.transform(x))
    np.testing.assert_array_equal(back, np.where(selector.support_, x, 0))


@pytest.mark.parametrize("order", ["ordered", "greedy"])
@pytest.mark.parametrize(("asked", "n"), [(2, 2), (np.int64(3), 3), (0.5, 3), (1.0, 6), (0.01, 1)])
def test_so_many_features_stay_as_were_asked_for(asked, n, order):
    x, y = known.strong_and_weak().sample(500, seed=1)
    selector = mipp.FeatureSelector(n_features_to_select=asked, order=order).fit(x, y)
    assert selector.support_.sum() == n
    if n == 2 and order == "ordered":
        assert selector.get_support(indices=True).tolist() == [0, 1]


def test_one_feature_stays_where_none_tells_anything():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 4)), rng.standard_normal(200)
    selector = mipp.FeatureSelector().fit(x, y)
    assert selector.selection_.kept.tolist() == []
    assert selector.get_support(indices=True).tolist() == [selector.selection_.order[-1]]


def test_labels_of_any_type_are_classes_and_floats_are_numbers_unless_told_otherwise():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 3))
    # classes 0, 1, 2 of which the middle one is told by unit 1, and their order by nothing
    label = np.where(np.abs(x[:, 1]) < 0.6, 1, 2 * rng.integers(0, 2, 300))
    x[:, 1] = np.abs(x[:, 1])
    as_text = np.array(["low", "mid", "top"])[label]
    for y in (label, as_text):
        assert mipp.FeatureSelector().fit(x, y).get_support(indices=True).tolist() == [1]
    by_class = mipp.FeatureSelector(discrete_target=True).fit(x, label.astype(float))
    assert by_class.get_support(indices=True).tolist() == [1]
    # as numbers their mean does not depend on unit 1
    by_number = mipp.FeatureSelector(discrete_target=False).fit(x, label)
    assert by_number.selection_.total < 0.05 < by_class.selection_.total


def test_features_far_from_zero_keep_their_digits():
    x, y = known.strong_and_weak().sample(500, seed=2)
    assert mipp.FeatureSelector().fit(x + 1e8, y).get_support(indices=True).tolist() == [0, 1]


def test_it_works_inside_a_pipeline_with_an_estimator_that_learns():
    x, y = known.parity(2).with_distractors(2).sample(400, seed=3)
    learned = Masked(hidden=(32,), learning_rate=3e-3, patience=20)
    selector = mipp.FeatureSelector(learned, n_features_to_select=2)
    assert selector.fit(x, y).get_support(indices=True).tolist() == [0, 1]
    blind = make_pipeline(mipp.FeatureSelector(n_features_to_select=2), LogisticRegression())
    assert cross_val_score(blind, x[:, :3], y, cv=3).shape == (3,)


def test_names_of_features_come_out():
    x, y = known.strong_and_weak().sample(200, seed=4)
    selector = mipp.FeatureSelector(n_features_to_select=2).fit(x, y)
    assert selector.get_feature_names_out(list("abcdef")).tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"n_features_to_select": 0}, "n_features_to_select=0 of 6; expected a whole number from"),
        ({"n_features_to_select": 1.2}, "n_features_to_select=1.2 of 6"),
        ({"n_features_to_select": "all"}, "n_features_to_select='all' of 6"),
        ({"confidence": 0.2}, "expected at least 0.5"),
        ({"order": "fast"}, "order='fast'; expected 'ordered' or 'greedy'"),
        ({"discrete_target": "yes"}, "discrete_target='yes'; expected 'auto', True or False"),
        ({"discrete_target": True}, r"y has shape \(200, 2\); classes have shape"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_by_fit(given, text):
    x, y = known.strong_and_weak().sample(200, seed=5)
    with pytest.raises(InputError, match=text):
        mipp.FeatureSelector(**given).fit(x, y)
