"""Candidates within a round, against Schur complements of whole matrices."""

import pytest
import torch

from mipp.information.gaussian.candidates import Candidates, SmallLosses

N, OUTPUTS = 7, 5


def drawn(k):
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(40, N * k, generator=generator, dtype=torch.float64)
    b = torch.randn(OUTPUTS, N * k, generator=generator, dtype=torch.float64)
    return torch.linalg.inv(x.T @ x / 40), b


def columns(unit, k):
    return slice(unit * k, (unit + 1) * k)


def without(p, b, unit, k):
    """P and B of the units that are left, with zeros in place of the one that is gone."""
    i = columns(unit, k)
    t = torch.linalg.solve(p[i, i], p[i])
    p, b = p - p[:, i] @ t, b - b[:, i] @ t
    p[i], p[:, i], b[:, i] = 0, 0, 0
    return p, b


@pytest.mark.parametrize("k", [1, 3])
def test_small_losses_are_squared_errors_of_what_is_left_after_each_removal(k):
    p, b = drawn(k)
    found = SmallLosses(p, b.T @ b, k, uses=2, most=4)
    left = list(range(N))
    for gone in (3, 0, 6, 5):
        nats = found.nats()
        for unit in left:
            i = columns(unit, k)
            expected = torch.linalg.solve(p[i, i], b[:, i].T @ b[:, i]).trace()
            assert nats[unit] == pytest.approx(float(expected), rel=1e-9)
        found.remove(gone)
        left.remove(gone)
        p, b = without(p, b, gone, k)
        assert found.nats()[gone] == 0


@pytest.mark.parametrize("k", [1, 3])
def test_candidates_lose_what_determinants_say_after_each_removal(k):
    p, b = drawn(k)
    m = p + b.T @ b
    found = Candidates(p, m, k, uses=2, most=4)
    left = list(range(N))
    for gone in (3, 0, 6, 5):
        nats = found.nats()
        for unit in left:
            i = columns(unit, k)
            expected = torch.logdet(m[i, i]) - torch.logdet(p[i, i])
            assert nats[unit] == pytest.approx(float(expected), rel=1e-9)
        found.remove(gone)
        left.remove(gone)
        p, _ = without(p, b, gone, k)
        m, _ = without(m, b, gone, k)


def test_a_unit_that_rounding_has_left_without_variance_can_go():
    p, _ = drawn(1)
    p[2] = p[:, 2] = 0
    p[2, 2] = -1e-20
    found = Candidates(p, p.clone(), 1, uses=1, most=2)
    assert found.nats()[2] == 0
    found.remove(2)
    assert bool(torch.isfinite(torch.tensor(found.nats())).all())
