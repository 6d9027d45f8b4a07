"""Five-fold estimates: against refitting from scratch, and what they must not be shaken by."""

import numpy as np
import pytest
import torch

from mipp.errors import InputError
from mipp.information import Gaussian, Observations
from mipp.information.gaussian.crossvalidated import N_FOLDS, CrossValidated, _folds
from mipp.information.views import example_of, real_targets

NOBODY = np.array([], dtype=np.int64)


def rows_of(seed, n=200, sizes=(1, 3, 2, 1), given=2, outputs=3, **fields):
    """Correlated features of units of several sizes, always given ones between them."""
    generator = torch.Generator().manual_seed(seed)
    d = sum(sizes) + given

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    names = [u for u, size in enumerate(sizes) for _ in range(size)] + [-1] * given
    unit = torch.tensor(names)[torch.randperm(d, generator=generator)]
    x = normal(n, d) @ normal(d, d) + normal(d) * 3
    y = x @ normal(d, outputs) / d + normal(n, outputs) @ normal(outputs, outputs) + normal(outputs)
    return Observations(x, y, unit, **fields)


def log_density(x, y, fold, f, floor):
    """Mean log density of the targets of fold `f`, by least squares on the other four."""
    fit, test = fold != f, fold == f
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    design = torch.cat([x, ones], 1)
    weight = torch.linalg.lstsq(design[fit], y[fit]).solution
    left = y - design @ weight
    covariance = left[fit].T @ left[fit] / int(fit.sum()) + torch.diag(floor)
    normal = torch.distributions.MultivariateNormal(torch.zeros(y.shape[1]).double(), covariance)
    return float(normal.log_prob(left[test]).mean())


def refitted(view, unit, gone=(), seed=0):
    """The five estimates with two least-squares fits each."""
    y, fold = real_targets(view), _folds(example_of(view), seed)
    floor = 1e-9 * y.var(0, correction=0)
    left = ~torch.isin(view.unit, torch.tensor([*gone, -2]))
    with_it, without = view.inputs[:, left], view.inputs[:, left & (view.unit != unit)]
    return np.array([
        view.uses * (log_density(with_it, y, fold, f, floor)
                     - log_density(without, y, fold, f, floor))
        for f in range(N_FOLDS)
    ])  # fmt: skip


@pytest.mark.parametrize("case", range(4))
def test_estimates_are_what_two_fits_from_scratch_say_after_any_removals(case):
    repeated = torch.arange(200) // 3
    view = rows_of(
        case, sizes=[(1, 1, 1, 1), (1, 3, 2, 1), (4, 1, 0, 2), (2, 2, 2, 2)][case],
        given=[0, 2, 1, 0][case], outputs=[1, 3, 12, 2][case], uses=1 + case,
        example=repeated if case % 2 else None,
    )  # fmt: skip
    folds = CrossValidated(view, 0.0, 7, NOBODY)
    gone = []
    for unit in (2, 0, 3):
        for other in range(4):
            if other not in gone:
                np.testing.assert_allclose(
                    folds.estimates(other), refitted(view, other, gone, 7), rtol=1e-8, atol=1e-8
                )
        folds.remove(unit)
        gone.append(unit)
    np.testing.assert_allclose(folds.estimates(1), refitted(view, 1, gone, 7), rtol=1e-8, atol=1e-8)


def test_units_removed_before_the_folds_were_made_are_not_in_them():
    view = rows_of(3)
    early = CrossValidated(view, 1e-6, 0, np.array([1, 3]))
    late = CrossValidated(view, 1e-6, 0, NOBODY)
    late.remove(3)
    late.remove(1)
    np.testing.assert_allclose(early.estimates(0), late.estimates(0), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(early.estimates(2), refitted(view, 2, [1, 3]), rtol=1e-3, atol=1e-5)


def test_class_indices_are_estimated_as_indicators():
    view = rows_of(5)
    labels = (view.inputs[:, 0] > view.inputs[:, 0].mean()).long() + (view.inputs[:, 1] > 0).long()
    classes = Observations(view.inputs, labels, view.unit)
    found = CrossValidated(classes, 0.0, 0, NOBODY).estimates(1)
    np.testing.assert_allclose(found, refitted(classes, 1), rtol=1e-8, atol=1e-8)


def test_rows_of_one_example_are_in_one_fold_and_folds_are_of_one_size():
    example = torch.randint(0, 40, (500,), generator=torch.Generator().manual_seed(0))
    fold = _folds(example, 3)
    for name in range(40):
        assert len(set(fold[example == name].tolist())) == 1
    alone = _folds(torch.arange(23), 3)
    assert torch.bincount(alone).tolist() == [5, 5, 5, 4, 4]
    assert not torch.equal(alone, _folds(torch.arange(23), 4))


def test_copies_of_one_example_are_not_told_from_themselves():
    """Thirty examples, twenty equal rows each: a row of noise predicts nothing of another."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 6, generator=generator).double().repeat_interleave(20, 0)
    y = torch.randn(30, 1, generator=generator).double().repeat_interleave(20, 0)
    split = CrossValidated(Observations(x, y, torch.zeros(6).long()), 1e-6, 0, NOBODY)
    whole = CrossValidated(
        Observations(x, y, torch.zeros(6).long(), example=torch.arange(600) // 20), 1e-6, 0, NOBODY
    )
    assert split.estimates(0).mean() > 0.02
    assert whole.estimates(0).mean() < -0.02


def test_constant_and_duplicated_features_and_targets_change_nothing():
    view = rows_of(4, sizes=(1, 1, 1, 1), given=0)
    n = len(view.inputs)
    rare = torch.zeros(n, 1, dtype=torch.float64)
    rare[0] = 1.0  # in four fits of five it is the same number in every row
    x = torch.cat([view.inputs, torch.full((n, 1), 3.7).double(), rare, view.inputs[:, :1]], 1)
    y = torch.cat([view.targets, torch.full((n, 1), -2.3).double()], 1)
    unit = torch.cat([view.unit, torch.tensor([4, 5, 6])])
    original = int(view.unit[0])
    plain = CrossValidated(view, 1e-9, 0, NOBODY)
    folds = CrossValidated(Observations(x, y, unit), 1e-9, 0, NOBODY)
    np.testing.assert_allclose(folds.estimates(4), 0, atol=1e-9)
    np.testing.assert_allclose(folds.estimates(original), 0, atol=1e-6)
    np.testing.assert_allclose(folds.estimates(6), 0, atol=1e-6)
    for unit in (6, 4, 5):
        folds.remove(unit)
    for unit in range(4):
        np.testing.assert_allclose(folds.estimates(unit), plain.estimates(unit), atol=1e-6)


def test_a_target_given_twice_breaks_nothing():
    view = rows_of(4)
    twice = Observations(view.inputs, torch.cat([view.targets] * 2, 1), view.unit)
    assert np.isfinite(CrossValidated(twice, 1e-6, 0, NOBODY).estimates(1)).all()


def test_a_unit_that_the_consumer_does_not_read_loses_nothing():
    folds = CrossValidated(rows_of(0), 1e-6, 0, NOBODY)
    np.testing.assert_array_equal(folds.estimates(9), np.zeros(5))
    folds.remove(9)
    folds.remove(1)
    np.testing.assert_array_equal(folds.estimates(1), np.zeros(5))


def test_estimates_do_not_depend_on_the_scale_of_features_and_targets():
    view = rows_of(6)
    scaled = Observations(view.inputs * 1e4 - 7, view.targets * 1e-3 + 5, view.unit)
    for unit in range(4):
        np.testing.assert_allclose(
            CrossValidated(scaled, 1e-6, 0, NOBODY).estimates(unit),
            CrossValidated(view, 1e-6, 0, NOBODY).estimates(unit),
            rtol=1e-6, atol=1e-9,
        )  # fmt: skip


def test_the_mean_estimate_is_the_information_that_the_variables_share():
    """Y = X + noise: Delta is 1/2 log(1 + variance ratio), 20 000 rows tell it to a few percent."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 2, generator=generator).double()
    y = x * torch.tensor([1.0, 0.2]) + torch.randn(20_000, 2, generator=generator)
    folds = CrossValidated(Observations(x, y, torch.arange(2), uses=3), 1e-6, 0, NOBODY)
    for unit, ratio in ((0, 1.0), (1, 0.04)):
        truth = 3 * 0.5 * np.log1p(ratio)
        assert folds.estimates(unit).mean() == pytest.approx(truth, rel=0.08)


def test_noise_free_targets_are_seen_through_noise_of_the_views_variance():
    """Y = X exactly, seen through noise of variance v: 1/2 log(1 + 1 / v)."""
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)).double()
    for noise in (0.5, 4.0):
        view = Observations(x, x.clone(), torch.zeros(1).long(), noise=noise)
        found = CrossValidated(view, 1e-6, 0, NOBODY).estimates(0).mean()
        assert found == pytest.approx(0.5 * np.log1p(1 / noise), rel=0.05)


def test_the_noise_comes_from_the_seed_and_differs_between_consumers():
    view = rows_of(1, noise=1.0)
    first = CrossValidated(view, 1e-6, 5, NOBODY).estimates(1)
    np.testing.assert_array_equal(first, CrossValidated(view, 1e-6, 5, NOBODY).estimates(1))
    other = CrossValidated(view, 1e-6, 5, NOBODY, consumer=1).estimates(1)
    assert not np.allclose(first, other)
    scorer = Gaussian().scorer([view, view], 4, seed=5)
    np.testing.assert_array_equal(scorer.estimates(1), np.stack([first, other], 1))


def test_a_scorer_keeps_its_folds_in_step_with_what_it_removed():
    view = rows_of(2)
    asked_before, asked_after = (Gaussian().scorer([view], 4) for _ in range(2))
    asked_before.estimates(0)
    for scorer in (asked_before, asked_after):
        scorer.remove(2)
        scorer.remove_least(1)
    left = int(np.argmin(asked_before.scores()))
    np.testing.assert_allclose(
        asked_before.estimates(left), asked_after.estimates(left), rtol=1e-8, atol=1e-10
    )


def test_moments_alone_have_no_folds():
    from mipp.information.views import second_moments

    scorer = Gaussian().scorer([rows_of(0), second_moments(rows_of(0))], 4)
    with pytest.raises(InputError, match="Several estimates need rows of observations, and this"):
        scorer.estimates(0)


def test_fewer_than_five_examples_are_an_error():
    view = rows_of(0, example=torch.arange(200) % 4)
    with pytest.raises(InputError, match="come from 4 examples; five estimates need 5"):
        CrossValidated(view, 1e-6, 0, NOBODY)


def test_fewer_rows_than_features_are_an_error():
    view = rows_of(0, n=40, sizes=(30, 2))
    with pytest.raises(InputError, match="Four folds have 32 rows for 34 features; least squares"):
        CrossValidated(view, 1e-6, 0, NOBODY)
    CrossValidated(view, 1e-6, 0, np.array([0]))
    CrossValidated(rows_of(0, n=50, sizes=(30, 2)), 1e-6, 0, NOBODY)


def test_targets_that_say_nothing_leave_nothing_to_lose():
    """One class alone, or outputs of which the loss sees none."""
    view = rows_of(0)
    n = len(view.inputs)
    for targets in (torch.zeros(n).long(), torch.zeros(n, 0).double()):
        silent = Observations(view.inputs, targets, view.unit)
        np.testing.assert_array_equal(CrossValidated(silent, 1e-6, 0, NOBODY).estimates(0), 0)
        scorer = Gaussian().scorer([silent], 4)
        np.testing.assert_allclose(scorer.total(), 0, atol=1e-12)
        np.testing.assert_allclose(scorer.scores(), 0, atol=1e-12)
