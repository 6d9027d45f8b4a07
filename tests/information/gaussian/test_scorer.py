"""The closed form: against the slow reference, against brute force, and for its invariances."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mipp.errors import InputError
from mipp.information import ConsumerView, Gaussian
from mipp.information.gaussian.downdate import delta

from .reference import eliminate, gaussian_information

NO_RIDGE = 1e-14


def random_view(seed, n_units=5, k=2, outputs=3, context=0, uses=1, fisher_scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    d = n_units * k + context

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root, noise_root = normal(d, d + 3), normal(outputs, outputs)
    unit = torch.full((d,), -1)
    places = torch.randperm(d, generator=generator)[: n_units * k]
    unit[places] = torch.arange(n_units).repeat_interleave(k)
    return ConsumerView(
        covariance=root @ root.T / d,
        weight=normal(outputs, d),
        fisher=noise_root @ noise_root.T * fisher_scale,
        unit=unit,
        uses=uses,
    )


def noise_of(view, noise):
    if noise == "fisher":
        return np.linalg.inv(view.fisher.numpy())
    variance = (view.weight @ view.covariance @ view.weight.T).diagonal()
    return np.diag(noise * variance.numpy())


def features(view, n_units):
    return [torch.where(view.unit == u)[0].tolist() for u in range(n_units)]


def lost(steps):
    return np.cumsum([nats.sum() for _, nats in steps])


@pytest.mark.parametrize("noise", ["fisher", 0.1])
@pytest.mark.parametrize(
    ("n_units", "k", "outputs", "context"),
    [(6, 1, 3, 0), (5, 3, 8, 2), (6, 2, 20, 0), (4, 4, 1, 5)],
)
def test_elimination_agrees_with_brute_force_from_scratch(noise, n_units, k, outputs, context):
    for seed in range(5):
        view = random_view(seed, n_units, k, outputs, context, uses=7, fisher_scale=1e-2)
        slow = eliminate(
            view.covariance.numpy(),
            view.weight.numpy(),
            noise_of(view, noise),
            features(view, n_units),
        )
        fast = (
            Gaussian(noise=noise, small_losses=False, ridge=NO_RIDGE)
            .scorer([view], n_units)
            .remove_least(n_units)
        )
        assert [unit for unit, _ in fast] == [unit for unit, _ in slow]
        np.testing.assert_allclose(lost(fast), [7 * nats for _, nats in slow], rtol=1e-6)


def test_total_and_solo_are_the_closed_form():
    view = random_view(3, n_units=4, k=2, outputs=3, uses=5)
    scorer = Gaussian(small_losses=False, ridge=NO_RIDGE).scorer([view], 4)
    arguments = view.covariance.numpy(), view.weight.numpy(), noise_of(view, "fisher")
    everything = gaussian_information(*arguments, range(8))
    assert scorer.total()[0] == pytest.approx(5 * everything, rel=1e-9)
    solo = [5 * gaussian_information(*arguments, unit) for unit in features(view, 4)]
    np.testing.assert_allclose(scorer.solo(), solo, rtol=1e-8)


def test_two_correlated_gaussians_have_minus_half_log_one_minus_rho_squared():
    rho = 0.8
    # Y = rho X + noise of variance 1 - rho^2 has correlation rho with X
    view = ConsumerView(
        covariance=torch.ones(1, 1, dtype=torch.float64),
        weight=torch.full((1, 1), rho, dtype=torch.float64),
        fisher=torch.full((1, 1), 1 / (1 - rho**2), dtype=torch.float64),
        unit=torch.zeros(1, dtype=torch.int64),
        uses=1,
    )
    total = Gaussian(small_losses=False, ridge=NO_RIDGE).scorer([view], 1).total()[0]
    assert total == pytest.approx(-0.5 * np.log(1 - rho**2), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3]))
def test_low_rank_scores_equal_scores_recomputed_on_what_is_left(seed, k):
    view = random_view(seed, n_units=6, k=k, outputs=4)
    scorer = Gaussian(small_losses=False, ridge=NO_RIDGE).scorer([view], 6)
    gone = [unit for unit, _ in scorer.remove_least(3)]
    left = [u for u in range(6) if u not in gone]
    arguments = view.covariance.numpy(), view.weight.numpy(), noise_of(view, "fisher")
    parts = features(view, 6)

    def information(units):
        return gaussian_information(*arguments, [f for u in units for f in parts[u]])

    for unit in left:
        scratch = information(left) - information([u for u in left if u != unit])
        assert scorer.scores()[unit] == pytest.approx(scratch, rel=1e-6, abs=1e-12)
        assert scorer.nats_of(unit).sum() == pytest.approx(scratch, rel=1e-6, abs=1e-12)
    assert np.isinf(scorer.scores()[gone]).all()


def test_greedy_is_the_best_single_removal_at_every_step():
    view = random_view(11, n_units=5, k=1, outputs=2)
    arguments = view.covariance.numpy(), view.weight.numpy(), noise_of(view, "fisher")
    first = Gaussian(small_losses=False, ridge=NO_RIDGE).scorer([view], 5).remove_least(1)[0][0]
    kept = {
        left: gaussian_information(*arguments, left) for left in itertools.combinations(range(5), 4)
    }
    assert set(range(5)) - set(max(kept, key=kept.get)) == {first}


@pytest.mark.parametrize("noise", ["fisher", 0.1])
def test_of_a_duplicated_unit_exactly_one_goes_and_costs_nothing(noise):
    view = random_view(5, n_units=4, k=2, outputs=3)
    own = torch.where(view.unit == 1)[0]
    index = torch.cat([torch.arange(8), own])
    halved = view.weight.clone()
    halved[:, own] /= 2
    twice = ConsumerView(
        covariance=view.covariance[index][:, index],
        weight=torch.cat([halved, halved[:, own]], 1),
        fisher=view.fisher,
        unit=torch.cat([view.unit, torch.full((2,), 4)]),
        uses=1,
    )
    steps = Gaussian(noise=noise).scorer([twice], 5).remove_least(5)
    order = [unit for unit, _ in steps]
    total = lost(steps)
    assert order[0] in (1, 4)
    assert total[0] < 1e-4 * total[-1]
    # its twin is now as needed as the single unit is without the copy
    alone = Gaussian(noise=noise).scorer([view], 4)
    pruned = Gaussian(noise=noise).scorer([twice], 5)
    pruned.remove(4)
    assert pruned.scores()[1] == pytest.approx(alone.scores()[1], rel=1e-3)


@pytest.mark.parametrize("noise", ["fisher", 0.1])
def test_a_unit_that_no_output_reads_goes_first_and_costs_nothing(noise):
    view = random_view(8, n_units=5, k=2, outputs=3)
    # uncorrelated with the others as well: else it still tells of them
    dead = view.unit == 3
    view.weight[:, dead] = 0
    steps = (
        Gaussian(noise=noise, small_losses=False, ridge=NO_RIDGE).scorer([view], 5).remove_least(1)
    )
    assert steps[0][0] == 3
    assert steps[0][1][0] == pytest.approx(0, abs=1e-9)


def test_scaling_a_unit_and_undoing_it_in_the_consumer_changes_nothing():
    view = random_view(2, n_units=5, k=2, outputs=3)
    factor = torch.ones(10, dtype=torch.float64)
    factor[view.unit == 2] = 7
    scaled = ConsumerView(
        covariance=view.covariance * torch.outer(factor, factor),
        weight=view.weight / factor,
        fisher=view.fisher,
        unit=view.unit,
        uses=1,
    )
    plain = Gaussian().scorer([view], 5).remove_least(5)
    other = Gaussian().scorer([scaled], 5).remove_least(5)
    assert [u for u, _ in plain] == [u for u, _ in other]
    np.testing.assert_allclose(lost(plain), lost(other), rtol=1e-9)


def test_permuting_the_units_permutes_the_order():
    view = random_view(4, n_units=6, k=2, outputs=3)
    names = torch.tensor([3, 5, 0, 1, 4, 2])
    renamed = ConsumerView(view.covariance, view.weight, view.fisher, names[view.unit], view.uses)
    plain = Gaussian().scorer([view], 6).remove_least(6)
    other = Gaussian().scorer([renamed], 6).remove_least(6)
    assert [int(names[u]) for u, _ in plain] == [u for u, _ in other]


def test_nats_of_several_consumers_add_up():
    views = [random_view(1, uses=2), random_view(2, uses=3)]
    both = Gaussian().scorer(views, 5)
    single = [Gaussian().scorer([view], 5) for view in views]
    np.testing.assert_allclose(both.scores(), single[0].scores() + single[1].scores(), rtol=1e-9)
    assert both.nats_of(2) == pytest.approx([s.nats_of(2)[0] for s in single])


def test_units_of_different_size_agree_with_brute_force():
    view = random_view(6, n_units=6, k=1, outputs=3)
    uneven = ConsumerView(
        view.covariance, view.weight, view.fisher, torch.tensor([0, 0, 1, 2, 2, 2]), 1
    )
    slow = eliminate(
        view.covariance.numpy(), view.weight.numpy(), noise_of(view, "fisher"), features(uneven, 3)
    )
    fast = Gaussian(small_losses=False, ridge=NO_RIDGE).scorer([uneven], 3).remove_least(3)
    assert [u for u, _ in fast] == [u for u, _ in slow]
    np.testing.assert_allclose(lost(fast), [n for _, n in slow], rtol=1e-6)


def test_a_unit_that_a_consumer_does_not_read_costs_it_nothing():
    view = random_view(6, n_units=4, k=1, outputs=3)
    scorer = Gaussian(small_losses=False, ridge=NO_RIDGE).scorer([view], 5)
    assert scorer.scores()[4] == 0
    assert scorer.solo()[4] == 0


def test_small_fisher_information_gives_the_second_order_loss():
    """For N -> infinity Delta -> 1/2 tr(F C): the expected loss increase in nats."""
    view = random_view(9, n_units=3, k=1, outputs=4, fisher_scale=1e-10)
    scorer = Gaussian(small_losses=False, ridge=NO_RIDGE).scorer([view], 3)
    variance = 1 / torch.linalg.inv(view.covariance).diagonal()
    w = view.weight
    expected = 0.5 * variance * torch.einsum("mu,mn,nu->u", w, view.fisher, w)
    expected = expected[view.unit.argsort()]
    np.testing.assert_allclose(scorer.scores(), expected.numpy(), rtol=1e-6)


def test_float32_above_the_limit_agrees_with_float64():
    view = random_view(12, n_units=40, k=3, outputs=10, fisher_scale=1e-4)
    exact = Gaussian(ridge=1e-3).scorer([view], 40).remove_least(30)
    single = Gaussian(ridge=1e-3, single_above=0).scorer([view], 40).remove_least(30)
    assert [u for u, _ in exact] == [u for u, _ in single]
    np.testing.assert_allclose(lost(exact), lost(single), rtol=1e-3)


@pytest.mark.parametrize("noise", ["fisher", 0.1])
def test_fewer_rows_than_features_are_too_much_for_float32(noise):
    """Precisions of a million come down to one; rounding errors of theirs would be as large."""
    n, d = 60, 96
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    weight = torch.randn(8, d, generator=generator, dtype=torch.float64)
    fisher = 1e-4 * torch.eye(8, dtype=torch.float64) if noise == "fisher" else None
    view = ConsumerView(rows.T @ rows / n, weight, fisher, torch.arange(d), 1)
    exact = Gaussian(noise=noise).scorer([view], d).remove_least(d)
    single = Gaussian(noise=noise, single_above=0).scorer([view], d).remove_least(d)
    assert [u for u, _ in exact] == [u for u, _ in single]
    np.testing.assert_allclose(lost(exact), lost(single), rtol=1e-6)


def test_larger_rounds_stay_close_to_one_at_a_time():
    view = random_view(13, n_units=60, k=2, outputs=20)
    exact = lost(
        Gaussian(small_losses=False, share_per_round=1e-9).scorer([view], 60).remove_least(50)
    )
    fast = lost(
        Gaussian(small_losses=False, share_per_round=0.05).scorer([view], 60).remove_least(50)
    )
    np.testing.assert_allclose(fast, exact, rtol=0.02)


def test_constant_features_cost_nothing_and_break_nothing():
    view = random_view(14, n_units=4, k=2, outputs=3)
    constant = view.unit == 2
    view.covariance[constant] = 0
    view.covariance[:, constant] = 0
    steps = Gaussian().scorer([view], 4).remove_least(4)
    assert steps[0][0] == 2
    assert steps[0][1][0] == pytest.approx(0, abs=1e-4)
    assert np.isfinite(lost(steps)).all()


def test_a_removed_unit_cannot_be_removed_again():
    scorer = Gaussian().scorer([random_view(0)], 5)
    scorer.remove(3)
    with pytest.raises(InputError, match="Unit 3 is not among the 4 units left"):
        scorer.remove(3)


@pytest.mark.parametrize("noise", ["wide", 0.0, -1.0])
def test_unknown_noise_is_an_error_that_says_what_to_give(noise):
    with pytest.raises(InputError, match=r"expected 'fisher' or a positive number such as 0\.1"):
        Gaussian(noise=noise)


def test_fisher_noise_without_fisher_matrices_is_an_error():
    view = random_view(0)
    bare = ConsumerView(view.covariance, view.weight, None, view.unit, 1)
    with pytest.raises(InputError, match="needs Fisher matrices"):
        Gaussian().scorer([bare], 5)


def test_xor_is_beyond_it():
    """Two fair bits and their XOR: every linear relation is zero, so no information is seen."""
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
    target = (bits[:, 0] != bits[:, 1]).double()
    centred = bits - bits.mean(0)
    covariance = centred.T @ centred / 4
    weight = torch.linalg.lstsq(centred, (target - target.mean()).unsqueeze(1)).solution.T
    view = ConsumerView(
        covariance, weight, torch.ones(1, 1, dtype=torch.float64), torch.arange(2), 1
    )
    assert Gaussian().scorer([view], 2).total()[0] == pytest.approx(0, abs=1e-12)


def test_estimates_from_samples_rank_the_true_information():
    """Correlated Gaussians of growing information, from 4000 rows each: same order, right size."""
    generator = torch.Generator().manual_seed(0)
    estimates, truths = [], []
    for rho in (0.1, 0.3, 0.5, 0.7, 0.9):
        for d in (1, 3):
            x = torch.randn(4000, d, generator=generator, dtype=torch.float64)
            view = ConsumerView(
                covariance=x.T.cov(correction=0).reshape(d, d),
                weight=rho * torch.eye(d, dtype=torch.float64),
                fisher=torch.eye(d, dtype=torch.float64) / (1 - rho**2),
                unit=torch.zeros(d, dtype=torch.int64),
                uses=1,
            )
            estimates.append(Gaussian().scorer([view], 1).total()[0])
            truths.append(-0.5 * d * np.log(1 - rho**2))
    assert list(np.argsort(estimates)) == list(np.argsort(truths))
    np.testing.assert_allclose(estimates, truths, rtol=0.06)


def test_a_variance_that_is_told_without_correlation_is_beyond_it():
    """X ~ N(0, Y), Y ~ chi2(1): dependent, yet the best linear guess of Y is a constant."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(200_000, 1, generator=generator, dtype=torch.float64) ** 2
    x = torch.randn(200_000, 1, generator=generator, dtype=torch.float64) * y.sqrt()
    slope = torch.linalg.lstsq(x - x.mean(), y - y.mean()).solution.T
    view = ConsumerView(
        covariance=(x**2).mean().reshape(1, 1),
        weight=slope,
        fisher=torch.ones(1, 1, dtype=torch.float64),
        unit=torch.zeros(1, dtype=torch.int64),
        uses=1,
    )
    assert Gaussian().scorer([view], 1).total()[0] < 1e-3
    assert torch.corrcoef(torch.cat([x.abs(), y], 1).T)[0, 1] > 0.5


def alike(seed=0, n_units=4, k=288, n=1500):
    """Units whose many features repeat each other, as the cells of smooth maps do."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, 40, generator=generator, dtype=torch.float64)
    mix = torch.randn(40, n_units * k, generator=generator, dtype=torch.float64)
    rows = source @ mix + 1e-3 * torch.randn(
        n, n_units * k, generator=generator, dtype=torch.float64
    )
    weight = torch.randn(8, n_units * k, generator=generator, dtype=torch.float64) / 30
    unit = torch.arange(n_units).repeat_interleave(k)
    return ConsumerView(rows.T @ rows / n, weight, None, unit, 1)


@pytest.mark.parametrize("single_above", [100, 1024, 100_000])
def test_units_of_many_features_that_repeat_each_other_lose_what_there_is(single_above):
    view = alike()
    scorer = Gaussian(noise=0.1, single_above=single_above).scorer([view], 4)
    total = scorer.total()[0]
    lost = lost_by_all = sum(nats.sum() for _, nats in scorer.remove_least(4))
    assert np.isfinite(lost)
    assert lost_by_all == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-3, 1.0, 1e6])
def test_nats_of_a_block_are_exact_from_tiny_to_huge(size):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    other = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)
    p = root @ root.mT + torch.eye(5, dtype=torch.float64)
    r = size * other @ other.mT
    values = torch.linalg.eigvals(torch.linalg.solve(p, r)).real.clamp_min(0)
    torch.testing.assert_close(delta(p, r), 0.5 * values.log1p().sum(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("k", "outputs"), [(1, 3), (3, 8), (2, 30)])
def test_small_losses_are_removed_in_the_exact_order_and_add_up_to_the_exact_nats(k, outputs):
    for seed in range(3):
        view = random_view(seed, n_units=12, k=k, outputs=outputs, context=2, fisher_scale=1e-6)
        exact = Gaussian(small_losses=False).scorer([view], 12).remove_least(12)
        small = Gaussian().scorer([view], 12).remove_least(12)
        assert [unit for unit, _ in small] == [unit for unit, _ in exact]
        np.testing.assert_allclose(lost(small), lost(exact), rtol=1e-4)


def test_large_losses_add_up_to_what_is_lost_exactly_whatever_the_order():
    view = random_view(4, n_units=12, k=2, outputs=6, context=3, uses=5, fisher_scale=30.0)
    scorer = Gaussian(ridge=NO_RIDGE, share_per_round=0.5).scorer([view], 12)
    steps = scorer.remove_least(6)
    left = np.setdiff1d(np.arange(12), [unit for unit, _ in steps])
    assert lost(steps)[-1] == pytest.approx((scorer.total() - scorer.transfers(left))[0], rel=1e-6)
    expected = scorer.nats_of(int(left[0]))
    np.testing.assert_allclose(scorer.remove(int(left[0])), expected)
    rest = left[1:]
    assert expected[0] == pytest.approx(
        float(scorer.transfers(left)[0] - scorer.transfers(rest)[0]), rel=1e-6
    )
