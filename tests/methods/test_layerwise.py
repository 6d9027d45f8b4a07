"""Wanda and SparseGPT against magnitude, brain surgery by the textbook, and their patterns."""

import pytest
import torch

from mipp import errors
from mipp.methods import SparseGPT, Wanda
from mipp.weights.regression import Pattern


def problem(m=5, d=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, d, generator=generator, dtype=torch.float64)
    x = x @ (torch.eye(d) + torch.randn(d, d, generator=generator) / d**0.5).double()
    weight = torch.randn(m, d, generator=generator, dtype=torch.float64)
    return weight, x.T @ x / len(x)


def test_wanda_is_magnitude_where_all_inputs_have_one_norm():
    weight, _ = problem()
    mask, made = Wanda().prune(weight, 3 * torch.eye(24).double(), 0.25, "rows")
    expected = torch.zeros_like(mask).scatter(1, weight.abs().topk(6, 1).indices, True)
    assert torch.equal(mask, expected)
    assert torch.equal(made, weight * mask)


def test_wanda_keeps_weights_of_loud_inputs_and_drops_those_of_silent_ones():
    weight, _ = problem()
    loud = torch.ones(24, dtype=torch.float64)
    loud[3], loud[5] = 1e6, 0
    mask, _ = Wanda().prune(weight, loud.diag(), 0.25, "rows")
    assert mask[:, 3].all()
    assert not mask[:, 5].any()


def test_sparsegpt_without_one_weight_is_the_optimal_brain_surgeon():
    """Only later inputs make up for an earlier one, so the weight that goes is put first."""
    weight, moment = problem(m=1, d=6)
    method = SparseGPT(damping=1e-12)
    free = weight.clone()
    free[0, 0] = 1e-6  # the one that costs least
    mask, made = method.prune(free, moment, 5 / 6, "uniform")
    assert mask[0].tolist() == [False] + [True] * 5
    inverse = torch.linalg.inv(moment)
    surgeon = free[0] - inverse[:, 0] * free[0, 0] / inverse[0, 0]
    torch.testing.assert_close(made[0], surgeon, rtol=1e-6, atol=1e-12)


def test_sparsegpt_leaves_less_error_than_the_same_mask_without_its_update():
    weight, moment = problem(m=8, d=64)
    for share, pattern in ((0.5, None), (1.0, Pattern(2, 4))):
        mask, made = SparseGPT(block=16).prune(weight, moment, share, "uniform", pattern)
        assert torch.equal(made != 0, mask)

        def error(new):
            off = weight - new
            return float(torch.einsum("md,de,me->", off, moment, off))

        assert error(made) < 0.9 * error(weight * mask)


def test_blocks_of_one_width_give_the_same_pattern_whatever_the_block():
    weight, moment = problem(m=4, d=32)
    masks = [SparseGPT(block=b).prune(weight, moment, 1.0, "uniform", Pattern(2, 4))[0]
             for b in (4, 10, 128)]  # fmt: skip
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("method", [Wanda(), SparseGPT()], ids=lambda m: m.name)
def test_exact_numbers_stay(method):
    weight, moment = problem(d=32)
    for spread in ("uniform", "rows"):
        mask, _ = method.prune(weight, moment, 0.25, spread)
        assert int(mask.sum()) == 40
    mask, _ = method.prune(weight, moment, 1.0, "uniform", Pattern(4, 8))
    assert (mask.view(5, 4, 8).sum(2) == 4).all()


def test_inputs_that_are_always_zero_lose_their_weights():
    weight, moment = problem()
    moment[4], moment[:, 4] = 0, 0
    mask, made = SparseGPT().prune(weight, moment, 0.5, "uniform")
    assert not mask[:, 4].any()
    assert torch.isfinite(made).all()


def test_settings_that_do_not_fit_are_an_error():
    with pytest.raises(
        errors.InputError, match=r"damping=0 and block=128; expected a share above 0"
    ):
        SparseGPT(damping=0)
