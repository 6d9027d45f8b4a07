"""Streaming moments equal the moments of all rows at once."""

import pytest
import torch

from mipp.statistics.moments import Moments, Squares


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


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_are_measured_apart_and_no_rows_change_nothing(blocks):
    rows = torch.randn(200, blocks * 4, dtype=torch.float64) + 3
    moments = Moments(4, torch.device("cpu"), torch.float64, blocks)
    squares = Squares(4, torch.device("cpu"), torch.float64, blocks)
    for piece in rows.split([0, 60, 0, 140]):
        moments.update(piece)
        squares.update(piece)
    for number, block in enumerate(rows.view(200, blocks, 4).unbind(1)):
        mean, covariance = whole(block)
        torch.testing.assert_close(moments.mean[number], mean)
        torch.testing.assert_close(moments.covariance()[number], covariance)
        torch.testing.assert_close(moments.second_moment()[number], block.T @ block / 200)
        torch.testing.assert_close(squares.second_moment()[number], block.square().mean(0))


def test_a_feature_that_never_varies_has_covariance_zero_in_its_block_alone():
    rows = torch.randn(50, 6)
    rows[:, 4] = 7.1
    moments = Moments(3, torch.device("cpu"), torch.float64, 2)
    moments.update(rows)
    covariance = moments.covariance()
    assert (covariance[1, 1] == 0).all()
    assert (covariance[1, :, 1] == 0).all()
    assert (covariance[0].diagonal() > 0).all()
