"""Streaming moments equal the moments of all rows at once."""

import pytest
import torch

from mipp.moments import Moments, Squares


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


@pytest.mark.parametrize(("d", "blocks"), [(1, None), (1, 3), (2, 3)])
def test_blocks_of_a_single_feature_vary_too(d, blocks):
    rows = torch.randn(300, d * (blocks or 1))
    moments = Moments(d, torch.device("cpu"), blocks=blocks)
    moments.update(rows)
    expected = [whole(part.double())[1] for part in rows.split(d, 1)]
    covariance = moments.covariance()
    torch.testing.assert_close(
        covariance, torch.stack(expected) if blocks else expected[0], rtol=1e-5, atol=1e-6
    )


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


@pytest.mark.parametrize("blocks", [None, 2])
def test_targets_give_their_mean_and_their_covariance_with_the_features(blocks):
    g = blocks or 1
    x, y = torch.randn(3000, g * 4).double() + 2, torch.randn(3000, g * 3).double() - 1
    moments = Moments(4, torch.device("cpu"), torch.float64, blocks, targets=3)
    for rows, targets in zip(x.split([1500, 1, 1499]), y.split([1500, 1, 1499]), strict=True):
        moments.update(rows, targets)
    x, y = x.view(3000, g, 4), y.view(3000, g, 3)
    across = torch.einsum("ngd,ngm->gdm", x - x.mean(0), y - y.mean(0)) / 3000
    own = torch.einsum("ngd,nge->gde", x - x.mean(0), x - x.mean(0)) / 3000
    expected = [x.mean(0), y.mean(0), across, own]
    found = [moments.mean, moments.target_mean, moments.cross_covariance(), moments.covariance()]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other if blocks else other[0])
