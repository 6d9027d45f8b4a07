"""Single weights: brute force on small rows, closed forms, and patterns."""

import itertools

import numpy as np
import pytest
import torch

import mipp
from mipp import information
from mipp.weights.regression import (
    Pace,
    Pattern,
    Rows,
    best_weights,
    eliminate,
    errors_left,
    follow,
    follow_exactly,
)


def problem(m=3, d=6, seed=0, noise=0.1, ridge=1e-9, uses=1):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(d, d, generator=generator, dtype=torch.float64)
    weight = torch.randn(m, d, generator=generator, dtype=torch.float64)
    covariance = mixed @ mixed.T
    variance = torch.einsum("md,de,me->m", weight, covariance, weight)
    return Rows(covariance, weight, noise * variance, uses, ridge)


def residual(rows, row, kept):
    """Variance of one output that the inputs ``kept`` do not explain, by the textbook."""
    cov, w = rows.covariance, rows.weight[row]
    across = (w @ cov)[kept]
    explained = across @ torch.linalg.solve(cov[kept][:, kept], across) if kept else 0.0
    return float(w @ cov @ w - explained)


def masks(m, d, kept):
    mask = torch.zeros((m, d), dtype=torch.bool)
    mask[:, kept] = True
    return mask


def test_what_is_left_unexplained_is_the_textbooks_conditional_variance_for_every_set():
    rows = problem()
    for size in range(7):
        for kept in itertools.combinations(range(6), size):
            found = errors_left(rows, masks(3, 6, list(kept)))
            expected = [residual(rows, row, list(kept)) for row in range(3)]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_best_weights_are_those_of_a_regression_on_samples():
    rows = problem()
    x = torch.randn(9, 6, dtype=torch.float64)
    seen = Rows(x.T @ x / 9, rows.weight, rows.noise, ridge=1e-12)
    mask = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    found = best_weights(seen, mask)
    for row in range(3):
        kept = torch.nonzero(mask[row]).flatten()
        expected = torch.linalg.lstsq(x[:, kept], x @ rows.weight[row]).solution
        torch.testing.assert_close(found[row, kept], expected, rtol=1e-6, atol=1e-8)
        assert (found[row, ~mask[row]] == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_every_step_of_the_elimination_takes_what_brute_force_takes(seed):
    rows = problem(seed=seed)
    mask = torch.ones((3, 6), dtype=torch.bool)
    for left in range(5, 0, -1):
        best = []
        for row in range(3):
            alive = torch.nonzero(mask[row]).flatten().tolist()
            loss = {q: residual(rows, row, [i for i in alive if i != q]) for q in alive}
            best.append(min(loss, key=lambda q: loss[q]))
        after = eliminate(rows, mask, torch.full((3,), left))
        for row in range(3):
            assert torch.nonzero(mask[row] & ~after[row]).flatten().tolist() == [best[row]]
        mask = after
    whole = eliminate(rows, torch.ones_like(mask), torch.tensor([1, 1, 1]))
    assert torch.equal(whole, mask)


def test_rows_may_end_at_different_sizes():
    rows = problem()
    keep = torch.tensor([6, 2, 4])
    mask = eliminate(rows, torch.ones((3, 6), dtype=torch.bool), keep)
    assert torch.equal(mask.sum(1), keep)
    for row in (1, 2):
        alone = eliminate(rows, torch.ones((3, 6), dtype=torch.bool), torch.full((3,), keep[row]))
        assert torch.equal(mask[row], alone[row])


def test_weights_that_are_zero_or_duplicated_cost_nothing_and_go_first():
    rows = problem(d=6)
    # input 5 repeats input 4, and nothing reads input 0
    same = torch.eye(6, dtype=torch.float64)
    same[5] = same[4]
    weight = rows.weight.clone()
    weight[:, 0] = 0
    found = Rows(same @ rows.covariance @ same.T, weight, rows.noise, ridge=1e-8)
    independent = Rows(
        torch.block_diag(torch.ones(1, 1).double(), found.covariance[1:, 1:]), weight, rows.noise,
        ridge=1e-8,
    )  # fmt: skip
    mask = eliminate(independent, torch.ones((3, 6), dtype=torch.bool), torch.full((3,), 4))
    assert not mask[:, 0].any()
    assert (mask[:, 4] ^ mask[:, 5]).all()
    assert independent.nats(errors_left(independent, mask)).max() < 1e-5
    further = eliminate(independent, mask, torch.full((3,), 3))
    assert independent.nats(errors_left(independent, further)).min() > 1e-3


def test_a_rows_nats_are_those_of_the_gaussian_estimator_for_its_output_alone():
    rows = problem(uses=3)
    unit = torch.arange(6)
    for row in range(3):
        view = information.ConsumerView(rows.covariance, rows.weight[row : row + 1], None, unit, 3)
        scorer = mipp.Gaussian(noise=0.1, ridge=1e-9).scorer([view], 6)
        alive = torch.ones((3, 6), dtype=torch.bool)
        lost = 0.0
        for q in (2, 0, 5):
            lost += float(scorer.remove(q).sum())
            alive[:, q] = False
            found = rows.nats(errors_left(rows, alive))[row]
            assert float(found) == pytest.approx(lost, rel=1e-4)


def test_where_little_is_lost_nats_are_the_brain_surgeons_cost_over_twice_the_noise():
    rows = problem(noise=1e6)
    mask = masks(3, 6, [0, 1, 3, 4])
    errors = errors_left(rows, mask)
    torch.testing.assert_close(rows.nats(errors), errors / rows.noise / 2, rtol=1e-4, atol=0)


def test_the_rows_nats_together_are_no_less_than_what_all_outputs_lose_jointly():
    """Hadamard's inequality; equal where one output alone has lost anything."""
    rows = problem(m=4)
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    cov, best = rows.covariance, best_weights(rows, mask)

    def joint(weights):
        y, mine = rows.weight @ cov @ rows.weight.T, weights @ cov @ weights.T
        across = rows.weight @ cov @ weights.T
        left = y - across @ torch.linalg.pinv(mine, hermitian=True, rtol=1e-10) @ across.T
        scaled = left / rows.noise.sqrt() / rows.noise.sqrt().unsqueeze(1)
        return float(torch.linalg.slogdet(torch.eye(4).double() + scaled).logabsdet / 2)

    assert 0 < joint(best) <= float(rows.nats(errors_left(rows, mask)).sum()) + 1e-9


# ---- all rows at once


def test_the_path_is_nested_and_its_errors_are_no_less_than_the_best_weights_leave():
    rows = problem(m=5, d=40, ridge=1e-4)
    path = follow(rows, 3, pace=Pace(steps=4))
    assert path.sizes[0] == 40
    assert path.sizes[-1] == 3
    assert (path.rank.sort(1).values == torch.arange(40)).all()
    for step, size in enumerate(path.sizes.tolist()):
        mask = path.mask(torch.full((5,), size))
        assert (mask.sum(1) == size).all()
        best = errors_left(rows, mask)
        assert (path.errors[:, step] >= best - 1e-9).all()
    assert (path.errors.diff(dim=1) >= 0).all()


def test_with_many_steps_its_errors_are_those_of_the_best_weights():
    rows = problem(m=5, d=30, ridge=1e-2)
    path = follow(rows, 5, pace=Pace(steps=60))
    for step, size in enumerate(path.sizes.tolist()):
        best = errors_left(rows, path.mask(torch.full((5,), size)))
        torch.testing.assert_close(path.errors[:, step], best, rtol=1e-3, atol=1e-6)


def test_the_path_and_an_exact_end_come_near_the_exact_elimination_and_far_below_magnitude():
    rows = problem(m=8, d=80, ridge=1e-3, seed=7)
    keep = torch.full((8,), 12)
    exact = eliminate(rows, torch.ones((8, 80), dtype=torch.bool), keep)
    near = eliminate(rows, follow(rows, 8).mask(keep * 3 // 2), keep)
    small = torch.zeros_like(exact).scatter(1, rows.standardised.abs().topk(12, 1).indices, True)
    nats = [float(rows.nats(errors_left(rows, mask)).sum()) for mask in (exact, near, small)]
    assert nats[1] < 1.1 * nats[0]
    assert nats[2] > 1.2 * nats[0]


@pytest.mark.parametrize("d", [8, 24, 27])
@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(4, 8), Pattern(1, 3)], ids=str)
def test_a_pattern_holds_in_every_run_whichever_way_it_is_reached(d, pattern):
    rows = problem(m=4, d=d, ridge=1e-3)
    keep = torch.full((4,), pattern.quota(d))
    whole = torch.ones((4, d), dtype=torch.bool)
    for mask in (follow(rows, 1, pattern).mask(keep), eliminate(rows, whole, keep, pattern)):
        assert torch.equal(mask.sum(1), keep)
        for start in range(0, d, pattern.run):
            run = mask[:, start : start + pattern.run]
            most = -(-run.shape[1] * pattern.most // pattern.run)
            assert (run.sum(1) == most).all()


def test_within_a_pattern_the_elimination_loses_less_than_magnitude_does():
    rows = problem(m=6, d=32, ridge=1e-3)
    pattern, whole = Pattern(2, 4), torch.ones((6, 32), dtype=torch.bool)
    keep = torch.full((6,), 16)
    exact = eliminate(rows, whole, keep, pattern)
    small = whole & ~pattern.removable(whole, rows.standardised.abs())
    lost = [float(rows.nats(errors_left(rows, mask)).sum()) for mask in (exact, small)]
    assert lost[0] < 0.95 * lost[1]


def test_what_does_not_fit_is_an_error():
    with pytest.raises(
        mipp.errors.InputError, match=r"Pattern\(4, 4\); expected fewer weights that stay"
    ):
        Pattern(4, 4)
    with pytest.raises(mipp.errors.InputError, match=r"noise of variance 0\.0; expected"):
        problem(noise=0.0)


def test_the_exact_path_is_the_elimination_step_by_step_and_its_errors_are_the_best_weights():
    rows = problem(m=4, d=7)
    path = follow_exactly(rows)
    assert path.sizes.tolist() == [7, 6, 5, 4, 3, 2, 1]
    for step, size in enumerate(path.sizes.tolist()):
        mask = path.mask(torch.full((4,), size))
        whole = torch.ones((4, 7), dtype=torch.bool)
        assert torch.equal(mask, eliminate(rows, whole, torch.full((4,), size)))
        torch.testing.assert_close(
            path.errors[:, step], errors_left(rows, mask), atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("way", [follow, follow_exactly])
def test_weights_that_are_not_allowed_go_first_and_are_never_used(way):
    rows = problem(m=4, d=12, ridge=1e-3)
    allowed = torch.rand(4, 12, generator=torch.Generator().manual_seed(2)) < 0.7
    held = Rows(rows.covariance, rows.weight * allowed, rows.noise, ridge=1e-3)
    path = way(held, allowed=allowed)
    assert (path.rank.sort(1).values == torch.arange(12)).all()
    counts = allowed.sum(1)
    assert torch.equal(path.mask(counts), allowed)
    assert (path.errors[:, 0] < 1e-9).all()
    for step, size in enumerate(path.sizes.tolist()):
        mask = path.mask(torch.full((4,), size)) & allowed
        assert (path.errors[:, step] >= errors_left(held, mask) - 1e-6).all()


def test_a_pattern_holds_along_the_exact_path():
    rows = problem(m=4, d=12, ridge=1e-3)
    path = follow_exactly(rows, pattern=Pattern(2, 4))
    assert path.sizes[-1] == 6
    mask = path.mask(torch.full((4,), 6))
    assert (mask.view(4, 3, 4).sum(2) == 2).all()


def test_wanted_outputs_other_than_the_weights_own_are_fitted_too_and_so_are_many_at_once():
    rows = problem(m=3, d=20, ridge=1e-2)
    x = torch.randn(50, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    y = x @ rows.weight.T + torch.sin(x[:, :3])
    seen = Rows(x.T @ x / 50, rows.weight, rows.noise, ridge=1e-10)
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) < 0.6
    exact = best_weights(seen, mask, y.T @ x / 50)
    for row in range(3):
        expected = torch.linalg.lstsq(x[:, mask[row]], y[:, row]).solution
        torch.testing.assert_close(exact[row, mask[row]], expected, rtol=1e-5, atol=1e-7)
    steps = best_weights(seen, mask, y.T @ x / 50, most=0)
    torch.testing.assert_close(steps, exact, rtol=1e-3, atol=1e-4)


def test_inputs_that_never_vary_go_first_and_keep_their_weights_where_they_stay():
    rows = problem(m=3, d=6)
    covariance = rows.covariance.clone()
    covariance[2], covariance[:, 2] = 0, 0
    silent = Rows(covariance, 100 * rows.weight, rows.noise)
    mask = follow(silent).mask(torch.full((3,), 5))
    assert not mask[:, 2].any()
    whole = torch.ones((3, 6), dtype=torch.bool)
    assert torch.equal(best_weights(silent, whole)[:, 2], silent.weight[:, 2])


def one_by_one(rows, mask, keep):
    """The elimination with an inverse made anew for every step."""
    mask = mask.clone()
    for row, count in enumerate(keep.tolist()):
        target = rows.standardised[row] @ rows.correlation
        while int(mask[row].sum()) > count:
            alive = torch.nonzero(mask[row]).flatten()
            inverse = torch.linalg.inv(rows.correlation[alive][:, alive])
            costs = (inverse @ target[alive]).square() / inverse.diagonal()
            mask[row, alive[costs.argmin()]] = False
    return mask


def test_corrections_that_are_made_some_removals_later_change_nothing():
    rows = problem(m=3, d=75, ridge=1e-3, seed=1)
    keep, whole = torch.tensor([3, 20, 60]), torch.ones((3, 75), dtype=torch.bool)
    expected = one_by_one(rows, whole, keep)
    assert torch.equal(eliminate(rows, whole, keep), expected)
    single = Rows(rows.covariance.float(), rows.weight.float(), rows.noise.float(), ridge=1e-3)
    path = follow_exactly(single)
    assert torch.equal(path.mask(keep), expected)


def test_rows_that_read_almost_equally_many_inputs_go_together_and_end_as_if_alone():
    rows = problem(m=4, d=60, ridge=1e-3, seed=2)
    mask = torch.rand(4, 60, generator=torch.Generator().manual_seed(5)) < 0.95
    counts = mask.sum(1)
    assert len(set(counts.tolist())) > 1
    assert counts.min() >= 0.9 * counts.max()
    keep = torch.tensor([10, 40, 5, 10])
    assert torch.equal(eliminate(rows, mask, keep), one_by_one(rows, mask, keep))


@pytest.mark.parametrize("way", [follow, follow_exactly])
def test_of_inputs_that_are_copies_one_stays_at_any_width(way):
    rows = problem(m=5, d=100, seed=3)
    covariance = rows.covariance + 100 * torch.eye(100, dtype=torch.float64)
    copied = torch.eye(100, dtype=torch.float64)
    for first, others in ((10, (60, 70)), (3, (90,))):
        for other in others:
            copied[other] = -2 * copied[first]
    weight = rows.weight.sign() + rows.weight
    found = Rows(copied @ covariance @ copied.T, weight, rows.noise, ridge=1e-5)
    mask = way(found).mask(torch.full((5,), 97))
    assert (mask[:, [10, 60, 70]].sum(1) == 1).all()
    assert (mask[:, [3, 90]].sum(1) == 1).all()
    assert found.nats(errors_left(found, mask)).max() < 1e-3
    one_more = way(found).mask(torch.full((5,), 96))
    assert found.nats(errors_left(found, one_more)).min() > 1e-6


def test_a_copy_stays_where_the_other_is_not_allowed():
    rows = problem(m=4, d=100, ridge=1e-5, seed=3)
    copied = torch.eye(100, dtype=torch.float64)
    copied[60] = copied[10]
    allowed = torch.ones((4, 100), dtype=torch.bool)
    allowed[0, 10] = allowed[1, 60] = False
    held = Rows(copied @ rows.covariance @ copied.T, 3 * rows.weight * allowed, rows.noise)
    mask = follow(held, allowed=allowed).mask(torch.full((4,), 99))
    assert mask[0, 60]
    assert mask[1, 10]
    assert (mask[2:, [10, 60]].sum(1) == 1).all()


def test_the_path_of_a_wide_layer_loses_little_more_than_the_exact_elimination():
    rows = problem(m=16, d=128, ridge=1e-3, seed=4)
    exact, near = follow_exactly(rows), follow(rows)
    for share, most in ((0.5, 1.5), (0.2, 1.15), (0.1, 1.1)):
        keep = torch.full((16,), int(share * 128))
        lost = [float(rows.nats(errors_left(rows, p.mask(keep))).sum()) for p in (near, exact)]
        assert lost[1] < lost[0] < most * lost[1]
