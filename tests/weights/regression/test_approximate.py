"""Swaps after an elimination: never worse, the same counts, patterns and zeros held."""

import itertools

import pytest
import torch

from mipp.weights.regression import (
    Pattern,
    Rows,
    best_weights,
    eliminate,
    follow_exactly,
    improved,
)


def problem(m, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    x = torch.randn(8 * d, d, generator=generator, dtype=torch.float64) @ mixing / d**0.5
    weight = torch.randn(m, d, generator=generator, dtype=torch.float64)
    return Rows(x.T @ x / len(x), weight, torch.full((m,), 0.1, dtype=torch.float64), ridge=0)


def errors(rows, mask):
    off = rows.weight - best_weights(rows, mask)
    return ((off @ rows.covariance) * off).sum(1)


def random_mask(rows, keep, seed=0):
    order = torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return order < keep


@pytest.mark.parametrize("keep", [1, 4, 12, 20, 24])
def test_as_many_weights_and_nothing_lost(keep):
    rows = problem(10, 24)
    start = random_mask(rows, keep)
    better = improved(rows, start)
    assert (better.sum(1) == keep).all()
    before, after = errors(rows, start), errors(rows, better)
    assert (after <= before + 1e-9).all()
    if keep < 24:
        assert after.sum() < 0.8 * before.sum()
    else:
        assert torch.equal(better, start)


def test_what_comes_out_is_between_elimination_and_the_best_of_all_masks():
    rows, keep = problem(6, 9), 4
    masks = [
        torch.zeros(9, dtype=torch.bool).index_fill(0, torch.tensor(chosen), True)
        for chosen in itertools.combinations(range(9), keep)
    ]
    best = torch.stack([errors(rows, mask.expand(6, 9)) for mask in masks]).amin(0)
    full = torch.ones(6, 9, dtype=torch.bool)
    greedy = eliminate(rows, full, torch.full((6,), keep), None)
    after = errors(rows, improved(rows, greedy))
    assert (after >= best - 1e-9).all()
    assert (after <= errors(rows, greedy) + 1e-9).all()


def test_an_exact_elimination_is_improved_and_brought_near_from_anywhere():
    rows, keep = problem(40, 60), 20
    exact = follow_exactly(rows, keep).mask(torch.full((40,), keep))
    limit = errors(rows, exact).sum()
    assert errors(rows, improved(rows, exact)).sum() < limit
    anywhere = improved(rows, random_mask(rows, keep), rounds=40)
    assert errors(rows, anywhere).sum() < 1.02 * limit


@pytest.mark.parametrize("d", [16, 18])
def test_patterns_hold(d):
    rows, pattern = problem(12, d), Pattern(2, 4)
    full = torch.ones(rows.shape, dtype=torch.bool)
    size = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = full & ~pattern.removable(full, size)
    better = improved(rows, start, pattern)
    assert not pattern.surplus(better).any()
    assert (better.sum(1) == start.sum(1)).all()
    assert errors(rows, better).sum() < 0.9 * errors(rows, start).sum()
    chosen = eliminate(rows, full, torch.full((12,), pattern.quota(d)), pattern)
    assert errors(rows, improved(rows, chosen, pattern)).sum() <= errors(rows, chosen).sum() + 1e-9


def test_zeros_do_not_come_back():
    rows = problem(8, 20)
    allowed = random_mask(rows, 14, seed=3)
    start = allowed & random_mask(rows, 10, seed=4)
    better = improved(rows, start, allowed=allowed)
    assert not (better & ~allowed).any()
    assert (better.sum(1) == start.sum(1)).all()


def test_rows_with_nothing_and_with_everything():
    rows = problem(2, 6)
    start = torch.tensor([[False] * 6, [True] * 6])
    assert torch.equal(improved(rows, start), start)
