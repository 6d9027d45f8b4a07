"""The truth, computed a second time: by enumeration, quadrature, moments, nearest neighbours."""

import itertools

import numpy as np
import pytest
from scipy import integrate, special, stats
from sklearn.feature_selection import mutual_info_regression

from lab import known
from lab.known import Known
from mipp.errors import InputError

ALL = [
    known.sparse_normal(4, 1.0, pairs=2),
    known.dense_normal(3, 0.7),
    known.transformed(known.sparse_normal(2, 0.5), "half_cube", "asinh"),
    known.additive_uniform(0.3, dim=2),
    known.normal_of_variance(),
    known.modular_sum(0.1),
    known.table(np.array([[3.0, 1, 0], [1, 2, 5]])),
    known.parity(3, flip=0.1),
    known.two_classes(2.0, dim=3),
    known.duplicated(2, copies=3),
    known.strong_and_weak(),
    known.two_triples(),
    known.parity(2).with_distractors(3),
]


def gaussian(x, y):
    """-1/2 log of the share of the joint determinant, from the moments of the rows."""
    both = np.corrcoef(np.hstack([x, y]).T)
    d = x.shape[1]
    parts = np.linalg.slogdet(both[:d, :d])[1] + np.linalg.slogdet(both[d:, d:])[1]
    return 0.5 * (parts - np.linalg.slogdet(both)[1])


def plug_in(x, y):
    """Nats of the table of counts of two columns of integers."""
    counts = np.zeros((x.max() + 1, y.max() + 1))
    np.add.at(counts, (x, y), 1)
    p = counts / counts.sum()
    return special.rel_entr(p, np.outer(p.sum(1), p.sum(0))).sum()


def of_bits(x, y, units):
    code = (x[:, sorted(units)].astype(int) @ 2 ** np.arange(len(units))).astype(int)
    return plug_in(code, y)


def neighbours(x, y):
    """KSG from scikit-learn, of two columns."""
    return mutual_info_regression(x.reshape(-1, 1), y.ravel(), random_state=0)[0]


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_samples_have_the_shapes_that_are_promised_and_repeat_with_the_seed(one: Known):
    x, y = one.sample(64, seed=3)
    again, other = one.sample(64, seed=3), one.sample(64, seed=4)
    assert x.shape == (64, one.dim_x)
    assert x.dtype == np.float64
    assert y.shape == (64,) if y.dtype == np.int64 else y.ndim == 2
    assert np.array_equal(x, again[0])
    assert np.array_equal(y, again[1])
    assert not np.array_equal(x, other[0])
    assert one.mi >= 0
    assert set(one.unit) == set(range(one.n_units))
    assert all(units <= set(one.unit) for units in one.enough)


@pytest.mark.parametrize("nats", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_normals_have_the_information_asked_for_and_the_samples_its_moments(dim, nats):
    for one in (known.sparse_normal(dim, nats, pairs=min(2, dim)), known.dense_normal(dim, nats)):
        assert one.mi == pytest.approx(nats, abs=1e-12)
        x, y = one.sample(100_000, seed=1)
        assert gaussian(x, y) == pytest.approx(nats, abs=0.01)
        assert np.abs(np.hstack([x, y]).mean(0)).max() < 0.02
        np.testing.assert_allclose(np.hstack([x, y]).var(0), 1, atol=0.03)


def test_a_normal_pair_has_the_information_that_integrating_its_density_gives():
    rho = 0.8
    one = known.normal(np.array([[1, rho], [rho, 1]]), 1)
    grid = np.linspace(-7, 7, 141)
    x, y = np.meshgrid(grid, grid)
    joint = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).pdf(np.dstack([x, y]))
    ratio = np.log(joint / np.outer(stats.norm.pdf(grid), stats.norm.pdf(grid)))
    assert one.mi == pytest.approx((joint * ratio).sum() * 0.1**2, abs=1e-9)
    assert one.mi == pytest.approx(-0.5 * np.log(1 - rho**2), abs=1e-12)


def test_the_correlations_of_a_dense_normal_are_all_the_same_and_those_of_a_sparse_one_few():
    x, y = known.dense_normal(3, 0.5).sample(100_000)
    off = np.corrcoef(np.hstack([x, y]).T)[np.triu_indices(6, 1)]
    assert np.ptp(off) < 0.02
    assert off.mean() > 0.2
    x, y = known.sparse_normal(3, 0.5).sample(100_000)
    across = np.corrcoef(np.hstack([x, y]).T)[:3, 3:]
    assert across[0, 0] == pytest.approx(np.sqrt(1 - np.exp(-1)), abs=0.01)
    across[0, 0] = 0
    assert np.abs(across).max() < 0.02


@pytest.mark.parametrize(
    ("name", "inverse"),
    [("cube", np.cbrt), ("half_cube", lambda x: np.sign(x) * np.abs(x) ** (2 / 3)),
     ("asinh", np.sinh)],
)  # fmt: skip
def test_a_transformed_normal_is_the_normal_again_once_inverted(name, inverse):
    plain = known.dense_normal(2, 0.8)
    bent = known.transformed(plain, name, name)
    assert bent.mi == plain.mi
    for before, after in zip(plain.sample(500, 5), bent.sample(500, 5), strict=True):
        assert not np.allclose(before, after)
        np.testing.assert_allclose(inverse(after), before, atol=1e-12)


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5, 0.8, 3.0])
def test_additive_noise_has_the_entropy_of_its_trapezoid_less_that_of_the_noise(spread):
    def density(y):
        return max(0.0, min(1.0, y + spread) - max(0.0, y - spread)) / (2 * spread)

    corners = sorted({-spread, spread, 1 - spread, 1 + spread})
    entropy = sum(
        integrate.quad(lambda y: special.entr(density(y)), low, high)[0]
        for low, high in itertools.pairwise(corners)
    )
    one = known.additive_uniform(spread)
    assert one.mi == pytest.approx(entropy - np.log(2 * spread), abs=1e-9)
    assert known.additive_uniform(spread, dim=3).mi == pytest.approx(3 * one.mi)
    x, y = one.sample(5000)
    assert neighbours(x, y) == pytest.approx(one.mi, abs=0.06)
    assert np.abs(y - x).max() < spread


def test_x_of_variance_y_has_the_entropy_of_a_product_of_normals_less_that_given_y():
    # the product of two standard normals has density K0(|x|) / pi
    def of_log(t):
        density = special.k0(np.exp(t)) / np.pi
        return 2 * special.entr(density) * np.exp(t)

    entropy = integrate.quad(of_log, -60, np.log(700), limit=500, epsabs=1e-12)[0]
    of_y = special.digamma(0.5) + np.log(2)  # E log Y of chi2(1)
    truth = entropy - 0.5 * (np.log(2 * np.pi * np.e) + of_y)
    one = known.normal_of_variance()
    assert one.mi == pytest.approx(truth, abs=1e-8)
    x, y = one.sample(5000)
    assert neighbours(x, np.log(y)) == pytest.approx(truth, abs=0.06)
    x, y = one.sample(200_000)
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert y.var() == pytest.approx(2, abs=0.1)
    assert abs(np.corrcoef(x.T, y.T)[0, 1]) < 0.02


def test_the_variance_tells_more_the_more_it_spreads():
    x, y = known.normal_of_variance(2.5).sample(5000)
    powers = [known.normal_of_variance(power).mi for power in (0.1, 0.5, 1, 2.5, 4)]
    assert powers == sorted(powers)
    assert neighbours(np.log(np.abs(x)), np.log(y)) == pytest.approx(powers[3], abs=0.06)


def test_of_a_sum_modulo_one_both_terms_tell_the_noise_and_neither_does_alone():
    one = known.modular_sum(0.1)
    x, y = one.sample(5000)
    assert neighbours((x.sum(1) % 1), y) == pytest.approx(one.mi, abs=0.06)
    assert abs(neighbours(x[:, 0], y)) < 0.05
    assert abs(neighbours(x[:, 1], y)) < 0.05
    # the sum is uniform, so that only the noise is left over: h(Y) = 0, h(Y | X) = log(width)
    assert stats.kstest(y.ravel(), "uniform").pvalue > 0.01
    assert one.mi == pytest.approx(np.log(5))


def test_a_table_has_its_information_by_hand_and_its_samples_its_cells():
    # I = H(Y) - H(Y | X) of a channel that errs in a quarter of the cases
    joint = np.array([[3.0, 1], [1, 3]])
    one = known.table(joint)
    assert one.mi == pytest.approx(np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert known.table(np.outer([1.0, 2], [3, 4, 5])).mi == pytest.approx(0, abs=1e-12)
    assert known.table(np.eye(4)).mi == pytest.approx(np.log(4))
    uneven = known.table(np.array([[0.1, 0.0, 0.3], [0.2, 0.4, 0.0]]))
    x, y = uneven.sample(100_000)
    assert (x.sum(1) == 1).all()
    counts = x.T @ np.eye(3)[y] / len(x)
    np.testing.assert_allclose(counts, [[0.1, 0.0, 0.3], [0.2, 0.4, 0.0]], atol=0.01)
    assert plug_in(x.argmax(1), y) == pytest.approx(uneven.mi, abs=0.01)


@pytest.mark.parametrize(("bits", "flip"), [(1, 0), (2, 0), (2, 0.2), (4, 0.1)])
def test_parity_is_told_by_all_bits_and_by_no_fewer(bits, flip):
    one = known.parity(bits, flip)
    x, y = one.sample(100_000)
    assert of_bits(x, y, range(bits)) == pytest.approx(one.mi, abs=2e-3)
    assert of_bits(x, y, range(bits - 1)) < 1e-3
    enumerated = np.array([[1 - flip, flip], [flip, 1 - flip]]) / 2
    assert one.mi == pytest.approx(known.table(enumerated).mi, abs=1e-12)


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 8.0])
def test_two_classes_have_the_entropy_of_the_mixture_less_that_of_a_class(distance):
    def mixture(x):
        return (stats.norm.pdf(x - distance / 2) + stats.norm.pdf(x + distance / 2)) / 2

    entropy = integrate.quad(lambda x: special.entr(mixture(x)), -16, 16, limit=200)[0]
    truth = entropy - 0.5 * np.log(2 * np.pi * np.e)
    assert known.two_classes(distance).mi == pytest.approx(truth, abs=1e-8)
    x, y = known.two_classes(distance, dim=4).sample(100_000)
    means = [x[y == label].mean(0) for label in (0, 1)]
    assert np.linalg.norm(means[1] - means[0]) == pytest.approx(distance, abs=0.03)
    np.testing.assert_allclose(np.cov(x[y == 0].T), np.eye(4), atol=0.05)


def minimal(n_units, tells_all):
    """The sets that tell all and of which none can be spared, by trying every set."""
    found = []
    for size in range(n_units + 1):
        for units in map(frozenset, itertools.combinations(range(n_units), size)):
            if not any(smaller <= units for smaller in found) and tells_all(units):
                found.append(units)
    return set(found)


@pytest.mark.parametrize(
    "one", [known.strong_and_weak(), known.duplicated(2, 2), known.duplicated(1, 4),
            known.sparse_normal(4, 1.0, pairs=2), known.dense_normal(3, 1.0)],
    ids=lambda one: one.name,
)  # fmt: skip
def test_the_sets_of_real_units_that_are_enough_are_those_that_brute_force_finds(one):
    x, y = one.sample(50_000, seed=2)
    # copies make the moments singular: the residual of a regression does not mind
    total = gaussian_of(x, y)
    assert total == pytest.approx(one.mi, abs=0.02)
    found = minimal(one.n_units, lambda units: gaussian_of(x[:, sorted(units)], y) > total - 0.01)
    assert found == set(one.enough)


def gaussian_of(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0] if x.shape[1] else y
    logdet = [np.linalg.slogdet(values.T @ values)[1] for values in (y, left)]
    return 0.5 * (logdet[0] - logdet[1])


@pytest.mark.parametrize(
    "one", [known.two_triples(), known.parity(3)], ids=lambda one: one.name
)  # fmt: skip
def test_the_sets_of_bits_that_are_enough_are_those_that_brute_force_finds(one):
    x, y = one.sample(50_000, seed=2)
    found = minimal(one.n_units, lambda units: of_bits(x, y, units) > one.mi - 0.01)
    assert found == set(one.enough)


def test_distractors_are_independent_units_that_change_no_truth():
    one = known.normal_of_variance().with_distractors(2)
    assert one.mi == known.normal_of_variance().mi
    assert one.unit == (0, 1, 2)
    assert one.enough == (frozenset({0}),)
    x, y = one.sample(50_000)
    assert np.abs(np.corrcoef(np.hstack([x, y]).T)[1:3][:, [0, 3]]).max() < 0.02
    np.testing.assert_array_equal(x[:, :1], known.normal_of_variance().sample(50_000)[0])
    assert known.parity(2).with_distractors(0).dim_x == 2


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: known.parity().sample(0), "at least one row"),
        (lambda: known.parity().with_distractors(-1), "expected a count of units"),
        (lambda: known.normal(np.ones((2, 3)), 1), "square symmetric matrix"),
        (lambda: known.normal(np.eye(2), 2), r"dim_x=2; expected between 1 and 1"),
        (lambda: known.normal(np.ones((2, 2)), 1), "not positive definite"),
        (lambda: known.sparse_normal(2, -1.0), "nats=-1.0; expected a finite number, 0 or more"),
        (lambda: known.dense_normal(2, float("inf")), "nats=inf"),
        (lambda: known.sparse_normal(2, 1.0, pairs=3), "pairs=3; expected between 1 and dim=2"),
        (lambda: known.transformed(known.parity(), of_y="cube"), "class indices"),
        (lambda: known.transformed(known.parity(), of_x="sine"), "of_x='sine'; expected one of"),
        (lambda: known.additive_uniform(0), "spread=0; expected half the noise's width"),
        (lambda: known.normal_of_variance(0.01), "power=0.01; expected between 0.1 and 4"),
        (lambda: known.modular_sum(0.6), r"spread=0\.6; expected above 0, and at most 0\.5"),
        (lambda: known.table(np.array([[1.0, -1.0]])), "non-negative numbers"),
        (lambda: known.parity(0), "one bit or more"),
        (lambda: known.two_classes(-1), "distance=-1; expected 0 or more"),
        (lambda: known.duplicated(0), "one or more of each"),
        (lambda: known.strong_and_weak(0.0), r"noise=0\.0; expected a standard deviation above 0"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_an_error_that_says_what_has(make, text):
    with pytest.raises(InputError, match=text):
        make()
