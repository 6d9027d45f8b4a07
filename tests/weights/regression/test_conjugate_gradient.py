"""Conjugate gradients for all rows at once, preconditioned by the strongest directions."""

import pytest
import torch

from mipp.weights.regression import Rows, best_weights
from mipp.weights.regression.approximate import LOWEST, own_share
from mipp.weights.regression.conjugate_gradient import Directions, descent


def few_strong_directions(m=12, d=96, strong=6, seed=0, ridge=1e-3):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = random(8 * d, strong) @ (3 * random(strong, d)) + random(8 * d, d)
    return Rows(x.T @ x / len(x), random(m, d), torch.ones(m, dtype=torch.float64), ridge=ridge)


def random_mask(rows, share, seed=1):
    return torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed)) < share


def excess(rows, mask, weight):
    """How much more than the best weights on the mask these leave unexplained, as a share of it."""

    def left(made):
        off = rows.standardised - made
        return ((off @ rows.correlation) * off).sum()

    best = best_weights(rows, mask, most=torch.inf) * rows.deviation
    return float(left(weight) / left(best)) - 1


@pytest.mark.parametrize("d", [4, 40, 96])
def test_the_restricted_inverse_is_that_of_the_restricted_matrix(d):
    rows = few_strong_directions(d=d)
    mask = random_mask(rows, 0.4)
    found = Directions.of(rows.correlation)
    along = found.across * found.beside.unsqueeze(1)
    model = found.beside.diag() + along @ found.strength.diag() @ along.T
    values = torch.randn(rows.shape, dtype=torch.float64) * mask
    applied = found.within(mask.double())(values.clone())
    for row, inputs in enumerate(mask):
        expected = torch.linalg.solve(model[inputs][:, inputs], values[row, inputs])
        assert torch.allclose(applied[row, inputs], expected, rtol=1e-8)
        assert not applied[row, ~inputs].any()


def test_the_directions_are_the_strongest_and_the_same_every_time():
    rows = few_strong_directions()
    found = Directions.of(rows.correlation)
    exact = torch.linalg.eigvalsh(rows.correlation)
    assert torch.allclose(found.strength[-6:], exact[-6:], rtol=1e-6)
    before = torch.random.get_rng_state()
    again = Directions.of(rows.correlation)
    assert torch.equal(found.across, again.across)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_few_steps_reach_the_best_weights(share):
    rows = few_strong_directions()
    mask = random_mask(rows, share)
    target = rows.standardised @ rows.correlation
    start = rows.standardised * mask
    weight, left = descent(rows.correlation, rows.directions, start, target, mask, 6)
    assert 0 <= excess(rows, mask, weight) < 1e-2
    assert torch.allclose(left, target - weight @ rows.correlation, atol=1e-8)
    assert not weight[~mask].any()


def test_what_is_removed_is_taken_over_without_a_step_where_the_directions_are_all_there_is():
    rows = few_strong_directions()
    mask = random_mask(rows, 0.5)
    found = rows.directions
    along = found.across * found.beside.unsqueeze(1)
    model = found.beside.diag() + along @ found.strength.diag() @ along.T
    target = rows.standardised @ model
    weight, left = descent(model, found, rows.standardised, target, mask, 0)
    assert not weight[~mask].any()
    assert float((left * mask).abs().max()) < 1e-8 * float(target.abs().max())


def test_without_the_directions_it_takes_many_more():
    rows = few_strong_directions()
    mask = random_mask(rows, 0.5)
    target = rows.standardised @ rows.correlation
    found = rows.directions
    none = slice(0, 0)
    plain = Directions(
        found.strength[none], found.along[:, none], found.across[:, none],
        torch.ones_like(found.beside), found.pairs[none], found.first[none], found.second[none],
    )  # fmt: skip
    start = rows.standardised * mask
    with_them, without = (
        excess(rows, mask, descent(rows.correlation, used, start, target, mask, 4)[0])
        for used in (found, plain)
    )
    assert with_them < without / 10


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
def test_variances_that_others_leave_are_those_of_the_textbook(share):
    rows = few_strong_directions(m=1, d=40)
    mask = random_mask(rows, share)
    read = torch.nonzero(mask[0]).flatten().tolist()
    expected = torch.empty(40, dtype=torch.float64)
    for q in range(40):
        others = [p for p in read if p != q]
        across = rows.correlation[q, others]
        matrix = rows.correlation[others][:, others]
        explained = across @ torch.linalg.solve(matrix, across)
        expected[q] = rows.correlation[q, q] - explained
    assert torch.allclose(own_share(rows, mask), expected.clamp_min(LOWEST), rtol=1e-8)
