"""Weights of wide layers by alternating projections: how many, which, and how good they are."""

import pytest
import torch

from mipp.weights.regression import Rows, alternating, eliminate, errors_left, projections


def problem(m, d, dtype=torch.float64):
    """A few directions are strong, as in a layer."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    mixing *= torch.arange(1, d + 1).unsqueeze(1) ** -0.5
    x = (torch.randn(8 * d, d, generator=generator, dtype=torch.float64) @ mixing).relu()
    weight = torch.randn(m, d, generator=generator, dtype=torch.float64)
    moment = (x.T @ x / len(x)).to(dtype)
    return Rows(moment, weight.to(dtype), torch.ones(m, dtype=dtype), ridge=1e-4)


def errors(rows, mask):
    return float(errors_left(rows, mask).sum())


@pytest.mark.parametrize("keep", [12, 30, 60])
def test_it_leaves_less_unexplained_than_the_elimination_and_far_less_than_magnitude(keep):
    rows = problem(40, 120)
    count = torch.full((40,), keep)
    mask = alternating(rows, count)
    assert torch.equal(mask.sum(1), count)
    exact = eliminate(rows, torch.ones_like(mask), count)
    top = rows.standardised.abs().topk(keep, 1).indices
    assert errors(rows, mask) < errors(rows, exact)
    assert errors(rows, mask) < 0.8 * errors(rows, torch.zeros_like(mask).scatter(1, top, True))


def test_every_row_keeps_its_own_number_of_what_it_is_allowed():
    rows = problem(6, 30)
    allowed = torch.rand(6, 30, generator=torch.Generator().manual_seed(1)) < 0.7
    keep = torch.tensor([0, 1, 7, 7, 12, 30])
    mask = alternating(rows, keep, allowed)
    assert not (mask & ~allowed).any()
    assert torch.equal(mask.sum(1), torch.minimum(keep, allowed.sum(1)))


def test_of_copies_the_first_stays_and_the_others_only_where_nothing_else_is_left():
    rows = problem(8, 20)
    twice = torch.cat([torch.arange(20), torch.arange(5)])
    both = Rows(rows.covariance[twice][:, twice], rows.weight[:, twice], rows.noise, ridge=0)
    mask = alternating(both, torch.full((8,), 20))
    assert mask[:, :20].all()
    assert errors(both, mask) < 1e-6
    assert alternating(both, torch.full((8,), 23)).sum() == 8 * 23


def test_turns_in_bfloat16_leave_no_more_unexplained(monkeypatch):
    rows, count = problem(40, 120, torch.float32), torch.full((40,), 30)
    lost = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(projections, "coarse_type", lambda values, dtype=dtype: dtype)
        lost.append(errors(rows, alternating(rows, count)))
    assert lost[1] < 1.01 * lost[0]
    assert lost[1] != lost[0]
