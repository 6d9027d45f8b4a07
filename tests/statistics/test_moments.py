"""Streaming moments equal the moments of all rows at once."""

import pytest
import torch

from mipp.statistics.moments import Moments


def whole(rows):
    mean = rows.mean(0)
    return mean, (rows - mean).T @ (rows - mean) / len(rows)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_pieces_add_up_and_a_far_mean_loses_no_digits(offset):
    rows = torch.randn(500, 6, dtype=torch.float64) + offset
    moments = Moments(6, torch.device("cpu"))
    for piece in rows.float().split([1, 99, 0, 400]):
        moments.update(piece)
    mean, covariance = whole(rows.float().double())
    assert moments.count == 500
    torch.testing.assert_close(moments.mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moments.covariance(), covariance, rtol=1e-3, atol=1e-3)


def test_panels_fill_the_whole_matrix():
    rows = torch.randn(300, 2050)
    moments = Moments(2050, torch.device("cpu"))
    moments.update(rows)
    covariance = moments.covariance()
    torch.testing.assert_close(covariance, covariance.T)
    torch.testing.assert_close(covariance, whole(rows.double())[1], rtol=1e-3, atol=1e-4)


def test_one_process_needs_no_reduction():
    moments = Moments(2, torch.device("cpu"))
    moments.update(torch.randn(5, 2))
    before = moments.covariance()
    moments.all_reduce("all rows")
    torch.testing.assert_close(moments.covariance(), before)
